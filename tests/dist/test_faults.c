/* Failures on purpose: every place that can fail is made to (fault_walk.c tells how and what must hold). */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include "launch.h"

/* On this many ranks. */
ParameterizedTestParameters(faults, leave_no_rank_alone_and_nothing_behind)
{
    static int ranks[] = {1, 2, 3};

    return cr_make_param_array(int, ranks, 3);
}

ParameterizedTest(int *ranks, faults, leave_no_rank_alone_and_nothing_behind, .timeout = 1000)
{
    static struct outcome o;

    setenv("OMPI_MCA_mpi_yield_when_idle", "1", 1); /* thousands of short waits */
    launch_within(&o, 900, *ranks, WALK, "quick");
    cr_assert_eq(o.code, 0, "on %d ranks: exit code %d\n%s", *ranks, o.code, o.text);
    fprintf(stderr, "%s", o.text);
}

Test(faults, a_walk_complains_of_what_is_defective, .timeout = 60)
{
    static struct outcome o;

    launch_within(&o, 50, 2, WALK, "calls defective");
    cr_assert_eq(o.code, 1, "exit code %d\n%s", o.code, o.text);
    cr_assert_not_null(strstr(o.text, "leaks 1 allocations"), "%s", o.text);
    cr_assert_not_null(strstr(o.text, "the ranks disagree"), "%s", o.text);
    cr_assert_not_null(strstr(o.text, "another result, and no error"), "%s", o.text);
}

/* Lines that begin with "mpress: error: ". */
static int errors_in(const char *text)
{
    int count = 0;

    for (; (text = strstr(text, "mpress: error: ")) != NULL; text++) count++;
    return count;
}

Test(faults, a_plan_that_cannot_be_read_is_a_usage_error_in_one_line, .timeout = 60)
{
    static struct outcome o;

    setenv("MPRESS_FAULT", "alloc:rank=2:nth=1", 1);
    launch_within(&o, 50, 2, PROGRAM, "inspect " MPRESS_DATA "/wikillama-5m");
    cr_assert_eq(o.code, 64, "exit code %d\n%s", o.code, o.text);
    cr_assert_eq(errors_in(o.text), 1, "%s", o.text);
    cr_assert_not_null(strstr(o.text, "MPRESS_FAULT=alloc:rank=2:nth=1: expected"), "%s", o.text);
}

Test(faults, the_program_says_that_they_are_on_purpose, .timeout = 60)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    setenv("MPRESS_FAULT", "write:rank=0:nth=3", 1);
    launch_within(&o, 50, 2, PROGRAM,
                  "compress $M $S/out --method magnitude --sparsity 2:4 --no-export");
    cr_assert_eq(o.code, 74, "exit code %d\n%s", o.code, o.text);
    cr_assert_not_null(strstr(o.text, "warning: MPRESS_FAULT: "), "%s", o.text);
    cr_assert_not_null(strstr(o.text, "No space left on device"), "%s", o.text);
    cr_assert_eq(errors_in(o.text), 1, "%s", o.text);
    unsetenv("MPRESS_FAULT");
    launch_within(&o, 50, 2, PROGRAM,
                  "compress $M $S/out --method magnitude --sparsity 2:4 --no-export");
    cr_assert_eq(o.code, 0, "exit code %d\n%s", o.code, o.text);
    scratch_remove(scratch);
}
