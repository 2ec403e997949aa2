#include "reserve.h"

#include "mpress/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* Bytes that this user may still write on the file's file system; -1 if it is not known. */
static int64_t free_bytes(int fd)
{
    struct statvfs info;

    if (fstatvfs(fd, &info) != 0 || info.f_blocks == 0) return -1;
    return (int64_t)info.f_bavail * (int64_t)info.f_frsize;
}

static mp_status no_space(int fd, const char *path, int64_t bytes, int error)
{
    return mp_fail(MP_ERR_IO, "%s: reserving %lld bytes failed: %s (%lld bytes are free there)",
                   path, (long long)bytes, strerror(error), (long long)free_bytes(fd));
}

mp_status mp_reserve(int fd, const char *path, int64_t bytes)
{
    int error;

    if (bytes == 0) return MP_OK;
    if (mp_fault(MP_FAULT_RESERVE)) return no_space(fd, path, bytes, errno);
    do error = fallocate(fd, 0, 0, (off_t)bytes) == 0 ? 0 : errno;
    while (error == EINTR);
    if (error == 0) return MP_OK;
    if (error != EOPNOTSUPP && error != ENOSYS) return no_space(fd, path, bytes, error);
    if (free_bytes(fd) >= 0 && free_bytes(fd) < bytes) return no_space(fd, path, bytes, ENOSPC);
    return ftruncate(fd, (off_t)bytes) == 0 ? MP_OK : no_space(fd, path, bytes, errno);
}
