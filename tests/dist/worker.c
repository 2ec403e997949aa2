/* mpirun -n K worker CASE: runs one case on all ranks; exit 0 if every rank says MP_OK. */
#include "worker.h"

#include "mpress/log.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>

static const mp_case *const areas[] = {cases_comm,
                                       cases_method,
                                       cases_token_weights,
                                       cases_quant,
                                       cases_integers,
                                       cases_layouts,
                                       cases_lowrank,
                                       cases_arch,
                                       cases_weights,
                                       cases_kernels,
                                       cases_forward,
                                       cases_checkpoint,
                                       cases_checkpoint_disk,
                                       cases_resume,
                                       cases_export,
                                       cases_factored,
                                       cases_factored_bounds,
                                       cases_budget,
                                       cases_sensitivity,
                                       cases_hosts,
                                       cases_forecast};

mp_status mp_case_skip(const char *why)
{
    printf("skipped: %s\n", why);
    return MP_OK;
}

static const mp_case *find(const char *name)
{
    for (size_t a = 0; a < sizeof areas / sizeof areas[0]; a++)
        for (const mp_case *c = areas[a]; c->name != NULL; c++)
            if (strcmp(c->name, name) == 0) return c;
    return NULL;
}

static void list_cases(void)
{
    for (size_t a = 0; a < sizeof areas / sizeof areas[0]; a++)
        for (const mp_case *c = areas[a]; c->name != NULL; c++) printf("%s\n", c->name);
}

int main(int argc, char **argv)
{
    const mp_case *c = argc == 2 ? find(argv[1]) : NULL;
    mp_comm *comm = NULL;
    mp_status st;
    int provided, failed;

    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        list_cases();
        return 0;
    }
    if (c == NULL) {
        fprintf(stderr, "usage: worker CASE | --list\n");
        return 64;
    }
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    st = mp_comm_create(MPI_COMM_WORLD, &comm);
    if (st == MP_OK) mp_log_setup(MP_LOG_INFO, comm->rank);
    if (st == MP_OK) st = mp_comm_arm_fault(comm);
    if (st == MP_OK) st = c->run(comm);
    if (st != MP_OK && comm != NULL)
        fprintf(stderr, "rank %d: %s: %s\n", comm->rank, mp_error_place(), mp_error_message());
    mp_comm_free(comm);
    if (st == MP_OK && mp_memory_balance() != 0) {
        fprintf(stderr, "%lld allocations were not freed\n", (long long)mp_memory_balance());
        st = MP_ERR_INTERNAL;
    }
    failed = st != MP_OK;
    MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    MPI_Finalize();
    return failed;
}
