#include "mpress/perplexity.h"

#include "head.h"
#include "mpress/forward.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/stop.h"
#include "mpress/weights.h"

#include <math.h>

static mp_status propagate(const mp_comm *comm, const mp_arch *arch, const mp_source *source,
                           mp_hidden *hidden)
{
    mp_forward *forward = NULL;
    mp_block *block = NULL;
    mp_status st;

    MP_GO(mp_block_create(comm, arch, &block));
    MP_GO(mp_comm_agree(comm, mp_forward_create(arch, hidden->n_tokens, &forward)));
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        MP_GO(mp_stop_poll(comm));
        MP_GO(mp_block_load(block, comm, source, b));
        mp_block_prefetch(arch, comm, source, b + 1);
        for (int64_t w = 0; w < hidden->local && st == MP_OK; w++)
            st = mp_forward_block(forward, block, hidden->n_tokens, mp_hidden_sequence(hidden, w));
        MP_GO(
            mp_comm_agree(comm, st)); /* nobody overwrites the block while another still reads it */
        mp_progress((double)(b + 1), (double)arch->n_blocks, "perplexity");
    }
    mp_progress_end();
out:
    mp_forward_free(forward);
    mp_block_free(block);
    return st;
}

size_t mp_perplexity_shared_bytes(const mp_arch *arch)
{
    size_t block = mp_block_bytes(arch), panel = head_panel_bytes(arch->d_model);

    return block > panel ? block : panel; /* one after the other */
}

int64_t mp_perplexity_rank_bytes(const mp_arch *arch, int64_t windows, int64_t seqlen,
                                 int64_t local)
{
    int64_t position = arch->d_model * (int64_t)sizeof(float) + (int64_t)sizeof(int32_t);
    int64_t forward = mp_forward_bytes(arch, seqlen, 1), losses = head_bytes(local, seqlen);

    return local * seqlen * position + windows * (int64_t)sizeof(double) +
           (forward > losses ? forward : losses); /* one after the other */
}

mp_status mp_perplexity(const mp_comm *comm, const mp_arch *arch, const mp_source *source,
                        const mp_windows *windows, mp_perplexity_result *result)
{
    mp_hidden *hidden = NULL;
    int32_t *tokens = NULL;
    double *nll = NULL;
    head h = {0};
    mp_status st;

    if (windows->seqlen < 2)
        return mp_fail(MP_ERR_ARG, "perplexity of windows of %lld token: expected at least 2",
                       (long long)windows->seqlen);
    MP_GO(mp_hidden_create(comm, windows->count, windows->seqlen, arch->d_model, &hidden));
    st = MP_NEW_RAW(tokens, hidden->local * windows->seqlen, "tokens of the windows");
    if (st == MP_OK) st = MP_NEW(nll, windows->count, "losses of the windows");
    MP_GO(mp_comm_agree(comm, st));
    MP_GO(head_own_tokens(comm, windows, hidden, tokens));
    MP_GO(mp_hidden_embed(comm, source, windows->tokens, hidden));
    MP_GO(propagate(comm, arch, source, hidden));
    MP_GO(head_open(&h, comm, &hidden, 1, tokens));
    MP_GO(head_run(&h, arch, source));
    MP_GO(mp_comm_agree(comm, head_losses(&h, 0, nll)));
    MP_GO(head_mean(&h, nll, &result->nll));
    result->windows = windows->count;
    result->perplexity = exp(result->nll);
out:
    head_close(&h);
    mp_hidden_free(hidden);
    mp_free(tokens);
    mp_free(nll);
    return st;
}
