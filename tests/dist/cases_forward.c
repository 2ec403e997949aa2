/* The forward pass against PyTorch's states of real and of tiny random models, and against itself:
 * by states, by prefixes, on other threads and ranks. */
#include "worker.h"

#include "memory_source.h"

#include "mpress/fileio.h"
#include "mpress/forward.h"
#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/rng.h"
#include "mpress/safetensors.h"
#include "mpress/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A model, a reference for it, and what it takes to run one on the other. */
typedef struct trial {
    const mp_comm *comm;
    mp_arch arch;
    mp_source *model, *reference;
    mp_block *block;
    mp_forward *forward;
    int64_t sequences, length;
    int32_t *ids;             /* [sequences, length] */
    float *hidden, *expected; /* [length, d_model], and [length, the widest tensor] */
} trial;

static void trial_close(trial *t)
{
    mp_source_close(&t->model);
    mp_source_close(&t->reference);
    mp_block_free(t->block);
    mp_forward_free(t->forward);
    mp_free(t->ids);
    mp_free(t->hidden);
    mp_free(t->expected);
}

static mp_status trial_open(const mp_comm *comm, const char *model, const char *reference, trial *t)
{
    const mp_tensor_info *info;
    int64_t index;

    t->comm = comm;
    MP_TRY(mp_arch_load(model, &t->arch));
    MP_TRY(mp_safetensors_open(model, &t->model));
    MP_TRY(mp_weights_check(&t->arch, t->model));
    MP_TRY(mp_safetensors_open(reference, &t->reference));
    index = mp_source_find(t->reference, "input_ids");
    MP_EXPECT(index >= 0);
    info = t->reference->at(t->reference->self, index);
    MP_EXPECT(info->dtype == MP_I32 && info->ndim == 2);
    t->sequences = info->shape[0];
    t->length = info->shape[1];
    MP_TRY(MP_NEW(t->ids, t->sequences * t->length, "tokens"));
    MP_TRY(t->reference->read(t->reference->self, index, 0, mp_tensor_bytes(info), t->ids));
    MP_TRY(MP_NEW(t->hidden, t->sequences * t->length * t->arch.d_model, "hidden states"));
    MP_TRY(
        MP_NEW(t->expected, 2 * t->length * (t->arch.vocabulary + t->arch.d_model), "reference"));
    MP_TRY(mp_block_create(comm, &t->arch, &t->block));
    return mp_forward_create(&t->arch, t->length, &t->forward);
}

/* Largest difference over largest value of sequence s: at most 1e-4, the bar of the project. */
static mp_status compare(const trial *t, const char *name, int64_t s, int64_t width,
                         const float *values)
{
    const int64_t count = t->length * width;
    const int64_t index = mp_source_find(t->reference, name);
    double difference = 0.0, largest = 0.0;

    MP_EXPECT(index >= 0);
    MP_TRY(t->reference->read(t->reference->self, index, s * count * 4, count * 4, t->expected));
    for (int64_t i = 0; i < count; i++) {
        difference = fmax(difference, fabs((double)values[i] - (double)t->expected[i]));
        largest = fmax(largest, fabs((double)t->expected[i]));
        if (!isfinite(values[i])) difference = INFINITY;
    }
    if (difference <= 1e-4 * largest) {
        if (getenv("MPRESS_REFERENCE") != NULL && s == 0)
            printf("%s: %.1e\n", name, difference / largest);
        return MP_OK;
    }
    return mp_fail(MP_ERR_NUMERIC, "%s, sequence %lld: %.2e of the largest value, expected 1e-4",
                   name, (long long)s, difference / largest);
}

/* The final norm and the head, on one sequence. */
static mp_status compare_logits(trial *t, int64_t s, const float *hidden)
{
    const mp_arch *a = &t->arch;
    float *weight = NULL, *normalised = NULL, *logits = NULL;
    mp_status st;

    MP_GO(MP_NEW(weight, (a->vocabulary + 1) * a->d_model, "head and norm"));
    MP_GO(MP_NEW(normalised, t->length * a->d_model, "normalised"));
    MP_GO(MP_NEW(logits, t->length * a->vocabulary, "logits"));
    MP_GO(mp_weights_rows(t->model, a->tied_head ? MP_EMBED_NAME : MP_HEAD_NAME, 0, a->vocabulary,
                          weight + a->d_model));
    MP_GO(mp_weights_rows(t->model, MP_NORM_NAME, 0, a->d_model, weight));
    mp_rms_norm(t->length, a->d_model, a->norm_eps, hidden, weight, normalised);
    MP_GO(mp_sgemm(0, 1, t->length, a->vocabulary, a->d_model, 1.0f, normalised, a->d_model,
                   weight + a->d_model, a->d_model, 0.0f, logits, a->vocabulary));
    st = compare(t, "logits", s, a->vocabulary, logits);
out:
    mp_free(weight);
    mp_free(normalised);
    mp_free(logits);
    return st;
}

/* Before block l (or after the last one): sequences s of this rank, s = rank, rank + size, ... */
static mp_status compare_hidden(trial *t, int64_t l)
{
    const int64_t size = t->length * t->arch.d_model;
    char name[32];

    snprintf(name, sizeof name, "hidden.%lld", (long long)l);
    for (int64_t s = t->comm->rank; s < t->sequences; s += t->comm->size)
        MP_TRY(compare(t, name, s, t->arch.d_model, t->hidden + s * size));
    return MP_OK;
}

static mp_status advance(trial *t)
{
    const int64_t size = t->length * t->arch.d_model;

    for (int64_t s = t->comm->rank; s < t->sequences; s += t->comm->size)
        MP_TRY(mp_forward_block(t->forward, t->block, t->length, t->hidden + s * size));
    return MP_OK;
}

static mp_status trial_run(trial *t)
{
    const int64_t size = t->length * t->arch.d_model;

    MP_TRY(mp_weights_gather(t->model, MP_EMBED_NAME, t->ids, t->sequences * t->length, t->hidden));
    for (int64_t l = 0; l < t->arch.n_blocks; l++) {
        MP_TRY(mp_block_load(t->block, t->comm, t->model, l));
        MP_TRY(mp_comm_agree(t->comm, compare_hidden(t, l)));
        MP_TRY(mp_comm_agree(t->comm, advance(t)));
    }
    MP_TRY(compare_hidden(t, t->arch.n_blocks));
    for (int64_t s = t->comm->rank; s < t->sequences; s += t->comm->size)
        MP_TRY(compare_logits(t, s, t->hidden + s * size));
    return MP_OK;
}

static mp_status match(const mp_comm *comm, const char *model, const char *reference)
{
    trial t = {.comm = comm};
    mp_status st = mp_comm_agree(comm, trial_open(comm, model, reference, &t));

    if (st == MP_OK) st = mp_comm_agree(comm, trial_run(&t));
    trial_close(&t);
    return st;
}

static mp_status wikillama_matches_pytorch(const mp_comm *comm)
{
    return match(comm, MPRESS_DATA "/wikillama-5m", MPRESS_DATA "/golden/forward.safetensors");
}

static mp_status stories_match_pytorch(const mp_comm *comm)
{
    if (!mp_path_is_directory(MPRESS_SHARED "/models/stories260k"))
        return mp_case_skip(MPRESS_SHARED "/models/stories260k is not here");
    return match(comm, MPRESS_SHARED "/models/stories260k",
                 MPRESS_SHARED "/golden/stories260k/forward.safetensors");
}

/* Made by tests/e2e/reference_forward.py: every row of the table of architectures, F32, F16 and
 * BF16, one file and shards, tied and untied, old and new spellings. */
static mp_status every_architecture_matches_transformers(const mp_comm *comm)
{
    static const char *const names[] = {"llama2",  "llama3", "llama3-old",
                                        "mistral", "qwen2",  "qwen3"};

    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        char model[1024], reference[1100];

        snprintf(model, sizeof model, "%s/reference/%s", MPRESS_DATA, names[i]);
        snprintf(reference, sizeof reference, "%s/reference.safetensors", model);
        MP_TRY(match(comm, model, reference));
    }
    return MP_OK;
}

static mp_status forward_matches_a_reference(const mp_comm *comm)
{
    const char *model = getenv("MPRESS_REFERENCE");
    char reference[1100];

    if (model == NULL) return mp_case_skip("MPRESS_REFERENCE is not set");
    snprintf(reference, sizeof reference, "%.1000s/reference.safetensors", model);
    return match(comm, model, reference);
}

/* A block of random weights and a random residual stream of 129 tokens. */
typedef struct sample {
    mp_arch arch;
    mp_source *source;
    mp_block *block;
    mp_forward *forward;
    float *hidden; /* [129, d_model] */
} sample;

enum { SAMPLE_TOKENS = 129 };

static mp_status sample_open(const mp_comm *comm, const char *family, const char *extra, sample *s)
{
    MP_TRY(tiny_arch(family, extra, &s->arch));
    MP_TRY(memory_source_create(&s->arch, MP_F32, 5, &s->source));
    MP_TRY(mp_block_create(comm, &s->arch, &s->block));
    MP_TRY(mp_block_load(s->block, comm, s->source, 1));
    MP_TRY(mp_forward_create(&s->arch, SAMPLE_TOKENS, &s->forward));
    MP_TRY(MP_NEW(s->hidden, SAMPLE_TOKENS * s->arch.d_model, "hidden states"));
    mp_philox_normal(17, 0, 0, SAMPLE_TOKENS * s->arch.d_model, s->hidden);
    return MP_OK;
}

static void sample_close(sample *s)
{
    mp_source_close(&s->source);
    mp_block_free(s->block);
    mp_forward_free(s->forward);
    mp_free(s->hidden);
}

/* The whole block on a copy of the first n tokens; out [n, d_model]. */
static mp_status sample_block(sample *s, int64_t n, float *out)
{
    memcpy(out, s->hidden, (size_t)(n * s->arch.d_model) * sizeof *out);
    return mp_forward_block(s->forward, s->block, n, out);
}

/* State by state on a copy of the hidden states. */
static mp_status sample_states(sample *s, float *out, float *buffers[MP_MAX_STATES])
{
    const int64_t n = SAMPLE_TOKENS;

    memcpy(out, s->hidden, (size_t)(n * s->arch.d_model) * sizeof *out);
    for (int i = 0; i < s->arch.n_states; i++)
        MP_TRY(mp_forward_state(s->forward, s->block, i, n, out, i > 0 ? buffers[i - 1] : NULL,
                                buffers[i]));
    return mp_forward_finish(s->forward, s->block, n, out, buffers[s->arch.n_states - 1]);
}

static mp_status compare_states(sample *s)
{
    const int64_t n = SAMPLE_TOKENS, count = n * s->arch.d_model;
    float *whole = NULL, *stepped = NULL, *buffers[MP_MAX_STATES] = {NULL}, *again = NULL;
    mp_status st;

    MP_GO(MP_NEW(whole, count, "whole"));
    MP_GO(MP_NEW(stepped, count, "stepped"));
    MP_GO(MP_NEW(again, count, "again"));
    for (int i = 0; i < s->arch.n_states; i++)
        MP_GO(MP_NEW(buffers[i], n * s->arch.states[i].width, "state"));
    MP_GO(sample_block(s, n, whole));
    MP_GO(sample_states(s, stepped, buffers));
    if (memcmp(whole, stepped, (size_t)count * sizeof *whole) != 0)
        MP_GO(mp_fail(MP_ERR_NUMERIC, "the block differs from its states"));
    MP_GO(mp_forward_norm(s->block, MP_ATTN_IN, n, s->hidden, again));
    if (memcmp(again, buffers[MP_ATTN_IN], (size_t)count * sizeof *whole) != 0)
        MP_GO(mp_fail(MP_ERR_NUMERIC, "attn_in recomputed differs"));
    if (mp_forward_norm(s->block, MP_FFN_MID, n, s->hidden, again) != MP_ERR_INTERNAL)
        st = mp_fail(MP_ERR_NUMERIC, "a norm of ffn_mid was not refused");
out:
    mp_free(whole);
    mp_free(stepped);
    mp_free(again);
    for (int i = 0; i < MP_MAX_STATES; i++) mp_free(buffers[i]);
    return st;
}

static mp_status a_block_is_its_states_to_the_bit(const mp_comm *comm)
{
    sample s = {.source = NULL};
    mp_status st = mp_comm_agree(comm, sample_open(comm, "qwen3", "\"head_dim\": 20", &s));

    if (st == MP_OK) st = mp_comm_agree(comm, compare_states(&s));
    sample_close(&s);
    return st;
}

/* Causality: a prefix of a sequence has the states of the sequence. */
static mp_status compare_prefixes(sample *s)
{
    static const int64_t lengths[] = {1, 2, 3, 64, 127, 128};
    const int64_t d = s->arch.d_model;
    float *whole = NULL, *part = NULL;
    mp_status st;

    MP_GO(MP_NEW(whole, SAMPLE_TOKENS * d, "whole"));
    MP_GO(MP_NEW(part, SAMPLE_TOKENS * d, "part"));
    MP_GO(sample_block(s, SAMPLE_TOKENS, whole));
    for (int i = 0; i < 6; i++) {
        MP_GO(sample_block(s, lengths[i], part));
        for (int64_t j = 0; j < lengths[i] * d; j++)
            if (!(fabsf(part[j] - whole[j]) <= 1e-5f))
                MP_GO(mp_fail(MP_ERR_NUMERIC, "%lld tokens, token %lld: %g instead of %g",
                              (long long)lengths[i], (long long)(j / d), (double)part[j],
                              (double)whole[j]));
    }
out:
    mp_free(whole);
    mp_free(part);
    return st;
}

static mp_status a_prefix_has_the_states_of_the_sequence(const mp_comm *comm)
{
    sample s = {.source = NULL};
    mp_status st = mp_comm_agree(comm, sample_open(comm, "mistral", "\"sliding_window\": 50", &s));

    if (st == MP_OK) st = mp_comm_agree(comm, compare_prefixes(&s));
    sample_close(&s);
    return st;
}

static mp_status compare_threads(sample *s)
{
    const int64_t count = SAMPLE_TOKENS * s->arch.d_model;
    const int before = mp_threads();
    float *one = NULL, *many = NULL;
    mp_status st;

    MP_GO(MP_NEW(one, count, "one thread"));
    MP_GO(MP_NEW(many, count, "several threads"));
    mp_threads_set(1);
    MP_GO(sample_block(s, SAMPLE_TOKENS, one));
    for (int threads = 2; threads <= 4; threads++) {
        mp_threads_set(threads);
        MP_GO(sample_block(s, SAMPLE_TOKENS, many));
        if (memcmp(one, many, (size_t)count * sizeof *one) != 0)
            MP_GO(mp_fail(MP_ERR_NUMERIC, "%d threads give other bits than 1", threads));
    }
out:
    mp_threads_set(before);
    mp_free(one);
    mp_free(many);
    return st;
}

static mp_status threads_do_not_change_a_bit(const mp_comm *comm)
{
    sample s = {.source = NULL};
    mp_status st = mp_comm_agree(comm, sample_open(comm, "qwen2", "", &s));

    if (st == MP_OK) st = mp_comm_agree(comm, compare_threads(&s));
    sample_close(&s);
    return st;
}

/* All blocks over the sequences of `comm`'s ranks; the CRC of every sequence's last hidden states.
 */
static mp_status sliding_pass(const mp_comm *comm, uint32_t crc[2])
{
    trial t = {.comm = comm};
    mp_status st = trial_open(comm, MPRESS_DATA "/wikillama-5m",
                              MPRESS_DATA "/golden/forward.safetensors", &t);

    MP_GO(mp_comm_agree(comm, st));
    MP_GO(mp_weights_gather(t.model, MP_EMBED_NAME, t.ids, t.sequences * t.length, t.hidden));
    for (int64_t l = 0; l < t.arch.n_blocks; l++) {
        MP_GO(mp_block_load(t.block, comm, t.model, l));
        MP_GO(advance(&t));
    }
    for (int64_t s = comm->rank; s < t.sequences && s < 2; s += comm->size)
        crc[s] = mp_crc32c(0, t.hidden + s * t.length * t.arch.d_model,
                           (size_t)(t.length * t.arch.d_model) * sizeof(float));
out:
    trial_close(&t);
    return st;
}

static mp_status ranks_do_not_change_a_bit(const mp_comm *comm)
{
    const int threads = mp_threads();
    uint32_t crc[2] = {0, 0}, alone[2] = {0, 0};
    mp_comm *self = NULL;
    mp_status st;

    MP_GO(sliding_pass(comm, crc));
    MP_GO(mp_comm_create(MPI_COMM_SELF, &self));
    mp_threads_set(threads + 1); /* a rank alone on a node has more of them */
    st = sliding_pass(self, alone);
    mp_threads_set(threads);
    MP_GO(mp_comm_agree(comm, st));
    for (int s = comm->rank; s < 2; s += comm->size)
        if (crc[s] == 0 || crc[s] != alone[s])
            st = mp_fail(MP_ERR_NUMERIC, "sequence %d: %08x on %d ranks, %08x on 1", s, crc[s],
                         comm->size, alone[s]);
out:
    mp_comm_free(self);
    return st;
}

static mp_status a_nan_in_the_stream_reaches_the_output(const mp_comm *comm)
{
    sample s = {.source = NULL};
    mp_status st;

    MP_GO(sample_open(comm, "llama", "", &s));
    s.hidden[100 * s.arch.d_model + 3] = NAN;
    MP_GO(mp_forward_block(s.forward, s.block, SAMPLE_TOKENS, s.hidden));
    for (int64_t t = 100; t < SAMPLE_TOKENS; t++)
        if (!isnan(s.hidden[t * s.arch.d_model + 7]))
            MP_GO(mp_fail(MP_ERR_NUMERIC, "token %lld hides the NaN of token 100", (long long)t));
out:
    sample_close(&s);
    return st;
}

const mp_case cases_forward[] = {
    {"wikillama_matches_pytorch", wikillama_matches_pytorch},
    {"stories_match_pytorch", stories_match_pytorch},
    {"every_architecture_matches_transformers", every_architecture_matches_transformers},
    {"forward_matches_a_reference", forward_matches_a_reference},
    {"a_block_is_its_states_to_the_bit", a_block_is_its_states_to_the_bit},
    {"a_prefix_has_the_states_of_the_sequence", a_prefix_has_the_states_of_the_sequence},
    {"threads_do_not_change_a_bit", threads_do_not_change_a_bit},
    {"ranks_do_not_change_a_bit", ranks_do_not_change_a_bit},
    {"a_nan_in_the_stream_reaches_the_output", a_nan_in_the_stream_reaches_the_output},
    {NULL, NULL},
};
