/* What a checkpoint says of itself, for people and programs. */
#include "mpress/checkpoint.h"

#include "journal.h"
#include "model_file.h"
#include "mpress/memory.h"

#include <math.h>
#include <string.h>

/* What the blocks say, to be filled. */
typedef struct records {
    json_t *linears, *states;
} records;

static mp_status no_memory(const char *path)
{
    return mp_fail(MP_ERR_NOMEM, "%s: its description: out of memory", path);
}

/* Copies integer and real attributes of a group into `record`, the real ones if they are there. */
static mp_status read_numbers(hid_t group, const char *path, json_t *record)
{
    static const char *const integers[] = {"d_out", "d_in",    "tokens", "dead",
                                           "rank",  "retries", "by_qr"};
    static const char *const reals[] = {"damping", "rel_error", "sparsity", "kept"};
    int failed = 0;

    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        int64_t value = 0;

        MP_TRY(mp_h5_get_int(group, path, integers[i], &value));
        failed |= json_object_set_new(record, integers[i], json_integer(value));
    }
    for (size_t i = 0; i < sizeof reals / sizeof reals[0]; i++) {
        double value = NAN;

        MP_TRY(mp_h5_get_real(group, path, reals[i], &value));
        failed |=
            json_object_set_new(record, reals[i], isfinite(value) ? json_real(value) : json_null());
    }
    return failed ? no_memory(path) : MP_OK;
}

/* The record of a state. */
static mp_status add_state(hid_t group, const char *path, int64_t block, const char *name,
                           json_t *states)
{
    int64_t tokens, probes;
    double weight = 0.0, rank = 0.0, distance = 0.0, error = 0.0;
    json_t *record;

    MP_TRY(mp_h5_get_int(group, path, "tokens", &tokens));
    MP_TRY(mp_h5_get_int(group, path, "probes", &probes));
    MP_TRY(mp_h5_get_real(group, path, "weight", &weight));
    MP_TRY(mp_h5_get_real(group, path, "effective_rank", &rank));
    MP_TRY(mp_h5_get_real(group, path, "distance", &distance));
    MP_TRY(mp_h5_get_real(group, path, "distance_error", &error));
    record =
        json_pack("{s:I, s:s, s:I, s:f, s:f, s:f, s:f, s:I}", "block", (json_int_t)block, "name",
                  name, "tokens", (json_int_t)tokens, "weight", weight, "effective_rank", rank,
                  "distance", distance, "distance_error", error, "probes", (json_int_t)probes);
    return json_array_append_new(states, record) == 0 ? MP_OK : no_memory(path);
}

/* What is there for integers alone. */
static mp_status read_quant(hid_t group, const char *path, json_t *record)
{
    static const char *const integers[] = {"bits", "group", "symmetric"};
    int failed = 0;

    if (H5Aexists(group, "bits") <= 0) return MP_OK;
    for (size_t i = 0; i < sizeof integers / sizeof integers[0]; i++) {
        int64_t value = 0;

        MP_TRY(mp_h5_get_int(group, path, integers[i], &value));
        failed |= json_object_set_new(record, integers[i], json_integer(value));
    }
    return failed ? no_memory(path) : MP_OK;
}

/* The record of one member of a block, if it is a linear map or a state. */
static mp_status add_record(hid_t group, const char *path, int64_t block, const char *name,
                            const records *to)
{
    char *method = NULL;
    json_t *record;
    mp_status st;

    if (H5Aexists(group, "probes") > 0) return add_state(group, path, block, name, to->states);
    if (H5Aexists(group, "method") <= 0) return MP_OK;
    MP_TRY(mp_h5_get_text(group, path, "method", &method));
    record =
        json_pack("{s:I, s:s, s:s}", "block", (json_int_t)block, "name", name, "method", method);
    mp_free(method);
    if (record == NULL) return no_memory(path);
    st = read_numbers(group, path, record);
    if (st == MP_OK) st = read_quant(group, path, record);
    if (st == MP_OK && json_array_append(to->linears, record) != 0) st = no_memory(path);
    json_decref(record);
    return st;
}

static mp_status read_groups(hid_t file, const char *path, int64_t block, const records *to)
{
    H5G_info_t info;

    if (H5Gget_info(file, &info) < 0) return mp_h5_fail(MP_ERR_FORMAT, path, "reading the file");
    for (hsize_t i = 0; i < info.nlinks; i++) {
        char name[1024];
        ssize_t length = H5Lget_name_by_idx(file, ".", H5_INDEX_NAME, H5_ITER_INC, i, name,
                                            sizeof name, H5P_DEFAULT);
        hid_t member;
        mp_status st;

        if (length < 0 || (size_t)length >= sizeof name)
            return mp_h5_fail(MP_ERR_FORMAT, path, "reading a name");
        member = H5Oopen(file, name, H5P_DEFAULT);
        if (member < 0) return mp_h5_fail(MP_ERR_FORMAT, path, "opening a member");
        st = add_record(member, path, block, name, to);
        H5Oclose(member);
        MP_TRY(st);
    }
    return MP_OK;
}

static mp_status read_block(const char *dir, int64_t block, const records *to)
{
    char *path = NULL;
    hid_t file = -1;
    mp_status st;

    MP_TRY(mp_block_path(dir, block, &path));
    st = mp_h5_open(path, &file);
    if (st == MP_OK) st = mp_format_check(file, path);
    if (st == MP_OK) st = read_groups(file, path, block, to);
    st = mp_h5_close(path, &file, st);
    mp_free(path);
    return st;
}

static mp_status read_blocks(const char *dir, int64_t n_blocks, const mp_journal *journal,
                             json_t *done, const records *to)
{
    for (int64_t b = 0; b < n_blocks; b++) {
        if (mp_journal_block(journal, b) < 0) continue;
        if (json_array_append_new(done, json_integer(b)) != 0) return no_memory(dir);
        MP_TRY(read_block(dir, b, to));
    }
    return MP_OK;
}

mp_status mp_checkpoint_describe(const char *dir, json_t **description)
{
    json_t *run = NULL, *done = json_array();
    const records all = {json_array(), json_array()};
    mp_journal journal = {0};
    int64_t n_blocks = 0;
    mp_status st;

    MP_GO(mp_model_file_read(dir, &n_blocks, &run));
    MP_GO(mp_journal_read(dir, &journal));
    MP_GO(read_blocks(dir, n_blocks, &journal, done, &all));
    *description =
        json_pack("{s:i, s:I, s:O, s:b, s:O, s:O, s:O}", "format", MP_CHECKPOINT_FORMAT, "blocks",
                  (json_int_t)n_blocks, "done", done, "finished", journal.finished, "run", run,
                  "linears", all.linears, "states", all.states);
    if (*description == NULL) st = no_memory(dir);
out:
    mp_journal_free(&journal);
    json_decref(run);
    json_decref(done);
    json_decref(all.linears);
    json_decref(all.states);
    return st;
}
