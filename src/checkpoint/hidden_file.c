/* The hidden states between two blocks as a file, in global order. */
#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "mpress/safetensors.h"
#include "mpress/tensor.h"
#include "reserve.h"
#include "run_files.h"
#include "segments.h"
#include "writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char TENSOR[] = "hidden_states";

static mp_tensor_info tensor_of(const mp_hidden *hidden, mp_dtype dtype)
{
    return (mp_tensor_info){.name = TENSOR,
                            .dtype = dtype,
                            .ndim = 3,
                            .shape = {hidden->n_sequences, hidden->n_tokens, hidden->width}};
}

/* Header and room, by rank 0; every rank learns where the data begins. */
static mp_status begin_file(const char *path, const mp_tensor_info *info, int64_t begin[2],
                            int writes)
{
    char *header = NULL;
    size_t length = 0;
    int fd = -1;
    mp_status st = MP_OK;

    MP_TRY(mp_safetensors_header(info, 1, &header, &length, begin));
    if (!writes) goto out;
    MP_GO(mp_file_open(path, O_WRONLY | O_CREAT | O_TRUNC, &fd));
    MP_GO(mp_reserve(fd, path, begin[1]));
    MP_GO(mp_file_pwrite(fd, path, header, length, 0));
out:
    if (fd >= 0 && close(fd) != 0 && st == MP_OK)
        st = mp_fail(MP_ERR_IO, "%s: closing failed: %s", path, strerror(errno));
    mp_free(header);
    return st;
}

/* The states on their way into the file or out of it.  In memory they stand rank by rank, as the tokens of
 * rank 0's sequences, then those of rank 1's, ...; in the file they are in global order. */
typedef struct transfer {
    const mp_comm *comm;
    const mp_hidden *hidden; /* for its sizes */
    mp_dtype dtype;          /* in the file */
    const char *path;        /* of the file; borrowed */
    mp_source *file;         /* where it is read, on ranks that see it; owned */
    int fd;                  /* where it is written, on ranks that see it; else -1 */
    int64_t begin;           /* of the data in the file that is written */
    char *buffer;            /* of one sequence in `dtype`; owned */
} transfer;

/* The sequences of the ranks before `rank`. */
static int64_t sequences_before(const transfer *t, int64_t rank)
{
    int64_t each = t->hidden->n_sequences / t->comm->size;
    int64_t longer = t->hidden->n_sequences % t->comm->size;

    return rank * each + (rank < longer ? rank : longer);
}

/* Where the tokens from `token` on, as they stand in memory, are in the file, and how many of them, up to
 * `most`, follow each other there. */
static int64_t place_of(const transfer *t, int64_t token, int64_t most, int64_t *place)
{
    const int64_t n = t->hidden->n_tokens, sequence = token / n, left = n - token % n;
    int64_t rank = 0;

    while (sequences_before(t, rank + 1) <= sequence) rank++;
    *place = (rank + (sequence - sequences_before(t, rank)) * t->comm->size) * n + token % n;
    return left < most ? left : most;
}

static mp_status write_tokens(void *context, int64_t first, int64_t count, const void *data)
{
    const transfer *t = context;
    const int64_t width = t->hidden->width, bytes = width * (int64_t)mp_dtype_size(t->dtype);
    const float *states = data;

    for (int64_t at = 0, n, place; at < count; at += n) {
        n = place_of(t, first + at, count - at, &place);
        mp_from_f32(t->dtype, states + at * width, n * width, t->buffer);
        MP_TRY(mp_file_pwrite(t->fd, t->path, t->buffer, (size_t)(n * bytes),
                              (uint64_t)(t->begin + place * bytes)));
    }
    return MP_OK;
}

static mp_status read_tokens(void *context, int64_t first, int64_t count, void *data)
{
    const transfer *t = context;
    const int64_t width = t->hidden->width, bytes = width * (int64_t)mp_dtype_size(t->dtype);
    float *states = data;

    for (int64_t at = 0, n, place; at < count; at += n) {
        n = place_of(t, first + at, count - at, &place);
        MP_TRY(t->file->read(t->file->self, 0, place * bytes, n * bytes, t->buffer));
        mp_to_f32(t->dtype, t->buffer, n * width, states + at * width);
    }
    return MP_OK;
}

static mp_status make_buffer(transfer *t)
{
    return mp_alloc((void **)&t->buffer, t->hidden->n_tokens * t->hidden->width,
                    mp_dtype_size(t->dtype), 0, "hidden states of one sequence");
}

static mp_status open_to_write(transfer *t)
{
    MP_TRY(make_buffer(t));
    return mp_file_open(t->path, O_WRONLY, &t->fd);
}

/* With `st`, what became of the transfer. */
static mp_status close_written(transfer *t, mp_status st)
{
    if (st == MP_OK && t->fd >= 0) st = mp_file_sync(t->fd, t->path);
    if (t->fd >= 0 && close(t->fd) != 0 && st == MP_OK)
        st = mp_fail(MP_ERR_IO, "%s: closing failed: %s", t->path, strerror(errno));
    mp_free(t->buffer);
    return st;
}

static int64_t first_token(const transfer *t)
{
    return sequences_before(t, t->comm->rank) * t->hidden->n_tokens;
}

static mp_status fill_file(const mp_io *io, const char *path, mp_dtype dtype,
                           const mp_hidden *hidden)
{
    const mp_comm *comm = io->comm;
    const mp_tensor_info info = tensor_of(hidden, dtype);
    transfer t = {.comm = comm, .hidden = hidden, .dtype = dtype, .fd = -1, .path = path};
    int64_t begin[2] = {0};
    mp_status st;

    MP_TRY(mp_comm_agree(comm, begin_file(path, &info, begin, comm->rank == 0)));
    t.begin = begin[0];
    MP_GO(mp_comm_agree(comm, io->place >= 0 ? open_to_write(&t) : MP_OK));
    MP_GO(mp_io_put(io, (size_t)hidden->width * sizeof(float), first_token(&t),
                    hidden->local * hidden->n_tokens, hidden->states, write_tokens, &t));
out:
    return mp_comm_agree(comm, close_written(&t, st));
}

/* The file under its temporary name, then under its own. */
static mp_status write_file(const mp_checkpoint *run, const char *path, mp_dtype dtype,
                            const mp_hidden *hidden)
{
    const mp_comm *comm = run->comm;
    char *temporary = NULL;
    mp_status st = MP_OK;

    MP_GO(mp_comm_agree(comm, mp_writer_temporary(&run->owner, path, &temporary)));
    st = fill_file(run->io, temporary, dtype, hidden);
    if (comm->rank == 0) {
        if (st == MP_OK)
            st = mp_writer_rename(&run->owner, temporary, path);
        else
            unlink(temporary);
    }
    MP_GO(mp_comm_agree(comm, st));
out:
    mp_free(temporary);
    return st;
}

static mp_status make_folder(const mp_checkpoint *run)
{
    char *folder = NULL;
    mp_status st = MP_OK;

    if (run->comm->rank == 0) {
        st = mp_path_join(run->dir, "hidden", &folder);
        if (st == MP_OK) st = mp_directory_make(folder);
        mp_free(folder);
    }
    return mp_comm_agree(run->comm, st);
}

mp_status mp_checkpoint_put_hidden(mp_checkpoint *checkpoint, int64_t index, mp_dtype dtype,
                                   const mp_hidden *hidden)
{
    char name[64], *path = NULL;
    mp_status st;

    snprintf(name, sizeof name, MP_HIDDEN_FILE, (long long)index);
    MP_TRY(make_folder(checkpoint));
    MP_GO(mp_comm_agree(checkpoint->comm, mp_path_join(checkpoint->dir, name, &path)));
    MP_GO(write_file(checkpoint, path, dtype, hidden));
    json_decref(checkpoint->hidden);
    checkpoint->hidden = NULL;
    checkpoint->hidden_after = index;
    MP_GO(mp_segments_read(checkpoint->io, path, name, &checkpoint->hidden));
out:
    mp_free(path);
    return st;
}

int64_t mp_checkpoint_hidden_block(const mp_checkpoint *checkpoint)
{
    return checkpoint->journal.hidden;
}

/* The file must hold the states of these windows. */
static mp_status check_file(const mp_source *file, const mp_hidden *hidden, mp_dtype *dtype)
{
    const mp_tensor_info *info = file->count == 1 ? file->at(file->self, 0) : NULL;

    if (info == NULL || strcmp(info->name, TENSOR) != 0 || info->ndim != 3 ||
        info->shape[0] != hidden->n_sequences || info->shape[1] != hidden->n_tokens ||
        info->shape[2] != hidden->width)
        return mp_fail(MP_ERR_FORMAT, "%s: expected one tensor \"%s\" [%lld, %lld, %lld]",
                       file->path, TENSOR, (long long)hidden->n_sequences,
                       (long long)hidden->n_tokens, (long long)hidden->width);
    *dtype = info->dtype;
    return MP_OK;
}

static mp_status read_file(const mp_io *io, const char *path, const mp_hidden *hidden)
{
    transfer t = {.comm = io->comm, .hidden = hidden, .fd = -1, .path = path};
    mp_status st = MP_OK;

    if (io->place >= 0) {
        st = mp_safetensors_open(path, &t.file);
        if (st == MP_OK) st = check_file(t.file, hidden, &t.dtype);
        if (st == MP_OK) st = make_buffer(&t);
    }
    MP_GO(mp_comm_agree(io->comm, st));
    MP_GO(mp_io_get(io, (size_t)hidden->width * sizeof(float), first_token(&t),
                    hidden->local * hidden->n_tokens, hidden->states, read_tokens, &t));
out:
    mp_source_close(&t.file);
    mp_free(t.buffer);
    return st;
}

mp_status mp_checkpoint_get_hidden(const mp_checkpoint *checkpoint, mp_hidden *hidden)
{
    char name[64], *path = NULL;
    mp_status st;

    snprintf(name, sizeof name, MP_HIDDEN_FILE, (long long)checkpoint->journal.hidden);
    st = mp_comm_agree(checkpoint->comm, mp_path_join(checkpoint->dir, name, &path));
    if (st == MP_OK) st = read_file(checkpoint->io, path, hidden);
    mp_free(path);
    return st;
}
