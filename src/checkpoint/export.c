/* Hugging Face directories out. */
#include "mpress/export.h"

#include "factored.h"
#include "formats.h"
#include "hf.h"
#include "mpress/fileio.h"
#include "mpress/io.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "pieces.h"
#include "reserve.h"
#include "run_files.h"
#include "shards.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const int64_t DEFAULT_SHARD_BYTES =
    5000000000; /* what the hub's own tools wrote for years */

typedef struct exporter {
    const mp_comm *comm;
    const mp_source *source;
    const mp_checkpoint *run; /* whose directory it is; NULL for one of its own */
    char *target, *temporary; /* owned */
    mp_io *io;                /* the ranks that see the temporary directory; owned */
    mp_shards shards;
    int *fds;     /* [shards] -1 until this rank writes there */
    void *buffer; /* MP_PIECE_BYTES */
} exporter;

static mp_status shard_path(const exporter *e, int64_t shard, char **path)
{
    return mp_path_join(e->temporary, e->shards.shard[shard].name, path);
}

/* Header and room for the data. */
static mp_status begin_shard(const exporter *e, int64_t s)
{
    const mp_shard *shard = &e->shards.shard[s];
    char *path = NULL;
    int fd = -1;
    mp_status st;

    MP_TRY(shard_path(e, s, &path));
    MP_GO(mp_file_open(path, O_WRONLY | O_CREAT | O_EXCL, &fd));
    MP_GO(mp_reserve(fd, path, shard->size));
    MP_GO(mp_file_pwrite(fd, path, shard->header, shard->header_length, 0));
    st = mp_file_sync(fd, path);
out:
    if (fd >= 0 && close(fd) != 0 && st == MP_OK)
        st = mp_fail(MP_ERR_IO, "%s: closing failed: %s", path, strerror(errno));
    mp_free(path);
    return st;
}

static mp_status write_index(const exporter *e)
{
    char *text = NULL, *path = NULL;
    mp_status st;

    if (e->shards.count < 2) return MP_OK;
    MP_GO(mp_shards_index(&e->shards, e->source, &text));
    MP_GO(mp_path_join(e->temporary, "model.safetensors.index.json", &path));
    MP_GO(mp_file_write(path, text, strlen(text)));
out:
    mp_free(text);
    mp_free(path);
    return st;
}

/* Rank 0: the temporary directory with everything but the data. */
static mp_status prepare(const exporter *e, mp_companions companions, const void *context)
{
    if (e->run != NULL) MP_TRY(mp_checkpoint_check_owner(e->run));
    if (!mp_directory_is_empty(e->target))
        return mp_fail(MP_ERR_ARG, "%s: is there already, expected an empty or a new directory",
                       e->target);
    MP_TRY(mp_path_remove(e->temporary)); /* what a killed export left */
    MP_TRY(mp_directory_make(e->temporary));
    MP_TRY(companions(e->temporary, context));
    for (int64_t s = 0; s < e->shards.count; s++) MP_TRY(begin_shard(e, s));
    return write_index(e);
}

static mp_status write_piece(const exporter *e, int64_t s, int64_t tensor, int64_t place,
                             const mp_piece *piece)
{
    const mp_source *source = e->source;
    char *path = NULL;
    mp_status st;

    MP_TRY(source->read(source->self, tensor, piece->begin, piece->length, e->buffer));
    MP_TRY(shard_path(e, s, &path));
    if (e->fds[s] < 0) MP_GO(mp_file_open(path, O_WRONLY, &e->fds[s]));
    st = mp_file_pwrite(e->fds[s], path, e->buffer, (size_t)piece->length,
                        (uint64_t)(place + piece->begin));
out:
    mp_free(path);
    return st;
}

/* All pieces of all tensors are dealt in turn to the ranks that can read and write them; `dealt` counts
 * them. */
static mp_status write_tensor(const exporter *e, int64_t s, int64_t i, int64_t *dealt)
{
    const int64_t tensor = e->shards.order[i];
    const mp_tensor_info *info = e->source->at(e->source->self, tensor);
    const int copiers = mp_io_copiers(e->io, e->source);
    mp_pieces pieces;

    mp_pieces_cut(info, &pieces);
    for (int64_t p = 0; p < pieces.count; p++) {
        mp_piece piece;

        if ((*dealt)++ % copiers != e->io->place) continue;
        mp_pieces_at(info, &pieces, p, &piece);
        MP_TRY(write_piece(e, s, tensor, e->shards.begin[i], &piece));
    }
    return MP_OK;
}

static mp_status write_data(const exporter *e)
{
    int64_t dealt = 0, bytes = 0;

    for (int64_t s = 0; s < e->shards.count; s++) {
        const mp_shard *shard = &e->shards.shard[s];

        for (int64_t i = shard->first; i < shard->first + shard->count; i++) {
            MP_TRY(write_tensor(e, s, i, &dealt));
            bytes += mp_tensor_bytes(e->source->at(e->source->self, e->shards.order[i]));
            mp_progress((double)bytes, (double)e->shards.total, "writing safetensors");
        }
    }
    return MP_OK;
}

/* Every rank syncs what it wrote: on a network file system only its own host can. */
static mp_status close_shards(const exporter *e, mp_status st)
{
    for (int64_t s = 0; e->fds != NULL && s < e->shards.count; s++) {
        if (e->fds[s] < 0) continue;
        if (st == MP_OK) st = mp_file_sync(e->fds[s], e->shards.shard[s].name);
        close(e->fds[s]);
    }
    return st;
}

/* The names of a directory, without a slash at the end: the rename needs its parent. */
static mp_status set_names(exporter *e, const char *dir)
{
    size_t length = strlen(dir);

    while (length > 1 && dir[length - 1] == '/') length--;
    MP_TRY(mp_alloc((void **)&e->target, (int64_t)length + 1, 1, 1, "a path"));
    memcpy(e->target, dir, length);
    MP_TRY(mp_alloc((void **)&e->temporary, (int64_t)(length + sizeof MP_EXPORT_SUFFIX), 1, 0,
                    "a path"));
    sprintf(e->temporary, "%s%s", e->target, MP_EXPORT_SUFFIX);
    return MP_OK;
}

static mp_status plan(exporter *e, const char *dir, int64_t shard_bytes)
{
    MP_TRY(set_names(e, dir));
    MP_TRY(
        mp_shards_plan(e->source, shard_bytes > 0 ? shard_bytes : DEFAULT_SHARD_BYTES, &e->shards));
    MP_TRY(MP_NEW(e->fds, e->shards.count, "the shards of an export"));
    for (int64_t s = 0; s < e->shards.count; s++) e->fds[s] = -1;
    return mp_alloc(&e->buffer, MP_PIECE_BYTES, 1, 0, "a piece of a tensor");
}

/* The parts before the rename, each agreed on before the next begins. */
static mp_status fill(exporter *e, mp_companions companions, const void *context)
{
    const mp_comm *comm = e->comm;

    MP_TRY(mp_comm_agree(comm, comm->rank == 0 ? prepare(e, companions, context) : MP_OK));
    MP_TRY(mp_io_open(comm, e->temporary, &e->io));
    return mp_comm_agree(comm, close_shards(e, write_data(e)));
}

/* Rank 0: the directory gets its name, or what there is of it is removed. */
static mp_status finish(const exporter *e, mp_status st)
{
    mp_status done = st;

    if (st == MP_OK && e->run != NULL) MP_TRY(mp_checkpoint_check_owner(e->run));
    if (st == MP_OK) done = mp_file_commit(e->temporary, e->target);
    if (done == MP_OK) return MP_OK;
    /* renamed, but its parent could not be synced: it does not count */
    if (st == MP_OK && !mp_path_exists(e->temporary)) (void)mp_path_remove(e->target);
    (void)mp_path_remove(e->temporary);
    return done;
}

mp_status mp_hf_write(const mp_comm *comm, const mp_source *source, mp_companions companions,
                      const void *context, const char *dir, int64_t shard_bytes,
                      const mp_checkpoint *run)
{
    exporter e = {.comm = comm, .source = source, .run = run};
    int is_there;
    mp_status st;

    MP_GO(mp_comm_agree(comm, plan(&e, dir, shard_bytes)));
    st = fill(&e, companions, context);
    mp_progress_end();
    if (comm->rank == 0) st = finish(&e, st);
    is_there = comm->rank == 0 && st == MP_OK;
    st = mp_comm_agree(comm, st);
    if (st != MP_OK && is_there) (void)mp_path_remove(e.target);
out:
    mp_io_close(e.io);
    mp_shards_free(&e.shards);
    mp_free(e.fds);
    mp_free(e.buffer);
    mp_free(e.target);
    mp_free(e.temporary);
    return st;
}

/* What an export is made of. */
typedef struct exported {
    const mp_source *source;
    const char *assets;
    mp_pairs pairs;       /* the factored linear maps of the source */
    mp_integer_maps maps; /* and the quantised ones */
    const mp_layout *layout;
    mp_source *view; /* what is written in place of the source; NULL if it is written as it is */
    int is_factored;
} exported;

static mp_status write_companions(const char *dir, const void *context)
{
    const exported *e = context;

    if (e->maps.count > 0) return mp_layout_assets(e->layout, e->source, &e->maps, e->assets, dir);
    return e->is_factored ? mp_factored_assets(e->assets, &e->pairs, dir)
                          : mp_dense_assets(e->assets, dir);
}

/* What there is, and whether the format is one for it. */
static mp_status look(const mp_source *source, mp_export_format format, exported *e)
{
    MP_TRY(mp_pairs_find(source, MP_NAMES_OWN, &e->pairs));
    MP_TRY(mp_integer_maps_find(source, &e->maps));
    if (e->maps.count > 0 && e->pairs.count > 0)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: some linear maps are factored and others quantised: there is no format "
                       "for both",
                       source->path);
    if (e->maps.count > 0 || format == MP_EXPORT_AUTO || format == MP_EXPORT_DENSE) return MP_OK;
    return mp_fail(MP_ERR_ARG, "--format %s: %s holds no integers, expected --format auto or dense",
                   mp_layout_of(format)->name, source->path);
}

static mp_status see(const mp_source *source, mp_export_format format, exported *e)
{
    if (e->maps.count > 0) return mp_view_layout(source, &e->maps, e->layout, &e->view);
    if (e->pairs.count == 0) return MP_OK;
    e->is_factored = format != MP_EXPORT_DENSE;
    return e->is_factored ? mp_view_directory(source, &e->pairs, &e->view)
                          : mp_view_dense(source, &e->pairs, &e->view);
}

static mp_status export_to(const mp_comm *comm, const mp_source *source, const char *assets,
                           const char *dir, mp_export_format format, int64_t shard_bytes,
                           const mp_checkpoint *run)
{
    exported e = {.source = source, .assets = assets, .layout = mp_layout_of(format)};
    mp_status st;

    MP_GO(mp_comm_agree(comm, look(source, format, &e)));
    if (e.maps.count > 0) MP_GO(mp_layout_check(comm, e.layout, source, &e.maps));
    MP_GO(mp_comm_agree(comm, see(source, format, &e)));
    st = mp_hf_write(comm, e.view != NULL ? e.view : source, write_companions, &e, dir, shard_bytes,
                     run);
out:
    mp_source_close(&e.view);
    mp_integer_maps_free(&e.maps);
    mp_pairs_free(&e.pairs);
    return st;
}

mp_status mp_export(const mp_comm *comm, const mp_source *source, const char *assets,
                    const char *dir, mp_export_format format, int64_t shard_bytes)
{
    return export_to(comm, source, assets, dir, format, shard_bytes, NULL);
}

/* What a run has left that was killed, or damaged. */
static mp_status remove_left(const mp_checkpoint *run, const char *dir)
{
    MP_TRY(mp_checkpoint_check_owner(run));
    return run->comm->rank == 0 && run->resumed ? mp_path_remove(dir) : MP_OK;
}

mp_status mp_checkpoint_export(mp_checkpoint *checkpoint, const mp_source *source,
                               const char *assets)
{
    const mp_comm *comm = checkpoint->comm;
    char *dir = NULL;
    mp_status st = mp_path_join(checkpoint->dir, "hf", &dir);

    if (st == MP_OK) st = remove_left(checkpoint, dir);
    MP_GO(mp_comm_agree(comm, st));
    st = export_to(comm, source, assets, dir, MP_EXPORT_AUTO, 0, checkpoint);
    if (st != MP_OK)
        MP_GO(mp_fail(
            st, "%s; the checkpoint %s is complete: 'mpress export %s DIR' writes it elsewhere",
            mp_error_message(), checkpoint->dir, checkpoint->dir));
    MP_GO(mp_checkpoint_add_folder(checkpoint, "hf"));
out:
    mp_free(dir);
    return st;
}
