#include "mpress/imatrix.h"

#include "mpress/arch.h"
#include "mpress/checkpoint.h"
#include "mpress/fileio.h"
#include "mpress/gguf.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>

typedef struct imatrix {
    mp_arch arch;
    json_t *description; /* of the run; owned */
    mp_source *squares;  /* in_sum2 of its states; owned */
    mp_gguf *file;       /* owned */
    double *wide;        /* [widest] in_sum2 of the state at hand; owned */
    float *values;       /* [widest] the same as it is written; owned */
    int64_t missing;     /* linear maps of states that were not measured */
} imatrix;

static mp_status open_run(const char *out, imatrix *m)
{
    char *assets = NULL;
    int64_t widest = 1;
    mp_status st;

    if (!mp_checkpoint_is(out))
        return mp_fail(MP_ERR_FORMAT,
                       "%s: no run of mpress; an imatrix comes from what one has measured", out);
    MP_TRY(mp_path_join(out, "assets", &assets));
    MP_GO(mp_arch_load(assets, &m->arch));
    MP_GO(mp_checkpoint_open_states(out, &m->squares));
    MP_GO(mp_checkpoint_describe(out, &m->description));
    MP_GO(mp_gguf_create(&m->file));
    for (int s = 0; s < m->arch.n_states; s++)
        if (m->arch.states[s].width > widest) widest = m->arch.states[s].width;
    MP_GO(MP_NEW(m->wide, widest, "squares of channels"));
    MP_GO(MP_NEW(m->values, widest, "squares of channels"));
out:
    mp_free(assets);
    return st;
}

static void close_run(imatrix *m)
{
    mp_source_close(&m->squares);
    json_decref(m->description);
    mp_gguf_free(m->file);
    mp_free(m->wide);
    mp_free(m->values);
}

static mp_status put_keys(const imatrix *m)
{
    const json_t *options = json_object_get(json_object_get(m->description, "run"), "options");
    const char *calib = json_string_value(json_object_get(options, "calib"));
    const char *const datasets[] = {calib != NULL ? calib : "unknown"};

    MP_TRY(mp_gguf_text(m->file, "general.type", "imatrix"));
    MP_TRY(mp_gguf_texts(m->file, "imatrix.datasets", datasets, 1));
    MP_TRY(mp_gguf_u32(m->file, "imatrix.chunk_count",
                       (uint32_t)json_integer_value(json_object_get(options, "nsamples"))));
    return mp_gguf_u32(m->file, "imatrix.chunk_size",
                       (uint32_t)json_integer_value(json_object_get(options, "seqlen")));
}

/* The record of a state; NULL where it was not measured. */
static const json_t *find_record(const imatrix *m, int64_t block, const char *state)
{
    const json_t *record;
    size_t i;

    json_array_foreach (json_object_get(m->description, "states"), i, record)
        if (json_integer_value(json_object_get(record, "block")) == block &&
            strcmp(json_string_value(json_object_get(record, "name")), state) == 0)
            return record;
    return NULL;
}

/* m->values of a state, scaled so that the tokens that count weigh 1 on average. */
static mp_status read_squares(imatrix *m, int64_t block, const mp_state *state,
                              const json_t *record, float *tokens)
{
    const mp_source *source = m->squares;
    double count = json_number_value(json_object_get(record, "tokens"));
    double scale = count / json_number_value(json_object_get(record, "weight"));
    const mp_tensor_info *info;
    char suffix[64], name[256];
    int64_t index;

    snprintf(suffix, sizeof suffix, "%s.in_sum2", state->name);
    mp_arch_tensor_name(block, suffix, name);
    index = mp_source_find(source, name);
    info = index >= 0 ? source->at(source->self, index) : NULL;
    if (info == NULL || info->dtype != MP_F64 || mp_tensor_elements(info) != state->width)
        return mp_fail(MP_ERR_FORMAT, "%s: \"%s\" is missing or not F64 [%lld]", source->path, name,
                       (long long)state->width);
    MP_TRY(source->read(source->self, index, 0, mp_tensor_bytes(info), m->wide));
    for (int64_t i = 0; i < state->width; i++) m->values[i] = (float)(scale * m->wide[i]);
    *tokens = (float)count;
    return MP_OK;
}

/* The linear maps of a state, all with the same numbers: that is how the form has them. */
static mp_status put_state(imatrix *m, int64_t block, const mp_state *state)
{
    const json_t *record = find_record(m, block, state->name);
    float tokens;

    if (record == NULL) {
        m->missing += state->linear_count;
        return MP_OK;
    }
    MP_TRY(read_squares(m, block, state, record, &tokens));
    for (int i = state->first_linear; i < state->first_linear + state->linear_count; i++) {
        char name[128];

        snprintf(name, sizeof name, "blk.%lld.%s.weight.in_sum2", (long long)block,
                 m->arch.linears[i].gguf_name);
        MP_TRY(mp_gguf_tensor(m->file, name, m->values, state->width));
        snprintf(name, sizeof name, "blk.%lld.%s.weight.counts", (long long)block,
                 m->arch.linears[i].gguf_name);
        MP_TRY(mp_gguf_tensor(m->file, name, &tokens, 1));
    }
    return MP_OK;
}

/* Rank 0.  *is_there: the file has its name, and is this one. */
static mp_status write_imatrix(const char *out, const char *file, int64_t *missing, int *is_there)
{
    imatrix m = {.missing = 0};
    mp_status st;

    if (mp_path_exists(file))
        return mp_fail(MP_ERR_ARG, "%s: is there already, expected the name of a new file", file);
    MP_GO(open_run(out, &m));
    MP_GO(put_keys(&m));
    for (int64_t b = 0; b < m.arch.n_blocks; b++)
        for (int s = 0; s < m.arch.n_states; s++) MP_GO(put_state(&m, b, &m.arch.states[s]));
    *is_there = 1; /* perhaps even where its directory could not be synced */
    MP_GO(mp_gguf_write(m.file, file));
    *missing = m.missing;
out:
    close_run(&m);
    return st;
}

mp_status mp_imatrix_write(const mp_comm *comm, const char *out, const char *file, int64_t *missing)
{
    int is_there = 0;
    mp_status st = MP_OK;

    *missing = 0;
    if (comm->rank == 0) st = write_imatrix(out, file, missing, &is_there);
    st = mp_comm_agree(comm, st);
    if (st == MP_OK) st = mp_comm_tell(comm, missing, sizeof *missing, 0);
    if (st != MP_OK && is_there) (void)mp_path_remove(file);
    return st;
}
