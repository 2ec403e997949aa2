/* Launches every case of the worker on 1, 2, 3 and 4 ranks (one on 5): a crash, a deadlock or an abort stays
 * outside of the runner. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include <stdio.h>
#include <string.h>
#include <sys/wait.h>

enum { MOST_CASES = 256, RANKS = 4 };

struct launch {
    char name[96]; /* arrays, not pointers: Criterion copies it to another process */
    int ranks;
};

/* Five ranks have a grid of 2 x 2 and one beside it; fewer fill theirs. */
static const struct launch beside[] = {{"messages_of_moments_are_counted_dry", 5}};

enum { BESIDE = sizeof beside / sizeof beside[0] };

static struct launch launches[MOST_CASES * RANKS + BESIDE];

ParameterizedTestParameters(worker, holds)
{
    size_t count = 0;
    char name[96];
    FILE *list = popen(WORKER " --list", "r");

    while (list != NULL && fgets(name, sizeof name, list) != NULL && count < MOST_CASES * RANKS) {
        name[strcspn(name, "\n")] = '\0';
        for (int ranks = 1; ranks <= RANKS; ranks++) {
            strcpy(launches[count].name, name);
            launches[count++].ranks = ranks;
        }
    }
    if (list != NULL) pclose(list);
    for (int i = 0; i < BESIDE; i++) launches[count++] = beside[i];
    return cr_make_param_array(struct launch, launches, count);
}

ParameterizedTest(struct launch *l, worker, holds, .timeout = 300)
{
    static char out[1 << 16];
    char command[1024];
    size_t n;
    int status;
    FILE *p;

    snprintf(command, sizeof command,
             "timeout 280 %s --oversubscribe --bind-to none -n %d %s %s 2>&1 </dev/null", MPIEXEC,
             l->ranks, WORKER, l->name);
    p = popen(command, "r");
    cr_assert_not_null(p);
    n = fread(out, 1, sizeof out - 1, p);
    out[n] = '\0';
    status = pclose(p);
    if (strstr(out, "skipped:") != NULL && l->ranks == 1)
        fprintf(stderr, "%s: %.*s\n", l->name, (int)strcspn(strstr(out, "skipped:"), "\n"),
                strstr(out, "skipped:"));
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "%s on %d ranks\n%s", l->name,
              l->ranks, out);
}

/* Without this, a worker that cannot even list its cases would pass. */
Test(worker, lists_its_cases)
{
    char name[96];
    int count = 0;
    FILE *list = popen(WORKER " --list", "r");

    cr_assert_not_null(list);
    while (fgets(name, sizeof name, list) != NULL) count++;
    cr_assert_eq(pclose(list), 0);
    cr_assert_gt(count, 20);
}
