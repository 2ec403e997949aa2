/* mpress: one program, one sub-command per task. */
#include "commands.h"

#include "manual.h"
#include "mpress/dlinalg.h"
#include "mpress/linalg.h"
#include "mpress/log.h"
#include "mpress_commit.h"
#include "startup.h"

#include <hdf5.h>
#include <stdio.h>
#include <string.h>

static const mp_command *const commands[] = {
    &command_compress, &command_eval,  &command_export, &command_inspect,
    &command_tokenize, &command_synth, &command_bench,  &command_plan,
};

enum { COMMANDS = sizeof commands / sizeof commands[0] };

static void print_usage(FILE *to)
{
    fprintf(to,
            "mpress %s: compresses large language models on CPU clusters\n\n"
            "usage: mpress COMMAND [...]      (alone, or under mpirun or srun)\n\n",
            MPRESS_VERSION);
    for (int i = 0; i < COMMANDS; i++)
        fprintf(to, "  %-10s %s\n", commands[i]->line->command, commands[i]->line->summary);
    fprintf(to,
            "\nmpress COMMAND --help tells the options; mpress --version what it is built on.\n"
            "mpress --man writes the man page, mpress --bash-completion what bash completes from.\n"
            "Exit codes: 0 done; 64 usage, or does not fit; 65 bad input or numeric failure;\n"
            "70 internal; 74 input or output; 75 stopped on request.\n");
}

static void print_version(const mp_comm *comm)
{
    const char *warnings[2];
    char library[MPI_MAX_LIBRARY_VERSION_STRING];
    unsigned major = 0, minor = 0, release = 0;
    int length, count = startup_warnings(comm, warnings);

    if (comm->rank != 0) return;
    MPI_Get_library_version(library, &length);
    library[strcspn(library, "\n")] = '\0';
    H5get_libversion(&major, &minor, &release);
    printf("mpress %s (%s), checkpoint format 1\n", MPRESS_VERSION, MPRESS_COMMIT);
    printf("compiler   %s\n", MPRESS_COMPILER);
    printf("MPI        %s\n", library);
    printf("HDF5       %u.%u.%u, parallel\n", major, minor, release);
    printf("BLAS       %s\n", mp_blas_description());
    printf("products   %s (single precision)\n", mp_sgemm_description());
    printf("ScaLAPACK  %s\n", mp_scalapack_description());
    for (int w = 0; w < count; w++) printf("warning: %s\n", warnings[w]);
}

mp_status command_parse(const mp_command *command, int argc, char **argv, void *config)
{
    return mp_options_parse(command->line, argc, argv, config);
}

static int asks_for_help(int argc, char **argv)
{
    for (int i = 0; i < argc; i++)
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) return 1;
    return 0;
}

static mp_status dispatch(const mp_comm *comm, int argc, char **argv)
{
    if (argc < 2) {
        if (comm->rank == 0) print_usage(stderr);
        return mp_fail(MP_ERR_ARG, "expected a command (see 'mpress --help')");
    }
    if (strcmp(argv[1], "--version") == 0) {
        print_version(comm);
        return MP_OK;
    }
    for (int i = 0; i < COMMANDS; i++) {
        if (strcmp(argv[1], commands[i]->line->command) != 0) continue;
        if (asks_for_help(argc - 2, argv + 2)) {
            if (comm->rank == 0) mp_options_help(commands[i]->line, stdout);
            return MP_OK;
        }
        return commands[i]->run(comm, argc - 2, argv + 2);
    }
    if (asks_for_help(1, argv + 1) || strcmp(argv[1], "help") == 0) {
        if (comm->rank == 0) print_usage(stdout);
        return MP_OK;
    }
    return mp_fail(MP_ERR_ARG, "%s: no such command (see 'mpress --help')", argv[1]);
}

/* The man page and the completion, before there is any MPI. */
static int print_manual(const char *word)
{
    mp_status st = manual_print(word, commands, COMMANDS, stdout);

    if (st != MP_OK) mp_log(MP_LOG_ERROR, "%s", mp_error_message());
    return mp_exit_code(st);
}

int main(int argc, char **argv)
{
    mp_comm *comm = NULL;
    mp_status st;
    int provided;

    if (argc == 2 && manual_knows(argv[1])) return print_manual(argv[1]);
    startup_memory();
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    st = mp_comm_create(MPI_COMM_WORLD, &comm);
    if (st == MP_OK) {
        mp_log_setup(MP_LOG_INFO, comm->rank);
        startup_threads(comm);
        st = mp_comm_arm_fault(comm);
    }
    if (st == MP_OK) st = dispatch(comm, argc, argv);
    if (st != MP_OK)
        mp_log(st == MP_ERR_STOPPED ? MP_LOG_INFO : MP_LOG_ERROR, "%s", mp_error_message());
    /* a status that the ranks have not agreed on: the others may wait for this one for ever */
    if (st == MP_ERR_MPI || st == MP_ERR_INTERNAL) MPI_Abort(MPI_COMM_WORLD, mp_exit_code(st));
    mp_comm_free(comm);
    MPI_Finalize();
    return mp_exit_code(st);
}
