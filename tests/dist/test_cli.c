/* The command line as scripts rely on it: help, version, what stands on stdout, and the commands
 * beside compress. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include "launch.h"

#include <jansson.h>
#include <math.h>

/* The whole text is one JSON object. */
static json_t *parse(const char *text)
{
    json_error_t error;
    json_t *object = json_loads(text, 0, &error);

    cr_assert_not_null(object, "%s in\n%s", error.text, text);
    return object;
}

/* What each command's help must name: all that the command line lists. */
static const struct {
    const char *command, *words[40];
} helps[] = {
    {"",
     {"compress", "eval", "export", "inspect", "tokenize", "synth", "bench", "Exit codes", "75"}},
    {"compress", {"MODEL",       "OUT",         "--method",      "--sparsity",    "--calib",
                  "--nsamples",  "--seqlen",    "--seed",        "--bos",         "--state-ratio",
                  "--propagate", "--damp",      "--blocksize",   "--skip",        "--blocks",
                  "--strict",    "--eval ",     "--eval-seqlen", "--max-windows", "--no-export",
                  "--overwrite", "--ratio",     "--rank-policy", "--alpha",       "--asvd-scale",
                  "--svd",       "--center",    "--batch",       "--bits",        "--group-size",
                  "--asym",      "--act-order", "--scale"}},
    {"eval", {"MODEL", "--data", "--seqlen", "--max-windows", "--bos", "--json"}},
    {"export", {"OUT", "DIR"}},
    {"inspect", {"PATH", "--json"}},
    {"tokenize", {"MODEL", "--data", "--out", "--stdin", "--separator", "--bos"}},
    {"synth", {"CONFIG.json", "OUT", "--blocks", "--seed"}},
    {"bench",
     {"solve", "lowrank", "--ratio", "--svd", "block", "--method", "--d-in", "--d-out", "--pattern",
      "--bits", "--group-size", "--asym", "--act-order", "--scale", "--config", "--tokens",
      "--seqlen", "--propagate", "--json"}},
};

enum { HELPS = sizeof helps / sizeof helps[0] };

Test(cli, help_of_every_command_names_its_options, .timeout = 300)
{
    static struct outcome o;
    char arguments[128];

    for (int i = 0; i < 2 * HELPS; i++) {
        const char *command = helps[i / 2].command;

        snprintf(arguments, sizeof arguments, "%s --help 2>/dev/null", command);
        expect_success(&o, i % 2 == 0 ? 0 : 2, arguments);
        for (int w = 0; w < 40 && helps[i / 2].words[w] != NULL; w++)
            cr_expect_not_null(strstr(o.text, helps[i / 2].words[w]), "'%s' lacks %s:\n%s",
                               arguments, helps[i / 2].words[w], o.text);
        cr_assert_not_null(strstr(o.text, "usage: mpress"), "%s", o.text);
        cr_expect_null(strstr(strstr(o.text, "usage: mpress") + 1, "usage: mpress"),
                       "'%s' is said by more than one rank", arguments);
    }
}

Test(cli, version_names_what_the_program_stands_on, .timeout = 300)
{
    static const char *const words[] = {
        "mpress 0", "checkpoint format 1", "compiler", "MPI ", "HDF5 ", "BLAS ", "ScaLAPACK "};
    static struct outcome o;

    for (int ranks = 0; ranks <= 2; ranks += 2) {
        expect_success(&o, ranks, "--version 2>/dev/null");
        for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
            cr_expect_not_null(strstr(o.text, words[i]), "no \"%s\" in\n%s", words[i], o.text);
        cr_expect_null(strstr(strstr(o.text, "mpress 0") + 1, "mpress 0"), "said twice:\n%s",
                       o.text);
    }
    run_shell(&o, PROGRAM " --version | grep BLAS");
    cr_expect_not_null(strchr(o.text, '/'), "no path of the BLAS library: %s", o.text);
    /* the commit, where the tests run from a clone of the repository */
    run_shell(&o, "git -C " MPRESS_SOURCE " rev-parse HEAD >/dev/null 2>&1 || exit 0; " PROGRAM
                  " --version | grep -qE '^mpress [0-9.]+ [(][0-9a-f]{12}'");
    cr_expect_eq(o.code, 0, "the commit is not named: %s", o.text);
}

Test(cli, eval_prints_json_alone, .timeout = 300)
{
    static const char arguments[] =
        "eval $M --data $G/eval.safetensors --seqlen 256 --max-windows 5 2>/dev/null";
    static struct outcome o, first;
    char scratch[64];

    places_make(scratch);
    for (int ranks = 0; ranks <= 3; ranks += 3) {
        double perplexity, nll;
        json_int_t windows;
        json_t *result;

        expect_success(&o, ranks, arguments);
        result = parse(o.text);
        cr_assert_eq(json_unpack(result, "{s:F, s:F, s:I}", "perplexity", &perplexity, "nll", &nll,
                                 "windows", &windows),
                     0, "%s", o.text);
        cr_expect_eq(windows, 5);
        cr_expect_float_eq(perplexity, exp(nll), 1e-6 * perplexity);
        json_decref(result);
        if (ranks == 0) first = o;
        cr_expect_str_eq(o.text, first.text, "1 and %d ranks differ", ranks);
    }
    expect_success(
        &o, 0,
        "eval --json $M --data=$G/eval.safetensors --seqlen 256 --max-windows 5 2>/dev/null");
    cr_expect_str_eq(o.text, first.text, "--json says something else");
    scratch_remove(scratch);
}

/* What inspect --json says of a path; ended by json_decref. */
static json_t *inspected(const char *path)
{
    static struct outcome o;
    char arguments[512];

    snprintf(arguments, sizeof arguments, "inspect %s", path);
    expect_success(&o, 0, arguments); /* the same in words */
    cr_expect_gt(strlen(o.text), 40, "%s", o.text);
    snprintf(arguments, sizeof arguments, "inspect %s --json 2>/dev/null", path);
    expect_success(&o, 2, arguments);
    return parse(o.text);
}

Test(cli, inspect_tells_models_checkpoints_and_token_files_apart, .timeout = 300)
{
    static struct outcome o;
    const char *kind;
    char scratch[64];
    json_int_t blocks, parameters, windows;
    int finished;
    json_t *report;

    places_make(scratch);
    report = inspected("$M");
    cr_assert_eq(json_unpack(report, "{s:s, s:{s:I}, s:{s:I}}", "kind", &kind, "architecture",
                             "blocks", &blocks, "tensors", "parameters", &parameters),
                 0);
    cr_expect_str_eq(kind, "model");
    cr_expect(blocks == 6 && parameters == 5475584);
    json_decref(report);

    report = inspected("$G/calib.safetensors");
    cr_assert_eq(
        json_unpack(report, "{s:s, s:{s:I}}", "kind", &kind, "tokens", "windows", &windows), 0);
    cr_expect_str_eq(kind, "tokens");
    cr_expect_eq(windows, 32);
    json_decref(report);

    expect_success(&o, 0, "compress $M $S/out --method magnitude --no-export");
    report = inspected("$S/out");
    cr_assert_eq(json_unpack(report, "{s:s, s:b, s:{s:{s:s}}}", "kind", &kind, "finished",
                             &finished, "run", "options", "method", &kind),
                 0);
    cr_expect(finished);
    cr_expect_str_eq(kind, "magnitude");
    cr_expect_eq(json_array_size(json_object_get(report, "linears")), 6 * 7);
    json_decref(report);
    scratch_remove(scratch);
}

struct vocabulary {
    char name[32];
};

ParameterizedTestParameters(cli, tokenize_gives_the_ids_of_the_vectors)
{
    static struct vocabulary all[] = {{"gpt2"}, {"llama2"}, {"llama3"}, {"phi3"}, {"qwen3"}};

    return cr_make_param_array(struct vocabulary, all, sizeof all / sizeof all[0]);
}

ParameterizedTest(struct vocabulary *v, cli, tokenize_gives_the_ids_of_the_vectors, .timeout = 120)
{
    static struct outcome o;
    char scratch[64], path[512];

    snprintf(path, sizeof path, "%s/tokenizers/%s", MPRESS_SHARED, v->name);
    if (access(path, R_OK) != 0) {
        fprintf(stderr, "skipped: %s is not there\n", path);
        cr_skip_test("skipped: %s is not there", path);
    }
    places_make(scratch);
    setenv("T", path, 1);
    expect_success(&o, 0,
                   "tokenize $T --stdin --separator __ggml_vocab_test__ <$T/vectors.inp >$S/ids");
    expect_true("diff $S/ids $T/vectors.out");
    expect_true("test $(wc -l <$S/ids) -gt 10");
    scratch_remove(scratch);
}

Test(cli, tokenize_takes_a_line_for_a_case, .timeout = 120)
{
    static struct outcome o;
    char scratch[64];

    places_make(scratch);
    expect_true("printf 'the old town\\n\\nthe river' >$S/cases");
    expect_success(&o, 0, "tokenize $M --stdin <$S/cases 2>/dev/null >$S/plain");
    expect_success(&o, 2, "tokenize $M --stdin <$S/cases 2>/dev/null >$S/two");
    expect_success(&o, 0, "tokenize $M --stdin --bos on <$S/cases 2>/dev/null >$S/bos");
    expect_true("test $(wc -l <$S/plain) = 3 && cmp $S/plain $S/two");
    expect_true("sed 's/^/ 4094/' $S/plain | cmp - $S/bos"); /* BOS is id 4094 of 4096 */
    scratch_remove(scratch);
}

Test(cli, tokenize_to_a_file_is_what_eval_reads_from_text, .timeout = 120)
{
    static struct outcome text, tokens;
    char scratch[64];

    places_make(scratch);
    expect_success(&tokens, 2,
                   "tokenize $M --data $M/sample-eval.jsonl --out $S/tokens.safetensors");
    expect_success(&text, 0,
                   "eval $M --data $M/sample-eval.jsonl --seqlen 128 --max-windows 4 2>/dev/null");
    expect_success(&tokens, 0,
                   "eval $M --data $S/tokens.safetensors --seqlen 128 --max-windows 4 2>/dev/null");
    cr_expect_str_eq(text.text, tokens.text);
    scratch_remove(scratch);
}

Test(cli, synth_makes_a_model_that_eval_takes, .timeout = 300)
{
    static struct outcome o;
    char scratch[64];
    double nll;
    json_t *result;

    places_make(scratch);
    expect_success(&o, 0, "synth $M/config.json $S/one --blocks 2 --seed 7");
    expect_success(&o, 3, "synth $M/config.json $S/three --blocks 2 --seed 7");
    expect_success(&o, 0, "synth $M/config.json $S/other --blocks 2 --seed 8");
    expect_true("diff -r $S/one $S/three");
    expect_true("! cmp -s $S/one/model.safetensors $S/other/model.safetensors");
    expect_true("grep -q '\"num_hidden_layers\": 2' $S/one/config.json");
    expect_success(
        &o, 2, "eval $S/one --data $G/eval.safetensors --seqlen 128 --max-windows 4 2>/dev/null");
    result = parse(o.text);
    nll = json_number_value(json_object_get(result, "nll"));
    /* a model that knows nothing guesses among 4096 tokens */
    cr_expect(nll > 7.0 && nll < 12.0, "nll %g", nll);
    json_decref(result);
    scratch_remove(scratch);
}

/* One benchmark's JSON: all keys, figures that can be. */
static void check_bench(int ranks, const char *arguments, const char *const *phase_names)
{
    static struct outcome o;
    double seconds, single, twice, sum = 0.0;
    json_int_t peak;
    json_t *report, *phases, *phase;
    const char *name;

    expect_success(&o, ranks, arguments);
    report = parse(o.text);
    cr_assert_eq(json_unpack(report, "{s:F, s:F, s:F, s:o, s:I}", "seconds", &seconds,
                             "gemm_gflops", &single, "dgemm_gflops", &twice, "phases", &phases,
                             "peak_bytes", &peak),
                 0, "%s", o.text);
    cr_expect(seconds > 0.0 && single > 0.0 && twice > 0.0 && peak > 1 << 20, "%s", o.text);
    json_object_foreach (phases, name, phase) {
        double taken, rate, share;
        const char *precision;

        cr_assert_eq(json_unpack(phase, "{s:F, s:F, s:s, s:F}", "seconds", &taken, "gflops", &rate,
                                 "precision", &precision, "share", &share),
                     0, "%s", name);
        cr_expect(taken >= 0.0 && rate >= 0.0 && share >= 0.0, "%s", name);
        sum += taken;
    }
    for (int i = 0; phase_names[i] != NULL; i++)
        cr_expect_not_null(json_object_get(phases, phase_names[i]), "%s has no phase %s", o.text,
                           phase_names[i]);
    /* each phase is that of the slowest rank, so that the sum may be more than the whole */
    cr_expect_gt(sum, 0.5 * seconds, "%s", o.text);
    json_decref(report);
}

Test(cli, bench_solve_reports_rates_and_phases, .timeout = 300)
{
    static const char *const phases[] = {"factor", "sweep", NULL};

    check_bench(0, "bench solve --d-in 256 --d-out 192 --pattern 4:8 --repeat 1 --json 2>/dev/null",
                phases);
    check_bench(
        2,
        "bench solve --method sparsegpt --d-in 512 --d-out 512 --pattern 0.5 --repeat 2 --json "
        "2>/dev/null",
        phases);
    check_bench(2,
                "bench solve --method gptq --bits 4 --group-size 128 --d-in 256 --d-out 192 "
                "--act-order static --repeat 1 --json 2>/dev/null",
                phases);
    check_bench(0,
                "bench solve --pattern 2:4 --bits 4 --group-size channel --scale mse --d-in 256 "
                "--d-out 192 --repeat 1 --json 2>/dev/null",
                phases);
    check_bench(
        2, "bench solve --method rtn --asym --d-in 256 --d-out 192 --repeat 1 --json 2>/dev/null",
        phases);
}

Test(cli, bench_block_reports_rates_and_phases, .timeout = 300)
{
    static const char *const phases[] = {"forward", "syrk", "factor", "sweep", NULL};
    char scratch[64];

    places_make(scratch);
    check_bench(
        2,
        "bench block --config $M/config.json --tokens 1024 --seqlen 256 --pattern 2:4 --propagate "
        "linear --repeat 1 --json 2>/dev/null",
        phases);
    check_bench(
        0,
        "bench block --config $M/config.json --tokens 512 --seqlen 256 --pattern 4:8 --repeat 1 "
        "--json 2>/dev/null",
        phases);
    scratch_remove(scratch);
}
