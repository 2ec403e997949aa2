/* Running the program as a user does, from a Criterion test. */
#ifndef MPRESS_TESTS_LAUNCH_H
#define MPRESS_TESTS_LAUNCH_H

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

/* "mpress <arguments>" on `ranks` ranks; 0: without mpirun.  A hang ends as code 124. */
static inline void launch(struct outcome *o, int ranks, const char *arguments)
{
    char command[4096], mpirun[256] = "";
    size_t n = 0;
    int status;
    FILE *p;

    if (ranks > 0)
        snprintf(mpirun, sizeof mpirun, "%s --oversubscribe --bind-to none -n %d", MPIEXEC, ranks);
    snprintf(command, sizeof command, "timeout 600 %s %s %s 2>&1 </dev/null", mpirun, PROGRAM, arguments);
    p = popen(command, "r");
    if (p != NULL) n = fread(o->text, 1, sizeof o->text - 1, p);
    o->text[n] = '\0';
    status = p != NULL ? pclose(p) : -1;
    o->code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* A directory of its own for a test, removed by scratch_remove. */
static inline void scratch_make(char path[64])
{
    strcpy(path, "/tmp/mpress-test-XXXXXX");
    if (mkdtemp(path) == NULL) abort();
}

static inline void scratch_remove(const char *path)
{
    char command[256];

    snprintf(command, sizeof command, "rm -rf '%s'", path);
    if (system(command) != 0) fprintf(stderr, "%s was not removed\n", path);
}

#endif
