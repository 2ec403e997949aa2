#include "commands.h"

#include "mpress/checkpoint.h"
#include "mpress/draw.h"
#include "mpress/memory.h"
#include "mpress/perplexity.h"
#include "mpress/weights.h"
#include "startup.h"

#include <stddef.h>
#include <stdio.h>

typedef struct eval_config {
    const char *model, *data, *bos, *model_io;
    int64_t seqlen, max_windows;
    int json;
} eval_config;

#define AT(field) offsetof(eval_config, field)

static const mp_option rows[] = {
    {"MODEL", NULL, "Hugging Face directory, or the OUT of a finished run", NULL, MP_OPT_STRING,
     AT(model), 0},
    {"--data", "FILE", ".txt, .jsonl (key text) or .safetensors (tensor tokens)", NULL,
     MP_OPT_STRING, AT(data), 0},
    {"--seqlen", "L", "tokens per window; windows are disjoint, the tail is dropped", "2048",
     MP_OPT_INT, AT(seqlen), 0},
    {"--max-windows", "N", "at most so many windows; 0: all", "0", MP_OPT_INT, AT(max_windows), 0},
    {"--bos", "auto|on|off", "auto: where the tokenizer adds it; on: first token of each window",
     "auto", MP_OPT_STRING, AT(bos), 0},
    {"--model-io", "auto|shared|root", "shared: every rank reads the model; root: rank 0 sends it",
     "auto", MP_OPT_STRING, AT(model_io), 0},
    {"--json", NULL, "print JSON alone", NULL, MP_OPT_FLAG, AT(json), 0},
    {NULL, NULL, NULL, NULL, MP_OPT_FLAG, 0, 0},
};

static const mp_command_line line = {"eval", "perplexity of a model or checkpoint on a text", rows};

static mp_status draw(const mp_comm *comm, const eval_config *config, const char *assets,
                      const mp_arch *arch, mp_windows *windows)
{
    mp_corpus_request request = {.path = config->data,
                                 .model = assets,
                                 .nsamples = config->max_windows,
                                 .seqlen = config->seqlen,
                                 .vocabulary = arch->vocabulary};

    if (config->max_windows < 0)
        return mp_fail(MP_ERR_ARG, "--max-windows %lld: expected 0 (all) or more",
                       (long long)config->max_windows);
    MP_TRY(mp_bos_parse(config->bos, &request.bos));
    return mp_draw_windows(comm, &request, mp_corpus_evaluation, arch->max_positions, windows);
}

static mp_status open_model(const mp_comm *comm, const eval_config *config, mp_arch *arch,
                            mp_source **source, char **assets)
{
    mp_model_io io;

    MP_TRY(mp_model_io_parse(config->model_io, &io));
    MP_TRY(mp_model_share(comm, config->model, io, source, assets));
    MP_TRY(mp_arch_share(comm, *assets, arch));
    return mp_comm_agree(comm, mp_weights_check(arch, *source));
}

static mp_status run(const mp_comm *comm, int argc, char **argv)
{
    eval_config config;
    mp_arch arch;
    mp_source *source = NULL;
    char *assets = NULL;
    mp_windows windows = {0};
    mp_perplexity_result result;
    mp_comm *apart = NULL;
    mp_status st;

    MP_TRY(command_parse(&command_eval, argc, argv, &config));
    if (config.data == NULL) return mp_fail(MP_ERR_ARG, "'mpress eval' needs --data FILE");
    startup_banner(comm);
    MP_GO(mp_model_verify(comm, config.model));
    MP_GO(open_model(comm, &config, &arch, &source, &assets));
    MP_GO(draw(comm, &config, assets, &arch, &windows));
    MP_GO(mp_shared_plan(comm, mp_perplexity_shared_bytes(&arch), "perplexity", &apart));
    MP_GO(mp_perplexity(apart != NULL ? apart : comm, &arch, source, &windows, &result));
    if (comm->rank == 0)
        printf("{\"perplexity\": %.10g, \"nll\": %.10g, \"windows\": %lld}\n", result.perplexity,
               result.nll, (long long)result.windows);
out:
    mp_windows_free(&windows);
    mp_source_close(&source);
    mp_free(assets);
    mp_comm_free(apart);
    return st;
}

const mp_command command_eval = {&line, run};
