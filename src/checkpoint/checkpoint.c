/* A run's checkpoint: begun or resumed, filled a file at a time, finished. */
#include "mpress/checkpoint.h"

#include "directory.h"
#include "lock.h"
#include "model_file.h"
#include "mpress/export.h"
#include "mpress/fault.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "mpress/remote.h"
#include "reader.h"
#include "rest.h"
#include "run_files.h"
#include "segments.h"
#include "share.h"

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

void mp_checkpoint_free(mp_checkpoint *checkpoint)
{
    if (checkpoint == NULL) return;
    mp_lock_release(checkpoint->lock);
    mp_io_close(checkpoint->io);
    mp_journal_free(&checkpoint->journal);
    json_decref(checkpoint->hidden);
    mp_free(checkpoint->dir);
    mp_free(checkpoint);
}

int mp_checkpoint_is(const char *path)
{
    return mp_path_has(path, "model.h5") && mp_path_has(path, "journal.jsonl");
}

mp_status mp_run_add(mp_checkpoint *run, const char *event, json_t *more)
{
    mp_status st = run->comm->rank == 0 ? mp_journal_add(&run->owner, event, more) : MP_OK;

    st = mp_comm_agree(run->comm, st);
    if (st == MP_OK) st = mp_journal_take(&run->journal, event, more, run->dir);
    json_decref(more);
    return mp_comm_agree(run->comm, st);
}

mp_status mp_run_add_file(mp_checkpoint *run, const char *event, const char *file, json_t *more)
{
    char *path = NULL;
    json_t *record = NULL;
    mp_status st = mp_comm_agree(run->comm, mp_path_join(run->dir, file, &path));

    if (st == MP_OK) st = mp_segments_read(run->io, path, file, &record);
    if (st == MP_OK && more != NULL) (void)json_object_update(record, more);
    json_decref(more);
    mp_free(path);
    return st == MP_OK ? mp_run_add(run, event, record) : st;
}

mp_status mp_checkpoint_check_owner(const mp_checkpoint *checkpoint)
{
    return checkpoint->comm->rank == 0 ? mp_journal_check_owner(&checkpoint->owner) : MP_OK;
}

mp_status mp_checkpoint_add_file(mp_checkpoint *checkpoint, const char *file)
{
    return mp_run_add_file(checkpoint, "file", file, NULL);
}

/* The names in a folder of the run, as an array "folder/name", in their order; rank 0 only. */
static mp_status list_folder(const char *dir, const char *folder, json_t *names)
{
    struct dirent **found = NULL;
    char *path = NULL, name[512];
    int count;

    MP_TRY(mp_path_join(dir, folder, &path));
    count = mp_fault(MP_FAULT_OPEN) ? -1 : scandir(path, &found, NULL, alphasort);
    mp_free(path);
    if (count < 0) return mp_fail(MP_ERR_IO, "%s/%s: cannot be listed", dir, folder);
    for (int i = 0; i < count; i++) {
        snprintf(name, sizeof name, "%s/%s", folder, found[i]->d_name);
        if (found[i]->d_name[0] != '.') json_array_append_new(names, json_string(name));
        free(found[i]);
    }
    free(found);
    return MP_OK;
}

mp_status mp_checkpoint_add_folder(mp_checkpoint *checkpoint, const char *folder)
{
    const mp_comm *comm = checkpoint->comm;
    json_t *names = json_array(), *name;
    size_t i;
    mp_status st = comm->rank == 0 ? list_folder(checkpoint->dir, folder, names) : MP_OK;

    MP_GO(mp_comm_agree(comm, st));
    MP_GO(mp_share_json(comm, &names));
    json_array_foreach (names, i, name)
        MP_GO(mp_checkpoint_add_file(checkpoint, json_string_value(name)));
    MP_GO(mp_run_add(checkpoint, "folder", json_pack("{s:s}", "folder", folder)));
out:
    json_decref(names);
    return st;
}

static mp_status copy_assets(const char *dir, const char *model_dir)
{
    char *assets = NULL;
    mp_status st;

    MP_TRY(mp_path_join(dir, "assets", &assets));
    st = mp_path_remove(assets);
    if (st == MP_OK) st = mp_directory_make(assets);
    if (st == MP_OK) st = mp_assets_copy(model_dir, assets);
    mp_free(assets);
    return st;
}

/* What stands outside the blocks, as far as it is not there. */
static mp_status write_rest(mp_checkpoint *c, const mp_source *source, const mp_rest *rest)
{
    char *path = NULL;
    mp_status st;

    if (mp_journal_bytes(&c->journal, MP_REST_FILE) >= 0) return MP_OK;
    MP_GO(mp_comm_agree(c->comm, mp_rest_path(c->dir, &path)));
    MP_GO(mp_rest_write(c->io, &c->owner, path, source, rest));
    MP_GO(mp_checkpoint_add_file(c, MP_REST_FILE));
out:
    mp_free(path);
    return st;
}

static mp_status write_assets(mp_checkpoint *c, const char *model_dir)
{
    mp_status st;

    if (mp_checkpoint_has_folder(c, "assets")) return MP_OK;
    st = mp_checkpoint_check_owner(c);
    if (st == MP_OK && c->comm->rank == 0) st = copy_assets(c->dir, model_dir);
    MP_TRY(mp_comm_agree(c->comm, st));
    return mp_checkpoint_add_folder(c, "assets");
}

/* The part of the start that comes after the directory is ours: rest.h5, assets, and last model.h5,
 * with which the directory becomes a checkpoint. */
static mp_status fill_directory(mp_checkpoint *c, const char *model_dir, const mp_source *source,
                                const mp_rest *rest, const json_t *run)
{
    mp_status st;

    MP_TRY(write_rest(c, source, rest));
    MP_TRY(write_assets(c, model_dir));
    if (mp_journal_bytes(&c->journal, "model.h5") >= 0) return MP_OK;
    st =
        c->comm->rank == 0 ? mp_model_file_write(&c->owner, c->n_blocks, source, rest, run) : MP_OK;
    MP_TRY(mp_comm_agree(c->comm, st));
    return mp_checkpoint_add_file(c, "model.h5");
}

/* An id that no other run has. */
static mp_status name_owner(mp_checkpoint *c)
{
    uint64_t id = 0;

    c->owner.dir = c->dir;
    if (c->comm->rank == 0 && getrandom(&id, sizeof id, 0) != (ssize_t)sizeof id)
        return mp_fail(MP_ERR_IO, "no random number for the id of a run");
    snprintf(c->owner.run, sizeof c->owner.run, "%016llx", (unsigned long long)id);
    return MP_OK;
}

static mp_status claim(mp_checkpoint *c, const char *const *reads, int n_reads, mp_start start,
                       const json_t *identity, mp_claim *claimed)
{
    mp_status st = name_owner(c);

    *claimed = (mp_claim){.lock = -1};
    if (st == MP_OK && c->comm->rank == 0) {
        st = mp_directory_claim(&c->owner, reads, n_reads, start, identity, claimed);
        c->lock = claimed->lock;
    }
    MP_TRY(mp_comm_agree(c->comm, st));
    MP_TRY(mp_comm_tell(c->comm, c->owner.run, sizeof c->owner.run, 0));
    MP_TRY(mp_comm_tell(c->comm, &claimed->resumed, sizeof claimed->resumed, 0));
    c->resumed = claimed->resumed;
    return MP_OK;
}

static mp_status find_ranks(mp_checkpoint *c)
{
    char *blocks = NULL;
    mp_status st = mp_comm_agree(c->comm, mp_path_join(c->dir, "blocks", &blocks));

    if (st == MP_OK) st = mp_io_open(c->comm, blocks, &c->io);
    mp_free(blocks);
    return st;
}

static mp_status start(mp_checkpoint *c, const char *model_dir, const mp_arch *arch,
                       const mp_source *source, const json_t *run, mp_start how)
{
    const char *const reads[] = {model_dir, source->path};
    mp_rest rest = {0};
    mp_claim claimed;
    mp_status st;

    MP_GO(mp_comm_agree(c->comm, mp_rest_list(arch, source, &rest)));
    MP_GO(claim(c, reads, 2, how, json_object_get(run, "identity"), &claimed));
    st = find_ranks(c);
    if (st == MP_OK) st = mp_journal_share(c->comm, c->dir, &c->journal);
    if (st == MP_OK && c->resumed) st = mp_run_verify(c);
    if (st == MP_OK) st = fill_directory(c, model_dir, source, &rest, run);
    if (st != MP_OK && c->comm->rank == 0) mp_directory_give_back(&c->owner, &claimed, st);
out:
    mp_free(rest.index);
    return st;
}

mp_status mp_checkpoint_create(const mp_comm *comm, const char *dir, const char *model_dir,
                               const mp_arch *arch, const mp_source *source, const json_t *run,
                               mp_start how, mp_checkpoint **checkpoint)
{
    mp_checkpoint *c = NULL;
    mp_status st;

    st = MP_NEW(c, 1, "a checkpoint");
    if (st == MP_OK) {
        c->comm = comm;
        c->n_blocks = arch->n_blocks;
        c->lock = -1;
        st = mp_strdup(dir, &c->dir);
    }
    st = mp_comm_agree(comm, st);
    if (st == MP_OK) st = start(c, model_dir, arch, source, run, how);
    if (st == MP_OK)
        *checkpoint = c;
    else
        mp_checkpoint_free(c);
    return st;
}

/* Rank 0.  What cannot be understood is not it. */
static mp_status look_for_finished(const char *dir, int64_t n_blocks, const json_t *identity,
                                   int *found)
{
    mp_journal journal = {0};
    int64_t there = 0;
    mp_status st;

    if (!mp_path_has(dir, "journal.jsonl")) return MP_OK;
    st = mp_journal_read(dir, &journal);
    if (st != MP_OK) return st == MP_ERR_FORMAT ? MP_OK : st;
    while (there < n_blocks && mp_journal_block(&journal, there) >= 0) there++;
    *found = journal.finished && there == n_blocks &&
             json_object_get(journal.folders, "assets") != NULL &&
             json_equal(journal.identity, identity);
    mp_journal_free(&journal);
    return MP_OK;
}

mp_status mp_checkpoint_find_finished(const mp_comm *comm, const char *dir, const mp_arch *arch,
                                      const json_t *run, mp_checkpoint **checkpoint)
{
    mp_checkpoint *c = NULL;
    int found = 0;
    mp_status st = MP_OK;

    if (comm->rank == 0)
        st = look_for_finished(dir, arch->n_blocks, json_object_get(run, "identity"), &found);
    MP_TRY(mp_comm_agree(comm, st));
    MP_TRY(mp_comm_tell(comm, &found, sizeof found, 0));
    if (!found) return MP_OK;
    MP_TRY(mp_comm_agree(comm, MP_NEW(c, 1, "a checkpoint")));
    *c = (mp_checkpoint){.comm = comm, .n_blocks = arch->n_blocks, .lock = -1};
    st = mp_journal_share(comm, dir, &c->journal);
    if (st == MP_OK)
        *checkpoint = c;
    else
        mp_checkpoint_free(c);
    return st;
}

mp_model_io mp_checkpoint_io(const mp_checkpoint *checkpoint)
{
    return checkpoint->io->count == checkpoint->comm->size ? MP_MODEL_SHARED : MP_MODEL_ROOT;
}

static mp_status share_by_root(const mp_checkpoint *c, mp_content what, mp_source **source)
{
    mp_source *opened = NULL;
    mp_status st = MP_OK;

    if (c->comm->rank == 0)
        st = what == MP_BLOCKS ? mp_checkpoint_open_blocks(c->dir, &opened)
                               : mp_checkpoint_open(c->dir, &opened);
    st = mp_comm_agree(c->comm, st);
    if (st == MP_OK) st = mp_remote_source(c->comm, &opened);
    if (st == MP_OK)
        *source = opened;
    else
        mp_source_close(&opened);
    return st;
}

static mp_status share_with_all(const mp_checkpoint *c, mp_content what, mp_source **source)
{
    mp_reader *reader = NULL;
    mp_source *made = NULL;
    mp_status st;

    MP_TRY(mp_reader_share(c->comm, c->dir, what, &reader));
    st = mp_reader_source(reader, &made);
    if (st != MP_OK) mp_reader_close(reader);
    st = mp_comm_agree(c->comm, st);
    if (st == MP_OK)
        *source = made;
    else
        mp_source_close(&made);
    return st;
}

static mp_status share(const mp_checkpoint *c, mp_content what, mp_source **source)
{
    return mp_checkpoint_io(c) == MP_MODEL_ROOT ? share_by_root(c, what, source)
                                                : share_with_all(c, what, source);
}

mp_status mp_checkpoint_share_blocks(const mp_checkpoint *checkpoint, mp_source **source)
{
    return share(checkpoint, MP_BLOCKS, source);
}

mp_status mp_checkpoint_share_model(const mp_checkpoint *checkpoint, mp_source **source)
{
    return share(checkpoint, MP_MODEL, source);
}

int mp_checkpoint_resumed(const mp_checkpoint *checkpoint)
{
    return checkpoint->resumed;
}

int mp_checkpoint_has(const mp_checkpoint *checkpoint, const char *file)
{
    return mp_journal_bytes(&checkpoint->journal, file) >= 0;
}

int mp_checkpoint_has_folder(const mp_checkpoint *checkpoint, const char *folder)
{
    return json_object_get(checkpoint->journal.folders, folder) != NULL;
}

int mp_checkpoint_has_block(const mp_checkpoint *checkpoint, int64_t block)
{
    return mp_journal_block(&checkpoint->journal, block) >= 0;
}

mp_status mp_checkpoint_note(mp_checkpoint *checkpoint, const char *name, json_t *value)
{
    return mp_run_add(checkpoint, "fact", json_pack("{s:s, s:o}", "name", name, "value", value));
}

const json_t *mp_checkpoint_noted(const mp_checkpoint *checkpoint, const char *name)
{
    return json_object_get(checkpoint->journal.facts, name);
}

mp_status mp_checkpoint_finish(mp_checkpoint *checkpoint)
{
    char *path = NULL;
    mp_status st;

    MP_TRY(mp_comm_agree(checkpoint->comm, mp_checkpoint_check_owner(checkpoint)));
    MP_TRY(mp_run_add(checkpoint, "finish", json_object()));
    if (checkpoint->comm->rank != 0) return mp_comm_agree(checkpoint->comm, MP_OK);
    st = mp_path_join(checkpoint->dir, "hidden", &path);
    if (st == MP_OK) st = mp_path_remove(path);
    mp_free(path);
    return mp_comm_agree(checkpoint->comm, st);
}
