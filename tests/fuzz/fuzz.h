/* What the fuzz targets share: the input as a file with a name of our choice, and what must hold.
 * Floor: tests.
 *
 * A target is one libFuzzer program:
 *   clang -g -O1 -fsanitize=fuzzer,address,undefined -fno-sanitize-recover=all -D_GNU_SOURCE
 * -Iinclude tests/fuzz/<target>.c src/base/<all>.c src/formats/<all>.c (and the three libraries) */
#ifndef MPRESS_TESTS_FUZZ_H
#define MPRESS_TESTS_FUZZ_H

#include "mpress/error.h"
#include "mpress/memory.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Fuzzing looks for broken promises, so a broken one ends the program. */
static inline void fuzz_expect(int holds, const char *what)
{
    if (holds) return;
    fprintf(stderr, "broken: %s (last message: %s)\n", what, mp_error_message());
    abort();
}

/* A directory for the names of the inputs; removed when the program ends as it should. */
static char fuzz_directory[64];
static char fuzz_links[8][128];
static int fuzz_link_count;

static inline void fuzz_clean_up(void)
{
    for (int i = 0; i < fuzz_link_count; i++) unlink(fuzz_links[i]);
    rmdir(fuzz_directory);
}

/* A file in memory under the name `name` of the directory: its descriptor; *path is the name. */
static inline int fuzz_file(const char *name, const char **path)
{
    char target[64];
    int fd = memfd_create(name, MFD_CLOEXEC);

    if (fuzz_directory[0] == '\0') {
        strcpy(fuzz_directory, "/tmp/mpress-fuzz-XXXXXX");
        fuzz_expect(mkdtemp(fuzz_directory) != NULL, "a directory can be made");
        atexit(fuzz_clean_up);
    }
    fuzz_expect(fd >= 0 && fuzz_link_count < 8, "a file in memory can be made");
    snprintf(target, sizeof target, "/proc/self/fd/%d", fd);
    snprintf(fuzz_links[fuzz_link_count], sizeof fuzz_links[0], "%s/%s", fuzz_directory, name);
    fuzz_expect(symlink(target, fuzz_links[fuzz_link_count]) == 0, "a link can be made");
    *path = fuzz_links[fuzz_link_count++];
    return fd;
}

static inline void fuzz_fill(int fd, const void *bytes, size_t length)
{
    fuzz_expect(ftruncate(fd, 0) == 0, "the file can be emptied");
    fuzz_expect(pwrite(fd, bytes, length, 0) == (ssize_t)length, "the file can be filled");
}

/* A failure is a bad input (65), says why, and says so in one line. */
static inline void fuzz_expect_message(mp_status st)
{
    fuzz_expect(st == MP_OK || st == MP_ERR_FORMAT, "bad bytes are MP_ERR_FORMAT");
    fuzz_expect(st == MP_OK || mp_error_message()[0] != '\0', "a failure has a message");
    fuzz_expect(strchr(mp_error_message(), '\n') == NULL, "a message is one line");
}

#endif
