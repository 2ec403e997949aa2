#include "directory.h"

#include "hf.h"
#include "journal.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* All that a run writes, and what a killed one leaves half-written.  model.h5 goes first: without
 * it the directory is no checkpoint; the journal goes last: with it, it is still known to be
 * ours. */
static const char *const own_names[] = {
    "model.h5",
    "model.h5.tmp",
    "blocks",
    "assets",
    "hf",
    "search",
    ("hf" MP_EXPORT_SUFFIX),
    "calib.safetensors",
    "calib.safetensors.tmp",
    "log.jsonl",
    "report.json",
    "report.json.tmp",
    "journal.jsonl.tmp",
    "journal.jsonl",
};

mp_status mp_directory_clear(const char *dir)
{
    for (size_t i = 0; i < sizeof own_names / sizeof own_names[0]; i++) {
        char *path = NULL;
        mp_status st;

        MP_TRY(mp_path_join(dir, own_names[i], &path));
        st = mp_path_remove(path);
        mp_free(path);
        MP_TRY(st);
    }
    return MP_OK;
}

void mp_directory_give_back(const char *dir, int made)
{
    (void)mp_directory_clear(dir);
    if (made) (void)rmdir(dir); /* stays if somebody else has put something there meanwhile */
}

/* Whether `path` is `dir` or lies in it, whatever links lead there. */
static int is_inside(const char *path, const char *dir)
{
    char *inner = realpath(path, NULL), *outer = realpath(dir, NULL);
    size_t length = outer != NULL ? strlen(outer) : 0;
    int inside = inner != NULL && outer != NULL && strncmp(inner, outer, length) == 0 &&
                 (inner[length] == '\0' || inner[length] == '/');

    free(inner);
    free(outer);
    return inside;
}

static mp_status remove_old_run(const char *dir, const char *const *reads, int n_reads)
{
    for (int i = 0; i < n_reads; i++)
        if (is_inside(reads[i], dir))
            return mp_fail(MP_ERR_ARG, "%s: --overwrite would remove it, but it is to be read",
                           reads[i]);
    return mp_directory_clear(dir);
}

static mp_status make(const char *dir)
{
    char *blocks = NULL;
    mp_status st;

    MP_TRY(mp_path_join(dir, "blocks", &blocks));
    st = mp_directory_make(dir);
    if (st == MP_OK) st = mp_journal_start(dir);
    if (st == MP_OK) st = mp_directory_make(blocks);
    mp_free(blocks);
    return st;
}

mp_status mp_directory_take(const char *dir, const char *const *reads, int n_reads, int overwrite,
                            int *made)
{
    mp_status st;

    *made = !mp_path_exists(dir);
    if (!mp_directory_is_empty(dir)) {
        if (!mp_path_is_directory(dir))
            return mp_fail(MP_ERR_FORMAT, "%s: a file, expected a directory or nothing", dir);
        if (!mp_journal_is_there(dir))
            return mp_fail(MP_ERR_FORMAT,
                           "%s: holds files that no run of mpress made, expected an empty or a new "
                           "directory",
                           dir);
        if (!overwrite)
            return mp_fail(MP_ERR_FORMAT, "%s: holds another run (--overwrite removes it)", dir);
        MP_TRY(remove_old_run(dir, reads, n_reads));
    }
    st = make(dir);
    if (st != MP_OK) mp_directory_give_back(dir, *made);
    return st;
}
