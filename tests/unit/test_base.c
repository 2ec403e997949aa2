#include "mpress/error.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"

#include "helpers.h"

#include <fcntl.h>
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static mp_status fails_here(void)
{
    return mp_fail(MP_ERR_IO, "disk %s is full", "sda");
}

static mp_status passes_on(int *reached)
{
    mp_status st = MP_OK;

    MP_GO(fails_here());
    *reached = 1;
out:
    return st;
}

Test(error, the_first_message_reaches_the_caller_with_its_place)
{
    int reached = 0;

    EXPECT_FAILURE(passes_on(&reached), MP_ERR_IO, "disk sda is full");
    cr_assert_eq(reached, 0);
    cr_assert_eq(strncmp(mp_error_place(), "test_base.c:", 12), 0, "%s", mp_error_place());
}

Test(error, a_message_may_quote_the_one_before_it)
{
    fails_here();
    mp_fail(MP_ERR_MPI, "rank 3: %s", mp_error_message());
    cr_assert_str_eq(mp_error_message(), "rank 3: disk sda is full");
}

Test(error, a_message_is_one_line_and_is_cut_where_it_is_long)
{
    char name[3000];

    memset(name, 'x', sizeof name);
    name[sizeof name - 1] = '\0';
    mp_fail(MP_ERR_IO, "a\nb\tc\033[2J\x7f \303\244 %s", name);
    cr_assert_eq(strncmp(mp_error_message(), "a?b?c?[2J? \303\244 xxx", 15), 0);
    cr_assert_lt(strlen(mp_error_message()), 1024);
}

static void *message_of_a_new_thread(void *unused)
{
    (void)unused;
    return strdup(mp_error_message());
}

Test(error, messages_belong_to_a_thread)
{
    pthread_t thread;
    void *other = NULL;

    fails_here();
    cr_assert_eq(pthread_create(&thread, NULL, message_of_a_new_thread, NULL), 0);
    cr_assert_eq(pthread_join(thread, &other), 0);
    cr_assert_str_eq((char *)other, "");
    free(other);
}

Test(error, statuses_map_to_the_exit_codes_that_scripts_rely_on)
{
    static const struct {
        mp_status status;
        int code;
    } codes[] = {
        {MP_OK, 0},           {MP_ERR_ARG, 64},    {MP_ERR_NOFIT, 64},    {MP_ERR_FORMAT, 65},
        {MP_ERR_NUMERIC, 65}, {MP_ERR_NOMEM, 70},  {MP_ERR_INTERNAL, 70}, {MP_ERR_MPI, 70},
        {MP_ERR_IO, 74},      {MP_ERR_STOPPED, 75}};

    for (size_t i = 0; i < sizeof codes / sizeof *codes; i++) {
        cr_assert_eq(mp_exit_code(codes[i].status), codes[i].code);
        cr_assert_gt(strlen(mp_status_text(codes[i].status)), 0);
    }
    cr_assert_eq(mp_exit_code((mp_status)1000), 70);
    cr_assert_str_eq(mp_status_text((mp_status)1000), "unknown status");
}

Test(memory, blocks_are_aligned_counted_and_zeroed)
{
    double *numbers = NULL;
    char *nothing = NULL;

    EXPECT_OK(MP_NEW(numbers, 100, "numbers"));
    EXPECT_OK(MP_NEW_RAW(nothing, 0, "nothing"));
    cr_assert_not_null(nothing);
    cr_assert_eq((uintptr_t)numbers % 64, 0);
    cr_assert_eq((uintptr_t)nothing % 64, 0);
    for (int i = 0; i < 100; i++) cr_assert_eq(numbers[i], 0.0);
    cr_assert_eq(mp_memory_balance(), 2);
    cr_assert_eq(mp_memory_bytes(), 800);
    mp_free(numbers);
    mp_free(nothing);
    mp_free(NULL);
    cr_assert_eq(mp_memory_balance(), 0);
    cr_assert_eq(mp_memory_bytes(), 0);
    cr_assert_gt(mp_memory_peak(), 1 << 20);
}

/* A block larger than what malloc keeps aside per thread is likely to be handed out again. */
Test(memory, used_memory_is_zeroed_again)
{
    enum { COUNT = 10000 };
    double *numbers = NULL;

    EXPECT_OK(MP_NEW_RAW(numbers, COUNT, "numbers"));
    memset(numbers, 0xff, COUNT * sizeof *numbers);
    mp_free(numbers);
    EXPECT_OK(MP_NEW(numbers, COUNT, "numbers"));
    for (int i = 0; i < COUNT; i++) cr_assert_eq(numbers[i], 0.0);
    mp_free(numbers);
    EXPECT_NO_LEAKS();
}

Test(memory, impossible_sizes_name_the_buffer)
{
    double *numbers = (double *)&numbers;

    EXPECT_FAILURE(MP_NEW(numbers, -1, "hidden states"), MP_ERR_NOMEM, "hidden states", "-1");
    cr_assert_null(numbers);
    EXPECT_FAILURE(MP_NEW(numbers, INT64_MAX, "hidden states"), MP_ERR_NOMEM, "hidden states");
    EXPECT_FAILURE(MP_NEW(numbers, INT64_MAX / 8, "hidden states"), MP_ERR_NOMEM, "hidden states");
#ifndef __SANITIZE_ADDRESS__ /* which ends the program at such a request */
    EXPECT_FAILURE(MP_NEW_RAW(numbers, (int64_t)1 << 53, "hidden states"), MP_ERR_NOMEM,
                   "hidden states", "could not allocate 68719476736.0 MiB");
#endif
    EXPECT_NO_LEAKS();
}

/* A file of a kernel that is made up, below `root`; folders are made on the way. */
static void kernel_file(const char *root, const char *name, const char *text)
{
    char path[512];

    snprintf(path, sizeof path, "%s%s", root, name);
    for (char *slash = strchr(path + strlen(root) + 1, '/'); slash != NULL;
         slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        mkdir(path, 0700);
        *slash = '/';
    }
    write_text(path, text);
}

static void group_file(const char *root, const char *group, const char *name, const char *text)
{
    char path[256];

    snprintf(path, sizeof path, "/sys/fs/cgroup%s/%s", group, name);
    kernel_file(root, path, text);
}

Test(memory, what_is_free_is_the_least_of_a_job_and_all_above_it)
{
    const char *root = scratch_make();

    cr_assert(isinf(mp_memory_available_below(root)));
    kernel_file(root, "/proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n");
    cr_assert_float_eq(mp_memory_available_below(root), 4096000.0, 0.5);
    /* a job of Slurm: the step has no limit, the job has one, of which cached files are given back */
    kernel_file(root, "/proc/self/cgroup", "0::/slurm/job_7/step_0\n");
    group_file(root, "/slurm/job_7/step_0", "memory.max", "max\n");
    group_file(root, "/slurm/job_7/step_0", "memory.current", "900000\n");
    group_file(root, "/slurm/job_7", "memory.max", "1000000\n");
    group_file(root, "/slurm/job_7", "memory.current", "950000\n");
    group_file(root, "/slurm/job_7", "memory.stat",
               "anon 50000\nfile 900000\ninactive_file 600000\nactive_file 200000\n");
    cr_assert_float_eq(mp_memory_available_below(root), 850000.0, 0.5);
    /* the tightest of the groups counts, wherever it is */
    group_file(root, "/slurm", "memory.max", "1500000\n");
    group_file(root, "/slurm", "memory.current", "1400000\n");
    cr_assert_float_eq(mp_memory_available_below(root), 100000.0, 0.5);
    group_file(root, "/slurm", "memory.current", "1600000\n");
    cr_assert_eq(mp_memory_available_below(root), 0.0);
    scratch_remove(root);
}

Test(memory, limits_of_the_first_version_of_control_groups_count)
{
    const char *root = scratch_make();

    kernel_file(root, "/proc/meminfo", "MemAvailable: 4000 kB\n");
    kernel_file(root, "/proc/self/cgroup",
                "9:name=systemd:/\n5:cpu,memory:/slurm/job_7\n0::/elsewhere\n");
    group_file(root, "/memory", "memory.limit_in_bytes", "9223372036854771712\n");
    group_file(root, "/memory", "memory.usage_in_bytes", "7000000\n");
    cr_assert_float_eq(mp_memory_available_below(root), 4096000.0, 0.5);
    group_file(root, "/memory/slurm/job_7", "memory.limit_in_bytes", "1000000\n");
    group_file(root, "/memory/slurm/job_7", "memory.usage_in_bytes", "990000\n");
    group_file(root, "/memory/slurm/job_7", "memory.stat",
               "inactive_file 1\ntotal_inactive_file 300000\ntotal_active_file 20000\n");
    cr_assert_float_eq(mp_memory_available_below(root), 330000.0, 0.5);
    /* in a container the path may be that of the host, and the top its own group */
    kernel_file(root, "/proc/self/cgroup", "5:memory:/docker/0123\n");
    group_file(root, "/memory", "memory.limit_in_bytes", "7100000\n");
    cr_assert_float_eq(mp_memory_available_below(root), 100000.0, 0.5);
    scratch_remove(root);
}

Test(memory, a_string_is_copied_whole)
{
    char *copy = NULL;

    EXPECT_OK(mp_strdup("caf\303\251", &copy));
    cr_assert_str_eq(copy, "caf\303\251");
    mp_free(copy);
    EXPECT_NO_LEAKS();
}

Test(fileio, a_file_is_written_in_one_step_and_read_back)
{
    const char *dir = scratch_make(), *path = path_in(dir, "a");
    char *bytes = NULL;
    size_t length = 0;

    EXPECT_OK(mp_file_write(path, "a\0b", 3));
    EXPECT_OK(mp_file_read(path, 3, &bytes, &length));
    cr_assert(length == 3 && memcmp(bytes, "a\0b", 4) == 0);
    mp_free(bytes);
    cr_assert_not(mp_path_exists(path_in(dir, "a.tmp")));
    EXPECT_FAILURE(mp_file_read(path, 2, &bytes, &length), MP_ERR_FORMAT, path, "3 bytes",
                   "at most 2");
    EXPECT_FAILURE(mp_file_read(path_in(dir, "b"), 9, &bytes, &length), MP_ERR_IO, "/b",
                   "No such file");
    EXPECT_FAILURE(mp_file_read(dir, 9, &bytes, &length), MP_ERR_IO, dir, "not a regular file");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(fileio, a_failed_write_leaves_the_old_file_and_nothing_else)
{
    const char *dir = scratch_make(), *path = path_in(dir, "a");
    struct rlimit limit = {16, 16};
    char large[4096] = {0}, *bytes = NULL;
    size_t length = 0;

    EXPECT_OK(mp_file_write(path, "old", 3));
    signal(SIGXFSZ, SIG_IGN);
    cr_assert_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    cr_assert_eq(mp_file_write(path, large, sizeof large), MP_ERR_IO);
    cr_assert_not_null(strstr(mp_error_message(), "File too large"), "%s", mp_error_message());
    EXPECT_OK(mp_file_read(path, 16, &bytes, &length));
    cr_assert_str_eq(bytes, "old");
    cr_assert_not(mp_path_exists(path_in(dir, "a.tmp")));
    mp_free(bytes);
    EXPECT_FAILURE(mp_file_write(path_in(dir, "none/a"), "x", 1), MP_ERR_IO, "none/a",
                   "No such file");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(fileio, ranges_are_exact)
{
    const char *dir = scratch_make(), *path = path_in(dir, "a");
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    char bytes[4] = {0};

    EXPECT_OK(mp_file_pwrite(fd, path, "abcdef", 6, 2));
    EXPECT_OK(mp_file_pread(fd, path, bytes, 4, 4));
    cr_assert_eq(memcmp(bytes, "cdef", 4), 0);
    EXPECT_OK(mp_file_pread(fd, path, bytes, 0, 100));
    EXPECT_FAILURE(mp_file_pread(fd, path, bytes, 4, 5), MP_ERR_FORMAT, path, "ends 1 bytes");
    close(fd);
    EXPECT_FAILURE(mp_file_pread(-1, "gone", bytes, 1, 0), MP_ERR_IO, "gone",
                   "Bad file descriptor");
    EXPECT_FAILURE(mp_file_pwrite(-1, "gone", bytes, 1, 0), MP_ERR_IO, "gone",
                   "Bad file descriptor");
    scratch_remove(dir);
}

Test(fileio, offsets_beyond_two_gib_work)
{
    const char *dir = scratch_make(), *path = path_in(dir, "sparse");
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    const uint64_t far = ((uint64_t)5 << 30) + 7;
    char bytes[2];

    EXPECT_OK(mp_file_pwrite(fd, path, "xy", 2, far));
    EXPECT_OK(mp_file_pread(fd, path, bytes, 2, far));
    cr_assert_eq(memcmp(bytes, "xy", 2), 0);
    close(fd);
    scratch_remove(dir);
}

Test(fileio, lines_are_appended_and_files_copied)
{
    const char *dir = scratch_make(), *path = path_in(dir, "log"), *copy = path_in(dir, "copy");
    char *bytes = NULL;
    size_t length;

    EXPECT_OK(mp_file_append_line(path, "one"));
    EXPECT_OK(mp_file_append_line(path, "two"));
    EXPECT_OK(mp_file_copy(path, copy));
    EXPECT_OK(mp_file_read(copy, 99, &bytes, &length));
    cr_assert_str_eq(bytes, "one\ntwo\n");
    mp_free(bytes);
    EXPECT_FAILURE(mp_file_append_line(path_in(dir, "x/log"), "a"), MP_ERR_IO, "x/log");
    EXPECT_FAILURE(mp_file_append_line("/dev/full", "a"), MP_ERR_IO, "/dev/full", "No space");
    EXPECT_FAILURE(mp_file_copy(path_in(dir, "none"), copy), MP_ERR_IO, "none", "No such file");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(fileio, directories_are_made_with_their_parents_and_removed_with_their_children)
{
    const char *dir = scratch_make(), *deep = path_in(dir, "a/b/c"), *file = path_in(deep, "f");
    const char *outside = path_in(dir, "kept");

    EXPECT_OK(mp_directory_make(deep));
    EXPECT_OK(mp_directory_make(deep));
    cr_assert(mp_path_is_directory(deep) && mp_directory_is_empty(deep));
    write_text(file, "x");
    cr_assert_not(mp_directory_is_empty(deep));
    cr_assert_not(mp_directory_is_empty(file));
    cr_assert(mp_directory_is_empty(path_in(dir, "none")));
    EXPECT_FAILURE(mp_directory_make(path_in(file, "d")), MP_ERR_IO, "Not a directory");
    EXPECT_FAILURE(mp_directory_make(file), MP_ERR_IO, file, "not a directory");
    EXPECT_OK(mp_directory_make(outside));
    write_text(path_in(outside, "f"), "x");
    cr_assert_eq(symlink(outside, path_in(deep, "link")), 0);
    EXPECT_OK(mp_path_remove(path_in(dir, "a")));
    cr_assert_not(mp_path_exists(path_in(dir, "a")));
    cr_assert(mp_path_exists(path_in(outside, "f")), "a link was followed");
    EXPECT_OK(mp_path_remove(path_in(dir, "a")));
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

static void expect_join(const char *dir, const char *name, const char *expected)
{
    char *path = NULL;

    EXPECT_OK(mp_path_join(dir, name, &path));
    cr_assert_str_eq(path, expected);
    mp_free(path);
}

Test(fileio, paths_are_joined_with_one_slash)
{
    expect_join("a", "b", "a/b");
    expect_join("a/", "b", "a/b");
    expect_join("/", "b", "/b");
    expect_join("", "b", "b");
    EXPECT_NO_LEAKS();
}

/* RFC 3720, B.4: 32 bytes of zeros, of ones, and 0 .. 31. */
Test(fileio, checksums_are_those_of_rfc_3720_and_continue)
{
    unsigned char zeros[32] = {0}, ones[32], rising[32];

    memset(ones, 0xff, sizeof ones);
    for (int i = 0; i < 32; i++) rising[i] = (unsigned char)i;
    cr_assert_eq(mp_crc32c(0, zeros, 32), 0x8a9136aau);
    cr_assert_eq(mp_crc32c(0, ones, 32), 0x62a8ab43u);
    cr_assert_eq(mp_crc32c(0, rising, 32), 0x46dd794eu);
    cr_assert_eq(mp_crc32c(mp_crc32c(0, rising, 11), rising + 11, 21), 0x46dd794eu);
    cr_assert_eq(mp_crc32c(5, zeros, 0), 5);
    for (size_t length = 0; length <= 32; length++)
        cr_assert_eq(mp_crc32c_portable(7, rising, length), mp_crc32c(7, rising, length));
}
