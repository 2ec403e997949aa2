/* The model of a run: opened, and looked at before anything is written. */
#include "run.h"

#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/remote.h"
#include "mpress/sensitivity.h"

enum { CHECKED_ROWS = 256 }; /* of the embedding at a time */

/* Every linear map that will be compressed can take the pattern, and there is one. */
static mp_status check_shapes(run *r)
{
    int skip[MP_MAX_LINEARS];

    for (int64_t b = 0; b < r->arch.n_blocks; b++) {
        r->wanted += selection_of_block(&r->selected, &r->arch, b, skip);
        for (int i = 0; i < r->arch.n_linears; i++)
            if (!skip[i])
                MP_TRY(r->runner.method->fits(&r->runner.options, r->arch.linears[i].name,
                                              r->arch.linears[i].d_in));
    }
    if (r->wanted == 0)
        return mp_fail(MP_ERR_ARG,
                       "--skip %s: matches every linear map of the blocks: nothing is left to "
                       "compress",
                       r->job->skip);
    return MP_OK;
}

/* Integers are made of dense weights, and of all of a model: no format holds them beside factors. */
static mp_status check_storage(const run *r)
{
    mp_model_size size;

    for (int64_t i = 0; i < r->source->count; i++) {
        const mp_tensor_info *info = r->source->at(r->source->self, i);

        if (info->bits > 0)
            return mp_fail(
                MP_ERR_FORMAT,
                "%s: tensor \"%s\": already quantised, to %d bits; expected dense weights "
                "('mpress export %s DIR --format dense' writes them)",
                r->source->path, info->name, info->bits, r->source->path);
    }
    if (r->runner.options.quant.bits == 0) return MP_OK;
    MP_TRY(mp_model_size_of(r->source, &size));
    if (size.n_factored == 0) return MP_OK;
    return mp_fail(
        MP_ERR_FORMAT,
        "%s: %lld linear maps are factored, and no format holds integers beside factors; "
        "expected dense weights ('mpress export OUT DIR --format dense' writes them)",
        r->source->path, (long long)size.n_factored);
}

/* What the model and the options say together. */
static mp_status check_model(run *r)
{
    MP_TRY(mp_weights_check(&r->arch, r->source));
    MP_TRY(check_storage(r));
    MP_TRY(selection_open(&r->selected, r->job, r->arch.n_blocks));
    MP_TRY(selection_check(&r->selected, r->job, &r->arch));
    MP_TRY(check_shapes(r));
    MP_TRY(ranks_open(r));
    MP_TRY(MP_NEW(r->states, r->arch.n_blocks * r->arch.n_states, "results of states"));
    return MP_NEW(r->results, r->arch.n_blocks * r->arch.n_linears, "results");
}

/* The nodes of the run, now that it is known what they are to share: the weights of blocks and, after
 * them or before, what evaluation and search need. */
static mp_status settle_nodes(run *r)
{
    const mp_arch *arch = &r->arch;
    size_t most = mp_block_bytes(arch) * (size_t)(r->job->batch > 1 ? r->job->batch : 1);
    size_t eval = r->job->eval != NULL ? mp_perplexity_shared_bytes(arch) : 0;
    size_t search = r->policy == MP_RANKS_SENSITIVITY ? mp_sensitivity_shared_bytes(arch) : 0;

    if (eval > most) most = eval;
    if (search > most) most = search;
    MP_TRY(mp_shared_plan(r->comm, most, "the weights of a block", &r->apart));
    if (r->apart != NULL) r->comm = r->runner.comm = r->apart;
    return MP_OK;
}

mp_status run_open_model(run *r)
{
    MP_TRY(mp_model_share(r->comm, r->job->model, r->model_io, &r->source, &r->assets));
    MP_TRY(mp_arch_share(r->comm, r->assets, &r->arch));
    MP_TRY(mp_comm_agree(r->comm, check_model(r)));
    return settle_nodes(r);
}

/* Rows [begin, end) of a tensor hold finite numbers; `buffer` is of CHECKED_ROWS rows. */
static mp_status check_rows(const run *r, const char *name, int64_t begin, int64_t end,
                            float *buffer)
{
    for (int64_t row = begin; row < end; row += CHECKED_ROWS)
        MP_TRY(mp_weights_rows(r->source, name, row,
                               end - row < CHECKED_ROWS ? end - row : CHECKED_ROWS, buffer));
    return MP_OK;
}

/* The weights of a block are checked when it is read.  Those outside the blocks are copied as they
 * are, and a run looks at some rows of the embedding only. */
mp_status run_check_outside_blocks(run *r)
{
    const struct {
        const char *name;
        int64_t rows;
    } outside[] = {{MP_EMBED_NAME, r->arch.vocabulary},
                   {MP_NORM_NAME, r->arch.d_model},
                   {MP_HEAD_NAME, r->arch.tied_head ? 0 : r->arch.vocabulary}};
    double mark = mp_seconds();
    float *buffer = NULL;
    mp_status st = MP_NEW_RAW(buffer, CHECKED_ROWS * r->arch.d_model, "rows of the embedding");

    for (size_t i = 0; i < sizeof outside / sizeof outside[0] && st == MP_OK; i++) {
        int64_t begin, end;

        mp_remote_share(r->comm, r->source, outside[i].rows, &begin, &end);
        st = check_rows(r, outside[i].name, begin, end, buffer);
    }
    mp_free(buffer);
    mp_clock_lap(&r->runner.clock, MP_PHASE_READ, 0.0, &mark);
    return mp_comm_agree(r->comm, st);
}

/* On rank 0: it looks at every tensor. */
mp_status run_identify(run *r)
{
    mp_status st = MP_OK;

    if (r->comm->rank == 0) st = mp_model_identity(r->source, r->assets, r->identity);
    MP_TRY(mp_comm_agree(r->comm, st));
    return mp_comm_tell(r->comm, r->identity, sizeof r->identity, 0);
}
