/* Whether a checkpoint is still what was written. */
#include "mpress/memory.h"
#include "run_files.h"
#include "segments.h"
#include "share.h"

#include <string.h>

/* What a model is read from; the others are for people. */
static int is_of_the_model(const char *name)
{
    return strncmp(name, "blocks/", 7) == 0 || strncmp(name, "assets/", 7) == 0 ||
           strcmp(name, "model.h5") == 0;
}

/* One file of the journal; what is wrong with it goes into the report. */
static mp_status verify_file(const mp_io *io, const char *dir, const char *name,
                             const json_t *record, json_t *damaged)
{
    const char *what = NULL;
    char text[160];

    MP_TRY(mp_segments_check(io, dir, name, record, text, &what));
    if (what == NULL) return MP_OK;
    if (json_array_append_new(damaged, json_pack("{s:s, s:s}", "file", name, "damage", what)) == 0)
        return MP_OK;
    return mp_fail(MP_ERR_NOMEM, "%s: out of memory", name);
}

static mp_status verify(const mp_comm *comm, const char *dir, int model_only, json_t **report)
{
    mp_journal journal = {0};
    json_t *damaged = json_array(), *record;
    json_int_t files = 0, bytes = 0;
    const char *name;
    char *path = NULL;
    mp_io *io = NULL;
    mp_status st;

    MP_GO(mp_journal_share(comm, dir, &journal));
    MP_GO(mp_comm_agree(comm, mp_journal_path(dir, &path)));
    MP_GO(mp_io_of_file(comm, path, &io));
    json_object_foreach (journal.files, name, record) {
        if (model_only && !is_of_the_model(name)) continue;
        files++;
        bytes += json_integer_value(json_object_get(record, "bytes"));
        MP_GO(mp_comm_agree(comm, verify_file(io, dir, name, record, damaged)));
    }
    *report =
        json_pack("{s:I, s:I, s:O, s:I, s:b}", "files", files, "bytes", bytes, "damaged", damaged,
                  "bad_journal_line", (json_int_t)journal.bad_line, "finished", journal.finished);
    if (*report == NULL) st = mp_fail(MP_ERR_NOMEM, "%s: out of memory", dir);
out:
    json_decref(damaged);
    mp_journal_free(&journal);
    mp_io_close(io);
    mp_free(path);
    return st;
}

mp_status mp_checkpoint_verify(const mp_comm *comm, const char *dir, json_t **report)
{
    return verify(comm, dir, 0, report);
}

mp_status mp_model_verify(const mp_comm *comm, const char *path)
{
    json_t *report = NULL;
    const json_t *first;
    int is = comm->rank == 0 && mp_checkpoint_is(path);
    mp_status st = MP_OK;

    MP_TRY(mp_comm_tell(comm, &is, sizeof is, 0));
    if (!is) return MP_OK;
    MP_TRY(verify(comm, path, 1, &report));
    first = json_array_get(json_object_get(report, "damaged"), 0);
    if (first != NULL)
        st = mp_fail(MP_ERR_FORMAT, "%s/%s: damaged: %s (the command that made it makes it again)",
                     path, json_string_value(json_object_get(first, "file")),
                     json_string_value(json_object_get(first, "damage")));
    json_decref(report);
    return st;
}
