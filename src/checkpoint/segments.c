#include "segments.h"

#include "mpress/fileio.h"
#include "mpress/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PIECE = 1 << 20 };

/* Of the ranks that read: this one takes segments first, first + step, ... */
typedef struct turn {
    int64_t first, step;
} turn;

static mp_status open_file(const char *path, int *fd, int64_t *bytes)
{
    struct stat info;

    MP_TRY(mp_file_open(path, O_RDONLY, fd));
    if (fstat(*fd, &info) != 0)
        return mp_fail(MP_ERR_IO, "%s: stat failed: %s", path, strerror(errno));
    *bytes = info.st_size;
    return MP_OK;
}

static mp_status sum_segment(int fd, const char *path, int64_t begin, int64_t end, void *buffer,
                             int64_t *crc)
{
    uint32_t sum = 0;

    for (int64_t at = begin; at < end; at += PIECE) {
        size_t length = (size_t)(end - at < PIECE ? end - at : PIECE);

        MP_TRY(mp_file_pread(fd, path, buffer, length, (uint64_t)at));
        sum = mp_crc32c(sum, buffer, length);
    }
    *crc = sum;
    return MP_OK;
}

/* This rank's segments into crc [segments], zeroed. */
static mp_status sum_mine(int fd, const char *path, int64_t bytes, turn mine, int64_t *crc)
{
    char *buffer = NULL;
    mp_status st = MP_NEW_RAW(buffer, PIECE, "a piece of a file");

    for (int64_t s = mine.first; s * MP_SEGMENT_BYTES < bytes && st == MP_OK; s += mine.step) {
        int64_t begin = s * MP_SEGMENT_BYTES, end = begin + MP_SEGMENT_BYTES;

        st = sum_segment(fd, path, begin, end < bytes ? end : bytes, buffer, &crc[s]);
    }
    mp_free(buffer);
    return st;
}

static int64_t count_of(int64_t bytes)
{
    return (bytes + MP_SEGMENT_BYTES - 1) / MP_SEGMENT_BYTES;
}

static mp_status make_record(const char *name, int64_t bytes, const int64_t *crc, json_t **record)
{
    json_t *sums = json_array();
    int failed = 0;

    for (int64_t s = 0; s < count_of(bytes); s++) {
        char digits[16];

        snprintf(digits, sizeof digits, "%08x", (unsigned)crc[s]);
        failed |= json_array_append_new(sums, json_string(digits));
    }
    *record =
        json_pack("{s:s, s:I, s:o}", "file", name, "bytes", (json_int_t)bytes, "crc32c", sums);
    if (!failed && *record != NULL) return MP_OK;
    json_decref(*record);
    *record = NULL;
    return mp_fail(MP_ERR_NOMEM, "%s: its checksums: out of memory", name);
}

/* The size that rank 0 has found, for the ranks that do not see the file; the others must have found the
 * same. */
static mp_status agree_on_size(const mp_io *io, const char *path, int64_t *bytes)
{
    int64_t found = *bytes;

    MP_TRY(mp_comm_tell(io->comm, bytes, sizeof *bytes, 0));
    if (io->place < 0) found = *bytes;
    return mp_comm_same(io->comm, found, path);
}

/* With several hosts what is read back must be what the others see.  Every rank writes into every segment, so
 * no choice of the reader avoids that it finds its own part in its host's memory: the host forgets what
 * it has of the file, as far as it is synced. */
static void forget(const mp_io *io, int fd)
{
    if (io->comm->host_count > 1) (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
}

/* Opens the file where it is seen; its size is then known everywhere. */
static mp_status prepare(const mp_io *io, const char *path, int *fd, int64_t *bytes)
{
    mp_status st = io->place >= 0 ? open_file(path, fd, bytes) : MP_OK;

    MP_TRY(mp_comm_agree(io->comm, st));
    if (*fd >= 0) forget(io, *fd);
    return agree_on_size(io, path, bytes);
}

mp_status mp_segments_read(const mp_io *io, const char *path, const char *name, json_t **record)
{
    const turn mine = {io->place, io->count};
    int64_t bytes = 0, *crc = NULL;
    json_t *made = NULL;
    int fd = -1;
    mp_status st;

    MP_GO(prepare(io, path, &fd, &bytes));
    MP_GO(mp_comm_agree(io->comm, MP_NEW(crc, count_of(bytes), "checksums of a file")));
    MP_GO(mp_comm_agree(io->comm, mine.first >= 0 ? sum_mine(fd, path, bytes, mine, crc) : MP_OK));
    MP_GO(mp_comm_sum_int(io->comm, crc, (int)count_of(bytes)));
    st = make_record(name, bytes, crc, &made);
    MP_GO(mp_comm_agree(io->comm, st));
    *record = made;
    made = NULL;
out:
    json_decref(made);
    if (fd >= 0) close(fd);
    mp_free(crc);
    return st;
}

/* How the file differs from its record; NULL where it does not. */
static const char *compare(const json_t *was, const json_t *is, char text[160])
{
    long long old = json_integer_value(json_object_get(was, "bytes"));
    long long now = json_integer_value(json_object_get(is, "bytes"));
    const json_t *sums = json_object_get(was, "crc32c"), *found = json_object_get(is, "crc32c");

    if (old != now) {
        snprintf(text, 160, "%lld bytes, expected %lld", now, old);
        return text;
    }
    for (size_t s = 0; s < json_array_size(found); s++) {
        const json_t *sum = json_array_get(sums, s), *mine = json_array_get(found, s);

        if (sum != NULL && json_equal(sum, mine)) continue;
        snprintf(text, 160, "checksum %s of bytes %lld to %lld, expected %s",
                 json_string_value(mine), (long long)s * MP_SEGMENT_BYTES,
                 (long long)(s + 1) * MP_SEGMENT_BYTES < now ? (long long)(s + 1) * MP_SEGMENT_BYTES
                                                             : now,
                 sum != NULL ? json_string_value(sum) : "none");
        return text;
    }
    return NULL;
}

mp_status mp_segments_check(const mp_io *io, const char *dir, const char *name,
                            const json_t *record, char text[160], const char **what)
{
    char *path = NULL;
    json_t *found = NULL;
    mp_status st = mp_comm_agree(io->comm, mp_path_join(dir, name, &path));

    *what = NULL;
    if (st == MP_OK) {
        st = mp_segments_read(io, path, name, &found);
        if (st == MP_ERR_IO || st == MP_ERR_FORMAT) { /* gone, or shorter than a moment ago */
            snprintf(text, 160, "%.150s", "cannot be read");
            *what = text;
            st = MP_OK;
        } else if (st == MP_OK) {
            *what = compare(record, found, text);
        }
    }
    mp_free(path);
    json_decref(found);
    return st;
}
