#include "startup.h"

#include "mpress/linalg.h"
#include "mpress/log.h"

#include <malloc.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void startup_memory(void)
{
#ifdef __GLIBC__
    mallopt(M_MMAP_THRESHOLD, 32 << 20); /* the largest that glibc takes */
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
#endif
}

void startup_threads(const mp_comm *comm)
{
    enum { MOST_RANKS = 1024 };
    cpu_set_t mine, *all;
    int sharing = 0;

    if (getenv("OMP_NUM_THREADS") != NULL) {
        mp_threads_set(atoi(getenv("OMP_NUM_THREADS")));
        return;
    }
    CPU_ZERO(&mine);
    sched_getaffinity(0, sizeof mine, &mine);
    all = calloc((size_t)comm->node_size, sizeof *all);
    if (all == NULL || comm->node_size > MOST_RANKS) {
        free(all);
        return;
    }
    MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, comm->node);
    for (int i = 0; i < comm->node_size; i++) {
        cpu_set_t common;

        CPU_AND(&common, &mine, &all[i]);
        sharing += CPU_COUNT(&common) > 0;
    }
    free(all);
    mp_threads_set(CPU_COUNT(&mine) / (sharing > 0 ? sharing : 1));
}

/* The transports that Open MPI may use, from its control variables: where neither UCX nor a fast
 * fabric is allowed, messages between hosts go over TCP.  Other libraries are not asked. */
static int open_mpi_has_fabric(void)
{
    static const char *const controls[] = {"OMPI_MCA_pml", "OMPI_MCA_mtl", "OMPI_MCA_btl"};
    static const char *const fabrics[] = {"ucx", "ofi", "psm", "openib", "uct", "portals"};
    FILE *file = fopen("/etc/openmpi/openmpi-mca-params.conf", "r");
    char line[256];
    int turned_off = 0;

    for (size_t c = 0; c < sizeof controls / sizeof controls[0]; c++)
        for (size_t f = 0; f < sizeof fabrics / sizeof fabrics[0]; f++) {
            const char *value = getenv(controls[c]);

            if (value != NULL && value[0] != '^' && strstr(value, fabrics[f]) != NULL) {
                if (file != NULL) fclose(file);
                return 1;
            }
        }
    if (file == NULL) return 1; /* not Debian's build, which alone is known to turn them off */
    while (fgets(line, sizeof line, file) != NULL)
        turned_off |= strncmp(line, "pml", 3) == 0 && strstr(line, "^ucx") != NULL;
    fclose(file);
    return !turned_off;
}

int startup_warnings(const mp_comm *comm, char *text, size_t size)
{
    char library[MPI_MAX_LIBRARY_VERSION_STRING];
    int length, slow_blas = mp_blas_is_reference(), tcp = 0;

    MPI_Get_library_version(library, &length);
    if (comm->node_count > 1 && strstr(library, "Open MPI") != NULL) tcp = !open_mpi_has_fabric();
    MPI_Allreduce(MPI_IN_PLACE, &slow_blas, 1, MPI_INT, MPI_MAX, comm->mpi);
    MPI_Allreduce(MPI_IN_PLACE, &tcp, 1, MPI_INT, MPI_MAX, comm->mpi);
    snprintf(
        text, size, "%s%s",
        tcp ? "WARNING: MPI runs over TCP between the hosts of this job (this Open MPI is set up "
              "without UCX or libfabric); expect a tenth of the network's speed\n"
            : "",
        slow_blas ? "WARNING: BLAS is the reference library, many times slower than OpenBLAS or "
                    "MKL (see update-alternatives --config libblas.so.3)\n"
                  : "");
    return tcp || slow_blas;
}

void startup_banner(const mp_comm *comm)
{
    char text[512], *line = text, *end;

    mp_log(MP_LOG_INFO, "%d rank%s on %d node%s, %d thread%s each", comm->size,
           comm->size == 1 ? "" : "s", comm->node_count, comm->node_count == 1 ? "" : "s",
           mp_threads(), mp_threads() == 1 ? "" : "s");
    if (!startup_warnings(comm, text, sizeof text)) return;
    while ((end = strchr(line, '\n')) != NULL) {
        *end = '\0';
        mp_log(MP_LOG_WARNING, "%s", line);
        line = end + 1;
    }
}
