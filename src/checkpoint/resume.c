/* What of an earlier run can be believed. */
#include "mpress/log.h"
#include "run_files.h"
#include "segments.h"

#include <string.h>

/* Damaged assets are copied again all together: strikes them all out. */
static mp_status lose_folder(mp_checkpoint *run, const char *folder)
{
    const char *name;
    json_t *names = json_array(), *each, *record;
    size_t i;
    mp_status st = MP_OK;

    json_object_foreach (run->journal.files, name, record)
        if (strncmp(name, folder, strlen(folder)) == 0)
            json_array_append_new(names, json_string(name));
    json_array_foreach (names, i, each)
        MP_GO(mp_run_add(run, "lost", json_pack("{s:O}", "file", each)));
out:
    json_decref(names);
    return st;
}

static const char *folder_of(const char *name)
{
    static const char *const folders[] = {"assets/", "hf/"};

    for (size_t i = 0; i < sizeof folders / sizeof folders[0]; i++)
        if (strncmp(name, folders[i], strlen(folders[i])) == 0) return folders[i];
    return NULL;
}

static mp_status lose(mp_checkpoint *run, const char *name)
{
    if (!mp_checkpoint_has(run, name)) return MP_OK; /* lost with its folder */
    if (folder_of(name) != NULL) return lose_folder(run, folder_of(name));
    return mp_run_add(run, "lost", json_pack("{s:s}", "file", name));
}

mp_status mp_run_verify(mp_checkpoint *run)
{
    json_t *files = json_copy(run->journal.files), *record;
    const char *name, *what;
    char text[160];
    mp_status st = MP_OK;

    if (run->journal.bad_line > 0)
        mp_log(MP_LOG_WARNING,
               "%s/journal.jsonl: line %lld is damaged: what it said does not count", run->dir,
               (long long)run->journal.bad_line);
    json_object_foreach (files, name, record) {
        MP_GO(mp_segments_check(run->io, run->dir, name, record, text, &what));
        if (what == NULL) continue;
        mp_log(MP_LOG_WARNING, "%s/%s: damaged (%s): it is made again", run->dir, name, what);
        MP_GO(lose(run, name));
    }
out:
    json_decref(files);
    return st;
}
