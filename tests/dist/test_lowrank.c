/* Whole runs of low rank: ranks that are searched for, and factors that are exported and read again. */
#include <criterion/criterion.h>

#include "launch.h"

#include <jansson.h>
#include <math.h>

enum { CANDIDATES = 2 * 7 * 6, BLOCK_PARAMETERS = 737280, BLOCKS = 6 };

/* Two blocks of six on few tokens: a second's work. */
#define SEARCH                                                                                     \
    "--method asvd+ --rank-policy sensitivity --blocks 3:5 --calib $G/calib.safetensors "          \
    "--nsamples 5 --seqlen 64 --no-export"

/* One row of the table; its rank is that of its ratio. */
static void check_row(const json_t *row)
{
    json_int_t block, rank;
    double ratio, perplexity;
    const char *name;
    int up, narrow, m, n;

    cr_assert_eq(json_unpack((json_t *)row, "{s:I, s:s, s:F, s:I, s:F}", "block", &block, "name",
                             &name, "ratio", &ratio, "rank", &rank, "perplexity", &perplexity),
                 0);
    up = strcmp(name, "mlp.gate_proj") == 0 || strcmp(name, "mlp.up_proj") == 0;
    narrow = strcmp(name, "self_attn.k_proj") == 0 || strcmp(name, "self_attn.v_proj") == 0;
    m = up ? 704 : narrow ? 128 : 256;
    n = strcmp(name, "mlp.down_proj") == 0 ? 704 : 256;
    cr_expect(block == 3 || block == 4, "%s of block %d", name, (int)block);
    cr_expect(ratio > 0.39 && ratio < 0.91, "%s: ratio %g", name, ratio);
    cr_expect_eq(rank, (int)(m * n * ratio) / (m + n), "%s at %g: rank %d", name, ratio, (int)rank);
    cr_expect(perplexity > 20.0 && perplexity < 200.0, "%s at %g: %g", name, ratio, perplexity);
}

/* Whether the table tried this rank of this linear map. */
static int was_tried(const json_t *table, const json_t *linear)
{
    const json_t *row;
    size_t i;

    json_array_foreach (table, i, row)
        if (json_equal(json_object_get(row, "block"), json_object_get(linear, "block")) &&
            json_equal(json_object_get(row, "name"), json_object_get(linear, "name")) &&
            json_equal(json_object_get(row, "rank"), json_object_get(linear, "rank")))
            return 1;
    return 0;
}

static void check_report(const json_t *report)
{
    const json_t *table = json_object_get(report, "sensitivity"), *row;
    const json_t *linears = json_object_get(report, "linears");
    json_int_t stored;
    double share;
    size_t i;

    cr_assert_eq(json_array_size(table), CANDIDATES);
    json_array_foreach (table, i, row) check_row(row);
    cr_expect_gt(json_array_size(linears), 2);
    json_array_foreach (linears, i, row)
        cr_expect(was_tried(table, row), "%s: a rank that was not tried",
                  json_string_value(json_object_get(row, "name")));
    cr_assert_eq(json_unpack((json_t *)report, "{s:{s:I}}", "parameters", "stored", &stored), 0);
    share = (double)(stored - (BLOCKS - 2) * BLOCK_PARAMETERS) / (2.0 * BLOCK_PARAMETERS);
    cr_expect(share > 0.75 && share <= 0.8, "ratio %g of the two blocks", share);
}

/* The same ranks, by sensitivities that agree but for the rounding of the factorisations. */
static void check_same(const json_t *one, const json_t *other)
{
    const json_t *tables[] = {json_object_get(one, "sensitivity"),
                              json_object_get(other, "sensitivity")};
    const json_t *linears[] = {json_object_get(one, "linears"), json_object_get(other, "linears")};

    for (size_t i = 0; i < CANDIDATES; i++) {
        double a = json_number_value(json_object_get(json_array_get(tables[0], i), "perplexity"));
        double b = json_number_value(json_object_get(json_array_get(tables[1], i), "perplexity"));

        cr_expect(fabs(a / b - 1.0) < 1e-4, "candidate %zu: %.8f and %.8f", i, a, b);
    }
    cr_assert_eq(json_array_size(linears[0]), json_array_size(linears[1]));
    for (size_t i = 0; i < json_array_size(linears[0]); i++)
        cr_expect(json_equal(json_object_get(json_array_get(linears[0], i), "rank"),
                             json_object_get(json_array_get(linears[1], i), "rank")),
                  "linear map %zu", i);
}

Test(lowrank, by_sensitivity_keep_to_the_target_on_any_number_of_ranks, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];
    json_t *one, *three;

    places_make(scratch);
    expect_success(&o, 1, "compress $M $S/1 " SEARCH);
    cr_expect_not_null(strstr(o.text, "84 candidates on 5 windows of 64 tokens, "), "%s", o.text);
    expect_true("test ! -e $S/1/search");
    one = read_report(scratch, "1");
    check_report(one);
    expect_success(&o, 3, "compress $M $S/3 " SEARCH);
    three = read_report(scratch, "3");
    check_report(three);
    check_same(one, three);
    expect_true(
        "mkdir -p $S/1/search/blocks && touch $S/1/search/journal.jsonl"); /* as if it was killed */
    expect_success(&o, 2, "compress $M $S/1 --overwrite " SEARCH);
    expect_true("test ! -e $S/1/search");
    json_decref(one);
    json_decref(three);
    scratch_remove(scratch);
}

/* Exit code 64 and these words. */
static void expect_refusal(struct outcome *o, const char *arguments, const char *words)
{
    launch_within(o, 60, 2, PROGRAM, arguments);
    cr_expect_eq(o->code, 64, "%s: exit code %d\n%s", arguments, o->code, o->text);
    cr_expect_not_null(strstr(o->text, words), "%s: expected \"%s\" in\n%s", arguments, words,
                       o->text);
}

Test(lowrank, that_cannot_be_searched_for_are_refused, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    expect_refusal(&o, "compress $M $S/out --max-search-flop 1e6 " SEARCH,
                   "flop, expected at most the 1e+06 of --max-search-flop");
    expect_true("test ! -e $S/out");
    expect_refusal(&o, "compress $M $S/out --center " SEARCH, "--center: the bias");
    expect_true("test ! -e $S/out");
    expect_refusal(&o, "compress $M $S/out --ratio 0.3 " SEARCH,
                   "--ratio 0.3: the lowest ratio that a search by sensitivity can reach is 0.3");
    expect_true("test ! -e $S/out/search && test -z \"$(ls $S/out/blocks | grep -v rest)\"");
    scratch_remove(scratch);
}

#define CALIB " --calib $G/calib.safetensors --nsamples 3"

static double perplexity_of(struct outcome *o, const char *model)
{
    char arguments[256];
    json_error_t error;
    json_t *object;
    double value = NAN;

    snprintf(arguments, sizeof arguments,
             "eval %s --data $G/eval.safetensors --seqlen 256 --max-windows 6 2>/dev/null", model);
    expect_success(o, 2, arguments);
    object = json_loads(o->text, 0, &error);
    cr_assert_not_null(object, "%s", o->text);
    value = json_number_value(json_object_get(object, "perplexity"));
    json_decref(object);
    return value;
}

/* The checkpoint, its factored export and the dense one: the same model, read three ways. */
Test(lowrank, factors_are_exported_as_factors_and_multiplied_out, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];
    double run, factored, dense;
    json_t *report;
    json_int_t stored, full;

    places_make(scratch);
    expect_success(&o, 2, "compress $M $S/out --method asvd+ --ratio 0.7" CALIB);
    expect_success(&o, 3, "export $S/out $S/later");
    expect_true("diff -r $S/out/hf $S/later");
    expect_success(&o, 3, "export $S/out $S/dense --dense");
    expect_true("cmp $M/config.json $S/dense/config.json && ! ls $S/dense/*.py 2>/dev/null");
    expect_true("test $(stat -c %s $S/later/model.safetensors) -lt "
                "$(stat -c %s $S/dense/model.safetensors)");
    run = perplexity_of(&o, "$S/out");
    factored = perplexity_of(&o, "$S/later");
    dense = perplexity_of(&o, "$S/dense");
    cr_expect_eq(run, factored, "%g and %g", run, factored);
    cr_expect(fabs(dense / run - 1.0) < 1e-2 && dense != run, "%g and %g", run, dense);
    report = read_report(scratch, "out");
    cr_assert_eq(json_unpack(report, "{s:{s:I, s:I}}", "bytes", "stored", &stored, "dense", &full),
                 0);
    cr_expect(stored < full && full > 10000000, "%d of %d", (int)stored, (int)full);
    json_decref(report);
    scratch_remove(scratch);
}

/* One half of the maps is factored, then the other is pruned in what came of it. */
Test(lowrank, a_factored_model_can_be_compressed_further, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];
    json_t *report;
    double ratio;

    places_make(scratch);
    expect_success(&o, 2, "compress $M $S/out --method asvd+ --ratio 0.5 --skip mlp" CALIB);
    expect_success(
        &o, 2, "compress $S/out/hf $S/again --method wanda --sparsity 2:4 --skip self_attn" CALIB);
    cr_expect_eq(perplexity_of(&o, "$S/again"), perplexity_of(&o, "$S/again/hf"));
    expect_true("cmp $S/out/hf/config.json $S/again/hf/config.json");
    report = read_report(scratch, "again");
    cr_assert_eq(json_unpack(report, "{s:{s:F}}", "parameters", "ratio", &ratio), 0);
    cr_expect(ratio < 0.9 && json_array_size(json_object_get(report, "linears")) == 18, "%g",
              ratio);
    json_decref(report);
    scratch_remove(scratch);
}
