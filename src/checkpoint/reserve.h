/* Space on the disk, asked for before it is needed.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_RESERVE_H
#define MPRESS_RESERVE_H

#include "mpress/error.h"

#include <stdint.h>

/* Makes the file `bytes` long with its blocks allocated, so that a full disk or a quota shows here,
 * on one rank and with the system's own words, and not in the middle of what all ranks write.
 * Where the file system cannot allocate ahead (NFS 3, ZFS) its free space is looked at instead.
 * Errors: MP_ERR_IO with the path, the bytes and what is free. */
mp_status mp_reserve(int fd, const char *path, int64_t bytes);

#endif
