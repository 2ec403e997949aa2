/* Whole runs against reference perplexities, and against themselves on other numbers of ranks. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include "launch.h"

#include <jansson.h>
#include <math.h>

/* A row of perplexity.json, and the options that stand for its name. */
struct row {
    char model[256], golden[256]; /* arrays: Criterion copies them to another process */
    char name[64], options[128];
};

static const struct {
    const char *name, *options;
} runs[] = {
    {"magnitude 50%", "--method magnitude --sparsity 0.5"},
    {"sparsegpt 50% block", "--method sparsegpt --sparsity 0.5"},
    {"sparsegpt 50% linear", "--method sparsegpt --sparsity 0.5 --propagate linear"},
    {"sparsegpt 2:4 block", "--method sparsegpt --sparsity 2:4"},
    {"sparsegpt 2:4 block r=0.25", "--method sparsegpt --sparsity 2:4 --state-ratio 0.25"},
    {"sparsegpt 2:4 linear", "--method sparsegpt --sparsity 2:4 --propagate linear"},
    {"sparsegpt 4:8 block", "--method sparsegpt --sparsity 4:8"},
    {"sparsegpt 4:8 linear", "--method sparsegpt --sparsity 4:8 --propagate linear"},
    {"wanda 50% block", "--method wanda --sparsity 0.5"},
    {"wanda 50% linear", "--method wanda --sparsity 0.5 --propagate linear"},
    {"wanda 2:4 block", "--method wanda --sparsity 2:4"},
    {"wanda 2:4 block r=0.25", "--method wanda --sparsity 2:4 --state-ratio 0.25"},
    {"wanda 2:4 linear", "--method wanda --sparsity 2:4 --propagate linear"},
    {"wanda 4:8 block", "--method wanda --sparsity 4:8"},
    {"wanda 4:8 linear", "--method wanda --sparsity 4:8 --propagate linear"},
    {"asvd+ 0.8 dense", "--method asvd+ --ratio 0.8"},
    {"asvd+ 0.8 dense r=0.25", "--method asvd+ --ratio 0.8 --state-ratio 0.25"},
    {"asvd 0.8 dense", "--method asvd --ratio 0.8"},
    {"asvd 0.8 dense r=0.25", "--method asvd --ratio 0.8 --state-ratio 0.25"},
    {"rtn w8", "--method rtn --bits 8"},
    {"gptq w8 block", "--method gptq --bits 8"},
    {"gptq w8 block maca", "--method gptq --bits 8"},
    {"gptq w8 block static act-order", "--method gptq --bits 8 --act-order static"},
    {"gptq w8 block r=0.25", "--method gptq --bits 8 --state-ratio 0.25"},
    {"rtn w4", "--method rtn --bits 4"},
    {"gptq w4 block", "--method gptq --bits 4"},
    {"gptq w4 block maca", "--method gptq --bits 4"},
    {"gptq w4 block static act-order", "--method gptq --bits 4 --act-order static"},
    {"gptq w4 block r=0.25", "--method gptq --bits 4 --state-ratio 0.25"},
    {"rtn w3", "--method rtn --bits 3"},
    {"gptq w3 block", "--method gptq --bits 3"},
    {"gptq w3 block maca", "--method gptq --bits 3"},
    {"gptq w3 block static act-order", "--method gptq --bits 3 --act-order static"},
    {"gptq w3 block r=0.25", "--method gptq --bits 3 --state-ratio 0.25"},
};

enum { RUNS = sizeof runs / sizeof runs[0] };

static const char *const models[][2] = {
    {MPRESS_DATA "/wikillama-5m", MPRESS_DATA "/golden"},
    {MPRESS_SHARED "/models/stories260k", MPRESS_SHARED "/golden/stories260k"},
};

static struct row rows[2 * RUNS];

ParameterizedTestParameters(run, gives_the_reference_perplexity)
{
    size_t count = 0;

    for (int m = 0; m < 2; m++)
        for (int i = 0; i < RUNS; i++) {
            struct row *r = &rows[count++];

            snprintf(r->model, sizeof r->model, "%s", models[m][0]);
            snprintf(r->golden, sizeof r->golden, "%s", models[m][1]);
            snprintf(r->name, sizeof r->name, "%s", runs[i].name);
            snprintf(r->options, sizeof r->options, "%s", runs[i].options);
        }
    return cr_make_param_array(struct row, rows, count);
}

static double member(const json_t *object, const char *key)
{
    const json_t *value = json_object_get(object, key);

    cr_assert(json_is_number(value), "no number under %s", key);
    return json_number_value(value);
}

ParameterizedTest(struct row *r, run, gives_the_reference_perplexity, .timeout = 600)
{
    static struct outcome o;
    char scratch[64], path[512], arguments[2048], groups[32] = "", lengths[64] = "";
    json_t *reference, *report, *perplexity;
    double expected, dense;

    snprintf(path, sizeof path, "%s/perplexity.json", r->golden);
    if (access(path, R_OK) != 0) {
        fprintf(stderr, "skipped: %s is not there\n", path);
        cr_skip_test("skipped: %s is not there", path);
    }
    reference = json_load_file(path, 0, NULL);
    cr_assert_not_null(reference);
    if (json_object_get(reference, r->name) == NULL) /* 4:8 does not fit stories260k */
        cr_skip_test("skipped: %s has no \"%s\"", path, r->name);
    expected = member(reference, r->name);
    dense = member(reference, "dense");
    if (strstr(r->options, "--bits") != NULL)
        snprintf(groups, sizeof groups, "--group-size %d", (int)member(reference, "group"));
    if (strstr(r->name, "maca") != NULL) { /* nested in the windows: a quarter, a half, all */
        int seqlen =
            (int)json_integer_value(json_array_get(json_object_get(reference, "calib"), 1));

        snprintf(lengths, sizeof lengths, "--lengths %d,%d,%d", seqlen / 4, seqlen / 2, seqlen);
    }
    scratch_make(scratch);
    snprintf(arguments, sizeof arguments,
             "compress %s %s/out %s %s %s --calib %s/calib.safetensors --eval %s/eval.safetensors "
             "--eval-seqlen %d --no-export",
             r->model, scratch, r->options, groups, lengths, r->golden, r->golden,
             (int)member(reference, "eval_seqlen"));
    launch(&o, 2, arguments);
    cr_assert_eq(o.code, 0, "%s", o.text);
    report = read_report(scratch, "out");
    perplexity = json_object_get(report, "perplexity");
    fprintf(stderr, "%s: %.4f, reference %.4f\n", r->name, member(perplexity, "after"), expected);
    cr_expect(fabs(member(perplexity, "before") / dense - 1.0) < 0.001, "dense %.4f, expected %.4f",
              member(perplexity, "before"), dense);
    cr_expect(fabs(member(perplexity, "after") / expected - 1.0) < 0.01, "%s: %.4f, expected %.4f",
              r->name, member(perplexity, "after"), expected);
    json_decref(report);
    json_decref(reference);
    scratch_remove(scratch);
}

/* The exported tensors of one command on 1, 2, 3 and 4 ranks, byte for byte. */
static void same_on_all_ranks(const char *options)
{
    static struct outcome o;
    char scratch[64], arguments[2048];

    scratch_make(scratch);
    for (int ranks = 1; ranks <= 4; ranks++) {
        snprintf(
            arguments, sizeof arguments,
            "compress %s/wikillama-5m %s/%d %s --calib %s/golden/calib.safetensors --nsamples 7",
            MPRESS_DATA, scratch, ranks, options, MPRESS_DATA);
        launch(&o, ranks, arguments);
        cr_assert_eq(o.code, 0, "%d ranks: %s", ranks, o.text);
        if (ranks == 1) continue;
        snprintf(arguments, sizeof arguments,
                 "cmp %s/1/hf/model.safetensors %s/%d/hf/model.safetensors", scratch, scratch,
                 ranks);
        cr_expect_eq(system(arguments), 0, "%s: 1 and %d ranks differ", options, ranks);
    }
    scratch_remove(scratch);
}

Test(run, does_not_depend_on_the_number_of_ranks, .timeout = 600)
{
    same_on_all_ranks("--method sparsegpt --sparsity 2:4");
    same_on_all_ranks("--method sparsegpt --sparsity 0.5 --propagate linear --blocks 1:4");
    same_on_all_ranks("--method wanda --sparsity 0.5 --propagate dense --skip down_proj");
    same_on_all_ranks("--method magnitude --sparsity 0.3 --state-ratio 0.5");
    same_on_all_ranks("--method sparsegpt --sparsity 2:4 --lengths 40,128,255 --drop-first");
}

/* What the report says of the linear maps, of two runs: the same ranks, errors to 1e-6. */
static void compare_reports(const char *scratch, int ranks)
{
    json_t *reports[2], *linears[2];
    char out[16];

    for (int i = 0; i < 2; i++) {
        snprintf(out, sizeof out, "%d", i == 0 ? 1 : ranks);
        reports[i] = read_report(scratch, out);
        linears[i] = json_object_get(reports[i], "linears");
        cr_assert_gt(json_array_size(linears[i]), 20, "%s ranks", out);
    }
    cr_assert_eq(json_array_size(linears[0]), json_array_size(linears[1]));
    for (size_t i = 0; i < json_array_size(linears[0]); i++) {
        json_t *one = json_array_get(linears[0], i), *other = json_array_get(linears[1], i);

        cr_expect_eq(member(one, "rank"), member(other, "rank"));
        cr_expect(fabs(member(other, "kept") / member(one, "kept") - 1.0) < 1e-6);
        cr_expect(fabs(member(other, "rel_error") - member(one, "rel_error")) <
                  1e-6 * member(one, "rel_error"));
    }
    cr_expect(member(json_object_get(reports[0], "parameters"), "ratio") <= 0.8);
    for (int i = 0; i < 2; i++) json_decref(reports[i]);
}

Test(run, low_rank_does_not_depend_on_the_number_of_ranks, .timeout = 600)
{
    static const char *const options[] = {"--method asvd+", "--method asvd+ --rank-policy spectrum",
                                          "--method asvd --batch 3 --asvd-scale abs_max"};
    static struct outcome o;
    char scratch[64], arguments[2048];

    for (int i = 0; i < 3; i++) {
        scratch_make(scratch);
        for (int ranks = 1; ranks <= 4; ranks++) {
            snprintf(arguments, sizeof arguments,
                     "compress %s/wikillama-5m %s/%d %s --no-export --calib "
                     "%s/golden/calib.safetensors --nsamples 7",
                     MPRESS_DATA, scratch, ranks, options[i], MPRESS_DATA);
            launch(&o, ranks, arguments);
            cr_assert_eq(o.code, 0, "%d ranks: %s", ranks, o.text);
            if (ranks > 1) compare_reports(scratch, ranks);
        }
        scratch_remove(scratch);
    }
}

/* Mean error of q, k and v, the maps with a bias, in one run. */
static double error_of_biased(const char *scratch, const char *option)
{
    static struct outcome o;
    char arguments[1024];
    json_t *report;
    double sum = 0.0;

    snprintf(
        arguments, sizeof arguments,
        "compress %s/reference/qwen2 %s/out --method asvd+ --ratio 0.6 %s --no-export --overwrite "
        "--calib %s/reference/tokens.safetensors",
        MPRESS_DATA, scratch, option, MPRESS_DATA);
    launch(&o, 2, arguments);
    cr_assert_eq(o.code, 0, "%s", o.text);
    report = read_report(scratch, "out");
    for (size_t i = 0; i < 3; i++)
        sum += member(json_array_get(json_object_get(report, "linears"), i), "rel_error");
    json_decref(report);
    return sum / 3.0;
}

Test(run, centring_is_better_where_there_is_a_bias, .timeout = 600)
{
    char scratch[64];

    scratch_make(scratch);
    cr_expect_lt(error_of_biased(scratch, "--center"), 0.99 * error_of_biased(scratch, ""));
    scratch_remove(scratch);
}

Test(run, works_without_mpirun, .timeout = 600)
{
    static struct outcome o;

    launch(&o, 0,
           "eval " MPRESS_DATA "/wikillama-5m --data " MPRESS_DATA
           "/golden/eval.safetensors --seqlen 256 --max-windows 3 --json 2>/dev/null");
    cr_assert_eq(o.code, 0, "%s", o.text);
    cr_assert_not_null(strstr(o.text, "\"windows\": 3"), "%s", o.text);
}
