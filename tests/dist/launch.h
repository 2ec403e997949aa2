/* Running the program as a user does, from a Criterion test. */
#ifndef MPRESS_TESTS_LAUNCH_H
#define MPRESS_TESTS_LAUNCH_H

#include <criterion/criterion.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* What a launch printed (stdout and stderr, or what the arguments redirect) and its exit code. */
struct outcome {
    char text[1 << 16];
    int code;
};

/* What a shell command prints on stdout and stderr, and its exit code. */
static inline void run_shell(struct outcome *o, const char *command)
{
    FILE *p = popen(command, "r");
    size_t n = p != NULL ? fread(o->text, 1, sizeof o->text - 1, p) : 0;
    int status;

    o->text[n] = '\0';
    while (p != NULL && fgetc(p) != EOF) continue; /* what is too long must not stop the program */
    status = p != NULL ? pclose(p) : -1;
    o->code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* "program <arguments>" on `ranks` ranks; 0: without mpirun.  The shell reads the arguments:
 * redirections and variables are theirs to use.  What takes longer than `seconds` ends as code 124.
 */
static inline void launch_within(struct outcome *o, int seconds, int ranks, const char *program,
                                 const char *arguments)
{
    char command[4096], mpirun[256] = "";

    if (ranks > 0)
        snprintf(mpirun, sizeof mpirun, "%s --oversubscribe --bind-to none -n %d", MPIEXEC, ranks);
    snprintf(command, sizeof command, "{ timeout -k 5 %d %s %s %s; } 2>&1 </dev/null", seconds,
             mpirun, program, arguments);
    run_shell(o, command);
}

/* "mpress <arguments>", which may take ten minutes. */
static inline void launch(struct outcome *o, int ranks, const char *arguments)
{
    launch_within(o, 600, ranks, PROGRAM, arguments);
}

/* A directory of its own for a test, removed by scratch_remove. */
static inline void scratch_make(char path[64])
{
    strcpy(path, "/tmp/mpress-test-XXXXXX");
    if (mkdtemp(path) == NULL) abort();
}

/* The same, and the names that arguments may use: $S the scratch directory, $M a sound model, $G
 * its token files. */
static inline void places_make(char path[64])
{
    scratch_make(path);
    setenv("S", path, 1);
    setenv("M", MPRESS_DATA "/wikillama-5m", 1);
    setenv("G", MPRESS_DATA "/golden", 1);
}

static inline void scratch_remove(const char *path)
{
    char command[256];

    snprintf(command, sizeof command, "rm -rf '%s'", path);
    if (system(command) != 0) fprintf(stderr, "%s was not removed\n", path);
}

/* "mpress <arguments>" ends well within a minute. */
static inline void expect_success(struct outcome *o, int ranks, const char *arguments)
{
    launch_within(o, 60, ranks, PROGRAM, arguments);
    cr_assert_eq(o->code, 0, "%s on %d ranks: exit code %d\n%s", arguments, ranks, o->code,
                 o->text);
}

static inline void expect_true(const char *command)
{
    static struct outcome o;

    run_shell(&o, command);
    cr_assert_eq(o.code, 0, "%s: %s", command, o.text);
}

/* scratch/out/report.json; ended by json_decref. */
static inline json_t *read_report(const char *scratch, const char *out)
{
    char path[256];
    json_error_t error;
    json_t *report;

    snprintf(path, sizeof path, "%s/%s/report.json", scratch, out);
    report = json_load_file(path, 0, &error);
    cr_assert_not_null(report, "%s: %s", path, error.text);
    return report;
}

#endif
