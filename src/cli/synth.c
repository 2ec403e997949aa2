#include "commands.h"

#include "mpress/export.h"
#include "mpress/log.h"

#include <stddef.h>

typedef struct synth_config {
    const char *config, *out;
    int64_t blocks, seed;
} synth_config;

#define AT(field) offsetof(synth_config, field)

static const mp_option rows[] = {
    {"CONFIG.json", NULL, "config.json of the shape", NULL, MP_OPT_STRING, AT(config), 0},
    {"OUT", NULL, "Hugging Face directory to make", NULL, MP_OPT_STRING, AT(out), 0},
    {"--blocks", "N", "number of blocks, whatever the config says", NULL, MP_OPT_INT, AT(blocks),
     0},
    {"--seed", "S", "of the weights", "0", MP_OPT_INT, AT(seed), 0},
    {NULL, NULL, NULL, NULL, MP_OPT_FLAG, 0, 0},
};

static const mp_command_line line = {
    "synth", "make a model of a given shape with random weights, for benchmarks", rows};

static mp_status run(const mp_comm *comm, int argc, char **argv)
{
    synth_config config;

    MP_TRY(command_parse(&command_synth, argc, argv, &config));
    if (config.blocks == 0) return mp_fail(MP_ERR_ARG, "'mpress synth' needs --blocks N");
    if (config.blocks < 1)
        return mp_fail(MP_ERR_ARG, "--blocks %lld: expected 1 or more", (long long)config.blocks);
    if (config.seed < 0)
        return mp_fail(MP_ERR_ARG, "--seed %lld: expected 0 or more", (long long)config.seed);
    MP_TRY(mp_synth(comm, config.config, config.out, config.blocks, (uint64_t)config.seed));
    mp_log(MP_LOG_INFO, "%s: a random model of %lld blocks", config.out, (long long)config.blocks);
    return MP_OK;
}

const mp_command command_synth = {&line, run};
