/* mpress plan against the runs it foretells: bytes exactly, memory within a tenth; what does not fit is
 * refused.  Times are a matter of the machine, and of no test. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include "launch.h"

#include <math.h>

#define CALIB " --calib $G/calib.safetensors --nsamples 7 --seqlen 96"
#define TOKENS " --tokens 672 --seqlen 96"

struct run {
    int ranks;
    char options[64]; /* of both commands */
    char more[32];    /* of compress alone */
};

static struct run runs[] = {
    {1, "--method sparsegpt", "--sparsity 2:4"},
    {2, "--method sparsegpt --propagate linear", "--sparsity 2:4"},
    {3, "--method sparsegpt", "--sparsity 0.5"},
    {4, "--method wanda --propagate dense", ""},
    {3, "--method gptq --bits 3 --group-size 64 --asym", ""},
    {2, "--method sparsegpt --bits 4 --group-size channel", "--sparsity 2:4"},
    {3, "--method asvd+ --ratio 0.6", ""},
    {2, "--method asvd", ""},
    {3, "--method asvd+ --batch 4", ""},
};

ParameterizedTestParameters(plan, counts_the_bytes_of_a_run)
{
    return cr_make_param_array(struct run, runs, sizeof runs / sizeof runs[0]);
}

static json_t *read_plan(const char *scratch)
{
    char path[128];
    json_error_t error;
    json_t *plan;

    snprintf(path, sizeof path, "%s/plan.json", scratch);
    plan = json_load_file(path, 0, &error);
    cr_assert_not_null(plan, "%s", error.text);
    return plan;
}

static double number(const json_t *of, const char *group, const char *name)
{
    return json_number_value(json_object_get(json_object_get(of, group), name));
}

ParameterizedTest(struct run *r, plan, counts_the_bytes_of_a_run, .timeout = 120)
{
    static struct outcome o;
    char scratch[64], command[512];
    json_t *plan, *report, *phase;
    const char *name;

    places_make(scratch);
    snprintf(command, sizeof command,
             "plan $M %s --ranks %d --ranks-per-node %d" TOKENS
             " --gflops 100 --json >$S/plan.json",
             r->options, r->ranks, r->ranks);
    expect_success(&o, 0, command);
    snprintf(command, sizeof command, "compress $M $S/out %s %s" CALIB, r->options, r->more);
    expect_success(&o, r->ranks, command);
    plan = read_plan(scratch);
    report = read_report(scratch, "out");
    json_object_foreach (json_object_get(report, "phases"), name, phase)
        cr_expect_eq(json_integer_value(json_object_get(phase, "bytes_moved")),
                     (json_int_t)json_number_value(json_object_get(
                         json_object_get(json_object_get(plan, "phases"), name), "bytes_moved")),
                     "%s on %d ranks: %s", r->options, r->ranks, name);
    cr_expect_eq(json_integer_value(json_object_get(report, "bytes_moved")),
                 json_integer_value(json_object_get(plan, "bytes_moved")));
    cr_expect_eq(json_integer_value(json_object_get(json_object_get(report, "bytes"), "stored")),
                 (json_int_t)number(plan, "disk", "hf"));
    json_decref(plan);
    json_decref(report);
    scratch_remove(scratch);
}

Test(plan, foretells_memory_within_a_tenth, .timeout = 300)
{
    static struct outcome o;

    for (int ranks = 1; ranks <= 2; ranks++) {
        char scratch[64];
        json_t *plan, *report;
        double planned, peak;

        places_make(scratch);
        expect_success(&o, ranks,
                       "plan $M --dir $S --tokens 8192 --seqlen 256 --json >$S/plan.json");
        expect_success(&o, ranks, "compress $M $S/out --sparsity 2:4 --calib $G/calib.safetensors");
        plan = read_plan(scratch);
        report = read_report(scratch, "out");
        planned = number(plan, "memory", "node");
        peak = json_number_value(json_object_get(report, "peak_bytes"));
        cr_expect_lt(fabs(planned / peak - 1.0), 0.1, "%d ranks: %.0f planned, %.0f measured",
                     ranks, planned, peak);
        json_decref(plan);
        json_decref(report);
        scratch_remove(scratch);
    }
}

/* A 70B model on 64 ranks: a job that no machine of a test could run. */
Test(plan, plans_for_ranks_that_are_not_there, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];
    json_t *plan;

    places_make(scratch);
    setenv("C", MPRESS_SOURCE "/mpi-runs/shapes/llama-3.1-70b.json", 1);
    expect_success(&o, 0,
                   "plan $C --ranks 64 --ranks-per-node 4 --gflops 1000 --disk-gbs 1 --net-gbs 10 "
                   "--mem-per-rank 16G --json >$S/plan.json");
    plan = read_plan(scratch);
    cr_expect_eq(number(plan, "memory", "rank") < 16.0 * (1 << 30), 1);
    cr_expect_eq(json_integer_value(json_object_get(plan, "nodes")), 16);
    cr_expect_gt(json_integer_value(json_object_get(plan, "least_nodes")), 0);
    cr_expect_leq(json_integer_value(json_object_get(plan, "least_nodes")), 16);
    cr_expect_geq(number(plan, "disk", "hidden_written"), number(plan, "disk", "hidden"));
    cr_expect_eq(json_integer_value(json_object_get(plan, "batch")), 1);
    json_decref(plan);
    /* factors: as many blocks side by side as the ranks have room for */
    expect_success(&o, 0,
                   "plan $C --ranks 64 --ranks-per-node 4 --gflops 1000 --disk-gbs 1 --net-gbs 10 "
                   "--method asvd+ --mem-per-rank 16G --json >$S/plan.json");
    plan = read_plan(scratch);
    cr_expect_gt(json_integer_value(json_object_get(plan, "batch")), 1);
    cr_expect_leq(number(plan, "memory", "rank"), 16.0 * (1 << 30));
    json_decref(plan);
    launch(&o, 0,
           "plan $C --ranks 4 --ranks-per-node 4 --gflops 1000 --disk-gbs 1 --mem-per-rank 5G "
           "2>&1 >/dev/null");
    cr_expect_eq(o.code, 64);
    cr_expect(strstr(o.text, "--mem-per-rank: 5.00 GiB, but a rank needs") != NULL, "%s", o.text);
    cr_expect(strstr(o.text, "nodes of 4 ranks would do") != NULL, "%s", o.text);
    scratch_remove(scratch);
}

/* Where nothing will do, that is found out without a look at a million ranks. */
Test(plan, says_at_once_that_no_number_of_nodes_will_do, .timeout = 30)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    setenv("C", MPRESS_SOURCE "/mpi-runs/shapes/llama-2-70b.json", 1);
    launch(&o, 0,
           "plan $C --ranks 64 --ranks-per-node 64 --gflops 100 --disk-gbs 1 --mem-per-rank 1G "
           "2>&1 | grep -v '^ '");
    cr_expect(strstr(o.text, "no number of nodes of 64 ranks will do") != NULL, "%s", o.text);
    launch(&o, 0,
           "plan $C --ranks 64 --ranks-per-node 64 --gflops 100 --disk-gbs 1 --mem-per-rank 1500M "
           "--blocksize 32 2>&1 | grep -v '^ '");
    cr_expect(strstr(o.text, "nodes of 64 ranks would") != NULL, "%s", o.text);
    scratch_remove(scratch);
}

Test(plan, compress_refuses_what_will_not_fit_before_it_begins, .timeout = 120)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    launch(&o, 2, "compress $M $S/out --sparsity 2:4 --mem-per-rank 20M" CALIB);
    cr_expect_eq(o.code, 64);
    cr_expect(strstr(o.text, "--mem-per-rank: 20.00 MiB, but a rank needs") != NULL, "%s", o.text);
    expect_true("test ! -e $S/out");
    launch(&o, 1, "compress $M $S/out --sparsity 2:4 --mem-per-rank much" CALIB);
    cr_expect_eq(o.code, 64);
    cr_expect(strstr(o.text, "--mem-per-rank much: expected bytes") != NULL, "%s", o.text);
    expect_success(&o, 1, "compress $M $S/out --sparsity 2:4 --mem-per-rank 2G" CALIB);
    /* where nothing is left to do nothing is needed */
    expect_success(&o, 2, "compress $M $S/out --sparsity 2:4 --mem-per-rank 20M" CALIB);
    cr_expect(strstr(o.text, "finished already") != NULL, "%s", o.text);
    launch(&o, 2, "compress $M $S/out --overwrite --sparsity 2:4 --mem-per-rank 20M" CALIB);
    cr_expect_eq(o.code, 64);
    expect_true("test -e $S/out/report.json");
    scratch_remove(scratch);
}
