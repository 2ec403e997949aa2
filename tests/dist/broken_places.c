#include "broken_places.h"

#include "broken_models.h"
#include "launch.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <sys/mount.h>
#include <sys/stat.h>

static void write_file(const char *scratch, const char *name, const void *bytes, size_t size)
{
    char path[512];
    FILE *file;

    snprintf(path, sizeof path, "%s/%s", scratch, name);
    file = fopen(path, "wb");
    cr_assert_not_null(file, "%s", path);
    cr_assert_eq(fwrite(bytes, 1, size, file), size);
    cr_assert_eq(fclose(file), 0);
}

static void write_text(const char *scratch, const char *name, const char *text)
{
    write_file(scratch, name, text, strlen(text));
}

/* A token file; `shape` as JSON. */
static void write_tokens(const char *scratch, const char *dtype, const char *shape,
                         const void *data, size_t size)
{
    char file[8192];
    int length = snprintf(file + 8, 512,
                          "{\"tokens\":{\"dtype\":\"%s\",\"shape\":%s,\"data_offsets\":[0,%zu]}}",
                          dtype, shape, size);

    cr_assert_lt(size, sizeof file - 520);
    for (int i = 0; i < 8; i++) file[i] = (char)((uint64_t)length >> 8 * i & 0xff);
    memcpy(file + 8 + length, data, size);
    write_file(scratch, "data.safetensors", file, 8 + (size_t)length + size);
}

void short_text(const char *scratch)
{
    write_text(scratch, "data.txt",
               "the war was over and the old town on the river lay in ruins for many years "
               "after it had ended");
}

void short_documents(const char *scratch)
{
    write_text(scratch, "data.jsonl",
               "{\"text\": \"a short one\"}\n{\"text\": \"\"}\n"
               "{\"text\": \"and one that is a little longer, but not by much\"}\n");
}

void short_tokens(const char *scratch)
{
    int32_t ids[20] = {0};

    write_tokens(scratch, "I32", "[20]", ids, sizeof ids);
}

static void write_bad_id(const char *scratch, int32_t id)
{
    int32_t ids[4 * 64] = {0};

    ids[1 * 64 + 36] = id;
    write_tokens(scratch, "I32", "[4,64]", ids, sizeof ids);
}

void id_outside_the_vocabulary(const char *scratch)
{
    write_bad_id(scratch, 4096);
}

void negative_id(const char *scratch)
{
    write_bad_id(scratch, -3);
}

void tokens_of_another_dtype(const char *scratch)
{
    int64_t ids[4 * 64] = {0};

    write_tokens(scratch, "I64", "[4,64]", ids, sizeof ids);
}

void documents_that_are_not_json(const char *scratch)
{
    write_text(scratch, "data.jsonl", "{\"text\": \"a document\"}\n{\"text\": oops}\n");
}

void files_of_somebody_else(const char *scratch)
{
    char path[512];

    snprintf(path, sizeof path, "%s/out", scratch);
    cr_assert_eq(mkdir(path, 0777), 0);
    write_text(scratch, "out/thesis.tex", "years of work");
}

void a_file_in_the_way(const char *scratch)
{
    write_text(scratch, "out", "years of work");
}

/* A quick run of "model" into scratch/out, which must end as `code` says. */
static void run(const char *scratch, const char *model, int code)
{
    static struct outcome o;
    char arguments[1024];

    snprintf(arguments, sizeof arguments,
             "compress %s %s/out --method magnitude --sparsity 2:4 --no-export", model, scratch);
    launch_within(&o, 60, 0, PROGRAM, arguments);
    cr_assert_eq(o.code, code, "%s", o.text);
}

void an_unfinished_run(const char *scratch)
{
    char model[512];

    snprintf(model, sizeof model, "%s/model", scratch);
    nan_in_a_linear(scratch);
    run(scratch, model, 65);
}

void a_finished_run(const char *scratch)
{
    run(scratch, MPRESS_DATA "/wikillama-5m", 0);
}

void a_run_with_a_cut_block(const char *scratch)
{
    char path[512];

    a_finished_run(scratch);
    snprintf(path, sizeof path, "%s/out/blocks/00004.h5", scratch);
    cr_assert_eq(truncate(path, 100000), 0);
}

/* A file system of its own at scratch/out, seen by this test and what it starts only, so that it
 * goes with the test however that ends. */
static void mount_there(const char *scratch, unsigned long flags, const char *options)
{
    char path[512], why[256];

    snprintf(path, sizeof path, "%s/out", scratch);
    cr_assert_eq(mkdir(path, 0777), 0);
    if (unshare(CLONE_NEWNS) == 0 && mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
        mount("mpress-test", path, "tmpfs", flags, options) == 0)
        return;
    snprintf(why, sizeof why, "skipped: mounting a file system failed: %s", strerror(errno));
    scratch_remove(scratch);
    fprintf(stderr, "%s\n", why);
    cr_skip_test("%s", why);
}

void read_only_place(const char *scratch)
{
    mount_there(scratch, MS_RDONLY, "size=64m");
}

void disk_of_1_mib(const char *scratch)
{
    mount_there(scratch, 0, "size=1m");
}

void disk_of_4_mib(const char *scratch)
{
    mount_there(scratch, 0, "size=4m");
}

void disk_of_16_mib(const char *scratch)
{
    mount_there(scratch, 0, "size=16m");
}

void unmount(const char *scratch)
{
    char path[512];

    snprintf(path, sizeof path, "%s/out", scratch);
    (void)umount2(path, MNT_DETACH); /* fails where nothing is mounted */
}
