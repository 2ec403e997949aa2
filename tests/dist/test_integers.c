/* Whole runs of the methods that quantise: the same on all ranks, zeros that stay, errors that are true. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include "launch.h"
#include "mpress/safetensors.h"

#include <jansson.h>
#include <math.h>

#define CALIB " --calib $G/calib.safetensors"
#define FEW CALIB " --nsamples 7"
#define EVAL " --eval $G/eval.safetensors --eval-seqlen 256 --no-export"

/* The exported tensors of one command on 1, 2, 3 and 4 ranks, and with two threads on one, byte for byte. */
static void same_on_all(const char *options)
{
    static const struct {
        const char *program;
        int ranks;
    } ways[] = {{PROGRAM, 1},
                {PROGRAM, 2},
                {PROGRAM, 3},
                {PROGRAM, 4},
                {"env OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive " PROGRAM, 1}};
    static struct outcome o;
    char scratch[64], text[512];

    places_make(scratch);
    for (int i = 0; i < 5; i++) {
        snprintf(text, sizeof text, "compress $M $S/%d %s" FEW, i, options);
        launch_within(&o, 60, ways[i].ranks, ways[i].program, text);
        cr_assert_eq(o.code, 0, "%d ranks: %s", ways[i].ranks, o.text);
        snprintf(text, sizeof text, "diff -r $S/0/hf $S/%d/hf", i);
        expect_true(text);
    }
    scratch_remove(scratch);
}

Test(integers, do_not_depend_on_ranks_and_threads, .timeout = 300)
{
    same_on_all("--method gptq --bits 3 --group-size 64 --act-order static --scale mse");
    same_on_all("--method gptq --bits 4 --group-size 32 --asym --propagate linear --blocks 2:5");
    same_on_all("--method rtn --bits 4 --group-size channel --asym --scale mse");
    same_on_all("--sparsity 0.5 --bits 4 --group-size 32 --blocks 1:3");
}

/* Of every four neighbours of the linear maps in scratch/<out>/dense two or more are zero (one of the two that
 * stay may have been rounded to it), and plain zeros. */
static void check_pattern(const char *scratch, const char *out)
{
    static struct outcome o;
    mp_source *model = NULL;
    char path[256];
    int maps = 0;

    snprintf(path, sizeof path, "rm -rf $S/%s/dense", out);
    expect_true(path);
    snprintf(path, sizeof path, "export $S/%s $S/%s/dense --format dense", out, out);
    expect_success(&o, 2, path);
    snprintf(path, sizeof path, "%s/%s/dense", scratch, out);
    cr_assert_eq(mp_safetensors_open(path, &model), MP_OK, "%s", mp_error_message());
    for (int64_t i = 0; i < model->count; i++) {
        const mp_tensor_info *info = model->at(model->self, i);
        int64_t count = mp_tensor_elements(info);
        uint16_t *bits;

        if (strstr(info->name, "_proj.weight") == NULL) continue;
        cr_assert_eq(info->dtype, MP_BF16, "%s", info->name);
        bits = malloc((size_t)count * sizeof *bits);
        cr_assert_eq(model->read(model->self, i, 0, count * 2, bits), MP_OK);
        for (int64_t j = 0; j < count; j += 4) {
            int zeros = 0;

            for (int64_t k = j; k < j + 4; k++) {
                zeros += bits[k] == 0;
                cr_assert_neq(bits[k], 0x8000, "%s: -0.0 at %lld", info->name, (long long)k);
            }
            cr_assert_geq(zeros, 2, "%s: %d zeros at %lld", info->name, zeros, (long long)j);
        }
        free(bits);
        maps++;
    }
    cr_assert_eq(maps, 42);
    mp_source_close(&model);
}

static double perplexity_after(const char *scratch, const char *out)
{
    json_t *report = read_report(scratch, out);
    json_t *after = json_object_get(json_object_get(report, "perplexity"), "after");
    double value = json_number_value(after);

    cr_assert(json_is_number(after));
    json_decref(report);
    return value;
}

/* Pruned and rounded in one sweep: worse than pruned alone, better than rounded afterwards, which keeps the
 * zeros, too. */
Test(integers, joint_sparsity_keeps_its_pattern_and_beats_two_steps, .timeout = 300)
{
    static const char eval[] =
        " --group-size 64 --eval $G/eval.safetensors --eval-seqlen 256" CALIB;
    static struct outcome o;
    char scratch[64], arguments[512];
    double pruned, joint, rounded;

    places_make(scratch);
    expect_success(&o, 2,
                   "compress $M $S/pruned --sparsity 2:4 --eval $G/eval.safetensors "
                   "--eval-seqlen 256" CALIB);
    pruned = perplexity_after(scratch, "pruned");
    for (int bits = 3; bits <= 4; bits++) {
        snprintf(arguments, sizeof arguments,
                 "compress $M $S/joint --overwrite --sparsity 2:4 --bits %d%s", bits, eval);
        expect_success(&o, 2, arguments);
        snprintf(arguments, sizeof arguments,
                 "compress $S/pruned/hf $S/rounded --overwrite --method rtn --bits %d%s", bits,
                 eval);
        expect_success(&o, 2, arguments);
        check_pattern(scratch, "joint");
        check_pattern(scratch, "rounded");
        joint = perplexity_after(scratch, "joint");
        rounded = perplexity_after(scratch, "rounded");
        fprintf(stderr, "2:4, %d bits: %.4f, joint %.4f, in two steps %.4f\n", bits, pruned, joint,
                rounded);
        cr_expect(pruned < joint && joint < rounded, "%g, joint %g, in two steps %g", pruned, joint,
                  rounded);
    }
    scratch_remove(scratch);
}

Test(integers, a_search_for_scales_pays_at_three_bits, .timeout = 300)
{
    static const char *const methods[] = {"rtn", "gptq", "gptq --act-order static"};
    static struct outcome o;
    char scratch[64], arguments[512];

    places_make(scratch);
    for (int i = 0; i < 3; i++) {
        double perplexity[2];

        for (int mse = 0; mse <= 1; mse++) {
            snprintf(arguments, sizeof arguments,
                     "compress $M $S/out --overwrite --method %s --bits 3 --group-size 64 --scale "
                     "%s" CALIB EVAL,
                     methods[i], mse ? "mse" : "absmax");
            expect_success(&o, 2, arguments);
            perplexity[mse] = perplexity_after(scratch, "out");
        }
        cr_expect_lt(perplexity[1], perplexity[0], "%s: %g, %g by extremes", methods[i],
                     perplexity[1], perplexity[0]);
    }
    scratch_remove(scratch);
}

/* Errors of the first block, q to down, of a run by $S/MODEL. */
static void errors_of(const char *scratch, const char *options, double errors[7])
{
    static struct outcome o;
    char arguments[512];
    json_t *report, *linears;

    snprintf(arguments, sizeof arguments,
             "compress $M $S/out --overwrite --blocks 0:1 --no-export %s" FEW, options);
    expect_success(&o, 2, arguments);
    report = read_report(scratch, "out");
    linears = json_object_get(report, "linears");
    cr_assert_eq(json_array_size(linears), 7);
    for (size_t i = 0; i < 7; i++) {
        json_t *error = json_object_get(json_array_get(linears, i), "rel_error");

        cr_assert(json_is_number(error), "%s", options);
        errors[i] = json_number_value(error);
    }
    json_decref(report);
}

/* What is lost falls with the bits, is less by GPTQ than by rounding, and at eight bits, where the rounding
 * to bf16 counts, too, is as much as rounding alone says. */
Test(integers, errors_are_those_of_the_stored_weights, .timeout = 300)
{
    char scratch[64];
    double rtn4[7], gptq4[7], rtn8[7], gptq8[7], wide[7];

    places_make(scratch);
    errors_of(scratch, "--method rtn --bits 4 --group-size 32", rtn4);
    errors_of(scratch, "--method gptq --bits 4 --group-size 32", gptq4);
    errors_of(scratch, "--method rtn --bits 8 --group-size 32", rtn8);
    errors_of(scratch, "--method gptq --bits 8 --group-size 32", gptq8);
    errors_of(scratch, "--method gptq --bits 4 --group-size channel", wide);
    for (int i = 0; i < 7; i++) {
        cr_expect(gptq4[i] < rtn4[i] && gptq8[i] < rtn8[i], "map %d: %g %g, %g %g", i, gptq4[i],
                  rtn4[i], gptq8[i], rtn8[i]);
        cr_expect(rtn8[i] < 0.01 * rtn4[i] && rtn8[i] > 0.001 * rtn4[i], "map %d: %g, %g", i,
                  rtn8[i], rtn4[i]);
        cr_expect_gt(wide[i], gptq4[i]);
    }
    scratch_remove(scratch);
}

Test(integers, rounding_to_nearest_needs_no_calibration, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];
    json_t *report, *options;

    places_make(scratch);
    expect_success(&o, 2, "compress $M $S/bare --method rtn --group-size 64");
    cr_expect_not_null(strstr(o.text, "rtn 4 bits, symmetric, groups of 64"), "%s", o.text);
    report = read_report(scratch, "bare");
    options = json_object_get(report, "options");
    cr_expect_eq(json_integer_value(json_object_get(options, "bits")), 4);
    cr_expect_str_eq(json_string_value(json_object_get(options, "group-size")), "64");
    cr_expect(json_is_null(json_object_get(options, "sparsity")));
    cr_expect(json_is_null(
        json_object_get(json_array_get(json_object_get(report, "linears"), 0), "rel_error")));
    json_decref(report);
    expect_success(&o, 2, "compress $M $S/measured --method rtn --group-size 64" FEW);
    expect_true("diff -r $S/bare/hf $S/measured/hf");
    scratch_remove(scratch);
}
