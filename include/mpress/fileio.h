/* Files that are read whole or in exact ranges, and written so that a crash leaves no half file.
 * Floor 0: base.
 *
 * Every error is MP_ERR_IO and names the path and the system's reason. */
#ifndef MPRESS_FILEIO_H
#define MPRESS_FILEIO_H

#include "mpress/error.h"

#include <stddef.h>
#include <stdint.h>

/* The file's bytes with a terminating NUL that is not counted; owned by the caller (mp_free).
 * A file over `limit` bytes is refused (MP_ERR_FORMAT): a header that lies must not fill memory. */
mp_status mp_file_read(const char *path, size_t limit, char **bytes, size_t *length);

/* open(2), closed on exec, mode 0666. */
mp_status mp_file_open(const char *path, int flags, int *fd);

mp_status mp_file_sync(int fd, const char *path);

/* Exactly `length` bytes at `offset` of an open descriptor; a short file is MP_ERR_FORMAT.
 * `path` is only for the message.  Safe beyond 2 GiB. */
mp_status mp_file_pread(int fd, const char *path, void *buffer, size_t length, uint64_t offset);
mp_status mp_file_pwrite(int fd, const char *path, const void *buffer, size_t length,
                         uint64_t offset);

/* Writes `path` as one step: a temporary file beside it, fsync, rename, fsync of the directory. */
mp_status mp_file_write(const char *path, const void *bytes, size_t length);

/* fsync of `from`, rename to `to`, fsync of the directory of `to`. */
mp_status mp_file_commit(const char *from, const char *to);

/* Appends one line (a newline is added) and syncs it. */
mp_status mp_file_append_line(const char *path, const char *line);

/* Copies a regular file; the copy is written as mp_file_write writes. */
mp_status mp_file_copy(const char *from, const char *to);

/* mkdir -p. */
mp_status mp_directory_make(const char *path);

/* Removes a file or a directory with all it holds; what is not there is no error. */
mp_status mp_path_remove(const char *path);

int mp_path_exists(const char *path);
int mp_path_has(const char *dir, const char *name); /* dir/name exists */
int mp_path_is_directory(const char *path);
int mp_directory_is_empty(const char *path); /* also 1 if it does not exist */

/* "dir/name", owned by the caller (mp_free). */
mp_status mp_path_join(const char *dir, const char *name, char **path);

/* CRC-32C (Castagnoli) of `length` bytes, continued from `crc` (0 to start). */
uint32_t mp_crc32c(uint32_t crc, const void *bytes, size_t length);

/* The same without the instruction of the processor. */
uint32_t mp_crc32c_portable(uint32_t crc, const void *bytes, size_t length);

#endif
