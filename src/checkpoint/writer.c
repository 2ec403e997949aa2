#include "writer.h"

#include "mpress/fault.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "reserve.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static void forget(mp_writer *w)
{
    mp_free(w->path);
    mp_free(w->temporary);
    w->path = w->temporary = NULL;
}

/* Opens a file and reserves `bytes` of it; -1: its size. */
static mp_status reserve_file(const char *path, int flags, int64_t bytes)
{
    struct stat info = {0};
    mp_status st;
    int fd;

    MP_TRY(mp_file_open(path, O_RDWR | flags, &fd));
    if (bytes < 0 && fstat(fd, &info) != 0)
        st = mp_fail(MP_ERR_IO, "%s: stat failed: %s", path, strerror(errno));
    else
        st = mp_reserve(fd, path, bytes < 0 ? info.st_size : bytes);
    close(fd);
    return st;
}

/* The space is asked for twice: before HDF5 makes the file anew, because HDF5 does not survive it
 * if there is none, and in the file that is laid out, where it stays. */
mp_status mp_writer_lay_out(const char *path, int64_t room, mp_layout layout, const void *context)
{
    hid_t file = -1;
    mp_status st = mp_path_remove(path); /* what a killed run left */

    if (st == MP_OK) st = reserve_file(path, O_CREAT | O_EXCL, room);
    if (st == MP_OK) st = mp_h5_create(path, &file);
    if (st == MP_OK) st = layout(file, path, context);
    st = mp_h5_close(path, &file, st);
    return st == MP_OK ? reserve_file(path, 0, -1) : st;
}

/* Every rank looks before all open the file together, because one that cannot would leave the others
 * waiting. */
static mp_status look(const char *path)
{
    int fd;

    MP_TRY(mp_file_open(path, O_RDWR, &fd));
    close(fd);
    return MP_OK;
}

static mp_status begin(mp_writer *w, int64_t room, mp_layout layout, const void *context)
{
    const mp_comm *comm = w->io->comm;
    const int sees = w->io->place >= 0;
    mp_status st = MP_OK;

    if (comm->rank == 0) st = mp_writer_lay_out(w->temporary, room, layout, context);
    MP_TRY(mp_comm_agree(comm, st));
    MP_TRY(mp_comm_agree(comm, sees ? look(w->temporary) : MP_OK));
    if (sees) st = mp_h5_open_shared(w->io->mpi, w->temporary, &w->file);
    return mp_comm_agree(comm, st);
}

mp_status mp_writer_temporary(const mp_owner *owner, const char *path, char **temporary)
{
    size_t room = strlen(path) + strlen(owner->run) + sizeof "..tmp";

    MP_TRY(mp_alloc((void **)temporary, (int64_t)room, 1, 0, "a path"));
    sprintf(*temporary, "%s.%s.tmp", path, owner->run);
    return MP_OK;
}

static mp_status set_names(mp_writer *w, const char *path)
{
    MP_TRY(mp_strdup(path, &w->path));
    return mp_writer_temporary(w->owner, path, &w->temporary);
}

mp_status mp_writer_open(mp_writer *writer, const mp_io *io, const mp_owner *owner,
                         const char *path, int64_t room, mp_layout layout, const void *context)
{
    mp_status st;

    *writer = (mp_writer){.io = io, .owner = owner, .file = -1};
    st = mp_comm_agree(io->comm, set_names(writer, path));
    if (st == MP_OK) st = begin(writer, room, layout, context);
    if (st == MP_OK) return MP_OK;
    st = mp_h5_close(writer->temporary, &writer->file, st);
    if (io->comm->rank == 0 && writer->temporary != NULL) unlink(writer->temporary);
    forget(writer);
    return st;
}

mp_status mp_writer_set(const mp_writer *w, const char *name, hid_t *set)
{
    char *place = NULL;
    mp_status st = MP_OK;

    *set = -1;
    if (w->file >= 0) st = mp_h5_place(name, &place);
    st = mp_comm_agree(w->io->comm, st); /* one that does not open leaves the others waiting */
    if (st == MP_OK && w->file >= 0) st = mp_h5_open_tensor(w->file, w->temporary, place, set);
    mp_free(place);
    st = mp_comm_agree(w->io->comm, st);
    if (st == MP_OK || *set < 0) return st;
    H5Dclose(*set);
    *set = -1;
    return st;
}

/* Flushes on every node; all ranks make both calls whatever has become of their part. */
static mp_status close_shared(mp_writer *w, mp_status st)
{
    if (st == MP_OK && w->file >= 0 &&
        (H5Fflush(w->file, H5F_SCOPE_GLOBAL) < 0 || mp_fault(MP_FAULT_H5_FLUSH)))
        st = mp_h5_fail(MP_ERR_IO, w->temporary, "flushing");
    return mp_comm_agree(w->io->comm, mp_h5_close(w->temporary, &w->file, st));
}

mp_status mp_writer_rename(const mp_owner *owner, const char *temporary, const char *path)
{
    mp_status st = mp_journal_check_owner(owner);

    if (st == MP_OK) {
        st = mp_file_commit(temporary, path);
        /* renamed, but the directory could not be synced: it does not count */
        if (st != MP_OK && !mp_path_exists(temporary) && mp_journal_is_owners(owner, st))
            unlink(path);
    }
    if (st != MP_OK) unlink(temporary);
    return st;
}

mp_status mp_writer_commit(mp_writer *writer, mp_status mine)
{
    const mp_comm *comm = writer->io->comm;
    mp_status st = mp_comm_agree(comm, mine), done = MP_OK;

    st = close_shared(writer, st);
    if (comm->rank == 0) {
        if (st == MP_OK)
            done = mp_writer_rename(writer->owner, writer->temporary, writer->path);
        else
            unlink(writer->temporary);
    }
    if (st == MP_OK) st = mp_comm_agree(comm, done);
    forget(writer);
    return st;
}
