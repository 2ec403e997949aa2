/* Forward propagation of one sequence through one block, state by state.
 * Floor 4: model.
 *
 * Single precision throughout; causal; positions 0 .. n_tokens - 1.  The unit of arithmetic is one
 * sequence, so that a result does not depend on which rank computes it or on how many there are. */
#ifndef MPRESS_FORWARD_H
#define MPRESS_FORWARD_H

#include "mpress/arch.h"
#include "mpress/error.h"
#include "mpress/weights.h"

typedef struct mp_forward mp_forward; /* scratch for sequences of up to max_tokens; local */

mp_status mp_forward_create(const mp_arch *arch, int64_t max_tokens, mp_forward **forward);
void mp_forward_free(mp_forward *forward);

/* What that allocates; and what mp_forward_block adds to it at its first call. */
int64_t mp_forward_bytes(const mp_arch *arch, int64_t max_tokens, int whole_blocks);

/* Computes state `state` of `block` (an index into arch->states) for one sequence.
 *
 *   hidden    in/out  [n_tokens, d_model] residual stream; the state after a residual addition
 *                     does it: state ffn_in first does hidden += o_proj(previous)
 *   previous  in      [n_tokens, width of state - 1]; NULL for state 0
 *   out       out     [n_tokens, width of `state`]
 *
 *   attn_in  = norm(hidden)
 *   attn_out = attention(q, k, v of previous), heads side by side
 *   ffn_in   = norm(hidden += o_proj(previous))
 *   ffn_mid  = silu(gate(previous)) * up(previous)
 *
 * Not collective.  Cost: the linear maps of state - 1, attention for attn_out. */
mp_status mp_forward_state(mp_forward *forward, const mp_block *block, int state, int64_t n_tokens,
                           float *hidden, const float *previous, float *out);

/* Ends the block: hidden += down_proj(last), `last` [n_tokens, width of the last state]. */
mp_status mp_forward_finish(mp_forward *forward, const mp_block *block, int64_t n_tokens,
                            float *hidden, const float *last);

/* All of the above for a sequence whose states nobody wants to see. */
mp_status mp_forward_block(mp_forward *forward, const mp_block *block, int64_t n_tokens,
                           float *hidden);

/* Recomputes a normalised state (attn_in, ffn_in) from the residual stream it was taken from. */
mp_status mp_forward_norm(const mp_block *block, int state, int64_t n_tokens, const float *hidden,
                          float *out);

/* out [n_tokens, width] = x / sqrt(mean(x^2) + eps) * weight; x and out may be the same. */
void mp_rms_norm(int64_t n_tokens, int64_t width, double eps, const float *x, const float *weight,
                 float *out);

/* Causal attention of one sequence, never an n_tokens x n_tokens matrix.
 * q [n_tokens, n_heads * head_dim], k and v [n_tokens, n_kv_heads * head_dim], out as q (rotary
 * embedding is already applied); window as in mp_arch.  Threads over heads and tiles of queries,
 * each on its own: the bits do not depend on their number.
 * Source: tiles with a running maximum, Dao et al., FlashAttention, arXiv:2205.14135, alg. 1. */
mp_status mp_attention(const mp_arch *arch, int64_t n_tokens, const float *q, const float *k,
                       const float *v, float *out);

/* Floating-point operations of one sequence through one block: linear maps, attention. */
void mp_forward_flops(const mp_arch *arch, int64_t n_tokens, double *linears, double *attention);

#endif
