#include "commands.h"

#include "inspect_report.h"
#include "mpress/checkpoint.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <stddef.h>
#include <stdio.h>

typedef struct inspect_config {
    const char *path;
    int json, verify;
} inspect_config;

#define AT(field) offsetof(inspect_config, field)

static const mp_option rows[] = {
    {"PATH", NULL, "a model directory, a checkpoint or a token file", NULL, MP_OPT_STRING, AT(path),
     0},
    {"--verify", NULL, "read all files of a checkpoint back and compare their checksums", NULL,
     MP_OPT_FLAG, AT(verify), 0},
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

/* One line per file that is damaged, and one for all. */
static void print_verification(const char *path, const json_t *report)
{
    const json_t *damaged = json_object_get(report, "damaged"), *each;
    long long bad = json_integer_value(json_object_get(report, "bad_journal_line"));
    size_t i;

    if (bad > 0) printf("%s/journal.jsonl: line %lld: does not fit its checksum\n", path, bad);
    json_array_foreach (damaged, i, each)
        printf("%s/%s: %s\n", path, json_string_value(json_object_get(each, "file")),
               json_string_value(json_object_get(each, "damage")));
    printf("%s: %lld files, %.1f MB read back, %zu damaged\n", path,
           (long long)json_integer_value(json_object_get(report, "files")),
           1e-6 * (double)json_integer_value(json_object_get(report, "bytes")),
           json_array_size(damaged) + (bad > 0));
}

/* All ranks share the reading. */
static mp_status verify(const mp_comm *comm, const inspect_config *config)
{
    json_t *report = NULL;
    size_t damaged;
    mp_status st = MP_OK;

    MP_TRY(mp_checkpoint_verify(comm, config->path, &report));
    damaged = json_array_size(json_object_get(report, "damaged")) +
              (json_integer_value(json_object_get(report, "bad_journal_line")) > 0);
    if (comm->rank == 0 && config->json)
        st = print_json(report);
    else if (comm->rank == 0)
        print_verification(config->path, report);
    json_decref(report);
    if (st == MP_OK && damaged > 0)
        st = mp_fail(MP_ERR_FORMAT, "%s: damaged; the command that made it makes it again",
                     config->path);
    return mp_comm_agree(comm, st);
}

static mp_status run(const mp_comm *comm, int argc, char **argv)
{
    inspect_config config;

    MP_TRY(command_parse(&command_inspect, argc, argv, &config));
    if (config.verify) return verify(comm, &config);
    return mp_comm_agree(comm, comm->rank == 0 ? inspect(&config) : MP_OK);
}

const mp_command command_inspect = {&line, run};
