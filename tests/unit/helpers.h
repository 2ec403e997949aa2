/* What the unit tests share: failures with their messages, scratch directories, the leak check.
 * Floor: tests. */
#ifndef MPRESS_TESTS_HELPERS_H
#define MPRESS_TESTS_HELPERS_H

#include "mpress/error.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"

#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The call must succeed; otherwise its message is shown. */
#define EXPECT_OK(call)                                                                            \
    do {                                                                                           \
        mp_status got_ = (call);                                                                   \
        cr_assert_eq(got_, MP_OK, "%s: %s", #call, got_ == MP_OK ? "" : mp_error_message());       \
    } while (0)

/* The call must fail with `code`, and the message must contain each of the texts. */
#define EXPECT_FAILURE(call, code, ...)                                                            \
    do {                                                                                           \
        const char *const parts_[] = {__VA_ARGS__, NULL};                                          \
        mp_status got_ = (call);                                                                   \
        cr_assert_eq(got_, (code), "%s: status %d, expected %s", #call, (int)got_, #code);         \
        for (int part_ = 0; parts_[part_] != NULL; part_++)                                        \
            cr_assert_not_null(strstr(mp_error_message(), parts_[part_]),                          \
                               "message \"%s\" lacks \"%s\"", mp_error_message(), parts_[part_]);  \
    } while (0)

/* The last line of a test that allocates. Criterion does not count failures of a suite's .fini. */
#define EXPECT_NO_LEAKS() cr_assert_eq(mp_memory_balance(), 0, "allocations are left")

/* A new directory; removed by scratch_remove. */
static inline char *scratch_make(void)
{
    static char path[256];
    const char *parent = getenv("TMPDIR");

    snprintf(path, sizeof path, "%s/mpress-test-XXXXXX", parent != NULL ? parent : "/tmp");
    cr_assert_not_null(mkdtemp(path));
    return path;
}

static inline void scratch_remove(const char *path)
{
    EXPECT_OK(mp_path_remove(path));
}

/* "dir/name" in one of 32 buffers that take turns. */
static inline const char *path_in(const char *dir, const char *name)
{
    static char paths[32][512];
    static int turn;
    char path[512]; /* dir may be one of the buffers */

    snprintf(path, sizeof path, "%s/%s", dir, name);
    turn = (turn + 1) % 32;
    return memcpy(paths[turn], path, sizeof path);
}

static inline void write_bytes(const char *path, const void *bytes, size_t length)
{
    FILE *file = fopen(path, "wb");

    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(fwrite(bytes, 1, length, file), length);
    cr_assert_eq(fclose(file), 0);
}

static inline void write_text(const char *path, const char *text)
{
    write_bytes(path, text, strlen(text));
}

#endif
