/* What a run leaves: the checkpoint and its export, the windows, the report and the log. */
#include <criterion/criterion.h>

#include "launch.h"
#include "mpress/corpus.h"
#include "mpress/memory.h"
#include "mpress/safetensors.h"

#include <jansson.h>
#include <math.h>

enum { SECONDS = 60 };

#define MODEL MPRESS_DATA "/wikillama-5m"

#define CALIB " --calib $G/calib.safetensors --nsamples 3"

Test(outputs, export_later_is_the_same_byte_for_byte, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    expect_success(&o, 2, "compress $M $S/out --sparsity 2:4" CALIB);
    expect_success(&o, 3, "export $S/out $S/later");
    expect_true("diff -r $S/out/hf $S/later");
    expect_true(
        "cmp $M/tokenizer.json $S/later/tokenizer.json && cmp $M/config.json $S/later/config.json");
    expect_success(&o, 2, "compress $M $S/without --sparsity 2:4 --no-export" CALIB);
    expect_true("test ! -e $S/without/hf");
    expect_success(&o, 1, "export $S/without $S/last");
    expect_true("diff -r $S/out/hf $S/last");
    scratch_remove(scratch);
}

Test(outputs, windows_that_were_drawn_can_be_given_again, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    expect_success(&o, 2,
                   "compress $M $S/drawn --sparsity 0.5 --calib $M/sample-calib.jsonl --nsamples 5 "
                   "--seqlen 96 --seed 3");
    expect_success(&o, 3, "compress $M $S/again --sparsity 0.5 --calib $S/drawn/calib.safetensors");
    expect_true("cmp $S/drawn/hf/model.safetensors $S/again/hf/model.safetensors");
    expect_true("cmp $S/drawn/calib.safetensors $S/again/calib.safetensors");
    expect_success(&o, 2,
                   "compress $M $S/other --sparsity 0.5 --calib $M/sample-calib.jsonl --nsamples 5 "
                   "--seqlen 96 --seed 4");
    expect_true("! cmp -s $S/drawn/calib.safetensors $S/other/calib.safetensors");
    scratch_remove(scratch);
}

/* One entry of the report's list of linear maps. */
static void check_linear(const json_t *linear)
{
    static const char *const names[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj",
                                        "self_attn.o_proj", "mlp.gate_proj",    "mlp.up_proj",
                                        "mlp.down_proj"};
    json_int_t block, d_out, d_in, retries, dead;
    double rel_error, damping, sparsity;
    const char *name;
    int known = 0;

    cr_assert_eq(json_unpack((json_t *)linear, "{s:I, s:s, s:I, s:I, s:F, s:F, s:I, s:I, s:F}",
                             "block", &block, "name", &name, "d_out", &d_out, "d_in", &d_in,
                             "rel_error", &rel_error, "damping", &damping, "retries", &retries,
                             "dead", &dead, "sparsity", &sparsity),
                 0);
    for (int i = 0; i < 7; i++) known |= strcmp(name, names[i]) == 0;
    cr_expect(known && block >= 0 && block < 6, "%s of block %d", name, (int)block);
    cr_expect_eq(d_in, strcmp(name, "mlp.down_proj") == 0 ? 704 : 256, "%s", name);
    cr_expect(d_out == 128 || d_out == 256 || d_out == 704, "%s", name);
    cr_expect(rel_error > 0.0 && rel_error < 0.5, "%s: error %g", name, rel_error);
    cr_expect(damping == 0.01 && retries == 0 && dead == 0, "%s", name);
    cr_expect_float_eq(sparsity, 0.5, 1e-3, "%s: sparsity %g", name, sparsity);
}

static void check_calibration(const json_t *report, const char *scratch)
{
    mp_corpus_request request = {.vocabulary = 4096};
    mp_windows windows = {0};
    json_int_t seed, count, seqlen;
    const char *source, *bos, *crc;
    char path[256], expected[16];

    cr_assert_eq(json_unpack((json_t *)report, "{s:{s:s, s:I, s:I, s:I, s:s, s:s}}", "calibration",
                             "source", &source, "seed", &seed, "windows", &count, "seqlen", &seqlen,
                             "bos", &bos, "crc32c", &crc),
                 0);
    cr_expect_str_eq(source, MPRESS_DATA "/golden/calib.safetensors");
    cr_expect(seed == 0 && count == 3 && seqlen == 256);
    cr_expect_str_eq(bos, "auto");
    snprintf(path, sizeof path, "%s/out/calib.safetensors", scratch);
    request.path = path;
    cr_assert_eq(mp_corpus_calibration(&request, &windows), MP_OK, "%s", mp_error_message());
    snprintf(expected, sizeof expected, "%08x", mp_windows_crc32c(&windows));
    cr_expect_str_eq(crc, expected);
    mp_windows_free(&windows);
}

static void check_phases(json_t *phases)
{
    static const char *const expected[] = {"read",  "embed", "forward", "syrk", "factor",
                                           "sweep", "write", "export",  "eval"};
    const char *name;
    json_t *phase;

    json_object_foreach (phases, name, phase) {
        double min, mean, max;

        cr_assert_eq(json_unpack(phase, "{s:F, s:F, s:F}", "min", &min, "mean", &mean, "max", &max),
                     0, "%s", name);
        cr_expect(0.0 <= min && min <= mean * (1 + 1e-12) && mean <= max * (1 + 1e-12), "%s", name);
    }
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        cr_expect_gt(
            json_number_value(json_object_get(json_object_get(phases, expected[i]), "max")), 0.0,
            "no time in %s", expected[i]);
}

/* Without weights nothing is estimated, and nothing has moved. */
static void check_states(const json_t *states)
{
    const json_t *state;
    size_t i;

    cr_assert_eq(json_array_size(states), 6 * 4);
    json_array_foreach (states, i, state) {
        double weight, rank, distance, error;
        json_int_t block, tokens, probes;
        const char *name;

        cr_assert_eq(json_unpack((json_t *)state, "{s:I, s:s, s:I, s:F, s:F, s:F, s:F, s:I}",
                                 "block", &block, "name", &name, "tokens", &tokens, "weight",
                                 &weight, "effective_rank", &rank, "distance", &distance,
                                 "distance_error", &error, "probes", &probes),
                     0);
        cr_expect(block == (json_int_t)i / 4 && tokens == 3 * 256 && weight == 3.0 * 256.0);
        cr_expect(rank > 1.0 && rank < 704.0, "%s: effective rank %g", name, rank);
        cr_expect(distance == 0.0 && error == 0.0 && probes == 0);
    }
}

Test(outputs, the_report_has_every_key_with_its_type, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];
    const char *path, *identity, *method;
    double before, after, ratio;
    json_int_t format, moved, peak, nsamples;
    json_t *report, *linears, *phases, *linear;
    size_t i;

    places_make(scratch);
    expect_success(
        &o, 2,
        "compress $M $S/out --sparsity 2:4 --eval $G/eval.safetensors --max-windows 4" CALIB);
    report = read_report(scratch, "out");
    cr_assert_eq(
        json_unpack(report,
                    "{s:I, s:{s:s, s:I, s:F}, s:{s:s, s:s}, s:{s:F, s:F}, s:o, s:o, s:I, s:I}",
                    "format", &format, "options", "method", &method, "nsamples", &nsamples,
                    "state-ratio", &ratio, "model", "path", &path, "identity", &identity,
                    "perplexity", "before", &before, "after", &after, "linears", &linears, "phases",
                    &phases, "bytes_moved", &moved, "peak_bytes", &peak),
        0);
    cr_expect(format == 1 && nsamples == 3 && ratio == 1.0 && moved > 0 && peak > 1 << 20);
    cr_expect_str_eq(method, "sparsegpt");
    cr_expect_str_eq(path, MODEL);
    cr_expect_eq(strlen(identity), 8);
    cr_expect(before > 20.0 && before < after && after < 200.0, "perplexity %g, %g", before, after);
    cr_assert_eq(json_array_size(linears), 6 * 7);
    check_states(json_object_get(report, "states"));
    json_array_foreach (linears, i, linear) check_linear(linear);
    check_calibration(report, scratch);
    check_phases(phases);
    json_decref(report);
    /* what was evaluated is what was kept */
    expect_success(
        &o, 1, "eval $S/out --data $G/eval.safetensors --seqlen 256 --max-windows 4 2>/dev/null");
    report = json_loads(o.text, 0, NULL);
    cr_expect_float_eq(json_number_value(json_object_get(report, "perplexity")), after,
                       1e-6 * after);
    json_decref(report);
    expect_success(
        &o, 1,
        "eval $S/out/hf --data $G/eval.safetensors --seqlen 256 --max-windows 4 2>/dev/null");
    report = json_loads(o.text, 0, NULL);
    cr_expect_float_eq(json_number_value(json_object_get(report, "perplexity")), after,
                       1e-6 * after);
    json_decref(report);
    scratch_remove(scratch);
}

/* One line of the log: `expected` is its event; times do not run backwards. */
static void check_event(const char *line, const char *expected, double *last)
{
    json_error_t error;
    json_t *event = json_loads(line, 0, &error);
    const char *name;
    double t;
    int rank;

    cr_assert_not_null(event, "%s in %s", error.text, line);
    cr_assert_eq(json_unpack(event, "{s:F, s:i, s:s}", "t", &t, "rank", &rank, "event", &name), 0,
                 "%s", line);
    cr_expect_str_eq(name, expected);
    cr_expect(rank == 0 && t >= *last, "%s", line);
    *last = t;
    if (strcmp(name, "block_done") == 0)
        cr_expect(json_is_object(json_object_get(event, "phases")) &&
                      json_is_number(json_object_get(event, "wall_s")) &&
                      json_object_size(json_object_get(
                          json_array_get(json_object_get(event, "blocks"), 0), "rel_error")) == 7,
                  "%s", line);
    json_decref(event);
}

Test(outputs, every_line_of_the_log_is_an_event, .timeout = 300)
{
    static struct outcome o;
    static char line[1 << 14];
    char scratch[64], path[256];
    double last = 0.0;
    int lines = 0;
    FILE *log;

    places_make(scratch);
    expect_success(&o, 2, "compress $M $S/out --method wanda --no-export" CALIB);
    for (int b = 1; b <= 6; b++) {
        snprintf(path, sizeof path, "mpress: block %d/6 in ", b);
        cr_expect_not_null(strstr(o.text, path), "no line of block %d in\n%s", b, o.text);
    }
    cr_expect(strstr(o.text, "ETA ") != NULL && strchr(o.text, '\r') == NULL, "%s", o.text);
    snprintf(path, sizeof path, "%s/out/log.jsonl", scratch);
    log = fopen(path, "r");
    cr_assert_not_null(log);
    for (; fgets(line, sizeof line, log) != NULL; lines++)
        check_event(line, lines == 0 ? "start" : lines < 7 ? "block_done" : "finished", &last);
    fclose(log);
    cr_expect_eq(lines, 8);
    scratch_remove(scratch);
}

/* A tensor in memory, as it is stored. */
typedef struct tensor {
    mp_tensor_info info;
    uint16_t *bits; /* bfloat16; owned */
    int64_t count;
} tensor;

static tensor read_tensor(const mp_source *source, int64_t index)
{
    tensor t = {.info = *source->at(source->self, index)};

    t.count = mp_tensor_elements(&t.info);
    cr_assert_eq(t.info.dtype, MP_BF16, "%s", t.info.name);
    t.bits = malloc((size_t)t.count * sizeof *t.bits);
    cr_assert_eq(source->read(source->self, index, 0, mp_tensor_bytes(&t.info), t.bits), MP_OK);
    return t;
}

/* Two of every four neighbours in a row are zero, and plain zeros: a sign would not be one. */
static void check_two_of_four(const tensor *t)
{
    for (int64_t i = 0; i < t->count; i += 4) {
        int zeros = 0;

        for (int64_t j = i; j < i + 4; j++) {
            zeros += t->bits[j] == 0;
            cr_assert_neq(t->bits[j], 0x8000, "%s: -0.0 at %lld", t->info.name, (long long)j);
        }
        cr_assert_eq(zeros, 2, "%s: %d zeros at %lld", t->info.name, zeros, (long long)i);
    }
}

/* Compares scratch/out/hf with the input: every tensor has its name, dtype and shape; those that
 * `pruned` names are 2:4, all others as they were.  Returns how many are pruned. */
static int compare_with_input(const char *scratch, int (*pruned)(const char *name))
{
    mp_source *before = NULL, *after = NULL;
    char path[256];
    int count = 0;

    snprintf(path, sizeof path, "%s/out/hf", scratch);
    cr_assert_eq(mp_safetensors_open(MODEL, &before), MP_OK, "%s", mp_error_message());
    cr_assert_eq(mp_safetensors_open(path, &after), MP_OK, "%s", mp_error_message());
    cr_assert_eq(after->count, before->count);
    for (int64_t i = 0; i < before->count; i++) {
        tensor old = read_tensor(before, i), new = read_tensor(after, i);
        int same;

        cr_assert_str_eq(new.info.name, old.info.name);
        cr_assert_eq(new.info.ndim, old.info.ndim);
        cr_assert_arr_eq(new.info.shape, old.info.shape,
                         (size_t)old.info.ndim * sizeof old.info.shape[0]);
        same = memcmp(new.bits, old.bits, (size_t)old.count * sizeof *old.bits) == 0;
        cr_assert_eq(same, !pruned(old.info.name), "%s is %s", old.info.name,
                     same ? "as it was" : "changed");
        if (!same) check_two_of_four(&new);
        count += !same;
        free(old.bits);
        free(new.bits);
    }
    mp_source_close(&before);
    mp_source_close(&after);
    return count;
}

static int is_linear(const char *name)
{
    return strstr(name, "_proj.weight") != NULL;
}

static int is_linear_of_blocks_2_and_3_but_q_and_up(const char *name)
{
    return is_linear(name) &&
           (strncmp(name, "model.layers.2.", 15) == 0 ||
            strncmp(name, "model.layers.3.", 15) == 0) &&
           strstr(name, "q_proj") == NULL && strstr(name, "up_proj") == NULL;
}

Test(outputs, every_four_weights_of_a_linear_map_have_two_zeros, .timeout = 300)
{
    static const char *const methods[] = {"sparsegpt", "wanda", "magnitude"};
    static struct outcome o;
    char scratch[64], arguments[256];

    for (int i = 0; i < 3; i++) {
        places_make(scratch);
        snprintf(arguments, sizeof arguments, "compress $M $S/out --sparsity 2:4 --method %s" CALIB,
                 methods[i]);
        expect_success(&o, 3, arguments);
        cr_expect_eq(compare_with_input(scratch, is_linear), 6 * 7);
        scratch_remove(scratch);
    }
}

Test(outputs, skip_and_blocks_leave_the_rest_dense, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];
    json_t *report;

    places_make(scratch);
    expect_success(&o, 2,
                   "compress $M $S/out --sparsity 2:4 --blocks 2:4 --skip '(q|up)_proj$' "
                   "--propagate linear" CALIB);
    cr_expect_eq(compare_with_input(scratch, is_linear_of_blocks_2_and_3_but_q_and_up), 2 * 5);
    report = read_report(scratch, "out");
    cr_expect_eq(json_array_size(json_object_get(report, "linears")), 2 * 5);
    json_decref(report);
    scratch_remove(scratch);
}

/* Eight tokens cannot fill a Hessian of 256 channels: without damping it is singular. */
#define SINGULAR                                                                                   \
    "compress $M $S/out --calib $G/calib.safetensors --nsamples 1 --seqlen 8 --damp 0 --blocks "   \
    "0:1"

Test(outputs, strict_turns_a_fallback_into_an_error, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];
    json_t *report, *first;

    places_make(scratch);
    for (int ranks = 0; ranks <= 4; ranks++) {
        launch_within(&o, SECONDS, ranks, PROGRAM, SINGULAR " --overwrite --strict");
        cr_assert_eq(o.code, 65, "%d ranks: exit code %d\n%s", ranks, o.code, o.text);
        cr_expect(strstr(o.text, "mpress: error: block 0, state ") != NULL &&
                      strstr(o.text, "not positive definite with damping 0") != NULL &&
                      strstr(o.text, "--strict") != NULL,
                  "%s", o.text);
        expect_true(
            "test ! -e $S/out/hf -a ! -e $S/out/report.json -a ! -e $S/out/blocks/00000.h5");
    }
    expect_success(&o, 3, SINGULAR " --overwrite");
    cr_expect_not_null(strstr(o.text, "mpress: warning: block 0, attn_in: damping raised"), "%s",
                       o.text);
    report = read_report(scratch, "out");
    first = json_array_get(json_object_get(report, "linears"), 0);
    cr_expect_gt(json_integer_value(json_object_get(first, "retries")), 0);
    cr_expect_gt(json_number_value(json_object_get(first, "damping")), 0.0);
    json_decref(report);
    scratch_remove(scratch);
}

Test(outputs, magnitude_needs_no_calibration, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];
    json_t *report, *first;

    places_make(scratch);
    expect_success(&o, 3, "compress $M $S/out --method magnitude --sparsity 2:4");
    cr_expect_null(strstr(o.text, "nan"), "%s", o.text);
    cr_expect_eq(compare_with_input(scratch, is_linear), 6 * 7);
    expect_true("test ! -e $S/out/calib.safetensors");
    report = read_report(scratch, "out");
    first = json_array_get(json_object_get(report, "linears"), 0);
    cr_expect(json_is_null(json_object_get(report, "calibration")));
    cr_expect(json_is_null(json_object_get(json_object_get(report, "perplexity"), "before")));
    cr_expect(json_is_null(json_object_get(first, "rel_error")));
    cr_expect_float_eq(json_number_value(json_object_get(first, "sparsity")), 0.5, 1e-3);
    json_decref(report);
    scratch_remove(scratch);
}

Test(outputs, overwrite_leaves_nothing_of_the_run_before, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    expect_success(&o, 2, "compress $M $S/out --sparsity 2:4" CALIB);
    expect_success(&o, 2,
                   "compress $M $S/out --method magnitude --sparsity 0.3 --no-export --overwrite");
    expect_success(&o, 2, "compress $M $S/fresh --method magnitude --sparsity 0.3 --no-export");
    expect_true("cd $S/out && find . | sort >$S/a && cd $S/fresh && find . | sort | diff $S/a -");
    expect_success(&o, 1, "export $S/out $S/a_hf");
    expect_success(&o, 1, "export $S/fresh $S/fresh_hf");
    expect_true("diff -r $S/a_hf $S/fresh_hf");
    scratch_remove(scratch);
}

/* A run on a run: the checkpoint is a model, and what was zero stays zero. */
Test(outputs, a_finished_run_can_be_compressed_again, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    expect_success(&o, 2, "compress $M $S/first --sparsity 2:4" CALIB);
    expect_success(&o, 2, "compress $S/first $S/out --sparsity 2:4 --method magnitude");
    expect_true("cmp $S/first/hf/model.safetensors $S/out/hf/model.safetensors");
    scratch_remove(scratch);
}
