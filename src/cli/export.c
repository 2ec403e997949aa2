#include "commands.h"

#include "mpress/checkpoint.h"
#include "mpress/export.h"
#include "mpress/imatrix.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include <stddef.h>
#include <string.h>

typedef struct export_config {
    const char *out, *dir, *format, *model_io;
    int dense;
} export_config;

#define AT(field) offsetof(export_config, field)

static const mp_option rows[] = {
    {"OUT", NULL, "the OUT of a finished run", NULL, MP_OPT_STRING, AT(out), 0},
    {"DIR", NULL, "Hugging Face directory to make; with --format imatrix a file, X.gguf", NULL,
     MP_OPT_STRING, AT(dir), 0},
    {"--format", "auto|compressed-tensors|gptq|awq|dense|imatrix",
     "of integers (auto: compressed-tensors); dense: plain weights, also of factors: larger, and "
     "any "
     "loader takes it; imatrix: what calibration measured, for llama.cpp's quantizer",
     "auto", MP_OPT_STRING, AT(format), 0},
    {"--dense", NULL, "the same as --format dense", NULL, MP_OPT_FLAG, AT(dense), 0},
    {"--model-io", "auto|shared|root",
     "shared: every rank reads OUT; root: rank 0 alone; auto: as the ranks see it", "auto",
     MP_OPT_STRING, AT(model_io), 0},
    {NULL, NULL, NULL, NULL, MP_OPT_FLAG, 0, 0},
};

static const mp_command_line line = {
    "export", "write a checkpoint as a Hugging Face directory (safetensors)", rows};

/* What was written, and who takes it. */
static void tell(const export_config *config, mp_export_format format, const mp_source *source,
                 const mp_model_size *size)
{
    double stored = (double)size->stored / 1e6, dense = (double)size->dense / 1e6;

    if (size->n_factored + size->n_quantised == 0)
        mp_log(MP_LOG_INFO, "%s: %lld tensors", config->dir, (long long)source->count);
    else if (format == MP_EXPORT_DENSE)
        mp_log(MP_LOG_INFO, "%s: dense, %.1f MB, for any loader; without --format dense %.1f MB",
               config->dir, dense, stored);
    else if (size->n_factored > 0)
        mp_log(MP_LOG_INFO,
               "%s: %lld linear maps as factors, %.1f MB, for transformers with trust_remote_code; "
               "with --format dense %.1f MB, for any loader",
               config->dir, (long long)size->n_factored, stored, dense);
    else
        mp_log(
            MP_LOG_INFO,
            "%s: %lld linear maps as integers, %.1f MB, for %s; with --format dense %.1f MB, for "
            "any loader",
            config->dir, (long long)size->n_quantised, stored, mp_export_loaders(format), dense);
}

static mp_status read_format(const export_config *config, mp_export_format *format)
{
    if (mp_export_format_parse(config->format, format) != MP_OK)
        return mp_fail(MP_ERR_ARG, "%s; or imatrix", mp_error_message());
    if (!config->dense) return MP_OK;
    if (*format != MP_EXPORT_AUTO && *format != MP_EXPORT_DENSE)
        return mp_fail(MP_ERR_ARG, "--dense and --format %s: expected one of them", config->format);
    *format = MP_EXPORT_DENSE;
    return MP_OK;
}

static mp_status write_directory(const mp_comm *comm, const export_config *config)
{
    mp_source *source = NULL;
    char *assets = NULL;
    mp_model_io io;
    mp_model_size size;
    mp_export_format format;
    mp_status st;

    MP_TRY(read_format(config, &format));
    MP_GO(mp_model_verify(comm, config->out));
    MP_GO(mp_model_io_parse(config->model_io, &io));
    MP_GO(mp_model_share(comm, config->out, io, &source, &assets));
    MP_GO(mp_comm_agree(comm, mp_model_size_of(source, &size)));
    MP_GO(mp_export(comm, source, assets, config->dir, format, 0));
    tell(config, format, source, &size);
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

static mp_status run(const mp_comm *comm, int argc, char **argv)
{
    export_config config;

    MP_TRY(command_parse(&command_export, argc, argv, &config));
    return strcmp(config.format, "imatrix") == 0 ? write_imatrix(comm, &config)
                                                 : write_directory(comm, &config);
}

const mp_command command_export = {&line, run};
