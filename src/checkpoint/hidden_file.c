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
    fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    if (fd < 0) MP_GO(mp_fail(MP_ERR_IO, "%s: creating failed: %s", path, strerror(errno)));
    MP_GO(mp_reserve(fd, path, begin[1]));
    MP_GO(mp_file_pwrite(fd, path, header, length, 0));
out:
    if (fd >= 0 && close(fd) != 0 && st == MP_OK)
        st = mp_fail(MP_ERR_IO, "%s: closing failed: %s", path, strerror(errno));
    mp_free(header);
    return st;
}

/* This rank's sequences, each at its place among all. */
static mp_status write_mine(const mp_comm *comm, int fd, const char *path, int64_t begin,
                            mp_dtype dtype, const mp_hidden *hidden)
{
    int64_t size = hidden->n_tokens * hidden->width, bytes = size * (int64_t)mp_dtype_size(dtype);
    char *buffer = NULL;
    mp_status st = MP_NEW_RAW(buffer, bytes, "hidden states of one sequence");

    for (int64_t i = 0; i < hidden->local && st == MP_OK; i++) {
        int64_t sequence = comm->rank + i * comm->size;

        mp_from_f32(dtype, mp_hidden_sequence(hidden, i), size, buffer);
        st = mp_file_pwrite(fd, path, buffer, (size_t)bytes, (uint64_t)(begin + sequence * bytes));
    }
    mp_free(buffer);
    if (st == MP_OK && fsync(fd) != 0)
        st = mp_fail(MP_ERR_IO, "%s: fsync failed: %s", path, strerror(errno));
    return st;
}

static mp_status fill_file(const mp_comm *comm, const char *path, mp_dtype dtype,
                           const mp_hidden *hidden)
{
    const mp_tensor_info info = tensor_of(hidden, dtype);
    int64_t begin[2] = {0};
    int fd = -1;
    mp_status st;

    MP_TRY(mp_comm_agree(comm, begin_file(path, &info, begin, comm->rank == 0)));
    fd = open(path, O_WRONLY | O_CLOEXEC);
    st = fd < 0 ? mp_fail(MP_ERR_IO, "%s: opening failed: %s", path, strerror(errno))
                : write_mine(comm, fd, path, begin[0], dtype, hidden);
    if (fd >= 0 && close(fd) != 0 && st == MP_OK)
        st = mp_fail(MP_ERR_IO, "%s: closing failed: %s", path, strerror(errno));
    return mp_comm_agree(comm, st);
}

/* The file under its temporary name, then under its own. */
static mp_status write_file(const mp_checkpoint *run, const char *path, mp_dtype dtype,
                            const mp_hidden *hidden)
{
    const mp_comm *comm = run->comm;
    char *temporary = NULL;
    mp_status st = MP_OK;

    MP_GO(mp_comm_agree(comm, mp_writer_temporary(&run->owner, path, &temporary)));
    st = fill_file(comm, temporary, dtype, hidden);
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
    MP_GO(mp_segments_read(checkpoint->comm, path, name, &checkpoint->hidden));
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

static mp_status read_mine(const mp_comm *comm, const char *path, const mp_hidden *hidden)
{
    int64_t size = hidden->n_tokens * hidden->width, bytes;
    mp_source *file = NULL;
    char *buffer = NULL;
    mp_dtype dtype = MP_F32;
    mp_status st;

    MP_TRY(mp_safetensors_open(path, &file));
    MP_GO(check_file(file, hidden, &dtype));
    bytes = size * (int64_t)mp_dtype_size(dtype);
    MP_GO(MP_NEW_RAW(buffer, bytes, "hidden states of one sequence"));
    for (int64_t i = 0; i < hidden->local; i++) {
        MP_GO(file->read(file->self, 0, (comm->rank + i * comm->size) * bytes, bytes, buffer));
        mp_to_f32(dtype, buffer, size, mp_hidden_sequence(hidden, i));
    }
out:
    mp_free(buffer);
    mp_source_close(&file);
    return st;
}

mp_status mp_checkpoint_get_hidden(const mp_checkpoint *checkpoint, mp_hidden *hidden)
{
    char name[64], *path = NULL;
    mp_status st;

    snprintf(name, sizeof name, MP_HIDDEN_FILE, (long long)checkpoint->journal.hidden);
    st = mp_path_join(checkpoint->dir, name, &path);
    if (st == MP_OK) st = read_mine(checkpoint->comm, path, hidden);
    mp_free(path);
    return mp_comm_agree(checkpoint->comm, st);
}
