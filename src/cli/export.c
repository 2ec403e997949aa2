#include "commands.h"

#include "mpress/checkpoint.h"
#include "mpress/export.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include <stddef.h>

typedef struct export_config {
    const char *out, *dir;
} export_config;

#define AT(field) offsetof(export_config, field)

static const mp_option rows[] = {
    {"OUT", NULL, "the OUT of a finished run", NULL, MP_OPT_STRING, AT(out), 0},
    {"DIR", NULL, "Hugging Face directory to make", NULL, MP_OPT_STRING, AT(dir), 0},
    {NULL, NULL, NULL, NULL, MP_OPT_FLAG, 0, 0},
};

static const mp_command_line line = {
    "export", "write a checkpoint as a Hugging Face directory (safetensors)", rows};

static mp_status run(const mp_comm *comm, int argc, char **argv)
{
    export_config config;
    mp_source *source = NULL;
    char *assets = NULL;
    mp_status st;

    MP_TRY(command_parse(&command_export, argc, argv, &config));
    MP_GO(mp_comm_agree(comm, mp_model_open(config.out, &source, &assets)));
    MP_GO(mp_export(comm, source, assets, config.dir, 0));
    mp_log(MP_LOG_INFO, "%s: %lld tensors", config.dir, (long long)source->count);
out:
    mp_source_close(&source);
    mp_free(assets);
    return st;
}

const mp_command command_export = {&line, run};
