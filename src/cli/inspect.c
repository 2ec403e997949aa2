#include "commands.h"

#include "inspect_report.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <stddef.h>
#include <stdio.h>

typedef struct inspect_config {
    const char *path;
    int json;
} inspect_config;

#define AT(field) offsetof(inspect_config, field)

static const mp_option rows[] = {
    {"PATH", NULL, "a model directory, a checkpoint or a token file", NULL, MP_OPT_STRING, AT(path),
     0},
    {"--json", NULL, "print JSON alone", NULL, MP_OPT_FLAG, AT(json), 0},
    {NULL, NULL, NULL, NULL, MP_OPT_FLAG, 0, 0},
};

static const mp_command_line line = {"inspect", "tell what a model, checkpoint or token file holds",
                                     rows};

static mp_status print_json(const json_t *report)
{
    char *text = NULL;

    MP_TRY(mp_json_dump(report, 0, &text));
    puts(text);
    mp_free(text);
    return MP_OK;
}

static mp_status inspect(const inspect_config *config)
{
    json_t *report = NULL;
    mp_status st = MP_OK;

    MP_TRY(inspect_report(config->path, &report));
    if (config->json)
        st = print_json(report);
    else
        inspect_print(report);
    json_decref(report);
    return st;
}

static mp_status run(const mp_comm *comm, int argc, char **argv)
{
    inspect_config config;

    MP_TRY(command_parse(&command_inspect, argc, argv, &config));
    return mp_comm_agree(comm, comm->rank == 0 ? inspect(&config) : MP_OK);
}

const mp_command command_inspect = {&line, run};
