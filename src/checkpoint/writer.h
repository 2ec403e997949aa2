/* One HDF5 file that all ranks which see its directory write, and that appears whole or not at all.
 * Floor 7: checkpoint; for the files of src/checkpoint only.
 *
 * Rank 0 alone reserves the space and lays the file out (groups, attributes, data sets with their
 * final place) under a temporary name; then these ranks open it with MPI-IO and fill the data sets.
 * So no metadata is written in parallel: its bytes do not depend on the number of ranks, and what
 * can go wrong with it (no space, no permission) goes wrong on one rank, before the others wait in
 * a collective call. */
#ifndef MPRESS_WRITER_H
#define MPRESS_WRITER_H

#include "h5.h"
#include "journal.h"
#include "mpress/io.h"

typedef struct mp_writer {
    const mp_io *io; /* borrowed */
    const mp_owner *owner;
    char *path, *temporary; /* owned; the second one has the owner's id */
    hid_t file;             /* -1 on ranks that do not see it */
} mp_writer;

/* Puts groups, attributes, data sets and links into a new file. */
typedef mp_status (*mp_layout)(hid_t file, const char *path, const void *context);

/* Makes the file `path` of at most `room` bytes (mp_h5_room) by this rank alone, its space
 * reserved. */
mp_status mp_writer_lay_out(const char *path, int64_t room, mp_layout layout, const void *context);

/* Begins `path`, of at most `room` bytes; the layout is made on rank 0.  The owner is borrowed.
 * Collective over all ranks, like the rest; the status is agreed; on error nothing is left. */
mp_status mp_writer_open(mp_writer *writer, const mp_io *io, const mp_owner *owner,
                         const char *path, int64_t room, mp_layout layout, const void *context);

/* Opens a data set; *set is -1 on ranks that do not see the file.  Collective; agreed. */
mp_status mp_writer_set(const mp_writer *writer, const char *name, hid_t *set);

/* Ends the file: with MP_OK on all ranks flush, sync, rename; otherwise it is removed.  `mine` is
 * what became of this rank's part.  A run that no longer owns the directory renames nothing.
 * Collective; the status is agreed. */
mp_status mp_writer_commit(mp_writer *writer, mp_status mine);

/* "PATH.RUN.tmp": what a file of the owner is called until it is whole; owned by the caller. */
mp_status mp_writer_temporary(const mp_owner *owner, const char *path, char **temporary);

/* Gives a file that is whole and synced its name, if the directory is still the owner's.  Rank 0 only;
 * on error the file is under neither name. */
mp_status mp_writer_rename(const mp_owner *owner, const char *temporary, const char *path);

#endif
