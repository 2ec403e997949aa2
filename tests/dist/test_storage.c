/* Runs whose result is integers: what they leave, and where it can go from there. */
#include <criterion/criterion.h>

#include "launch.h"

#include <jansson.h>
#include <math.h>

#define EVAL " --eval $G/eval.safetensors --eval-seqlen 256 --max-windows 4"
#define ASYMMETRIC "--method rtn --bits 3 --group-size 32 --asym"

static void expect_failure(int ranks, int code, const char *arguments, const char *words)
{
    static struct outcome o;

    launch_within(&o, 60, ranks, PROGRAM, arguments);
    cr_assert_eq(o.code, code, "%s: exit code %d\n%s", arguments, o.code, o.text);
    cr_assert_not_null(strstr(o.text, words), "%s: expected \"%s\" in %s", arguments, words,
                       o.text);
}

static double perplexity_of(const char *model)
{
    static struct outcome o;
    char arguments[256];
    json_t *result;
    double value;

    snprintf(arguments, sizeof arguments,
             "eval %s --data $G/eval.safetensors --seqlen 256 --max-windows 4 2>/dev/null", model);
    expect_success(&o, 3, arguments);
    result = json_loads(o.text, 0, NULL);
    value = json_number_value(json_object_get(result, "perplexity"));
    json_decref(result);
    return value;
}

/* 737280 weights in 7 maps of each of 6 blocks, 3 bits each; of 32 one scale of 2 bytes and a zero point. */
static void check_report(const char *scratch, double *after)
{
    const json_int_t weights = 6 * 737280;
    json_t *report = read_report(scratch, "out"), *linear;
    json_int_t stored, dense, bits, group;
    int symmetric;

    linear = json_array_get(json_object_get(report, "linears"), 41);
    cr_assert_eq(json_unpack(linear, "{s:I, s:I, s:b}", "bits", &bits, "group", &group, "symmetric",
                             &symmetric),
                 0);
    cr_expect(bits == 3 && group == 32 && !symmetric);
    cr_assert_eq(json_unpack(report, "{s:{s:I, s:I}, s:{s:F}}", "bytes", "stored", &stored, "dense",
                             &dense, "perplexity", "after", after),
                 0);
    cr_expect_eq(dense - stored, 2 * weights - weights * 3 / 8 - weights / 32 * 3);
    json_decref(report);
}

Test(storage, integers_are_computed_with_and_go_out_again, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];
    double after, dense;

    places_make(scratch);
    expect_success(&o, 2, "compress $M $S/out " ASYMMETRIC EVAL);
    check_report(scratch, &after);
    cr_expect_float_eq(perplexity_of("$S/out"), after, 1e-9 * after);
    expect_success(&o, 3, "export $S/out $S/again --format compressed-tensors");
    expect_true("diff -r $S/out/hf $S/again");
    expect_success(&o, 2, "export $S/out $S/dense --dense");
    expect_true("cmp $M/config.json $S/dense/config.json");
    dense = perplexity_of("$S/dense"); /* the same weights in other products: the last bits */
    cr_expect_float_eq(dense, after, 1e-6 * after);
    expect_success(&o, 1, "inspect $S/out");
    cr_expect_not_null(strstr(o.text, "3 bits, asymmetric, groups of 32"), "%s", o.text);
    expect_success(&o, 2, "inspect $S/out --verify");
    expect_failure(2, 65, "compress $S/out $S/twice --method rtn --group-size 64",
                   "already quantised, to 3 bits; expected dense weights");
    expect_failure(1, 65, "eval $S/out/hf --data $G/eval.safetensors", "already quantised");
    expect_failure(2, 64, "export $S/out $S/awq --format awq",
                   "--format awq takes 4 bits, and model.layers.0.mlp.down_proj has 3 bits");
    expect_failure(1, 64, "export $S/out $S/x --format gguf", "--format gguf: expected auto");
    expect_failure(1, 64, "export $S/out $S/x --format gptq --dense", "expected one of them");
    expect_true("test ! -e $S/awq && test ! -e $S/x && test ! -e $S/twice");
    scratch_remove(scratch);
}

/* Where no memory is shared every rank is a node, and gets the others' integers in messages. */
Test(storage, integers_reach_every_node, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    expect_success(&o, 1, "compress $M $S/one " ASYMMETRIC EVAL);
    setenv("MPRESS_FAULT", "shared:rank=0:nth=1", 1);
    expect_success(&o, 3, "compress $M $S/three " ASYMMETRIC EVAL);
    unsetenv("MPRESS_FAULT");
    cr_expect_not_null(strstr(o.text, "every rank keeps a copy of its own"), "%s", o.text);
    expect_true("diff -r $S/one/hf $S/three/hf");
    scratch_remove(scratch);
}

/* A run that stops after some blocks goes on through what it has stored. */
Test(storage, an_interrupted_run_goes_on_with_its_integers, .timeout = 300)
{
    static const char command[] =
        "compress $M $S/out --method gptq --bits 4 --group-size 64 --calib $G/calib.safetensors "
        "--nsamples 4 --save-hidden off" EVAL;
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    expect_success(&o, 2, command);
    expect_true("mv $S/out $S/whole");
    setenv("MPRESS_FAULT", "h5-flush:rank=0:nth=4", 1);
    launch_within(&o, 60, 2, PROGRAM, command);
    unsetenv("MPRESS_FAULT");
    cr_assert_eq(o.code, 74, "exit code %d\n%s", o.code, o.text);
    expect_success(&o, 3, command);
    cr_expect_not_null(strstr(o.text, "block 2/6 is there already"), "%s", o.text);
    expect_true("diff -r $S/whole/hf $S/out/hf");
    scratch_remove(scratch);
}

Test(storage, factored_models_are_not_quantised, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    expect_success(&o, 2,
                   "compress $M $S/factors --method asvd+ --blocks 0:1 --calib "
                   "$G/calib.safetensors --nsamples 2 --no-export");
    expect_failure(2, 65, "compress $S/factors $S/out --method rtn --group-size 64 --blocks 1:6",
                   "7 linear maps are factored, and no format holds integers beside factors");
    scratch_remove(scratch);
}
