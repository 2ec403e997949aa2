#include "mpress/perplexity.h"

#include "mpress/forward.h"
#include "mpress/hidden.h"
#include "mpress/linalg.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/simd.h"
#include "mpress/weights.h"

#include <math.h>

enum { PANEL_ROWS = 4096 }; /* of the vocabulary at a time: 256 MiB at 16384 channels */

/* Running log-sum-exp over the vocabulary of each position of the local windows. */
typedef struct head {
    const mp_comm *comm;
    const mp_hidden *hidden;
    const int32_t *tokens; /* [local][n_tokens] of this rank's windows */
    mp_shared *panel;      /* [PANEL_ROWS][d_model], one copy per node */
    float *logits;         /* [n_tokens][PANEL_ROWS] of one window */
    float *largest;        /* [local][n_tokens] */
    double *sum;           /* [local][n_tokens] sum of exp(logit - largest) */
    float *target;         /* [local][n_tokens] logit of the next token */
} head;

static void head_close(head *h)
{
    mp_shared_free(h->panel);
    mp_free(h->logits);
    mp_free(h->largest);
    mp_free(h->sum);
    mp_free(h->target);
}

static mp_status head_allocate(head *h)
{
    int64_t positions = h->hidden->local * h->hidden->n_tokens;

    MP_TRY(MP_NEW_RAW(h->logits, h->hidden->n_tokens * PANEL_ROWS, "logits of one window"));
    MP_TRY(MP_NEW_RAW(h->largest, positions, "largest logits"));
    MP_TRY(MP_NEW(h->sum, positions, "sums of exponentials"));
    MP_TRY(MP_NEW(h->target, positions, "logits of the next tokens"));
    for (int64_t i = 0; i < positions; i++) h->largest[i] = -INFINITY;
    return MP_OK;
}

static mp_status head_open(head *h, const mp_comm *comm, const mp_hidden *hidden, const int32_t *tokens)
{
    *h = (head){.comm = comm, .hidden = hidden, .tokens = tokens};
    MP_TRY(mp_comm_agree(comm, head_allocate(h)));
    return mp_shared_create(comm, (size_t)(PANEL_ROWS * hidden->width) * sizeof(float),
                            "a panel of the head", &h->panel);
}

MP_SIMD_CLONES
static float largest_of(const float *x, int64_t count, float start)
{
    float partial[16], largest = start;
    int64_t i = 0;

    for (int l = 0; l < 16; l++) partial[l] = start;
    for (; i + 16 <= count; i += 16)
        for (int l = 0; l < 16; l++) partial[l] = x[i + l] > partial[l] ? x[i + l] : partial[l];
    for (; i < count; i++) largest = x[i] > largest ? x[i] : largest;
    for (int l = 0; l < 16; l++) largest = partial[l] > largest ? partial[l] : largest;
    return largest;
}

/* One row of a panel of logits joins the running sum of its position. */
static void join(head *h, int64_t position, const float *row, int64_t rows)
{
    float before = h->largest[position], largest = largest_of(row, rows, before);
    double sum = before > -INFINITY ? h->sum[position] * exp((double)before - (double)largest) : 0.0;

    for (int64_t v = 0; v < rows; v++) sum += (double)expf(row[v] - largest);
    h->largest[position] = largest;
    h->sum[position] = sum;
}

/* Rows [first, first + rows) of the vocabulary for all local windows; the last position of a window
 * predicts nothing. */
static mp_status join_panel(head *h, int64_t first, int64_t rows)
{
    int64_t n = h->hidden->n_tokens, width = h->hidden->width;

    for (int64_t w = 0; w < h->hidden->local; w++) {
        MP_TRY(mp_sgemm(0, 1, n, rows, width, 1.0f, mp_hidden_sequence(h->hidden, w), width,
                        h->panel->base, width, 0.0f, h->logits, rows));
#pragma omp parallel for
        for (int64_t t = 0; t < n - 1; t++) {
            int64_t next = h->tokens[w * n + t + 1] - first;

            join(h, w * n + t, h->logits + t * rows, rows);
            if (next >= 0 && next < rows) h->target[w * n + t] = h->logits[t * rows + next];
        }
    }
    return MP_OK;
}

static mp_status join_vocabulary(head *h, const mp_arch *arch, const mp_source *source)
{
    const char *name = arch->tied_head ? MP_EMBED_NAME : MP_HEAD_NAME;
    float *panel = h->panel->base;

    for (int64_t first = 0; first < arch->vocabulary; first += PANEL_ROWS) {
        int64_t rows = arch->vocabulary - first < PANEL_ROWS ? arch->vocabulary - first : PANEL_ROWS;
        int64_t begin, end;

        mp_share(rows, 1, h->comm->node_rank, h->comm->node_size, &begin, &end);
        MP_TRY(mp_comm_agree(h->comm, mp_weights_rows(source, name, first + begin, end - begin,
                                                      panel + begin * arch->d_model)));
        MP_TRY(mp_shared_fence(h->comm, h->panel));
        MP_TRY(join_panel(h, first, rows));
        MP_TRY(mp_shared_fence(h->comm, h->panel));
    }
    return MP_OK;
}

/* Negative log-likelihood of each window of all ranks, [n_sequences]: added in the order of the
 * windows, so that the figure does not depend on the ranks. */
static mp_status collect(const head *h, double *nll)
{
    const mp_hidden *hidden = h->hidden;
    mp_status st = MP_OK;

    for (int64_t w = 0; w < hidden->local; w++) {
        int64_t window = w * h->comm->size + h->comm->rank;

        for (int64_t t = 0; t < hidden->n_tokens - 1; t++) {
            int64_t i = w * hidden->n_tokens + t;
            double loss = (double)h->largest[i] + log(h->sum[i]) - (double)h->target[i];

            if (!isfinite(loss) && st == MP_OK)
                st = mp_fail(MP_ERR_NUMERIC, "a logit of window %lld, position %lld is not finite",
                             (long long)window, (long long)t);
            nll[window] += loss;
        }
    }
    MP_TRY(mp_comm_agree(h->comm, st));
    return mp_comm_sum(h->comm, nll, (int)hidden->n_sequences);
}

static mp_status final_norm(const mp_arch *arch, const mp_source *source, mp_hidden *hidden)
{
    float *weight = NULL;
    mp_status st;

    MP_TRY(MP_NEW_RAW(weight, arch->d_model, "the final norm"));
    st = mp_weights_rows(source, MP_NORM_NAME, 0, arch->d_model, weight);
    for (int64_t w = 0; w < hidden->local && st == MP_OK; w++) {
        float *states = mp_hidden_sequence(hidden, w);

        mp_rms_norm(hidden->n_tokens, arch->d_model, arch->norm_eps, states, weight, states);
    }
    mp_free(weight);
    return st;
}

static mp_status propagate(const mp_comm *comm, const mp_arch *arch, const mp_source *source,
                           mp_hidden *hidden)
{
    mp_forward *forward = NULL;
    mp_block *block = NULL;
    mp_status st;

    MP_GO(mp_block_create(comm, arch, &block));
    MP_GO(mp_comm_agree(comm, mp_forward_create(arch, hidden->n_tokens, &forward)));
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        MP_GO(mp_block_load(block, comm, source, b));
        mp_block_prefetch(arch, comm, source, b + 1);
        for (int64_t w = 0; w < hidden->local && st == MP_OK; w++)
            st = mp_forward_block(forward, block, hidden->n_tokens, mp_hidden_sequence(hidden, w));
        MP_GO(mp_comm_agree(comm, st)); /* nobody overwrites the block while another still reads it */
        mp_progress((double)(b + 1), (double)arch->n_blocks, "perplexity");
    }
    mp_progress_end();
out:
    mp_forward_free(forward);
    mp_block_free(block);
    return st;
}

/* This rank's windows of tokens: sent by rank 0 to all, kept by their owners. */
static mp_status own_tokens(const mp_comm *comm, const mp_windows *windows, const mp_hidden *hidden,
                            int32_t *own)
{
    int64_t n = hidden->n_tokens;
    int32_t *window = NULL;
    mp_status st;

    MP_TRY(mp_comm_agree(comm, MP_NEW_RAW(window, n, "a window of tokens")));
    st = MP_OK;
    for (int64_t s = 0; s < hidden->n_sequences && st == MP_OK; s++) {
        for (int64_t t = 0; t < n && comm->rank == 0; t++) window[t] = windows->tokens[s * n + t];
        st = mp_comm_bcast(comm, window, (size_t)n * sizeof *window, 0);
        for (int64_t t = 0; t < n && s % comm->size == comm->rank; t++)
            own[s / comm->size * n + t] = window[t];
    }
    mp_free(window);
    return st;
}

mp_status mp_perplexity(const mp_comm *comm, const mp_arch *arch, const mp_source *source,
                        const mp_windows *windows, mp_perplexity_result *result)
{
    mp_hidden *hidden = NULL;
    int32_t *tokens = NULL;
    double *nll = NULL, total = 0.0;
    head h = {0};
    mp_status st;

    if (windows->seqlen < 2)
        return mp_fail(MP_ERR_ARG, "perplexity of windows of %lld token: expected at least 2",
                       (long long)windows->seqlen);
    MP_GO(mp_hidden_create(comm, windows->count, windows->seqlen, arch->d_model, &hidden));
    st = MP_NEW_RAW(tokens, hidden->local * windows->seqlen, "tokens of the windows");
    if (st == MP_OK) st = MP_NEW(nll, windows->count, "losses of the windows");
    MP_GO(mp_comm_agree(comm, st));
    MP_GO(own_tokens(comm, windows, hidden, tokens));
    MP_GO(mp_hidden_embed(comm, source, windows->tokens, hidden));
    MP_GO(propagate(comm, arch, source, hidden));
    MP_GO(mp_comm_agree(comm, final_norm(arch, source, hidden)));
    MP_GO(head_open(&h, comm, hidden, tokens));
    MP_GO(join_vocabulary(&h, arch, source));
    MP_GO(collect(&h, nll));
    for (int64_t w = 0; w < windows->count; w++) total += nll[w];
    result->windows = windows->count;
    result->nll = total / ((double)windows->count * (double)(windows->seqlen - 1));
    result->perplexity = exp(result->nll);
out:
    head_close(&h);
    mp_hidden_free(hidden);
    mp_free(tokens);
    mp_free(nll);
    return st;
}
