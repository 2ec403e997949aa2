#include "head.h"

#include "mpress/forward.h"
#include "mpress/kernels.h"
#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/weights.h"

#include <math.h>

enum { PANEL_ROWS = 4096 }; /* of the vocabulary at a time: 256 MiB at 16384 channels */

void head_close(head *h)
{
    mp_shared_free(h->panel);
    mp_free(h->logits);
    mp_free(h->largest);
    mp_free(h->sum);
    mp_free(h->target);
}

int64_t head_position_bytes(void)
{
    return (int64_t)(2 * sizeof(float) + sizeof(double));
}

int64_t head_bytes(int64_t local, int64_t n_tokens)
{
    return n_tokens * PANEL_ROWS * (int64_t)sizeof(float) +
           local * n_tokens * head_position_bytes();
}

size_t head_panel_bytes(int64_t width)
{
    return (size_t)(PANEL_ROWS * width) * sizeof(float);
}

static mp_status allocate(head *h)
{
    int64_t positions = h->models * h->hidden[0]->local * h->hidden[0]->n_tokens;

    MP_TRY(MP_NEW_RAW(h->logits, h->hidden[0]->n_tokens * PANEL_ROWS, "logits of one window"));
    MP_TRY(MP_NEW_RAW(h->largest, positions, "largest logits"));
    MP_TRY(MP_NEW(h->sum, positions, "sums of exponentials"));
    MP_TRY(MP_NEW(h->target, positions, "logits of the next tokens"));
    for (int64_t i = 0; i < positions; i++) h->largest[i] = -INFINITY;
    return MP_OK;
}

mp_status head_open(head *h, const mp_comm *comm, mp_hidden *const *hidden, int64_t models,
                    const int32_t *tokens)
{
    *h = (head){.comm = comm, .hidden = hidden, .models = models, .tokens = tokens};
    MP_TRY(mp_comm_agree(comm, allocate(h)));
    return mp_shared_create(comm, head_panel_bytes(hidden[0]->width), "a panel of the head",
                            &h->panel);
}

/* One row of a panel of logits joins the running sum of its position, and is used up. */
static void join(head *h, int64_t position, float *row, int64_t rows)
{
    float before = h->largest[position], largest = mp_kernel_max(rows, row);
    double sum;

    if (before > largest) largest = before;
    sum = before > -INFINITY ? h->sum[position] * exp((double)before - (double)largest) : 0.0;
    h->sum[position] = sum + (double)mp_kernel_exp_sum(rows, largest, row);
    h->largest[position] = largest;
}

/* Rows [first, first + rows) of the vocabulary for all local windows of one model; the last position of a
 * window predicts nothing. */
static mp_status join_panel(head *h, int64_t model, int64_t first, int64_t rows)
{
    const mp_hidden *hidden = h->hidden[model];
    int64_t n = hidden->n_tokens, width = hidden->width;

    for (int64_t w = 0; w < hidden->local; w++) {
        const int32_t *tokens = h->tokens + w * n;
        int64_t start = (model * hidden->local + w) * n;

        MP_TRY(mp_sgemm(0, 1, n, rows, width, 1.0f, mp_hidden_sequence(hidden, w), width,
                        h->panel->base, width, 0.0f, h->logits, rows));
#pragma omp parallel for
        for (int64_t t = 0; t < n - 1; t++) {
            int64_t next = tokens[t + 1] - first;

            if (next >= 0 && next < rows) h->target[start + t] = h->logits[t * rows + next];
            join(h, start + t, h->logits + t * rows, rows);
        }
    }
    return MP_OK;
}

static mp_status join_vocabulary(head *h, const mp_arch *arch, const mp_source *source)
{
    const char *name = arch->tied_head ? MP_EMBED_NAME : MP_HEAD_NAME;
    float *panel = h->panel->base;

    for (int64_t first = 0; first < arch->vocabulary; first += PANEL_ROWS) {
        int64_t rows =
            arch->vocabulary - first < PANEL_ROWS ? arch->vocabulary - first : PANEL_ROWS;
        mp_status st = MP_OK;

        MP_TRY(
            mp_comm_agree(h->comm, mp_weights_publish(h->comm, source, name, first, rows, panel)));
        MP_TRY(mp_shared_fence(h->comm, h->panel));
        for (int64_t m = 0; m < h->models && st == MP_OK; m++) st = join_panel(h, m, first, rows);
        MP_TRY(mp_comm_agree(h->comm, st)); /* and nobody overwrites what another still reads */
    }
    return MP_OK;
}

/* Its few weights are read by rank 0 for all. */
static mp_status final_norm(const head *h, const mp_arch *arch, const mp_source *source)
{
    float *weight = NULL;
    mp_status st;

    st = MP_NEW_RAW(weight, arch->d_model, "the final norm");
    if (st == MP_OK && h->comm->rank == 0)
        st = mp_weights_rows(source, MP_NORM_NAME, 0, arch->d_model, weight);
    MP_GO(mp_comm_agree(h->comm, st));
    MP_GO(mp_comm_bcast(h->comm, weight, (size_t)arch->d_model * sizeof *weight, 0));
    for (int64_t m = 0; m < h->models; m++)
        for (int64_t w = 0; w < h->hidden[m]->local; w++) {
            float *states = mp_hidden_sequence(h->hidden[m], w);

            mp_rms_norm(h->hidden[m]->n_tokens, arch->d_model, arch->norm_eps, states, weight,
                        states);
        }
out:
    mp_free(weight);
    return st;
}

mp_status head_run(head *h, const mp_arch *arch, const mp_source *source)
{
    MP_TRY(final_norm(h, arch, source));
    return join_vocabulary(h, arch, source);
}

mp_status head_losses(const head *h, int64_t model, double *nll)
{
    const mp_hidden *hidden = h->hidden[model];
    int64_t n = hidden->n_tokens;

    for (int64_t s = 0; s < hidden->n_sequences; s++) nll[s] = 0.0;
    for (int64_t w = 0; w < hidden->local; w++) {
        int64_t window = w * h->comm->size + h->comm->rank;

        for (int64_t t = 0; t < n - 1; t++) {
            int64_t i = (model * hidden->local + w) * n + t;
            double loss = (double)h->largest[i] + log(h->sum[i]) - (double)h->target[i];

            if (!isfinite(loss))
                return mp_fail(MP_ERR_NUMERIC,
                               "a logit of window %lld, position %lld is not finite",
                               (long long)window, (long long)t);
            nll[window] += loss;
        }
    }
    return MP_OK;
}

mp_status head_mean(const head *h, double *nll, double *mean)
{
    const mp_hidden *hidden = h->hidden[0];
    double total = 0.0;

    MP_TRY(mp_comm_sum(h->comm, nll, (int)hidden->n_sequences));
    for (int64_t s = 0; s < hidden->n_sequences; s++) total += nll[s];
    *mean = total / ((double)hidden->n_sequences * (double)(hidden->n_tokens - 1));
    return MP_OK;
}

mp_status head_own_tokens(const mp_comm *comm, const mp_windows *windows, const mp_hidden *hidden,
                          int32_t *own)
{
    int64_t n = hidden->n_tokens;
    int32_t *window = NULL;
    mp_status st;

    st = mp_comm_agree(comm, MP_NEW_RAW(window, n, "a window of tokens"));
    for (int64_t s = 0; s < hidden->n_sequences && st == MP_OK; s++) {
        for (int64_t t = 0; t < n && comm->rank == 0; t++) window[t] = windows->tokens[s * n + t];
        st = mp_comm_bcast(comm, window, (size_t)n * sizeof *window, 0);
        for (int64_t t = 0; t < n && s % comm->size == comm->rank; t++)
            own[s / comm->size * n + t] = window[t];
    }
    mp_free(window);
    return st;
}
