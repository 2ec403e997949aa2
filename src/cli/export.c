#include "commands.h"

#include "mpress/checkpoint.h"
#include "mpress/export.h"
#include "mpress/imatrix.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include <stddef.h>
#include <string.h>

typedef struct export_config {
    const char *out, *dir, *model_io, *format;
    int dense;
} export_config;

#define AT(field) offsetof(export_config, field)

static const mp_option rows[] = {
    {"OUT", NULL, "the OUT of a finished run", NULL, MP_OPT_STRING, AT(out), 0},
    {"DIR", NULL, "Hugging Face directory to make; with --format imatrix a file, X.gguf", NULL,
     MP_OPT_STRING, AT(dir), 0},
    {"--format", "safetensors|imatrix",
     "imatrix: what calibration measured, for llama.cpp's quantizer", "safetensors", MP_OPT_STRING,
     AT(format), 0},
    {"--dense", NULL, "multiply low-rank factors out: larger, and any loader takes it", NULL,
     MP_OPT_FLAG, AT(dense), 0},
    {"--model-io", "auto|shared|root",
     "shared: every rank reads OUT; root: rank 0 alone; auto: as the ranks see it", "auto",
     MP_OPT_STRING, AT(model_io), 0},
    {NULL, NULL, NULL, NULL, MP_OPT_FLAG, 0, 0},
};

static const mp_command_line line = {
    "export", "write a checkpoint as a Hugging Face directory (safetensors)", rows};

/* What was written, and who takes it. */
static void tell(const export_config *config, const mp_source *source, const mp_model_size *size)
{
    if (size->n_factored == 0)
        mp_log(MP_LOG_INFO, "%s: %lld tensors", config->dir, (long long)source->count);
    else if (config->dense)
        mp_log(MP_LOG_INFO,
               "%s: dense, %.1f MB, for any loader; without --dense %.1f MB, for transformers with "
               "trust_remote_code",
               config->dir, (double)size->dense / 1e6, (double)size->stored / 1e6);
    else
        mp_log(MP_LOG_INFO,
               "%s: %lld linear maps as factors, %.1f MB, for transformers with trust_remote_code; "
               "with --dense %.1f MB, for any loader",
               config->dir, (long long)size->n_factored, (double)size->stored / 1e6,
               (double)size->dense / 1e6);
}

static mp_status write_directory(const mp_comm *comm, const export_config *config)
{
    mp_source *source = NULL;
    char *assets = NULL;
    mp_model_io io;
    mp_model_size size;
    mp_status st;

    MP_GO(mp_model_verify(comm, config->out));
    MP_GO(mp_model_io_parse(config->model_io, &io));
    MP_GO(mp_model_share(comm, config->out, io, &source, &assets));
    MP_GO(mp_comm_agree(comm, mp_model_size_of(source, &size)));
    MP_GO(mp_export(comm, source, assets, config->dir, config->dense, 0));
    tell(config, source, &size);
out:
    mp_source_close(&source);
    mp_free(assets);
    return st;
}

static mp_status write_imatrix(const mp_comm *comm, const export_config *config)
{
    int64_t missing;

    if (config->dense)
        return mp_fail(MP_ERR_ARG, "--dense: an imatrix (--format imatrix) has no weights");
    MP_TRY(mp_model_verify(comm, config->out));
    MP_TRY(mp_imatrix_write(comm, config->out, config->dir, &missing));
    if (missing > 0)
        mp_log(MP_LOG_WARNING, "%s: %lld linear maps are not in it, for the run left them out",
               config->dir, (long long)missing);
    mp_log(MP_LOG_INFO, "%s: importance matrix, for llama-quantize --imatrix", config->dir);
    return MP_OK;
}

/* What --format can say. */
static const struct {
    const char *name;
    mp_status (*write)(const mp_comm *comm, const export_config *config);
} formats[] = {{"safetensors", write_directory}, {"imatrix", write_imatrix}};

static mp_status run(const mp_comm *comm, int argc, char **argv)
{
    export_config config;

    MP_TRY(command_parse(&command_export, argc, argv, &config));
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(formats[i].name, config.format) == 0) return formats[i].write(comm, &config);
    return mp_fail(MP_ERR_ARG, "--format %s: expected safetensors or imatrix", config.format);
}

const mp_command command_export = {&line, run};
