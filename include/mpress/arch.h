/* What a config.json says, as tables: the activation states of a block, its linear maps, its other
 * parameters.  A new architecture of the family is one row in arch.c.
 * Floor 4: model. */
#ifndef MPRESS_ARCH_H
#define MPRESS_ARCH_H

#include "mpress/comm.h"
#include "mpress/dtype.h"
#include "mpress/error.h"

#include <jansson.h>
#include <stdint.h>

enum { MP_MAX_STATES = 4, MP_MAX_LINEARS = 7, MP_MAX_VECTORS = 7 };

/* An activation state: the input that one or more linear maps share (and so the Hessian they
 * share). */
typedef struct mp_state {
    const char *name; /* "attn_in" */
    int64_t width;    /* channels */
    int normalised;   /* an output of a norm: the state-aware length applies to it */
    int first_linear; /* its linear maps are first_linear .. first_linear + linear_count - 1 */
    int linear_count;
} mp_state;

typedef struct mp_linear_row {
    const char *name; /* "self_attn.q_proj": the tensor is model.layers.N.<name>.weight */
    int64_t d_out, d_in;
    int state;             /* index of the state it reads */
    int has_bias;          /* <name>.bias */
    const char *gguf_name; /* "attn_q": in llama.cpp the tensor is blk.N.<gguf_name>.weight */
} mp_linear_row;

/* The block as the forward pass reads it: indices of mp_arch.states, of mp_arch.linears, and the
 * roles of norm weights. */
enum { MP_ATTN_IN, MP_ATTN_OUT, MP_FFN_IN, MP_FFN_MID };
enum { MP_Q, MP_K, MP_V, MP_O, MP_GATE, MP_UP, MP_DOWN };
enum { MP_ATTN_NORM, MP_FFN_NORM, MP_Q_NORM, MP_K_NORM };

typedef struct mp_vector_row {
    const char *name; /* "input_layernorm.weight" */
    int64_t size;
    int role;
} mp_vector_row;

typedef struct mp_rope {
    double theta;
    int llama3; /* frequencies scaled as Llama 3.1 does (formats.md 2.3); the rest is then set */
    double factor, low_freq_factor, high_freq_factor;
    int64_t original_max_positions;
} mp_rope;

typedef struct mp_arch {
    const char *family;     /* "llama", "mistral", "qwen2", "qwen3"; static */
    const char *class_name; /* its class in transformers: "LlamaForCausalLM"; static */
    int64_t n_blocks, d_model, d_ff, n_heads, n_kv_heads, head_dim, vocabulary, max_positions;
    double norm_eps;
    mp_rope rope;
    int64_t window; /* a position sees itself and window - 1 before it; 0 = all before it */
    int tied_head;  /* the head is the embedding */
    mp_dtype dtype; /* what config.json says; the tensors' own dtype decides where they differ */

    int n_states, n_linears, n_vectors;
    mp_state states[MP_MAX_STATES];        /* in the order of the data */
    mp_linear_row linears[MP_MAX_LINEARS]; /* grouped by state */
    mp_vector_row vectors[MP_MAX_VECTORS];
} mp_arch;

/* What an export with factored linear maps calls itself in config.json: "model_type" and the class
 * in "architectures" are those of the family behind these words, and "truncation_ranks" has the
 * rank of every factored map by its name. */
#define MP_FACTORED_TYPE "mpress_factored_"
#define MP_FACTORED_CLASS "Factored"

/* From a directory with config.json, or the path of a JSON file.  A factored export is its family.
 * Errors: MP_ERR_IO, MP_ERR_FORMAT: missing key, size that is not positive, heads that do not
 * divide, an architecture, activation, rope type, bias or quantisation that no row covers,
 * "truncation_ranks" that do not fit the shapes: by name. */
mp_status mp_arch_load(const char *path, mp_arch *arch);
mp_status mp_arch_parse(const json_t *config, const char *where, mp_arch *arch);

/* mp_arch_load for all ranks, of a config.json that rank 0 alone reads.  Collective; agreed. */
mp_status mp_arch_share(const mp_comm *comm, const char *path, mp_arch *arch);

/* The tensors outside the blocks. */
#define MP_EMBED_NAME "model.embed_tokens.weight"
#define MP_NORM_NAME "model.norm.weight"
#define MP_HEAD_NAME "lm_head.weight"

/* "model.layers.<block>.<suffix>" into buffer. */
void mp_arch_tensor_name(int64_t block, const char *suffix, char buffer[256]);

/* The row of the linear map "model.layers.<block>.<linear>"; NULL if the model has no such map. */
const mp_linear_row *mp_arch_find_linear(const mp_arch *arch, const char *name);

/* Parameters of one block; of its linear maps alone. */
int64_t mp_arch_block_parameters(const mp_arch *arch);
int64_t mp_arch_linear_parameters(const mp_arch *arch);

#endif
