#include "directory.h"

#include "hf.h"
#include "lock.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "mpress/json.h"

#include <dirent.h>
#include <stdio.h>
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
    "hidden",
    "assets",
    "hf",
    "search",
    ("hf" MP_EXPORT_SUFFIX),
    "calib.safetensors",
    "calib.safetensors.tmp",
    "log.jsonl",
    "report.json",
    "report.json.tmp",
    "stop",
    "journal.jsonl.tmp",
    "journal.jsonl",
};

static mp_status clear(const char *dir)
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

void mp_directory_give_back(const mp_owner *owner, const mp_claim *claim, mp_status st)
{
    const char *dir = owner->dir;
    char *lock = NULL;

    if (claim->resumed) return;
    /* where there are no locks another run may have begun */
    if (mp_path_has(dir, "journal.jsonl") && !mp_journal_is_owners(owner, st)) return;
    (void)clear(dir);
    if (mp_path_join(dir, MP_LOCK_FILE, &lock) == MP_OK) (void)mp_path_remove(lock);
    mp_free(lock);
    if (claim->made)
        (void)rmdir(dir); /* stays if somebody else has put something there meanwhile */
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

static mp_status check_removable(const char *dir, const char *const *reads, int n_reads)
{
    for (int i = 0; i < n_reads; i++)
        if (is_inside(reads[i], dir))
            return mp_fail(MP_ERR_ARG, "%s: --overwrite would remove it, but it is to be read",
                           reads[i]);
    return MP_OK;
}

/* A new run: the directory, its journal, blocks/. */
static mp_status begin(const mp_owner *owner, const json_t *identity)
{
    char *blocks = NULL;
    mp_status st;

    MP_TRY(mp_path_join(owner->dir, "blocks", &blocks));
    st = mp_journal_start(owner, identity);
    if (st == MP_OK) st = mp_directory_make(blocks);
    mp_free(blocks);
    return st;
}

/* Nothing but what a run leaves that was killed before it had a journal. */
static int is_fresh(const char *dir)
{
    static const char *const left[] = {".", "..", MP_LOCK_FILE, "journal.jsonl.tmp"};
    const struct dirent *entry;
    int fresh = 1;
    DIR *open = opendir(dir);

    if (open == NULL) return !mp_path_exists(dir);
    while (fresh && (entry = readdir(open)) != NULL) {
        size_t i = 0, count = sizeof left / sizeof left[0];

        while (i < count && strcmp(entry->d_name, left[i]) != 0) i++;
        fresh = i < count;
    }
    closedir(open);
    return fresh;
}

/* "sparsity was \"2:4\", now 0.5", of the members that differ, as many as there is room for. */
static void add_differences(const json_t *was, const json_t *now, size_t size, char *text)
{
    const char *key;
    json_t *mine;

    json_object_foreach ((json_t *)(uintptr_t)now, key, mine) {
        const json_t *old = json_object_get(was, key);
        char *before = NULL, *after = NULL;
        size_t used = strlen(text);

        if (old != NULL && json_equal(old, mine)) continue;
        if (json_is_object(mine)) {
            add_differences(old, mine, size, text);
            continue;
        }
        if (mp_json_dump(mine, 1, &after) == MP_OK &&
            (old == NULL || mp_json_dump(old, 1, &before) == MP_OK))
            snprintf(text + used, size - used, "%s%s was %.60s, now %.60s", used > 0 ? "; " : "",
                     key, before != NULL ? before : "not there", after);
        mp_free(before);
        mp_free(after);
    }
}

static mp_status check_same_run(const char *dir, const json_t *was, const json_t *now)
{
    char text[600] = "";

    if (was == now || (was != NULL && now != NULL && json_equal(was, now))) return MP_OK;
    add_differences(was, now, sizeof text, text);
    return mp_fail(MP_ERR_FORMAT, "%s: holds another run: %s (--overwrite removes it)", dir,
                   text[0] != '\0' ? text : "its options are not known");
}

/* Whether a killed process has not finished the file, or hidden states have been replaced, or do not count
 * yet: those may be as large as all of the blocks. */
static int is_left_over(const char *folder, const char *name, const mp_journal *journal)
{
    size_t length = strlen(name);
    char file[300];

    if (length >= 4 && strcmp(name + length - 4, ".tmp") == 0) return 1;
    snprintf(file, sizeof file, "%s/%s", folder, name);
    return strcmp(folder, "hidden") == 0 && name[0] != '.' && mp_journal_bytes(journal, file) < 0;
}

static mp_status sweep(const char *dir, const char *folder, const mp_journal *journal)
{
    const struct dirent *entry;
    char *path = NULL;
    mp_status st;
    DIR *open;

    MP_TRY(mp_path_join(dir, folder, &path));
    open = opendir(path);
    st = MP_OK;
    while (open != NULL && st == MP_OK && (entry = readdir(open)) != NULL) {
        char *file = NULL;

        if (!is_left_over(folder, entry->d_name, journal)) continue;
        st = mp_path_join(path, entry->d_name, &file);
        if (st == MP_OK) st = mp_path_remove(file);
        mp_free(file);
    }
    if (open != NULL) closedir(open);
    mp_free(path);
    return st;
}

/* The journal of the same run becomes the owner's.  *resumed = 0: nothing of it is worth keeping. */
static mp_status take_over(const mp_owner *owner, int lock, const json_t *identity, int *resumed)
{
    mp_journal journal = {0};
    mp_status st;

    MP_TRY(mp_journal_read(owner->dir, &journal));
    MP_GO(check_same_run(owner->dir, journal.identity, identity));
    *resumed = mp_journal_bytes(&journal, "model.h5") >= 0;
    if (!*resumed) goto out;
    MP_GO(mp_lock_sign(lock, owner->dir));
    MP_GO(sweep(owner->dir, "blocks", &journal));
    MP_GO(sweep(owner->dir, "hidden", &journal));
    MP_GO(mp_journal_resume(owner, &journal));
out:
    mp_journal_free(&journal);
    return st;
}

/* With the lock held, which is signed when it is known that the run is not refused. */
static mp_status settle(const mp_owner *owner, const char *const *reads, int n_reads,
                        mp_start start, const json_t *identity, mp_claim *claim)
{
    mp_status st;

    if (!is_fresh(owner->dir)) {
        if (start == MP_START_NEW)
            return mp_fail(MP_ERR_FORMAT,
                           "%s: holds a run, and --resume never does not go on with one "
                           "(--overwrite removes it)",
                           owner->dir);
        if (start != MP_START_OVERWRITE)
            MP_TRY(take_over(owner, claim->lock, identity, &claim->resumed));
        if (claim->resumed) return MP_OK;
        MP_TRY(check_removable(owner->dir, reads, n_reads));
    } else if (start == MP_START_REQUIRE) {
        return mp_fail(MP_ERR_ARG, "%s: --resume require, but there is no run to resume",
                       owner->dir);
    }
    st = mp_lock_sign(claim->lock, owner->dir);
    if (st != MP_OK && !claim->made) return st; /* what is there stays */
    if (st == MP_OK && !is_fresh(owner->dir)) MP_TRY(clear(owner->dir));
    if (st == MP_OK) st = begin(owner, identity);
    if (st != MP_OK) mp_directory_give_back(owner, claim, st);
    return st;
}

static mp_status check_is_ours(const char *dir)
{
    int is_ours;

    if (is_fresh(dir)) return MP_OK;
    if (!mp_path_is_directory(dir))
        return mp_fail(MP_ERR_FORMAT, "%s: a file, expected a directory or nothing", dir);
    MP_TRY(mp_journal_is_there(dir, &is_ours));
    if (is_ours) return MP_OK;
    return mp_fail(MP_ERR_FORMAT,
                   "%s: holds files that no run of mpress made, expected an empty or a new "
                   "directory",
                   dir);
}

mp_status mp_directory_claim(const mp_owner *owner, const char *const *reads, int n_reads,
                             mp_start start, const json_t *identity, mp_claim *claim)
{
    mp_status st;

    *claim = (mp_claim){.made = !mp_path_exists(owner->dir), .lock = -1};
    MP_TRY(check_is_ours(owner->dir)); /* before anything is put there */
    if (claim->made && start == MP_START_REQUIRE)
        return mp_fail(MP_ERR_ARG, "%s: --resume require, but it is not there", owner->dir);
    MP_TRY(mp_directory_make(owner->dir));
    MP_TRY(mp_lock_take(owner->dir, &claim->lock));
    st = settle(owner, reads, n_reads, start, identity, claim);
    if (st == MP_OK) return MP_OK;
    mp_lock_release(claim->lock);
    claim->lock = -1;
    return st;
}
