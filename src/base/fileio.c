#include "mpress/fileio.h"

#include "mpress/fault.h"
#include "mpress/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static mp_status io_error(const char *doing, const char *path)
{
    return mp_fail(MP_ERR_IO, "%s: %s failed: %s", path, doing, strerror(errno));
}

mp_status mp_file_open(const char *path, int flags, int *fd)
{
    int writes = (flags & O_ACCMODE) != O_RDONLY;

    *fd = mp_fault(writes ? MP_FAULT_CREATE : MP_FAULT_OPEN) ? -1
                                                             : open(path, flags | O_CLOEXEC, 0666);
    if (*fd >= 0) return MP_OK;
    return io_error((flags & O_CREAT) != 0 ? "creating" : "opening", path);
}

mp_status mp_file_sync(int fd, const char *path)
{
    return mp_fault(MP_FAULT_SYNC) || fsync(fd) != 0 ? io_error("fsync", path) : MP_OK;
}

mp_status mp_file_pread(int fd, const char *path, void *buffer, size_t length, uint64_t offset)
{
    char *to = buffer;

    if (mp_fault(MP_FAULT_READ)) return io_error("reading", path);
    while (length > 0) {
        size_t piece = length < ((size_t)1 << 30) ? length : (size_t)1 << 30;
        ssize_t got = pread(fd, to, piece, (off_t)offset);

        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return io_error("reading", path);
        if (got == 0)
            return mp_fail(MP_ERR_FORMAT,
                           "%s: the file ends %zu bytes before it should (offset %llu)", path,
                           length, (unsigned long long)offset);
        to += got;
        offset += (uint64_t)got;
        length -= (size_t)got;
    }
    return MP_OK;
}

mp_status mp_file_pwrite(int fd, const char *path, const void *buffer, size_t length,
                         uint64_t offset)
{
    const char *from = buffer;

    if (mp_fault(MP_FAULT_WRITE)) return io_error("writing", path);
    while (length > 0) {
        size_t piece = length < ((size_t)1 << 30) ? length : (size_t)1 << 30;
        ssize_t put = pwrite(fd, from, piece, (off_t)offset);

        if (put < 0 && errno == EINTR) continue;
        if (put < 0) return io_error("writing", path);
        from += put;
        offset += (uint64_t)put;
        length -= (size_t)put;
    }
    return MP_OK;
}

mp_status mp_file_read(const char *path, size_t limit, char **bytes, size_t *length)
{
    mp_status st = MP_OK;
    struct stat info;
    char *buffer = NULL;
    int fd;

    MP_TRY(mp_file_open(path, O_RDONLY, &fd));
    if (fstat(fd, &info) != 0) {
        st = io_error("stat", path);
        goto out;
    }
    if (!S_ISREG(info.st_mode)) {
        st = mp_fail(MP_ERR_IO, "%s: not a regular file", path);
        goto out;
    }
    if ((uint64_t)info.st_size > limit) {
        st = mp_fail(MP_ERR_FORMAT, "%s: %lld bytes, expected at most %zu", path,
                     (long long)info.st_size, limit);
        goto out;
    }
    MP_GO(MP_NEW_RAW(buffer, info.st_size + 1, path));
    MP_GO(mp_file_pread(fd, path, buffer, (size_t)info.st_size, 0));
    buffer[info.st_size] = '\0';
    *bytes = buffer;
    *length = (size_t)info.st_size;
    buffer = NULL;
out:
    mp_free(buffer);
    close(fd);
    return st;
}

static mp_status sync_directory_of(const char *path)
{
    char dir[4096];
    const char *slash = strrchr(path, '/');
    int fd, failed;

    if (slash == NULL)
        snprintf(dir, sizeof dir, ".");
    else
        snprintf(dir, sizeof dir, "%.*s", slash == path ? 1 : (int)(slash - path), path);
    MP_TRY(mp_file_open(dir, O_RDONLY | O_DIRECTORY, &fd));
    failed = (mp_fault(MP_FAULT_SYNC) || fsync(fd) != 0) &&
             errno != EINVAL; /* some file systems cannot sync a directory */
    if (failed) io_error("fsync", dir);
    close(fd);
    return failed ? MP_ERR_IO : MP_OK;
}

mp_status mp_file_commit(const char *from, const char *to)
{
    mp_status st;
    int fd;

    MP_TRY(mp_file_open(from, O_RDONLY, &fd));
    st = mp_file_sync(fd, from);
    close(fd);
    MP_TRY(st);
    if (mp_fault(MP_FAULT_RENAME) || rename(from, to) != 0)
        return io_error("renaming to its final name", from);
    return sync_directory_of(to);
}

mp_status mp_file_write(const char *path, const void *bytes, size_t length)
{
    mp_status st;
    char temporary[4096];
    int fd;

    if (snprintf(temporary, sizeof temporary, "%s.tmp", path) >= (int)sizeof temporary)
        return mp_fail(MP_ERR_IO, "%s: the path is too long", path);
    MP_TRY(mp_file_open(temporary, O_WRONLY | O_CREAT | O_TRUNC, &fd));
    st = mp_file_pwrite(fd, temporary, bytes, length, 0);
    if (close(fd) != 0 && st == MP_OK) st = io_error("closing", temporary);
    if (st == MP_OK) st = mp_file_commit(temporary, path);
    if (st != MP_OK) unlink(temporary);
    return st;
}

mp_status mp_file_append_line(const char *path, const char *line)
{
    mp_status st = MP_OK;
    FILE *file = mp_fault(MP_FAULT_CREATE) ? NULL : fopen(path, "a");
    int torn; /* what a full disk does to a line */

    if (file == NULL) return io_error("opening", path);
    torn = mp_fault(MP_FAULT_WRITE);
    if (fprintf(file, torn ? "%.10s" : "%s\n", line) < 0 || fflush(file) != 0 || torn)
        st = io_error("writing", path);
    if (st == MP_OK) st = mp_file_sync(fileno(file), path);
    if (fclose(file) != 0 && st == MP_OK) st = io_error("closing", path);
    return st;
}

mp_status mp_file_copy(const char *from, const char *to)
{
    char *bytes = NULL;
    size_t length = 0;
    mp_status st = mp_file_read(from, SIZE_MAX / 2, &bytes, &length);

    if (st == MP_OK) st = mp_file_write(to, bytes, length);
    mp_free(bytes);
    return st;
}

mp_status mp_directory_make(const char *path)
{
    char part[4096];
    size_t length = strlen(path);

    if (length >= sizeof part) return mp_fail(MP_ERR_IO, "%s: the path is too long", path);
    memcpy(part, path, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (part[i] != '/' && part[i] != '\0') continue;
        part[i] = '\0';
        if ((mp_fault(MP_FAULT_CREATE) || mkdir(part, 0777) != 0) && errno != EEXIST)
            return io_error("creating", part);
        part[i] = path[i];
    }
    if (!mp_path_is_directory(path)) return mp_fail(MP_ERR_IO, "%s: not a directory", path);
    return MP_OK;
}

static mp_status remove_directory(const char *path)
{
    mp_status st = MP_OK;
    struct dirent *entry;
    DIR *dir = mp_fault(MP_FAULT_OPEN) ? NULL : opendir(path);

    if (dir == NULL) return io_error("opening", path);
    while (st == MP_OK && (entry = readdir(dir)) != NULL) {
        char *child = NULL;

        if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
        st = mp_path_join(path, entry->d_name, &child);
        if (st == MP_OK) st = mp_path_remove(child);
        mp_free(child);
    }
    closedir(dir);
    if (st == MP_OK && (mp_fault(MP_FAULT_REMOVE) || rmdir(path) != 0))
        st = io_error("removing", path);
    return st;
}

mp_status mp_path_remove(const char *path)
{
    struct stat info;

    if (lstat(path, &info) != 0)
        return errno == ENOENT || errno == ENOTDIR ? MP_OK : io_error("stat", path);
    if (S_ISDIR(info.st_mode)) return remove_directory(path);
    return mp_fault(MP_FAULT_REMOVE) || unlink(path) != 0 ? io_error("removing", path) : MP_OK;
}

int mp_path_exists(const char *path)
{
    return access(path, F_OK) == 0;
}

int mp_path_has(const char *dir, const char *name)
{
    char path[4096];

    return snprintf(path, sizeof path, "%s/%s", dir, name) < (int)sizeof path &&
           mp_path_exists(path);
}

int mp_path_is_directory(const char *path)
{
    struct stat info;

    return stat(path, &info) == 0 && S_ISDIR(info.st_mode);
}

int mp_directory_is_empty(const char *path)
{
    struct dirent *entry;
    int entries = 0;
    DIR *dir = opendir(path);

    if (dir == NULL) return !mp_path_exists(path);
    while ((entry = readdir(dir)) != NULL)
        entries += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    closedir(dir);
    return entries == 0;
}

mp_status mp_path_join(const char *dir, const char *name, char **path)
{
    size_t n = strlen(dir), m = strlen(name);
    int slash = n > 0 && dir[n - 1] != '/';

    MP_TRY(mp_alloc((void **)path, (int64_t)(n + m) + 2, 1, 0, "a path"));
    sprintf(*path, "%s%s%s", dir, slash ? "/" : "", name);
    return MP_OK;
}
