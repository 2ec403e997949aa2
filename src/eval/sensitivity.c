#include "mpress/sensitivity.h"

#include "head.h"
#include "mpress/forward.h"
#include "mpress/linear.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/stop.h"
#include "mpress/weights.h"

#include <string.h>

/* What stays from sweep to sweep. */
typedef struct trials {
    const mp_comm *comm;
    const mp_arch *arch;
    const mp_source *dense, *factors;
    mp_block *block, *factored;
    mp_forward *forward;
    mp_hidden *trunk; /* dense streams, as they enter block `at` */
    int64_t at;
    mp_hidden **branch; /* [width] streams of the candidates under way */
    int64_t width;      /* candidates of a sweep */
    int32_t *tokens;    /* [local][n_tokens] */
    double *losses;     /* [n_sequences] */
    double done, to_do; /* candidates times blocks, for the progress line */
} trials;

double mp_sensitivity_flop(const mp_arch *arch, int64_t n_windows, int64_t seqlen,
                           const mp_candidate *candidates, int64_t count)
{
    const double tokens = (double)seqlen;
    const double logits = 2.0 * tokens * (double)arch->vocabulary * (double)arch->d_model;
    double linears, attention, flop = 0.0;

    mp_forward_flops(arch, seqlen, &linears, &attention);
    for (int64_t i = 0; i < count; i++) {
        const mp_linear_row *row = &arch->linears[candidates[i].linear];
        int64_t saved = row->d_out * row->d_in -
                        mp_linear_parameters(row->d_out, row->d_in, candidates[i].rank);

        flop += (double)(arch->n_blocks - candidates[i].block) * (linears + attention) -
                2.0 * tokens * (double)saved + logits;
    }
    if (count > 0) flop += (double)candidates[count - 1].block * (linears + attention);
    return (double)n_windows * flop;
}

static mp_status check(const mp_arch *arch, const mp_windows *windows,
                       const mp_candidate *candidates, int64_t count)
{
    if (windows->seqlen < 2 || windows->count < 1)
        return mp_fail(MP_ERR_ARG,
                       "sensitivity on %lld windows of %lld tokens: expected one or more of 2 or "
                       "more",
                       (long long)windows->count, (long long)windows->seqlen);
    for (int64_t i = 0; i < count; i++) {
        const mp_candidate *c = &candidates[i];
        int64_t least = i > 0 ? candidates[i - 1].block : 0;

        if (c->block < least || c->block >= arch->n_blocks)
            return mp_fail(MP_ERR_ARG, "candidate %lld is of block %lld, expected %lld to %lld",
                           (long long)i, (long long)c->block, (long long)least,
                           (long long)arch->n_blocks - 1);
        if (c->linear < 0 || c->linear >= arch->n_linears)
            return mp_fail(MP_ERR_ARG, "candidate %lld is of linear map %d, expected 0 to %d",
                           (long long)i, c->linear, arch->n_linears - 1);
    }
    return MP_OK;
}

static void trials_close(trials *t)
{
    for (int64_t i = 0; t->branch != NULL && i < t->width; i++) mp_hidden_free(t->branch[i]);
    mp_free(t->branch);
    mp_hidden_free(t->trunk);
    mp_block_free(t->block);
    mp_block_free(t->factored);
    mp_forward_free(t->forward);
    mp_free(t->tokens);
    mp_free(t->losses);
}

/* The same on all ranks: by the windows of the rank that has most. */
static int64_t candidates_that_fit(const mp_hidden *h, size_t bytes, int64_t count)
{
    int64_t position = h->width * (int64_t)sizeof(float) + head_position_bytes();
    int64_t fit = (int64_t)(bytes / (size_t)(h->rounds * h->n_tokens * position));

    return fit < 1 ? 1 : fit < count ? fit : count;
}

static mp_status trials_open(trials *t, const mp_windows *windows, size_t bytes, int64_t count)
{
    const int64_t d_model = t->arch->d_model;
    mp_status st;

    MP_TRY(mp_hidden_create(t->comm, windows->count, windows->seqlen, d_model, &t->trunk));
    t->width = candidates_that_fit(t->trunk, bytes, count);
    MP_TRY(mp_comm_same(t->comm, t->width, "the number of candidates of a sweep"));
    st = MP_NEW(t->branch, t->width, "branches of the residual streams");
    if (st == MP_OK)
        st = MP_NEW_RAW(t->tokens, t->trunk->local * windows->seqlen, "tokens of the windows");
    if (st == MP_OK) st = MP_NEW_RAW(t->losses, windows->count, "losses of the windows");
    if (st == MP_OK) st = mp_forward_create(t->arch, windows->seqlen, &t->forward);
    MP_TRY(mp_comm_agree(t->comm, st));
    for (int64_t i = 0; i < t->width; i++)
        MP_TRY(mp_hidden_create(t->comm, windows->count, windows->seqlen, d_model, &t->branch[i]));
    MP_TRY(mp_block_create(t->comm, t->arch, &t->block));
    MP_TRY(mp_block_create(t->comm, t->arch, &t->factored));
    MP_TRY(head_own_tokens(t->comm, windows, t->trunk, t->tokens));
    return mp_hidden_embed(t->comm, t->dense, windows->tokens, t->trunk);
}

static mp_status pass(trials *t, const mp_block *block, mp_hidden *hidden)
{
    for (int64_t w = 0; w < hidden->local; w++)
        MP_TRY(
            mp_forward_block(t->forward, block, hidden->n_tokens, mp_hidden_sequence(hidden, w)));
    return MP_OK;
}

/* A candidate's streams begin: the dense ones, through the block with its linear map in place. */
static mp_status branch_off(trials *t, const mp_candidate *c, mp_hidden *to)
{
    mp_linear cut = t->factored->linears[c->linear];
    mp_block block = *t->block;

    if (c->rank < 1 || c->rank > cut.rank)
        return mp_fail(MP_ERR_ARG, "%s: block %lld, %s: rank %lld is asked for, expected 1 to %lld",
                       t->factors->path, (long long)c->block, t->arch->linears[c->linear].name,
                       (long long)c->rank, (long long)cut.rank);
    cut.rank = c->rank;
    block.linears[c->linear] = cut;
    memcpy(to->states, t->trunk->states,
           (size_t)(to->local * to->n_tokens * to->width) * sizeof *to->states);
    return pass(t, &block, to);
}

/* All streams of a sweep through the block that is loaded; the dense ones up to the block of the last
 * candidate, where the next sweep goes on. */
static mp_status pass_block(trials *t, int64_t b, const mp_candidate *c, int64_t count)
{
    for (int64_t i = 0; i < count; i++) {
        if (c[i].block > b) break;
        MP_TRY(c[i].block == b ? branch_off(t, &c[i], t->branch[i])
                               : pass(t, t->block, t->branch[i]));
        t->done += 1.0;
        mp_progress(t->done, t->to_do, "sensitivity");
    }
    return b < c[count - 1].block ? pass(t, t->block, t->trunk) : MP_OK;
}

static mp_status load(trials *t, int64_t b, const mp_candidate *c, int64_t count)
{
    int any = 0;

    for (int64_t i = 0; i < count; i++) any |= c[i].block == b;
    MP_TRY(mp_stop_poll(t->comm));
    MP_TRY(mp_block_load(t->block, t->comm, t->dense, b));
    if (any) MP_TRY(mp_block_load(t->factored, t->comm, t->factors, b));
    mp_block_prefetch(t->arch, t->comm, t->dense,
                      b + 1 < t->arch->n_blocks ? b + 1 : c[count - 1].block);
    return MP_OK;
}

static mp_status measure(trials *t, const head *h, int64_t i, mp_candidate *c)
{
    mp_status st = head_losses(h, i, t->losses);

    if (st != MP_OK)
        st = mp_fail(st, "block %lld, %s at rank %lld: %s", (long long)c->block,
                     t->arch->linears[c->linear].name, (long long)c->rank, mp_error_message());
    MP_TRY(mp_comm_agree(t->comm, st));
    return head_mean(h, t->losses, &c->nll);
}

static mp_status sweep(trials *t, mp_candidate *c, int64_t count)
{
    head h = {0};
    mp_status st;

    for (int64_t b = t->at; b < t->arch->n_blocks; b++) {
        MP_GO(load(t, b, c, count));
        MP_GO(mp_comm_agree(t->comm, pass_block(t, b, c, count)));
    }
    t->at = c[count - 1].block;
    MP_GO(head_open(&h, t->comm, t->branch, count, t->tokens));
    MP_GO(head_run(&h, t->arch, t->dense));
    for (int64_t i = 0; i < count; i++) MP_GO(measure(t, &h, i, &c[i]));
out:
    head_close(&h);
    return st;
}

size_t mp_sensitivity_shared_bytes(const mp_arch *arch)
{
    return 2 * mp_block_bytes(arch) + head_panel_bytes(arch->d_model);
}

mp_status mp_sensitivity(const mp_comm *comm, const mp_arch *arch, const mp_source *dense,
                         const mp_source *factors, const mp_windows *windows, size_t bytes,
                         mp_candidate *candidates, int64_t count)
{
    trials t = {.comm = comm, .arch = arch, .dense = dense, .factors = factors};
    mp_status st;

    MP_TRY(check(arch, windows, candidates, count));
    if (count == 0) return MP_OK;
    for (int64_t i = 0; i < count; i++) t.to_do += (double)(arch->n_blocks - candidates[i].block);
    MP_GO(trials_open(&t, windows, bytes, count));
    mp_log(MP_LOG_INFO, "sensitivity: %lld candidates on %lld windows, %lld at once",
           (long long)count, (long long)windows->count, (long long)t.width);
    for (int64_t i = 0; i < count; i += t.width)
        MP_GO(sweep(&t, candidates + i, count - i < t.width ? count - i : t.width));
    mp_progress_end();
out:
    trials_close(&t);
    return st;
}
