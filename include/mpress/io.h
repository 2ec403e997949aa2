/* Which ranks of a job see a directory, and who of them reads and writes there for the others.
 * Floor 3: dist. */
#ifndef MPRESS_IO_H
#define MPRESS_IO_H

#include "mpress/comm.h"
#include "mpress/source.h"

typedef struct mp_io {
    const mp_comm *comm; /* all ranks of the job; borrowed */
    MPI_Comm mpi;        /* those that see the directory, in their order, rank 0 the first;
                            MPI_COMM_NULL on the others */
    int count;           /* how many see it */
    int place;           /* this rank's among them; -1 where it does not see it */
    int *server_of;      /* [size] who reads and writes for each rank: those that see it themselves,
                            and for the others these in turn; owned */
} mp_io;

/* Rank 0 puts a file with random content into `dir`, which it must see, and the ranks look for it; it is
 * removed again.  Says in the log who does not see it.  Collective; the status is agreed.
 * Errors: MP_ERR_IO where rank 0 cannot write there. */
mp_status mp_io_open(const mp_comm *comm, const char *dir, mp_io **io);
void mp_io_close(mp_io *io);

/* The same without a word and without writing: those see the directory of `path` that find in this file
 * what rank 0 finds there.  Of use for reading. */
mp_status mp_io_of_file(const mp_comm *comm, const char *path, mp_io **io);

/* Copying a source into the directory: the ranks that can do both are those of place 0 .. this - 1. */
int mp_io_copiers(const mp_io *io, const mp_source *source);

/* Some of what belongs at `first` of a whole, `count` units of it, is to be written or read.  Called on
 * ranks that see the directory. */
typedef mp_status (*mp_io_write)(void *context, int64_t first, int64_t count, const void *data);
typedef mp_status (*mp_io_read)(void *context, int64_t first, int64_t count, void *data);

/* Has the units [first, first + count) of every rank, `unit` bytes each, in `data`, written: by itself, or
 * in pieces by the rank that serves it, which needs 16 MiB for that (or one unit).  `count` may be 0.
 * Collective; the status is agreed.  Cost: what the ranks that do not see the directory have is sent
 * once. */
mp_status mp_io_put(const mp_io *io, size_t unit, int64_t first, int64_t count, const void *data,
                    mp_io_write write, void *context);

/* The other way round. */
mp_status mp_io_get(const mp_io *io, size_t unit, int64_t first, int64_t count, void *data,
                    mp_io_read read, void *context);

#endif
