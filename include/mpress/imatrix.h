/* The calibration of a run for llama.cpp: an importance matrix.
 * Floor 7: checkpoint. */
#ifndef MPRESS_IMATRIX_H
#define MPRESS_IMATRIX_H

#include "mpress/comm.h"

/* Writes what was measured in the run `out` to `file`, in the GGUF form that llama-quantize --imatrix takes:
 *
 *   general.type            "imatrix"
 *   imatrix.datasets        [what --calib named]
 *   imatrix.chunk_count     windows
 *   imatrix.chunk_size      tokens of each
 *   blk.N.X.weight.in_sum2  F32 [d_in], X = attn_q, attn_k, attn_v, attn_output, ffn_gate, ffn_up, ffn_down
 *   blk.N.X.weight.counts   F32 [1]
 *
 * in_sum2 is the diagonal of H as the run has it, with its token weights, in units in which the tokens
 * that count weigh 1 on average; counts is their number.  The quotient, which is what the quantiser
 * uses, is so the weighted mean of x^2, and a run without weights gives the plain sums.
 *
 * A state that was not measured (--skip, --blocks) has no tensors, which *missing counts by linear maps:
 * llama-quantize does without, or says which type it cannot do.
 *
 * Collective; the status is agreed; rank 0 does it.
 * Errors: MP_ERR_FORMAT where `out` is no run, not finished or not calibrated; MP_ERR_ARG where `file` is there.
 * Memory on rank 0: up to four times the file, which grows by doubling and is copied once (50 MB for 70B). */
mp_status mp_imatrix_write(const mp_comm *comm, const char *out, const char *file,
                           int64_t *missing);

#endif
