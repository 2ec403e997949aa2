#include "mpress/fault.h"
#include "mpress/fileio.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include "helpers.h"

#include <fcntl.h>
#include <unistd.h>

static void quiet(void)
{
    mp_log_setup(MP_LOG_ERROR, 0);
}

TestSuite(fault, .init = quiet);

static void expect_refused(const char *text)
{
    mp_fault_plan plan;

    setenv("MPRESS_FAULT", text, 1);
    EXPECT_FAILURE(mp_fault_read(3, &plan), MP_ERR_ARG, "MPRESS_FAULT=", "SITE:rank=R:nth=K",
                   "alloc", "svd");
    cr_assert_eq(plan.nth, 0, "%s", text);
}

Test(fault, every_site_is_read_by_its_name)
{
    for (int site = 0; site < MP_FAULT_SITES; site++) {
        mp_fault_plan plan;
        char text[64];

        snprintf(text, sizeof text, "%s:rank=2:nth=17", mp_fault_name((mp_fault_site)site));
        setenv("MPRESS_FAULT", text, 1);
        EXPECT_OK(mp_fault_read(3, &plan));
        cr_assert_eq((int)plan.site, site);
        cr_assert_eq(plan.rank, 2);
        cr_assert_eq(plan.nth, 17);
    }
}

Test(fault, nothing_is_planned_where_nothing_is_said)
{
    mp_fault_plan plan = {.nth = 5};

    unsetenv("MPRESS_FAULT");
    EXPECT_OK(mp_fault_read(1, &plan));
    cr_assert_eq(plan.nth, 0);
    setenv("MPRESS_FAULT", "", 1);
    EXPECT_OK(mp_fault_read(1, &plan));
}

Test(fault, what_is_not_a_plan_is_refused)
{
    static const char *const texts[] = {"alloc",
                                        "alloc:",
                                        "alloc:rank=0",
                                        "alloc:rank=0:",
                                        "alloc:rank=0:nth=",
                                        "alloc:rank=0:nth=0",
                                        "alloc:rank=0:nth=-1",
                                        "alloc:rank=0:nth=1x",
                                        "alloc:rank=0:nth=1:",
                                        "alloc:rank=:nth=1",
                                        "alloc:rank=3:nth=1", /* of 3 ranks */
                                        "alloc:rank=-1:nth=1",
                                        "alloc:nth=1:rank=0",
                                        "alloc:rank=0:nth=99999999999999999999",
                                        "allo:rank=0:nth=1",
                                        "allocs:rank=0:nth=1",
                                        ":rank=0:nth=1",
                                        " alloc:rank=0:nth=1",
                                        "alloc:rank=0 nth=1"};

    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) expect_refused(texts[i]);
}

Test(fault, one_call_fails_once_on_its_rank)
{
    const mp_fault_plan plan = {MP_FAULT_ALLOC, 1, 2};
    char *pointer = NULL;

    mp_fault_arm(&plan, 0);
    for (int i = 0; i < 4; i++) {
        EXPECT_OK(MP_NEW(pointer, 8, "a buffer"));
        mp_free(pointer);
    }
    cr_assert_eq(mp_fault_calls(MP_FAULT_ALLOC), 4);
    mp_fault_arm(&plan, 1);
    for (int i = 1; i <= 4; i++) {
        if (i == 2) {
            EXPECT_FAILURE(MP_NEW(pointer, 8, "a buffer"), MP_ERR_NOMEM, "a buffer");
            cr_assert_null(pointer);
        } else {
            EXPECT_OK(MP_NEW(pointer, 8, "a buffer"));
        }
        mp_free(pointer);
    }
    EXPECT_NO_LEAKS();
}

Test(fault, nothing_is_counted_unless_it_is_armed)
{
    const mp_fault_plan count = {.nth = 0};
    char *pointer = NULL;

    mp_fault_arm(&count, 0);
    mp_fault_arm(NULL, 0);
    EXPECT_OK(MP_NEW(pointer, 8, "a buffer"));
    mp_free(pointer);
    cr_assert_eq(mp_fault_calls(MP_FAULT_ALLOC), 0);
}

/* The first call at `site` fails in `call`, with the path and the words of the system. */
#define EXPECT_FAULT(fault_site, call, words)                                                      \
    do {                                                                                           \
        const mp_fault_plan plan_ = {fault_site, 0, 1};                                            \
                                                                                                   \
        mp_fault_arm(&plan_, 0);                                                                   \
        EXPECT_FAILURE(call, MP_ERR_IO, "/file", words);                                           \
        mp_fault_arm(NULL, 0);                                                                     \
    } while (0)

Test(fault, files_fail_as_if_the_system_had_refused)
{
    const char *dir = scratch_make(), *path = path_in(dir, "file");
    char *bytes = NULL;
    size_t length;
    int fd;

    EXPECT_FAULT(MP_FAULT_CREATE, mp_file_write(path, "text", 4), "Permission denied");
    EXPECT_FAULT(MP_FAULT_WRITE, mp_file_write(path, "text", 4), "No space left");
    EXPECT_FAULT(MP_FAULT_RENAME, mp_file_write(path, "text", 4), "Permission denied");
    cr_assert(mp_directory_is_empty(dir), "a temporary file is left");
    EXPECT_OK(mp_file_write(path, "text", 4));
    EXPECT_FAULT(MP_FAULT_OPEN, mp_file_read(path, 100, &bytes, &length), "Input/output error");
    EXPECT_FAULT(MP_FAULT_READ, mp_file_read(path, 100, &bytes, &length), "Input/output error");
    EXPECT_FAULT(MP_FAULT_REMOVE, mp_path_remove(path), "Permission denied");
    EXPECT_OK(mp_file_open(path, O_RDONLY, &fd));
    EXPECT_FAULT(MP_FAULT_SYNC, mp_file_sync(fd, path), "Input/output error");
    close(fd);
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(fault, a_line_is_torn_where_the_disk_is_full)
{
    const char *dir = scratch_make(), *path = path_in(dir, "file");
    char *bytes = NULL;
    size_t length;

    EXPECT_OK(mp_file_append_line(path, "a whole line"));
    EXPECT_FAULT(MP_FAULT_WRITE, mp_file_append_line(path, "another line"), "No space left");
    EXPECT_OK(mp_file_read(path, 100, &bytes, &length));
    cr_assert_str_eq(bytes, "a whole line\nanother li");
    mp_free(bytes);
    scratch_remove(dir);
}
