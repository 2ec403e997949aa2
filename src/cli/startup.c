#include "startup.h"

#include "mpress/linalg.h"
#include "mpress/log.h"

#include <errno.h>
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

/* The processors this rank may run on, a bit each; in a set that grows until the kernel's fits.  0 where it
 * does not say. */
static int own_processors(int processors, cpu_set_t **set)
{
    enum { MOST_PROCESSORS = 1 << 20 };

    for (*set = NULL; processors <= MOST_PROCESSORS; processors *= 2) {
        *set = CPU_ALLOC((size_t)processors);
        if (*set == NULL) return 0;
        if (sched_getaffinity(0, CPU_ALLOC_SIZE(processors), *set) == 0) return processors;
        CPU_FREE(*set);
        *set = NULL;
        if (errno != EINVAL) return 0;
    }
    return 0;
}

/* Ranks of this node that may run where this one may, itself included; 0 where that cannot be told.  The set
 * of each holds `processors`, 0 on a rank that has none: they agree on a size first.  Collective. */
static int ranks_that_share(const mp_comm *comm, int processors, cpu_set_t *set)
{
    int ends[2] = {processors, -processors}, sharing = 0;
    size_t bytes = CPU_ALLOC_SIZE(processors);
    unsigned char *all = malloc((size_t)comm->node_size * bytes + 1);

    if (all == NULL) ends[1] = 0;
    MPI_Allreduce(MPI_IN_PLACE, ends, 2, MPI_INT, MPI_MAX, comm->node);
    if (ends[1] != -ends[0] || ends[0] == 0) {
        free(all);
        return 0;
    }
    MPI_Allgather(set, (int)bytes, MPI_BYTE, all, (int)bytes, MPI_BYTE, comm->node);
    for (int i = 0; i < comm->node_size; i++) {
        const unsigned char *mine = (const unsigned char *)set, *other = all + (size_t)i * bytes;
        int common = 0;

        for (size_t k = 0; k < bytes; k++) common |= mine[k] & other[k];
        sharing += common != 0;
    }
    free(all);
    return sharing;
}

void startup_threads(const mp_comm *comm)
{
    enum { USUAL = 1024 }; /* processors of a cpu_set_t */
    int processors, sharing, threads = 0;
    cpu_set_t *set;

    if (getenv("OMP_NUM_THREADS") != NULL) {
        mp_threads_set(atoi(getenv("OMP_NUM_THREADS")));
        return;
    }
    processors = own_processors(USUAL, &set);
    MPI_Allreduce(MPI_IN_PLACE, &processors, 1, MPI_INT, MPI_MAX, comm->node);
    CPU_FREE(set);
    if (processors > 0) processors = own_processors(processors, &set);
    sharing = ranks_that_share(comm, processors, set);
    if (sharing > 0) threads = CPU_COUNT_S(CPU_ALLOC_SIZE(processors), set) / sharing;
    CPU_FREE(set);
    if (sharing == 0)
        mp_log(MP_LOG_WARNING, "the processors of the ranks are not known: one thread each "
                               "(OMP_NUM_THREADS sets it)");
    mp_threads_set(threads > 1 ? threads : 1);
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

int startup_warnings(const mp_comm *comm, const char *lines[2])
{
    char library[MPI_MAX_LIBRARY_VERSION_STRING];
    int length, count = 0, slow_blas = mp_blas_is_reference(), tcp = 0;

    MPI_Get_library_version(library, &length);
    if (comm->node_count > 1 && strstr(library, "Open MPI") != NULL) tcp = !open_mpi_has_fabric();
    MPI_Allreduce(MPI_IN_PLACE, &slow_blas, 1, MPI_INT, MPI_MAX, comm->mpi);
    MPI_Allreduce(MPI_IN_PLACE, &tcp, 1, MPI_INT, MPI_MAX, comm->mpi);
    if (tcp)
        lines[count++] = "MPI runs over TCP between the hosts of this job (this Open MPI is set up "
                         "without UCX or libfabric); expect a tenth of the network's speed";
    if (slow_blas)
        lines[count++] = "BLAS is the reference library, many times slower than OpenBLAS or MKL "
                         "(see update-alternatives --config libblas.so.3)";
    return count;
}

/* " (4 each)", " (3 + 1)" or, of many nodes, " (3 to 4 each)"; nothing where there is one. */
static void ranks_per_node(const mp_comm *comm, char text[128])
{
    enum { SHOWN = 8 };
    int least = comm->size, most = 0;
    size_t used = 0;

    text[0] = '\0';
    for (int node = 0; node < comm->node_count && comm->node_count > 1; node++) {
        int ranks = 0;

        for (int r = 0; r < comm->size; r++) ranks += comm->node_of[r] == node;
        if (ranks < least) least = ranks;
        if (ranks > most) most = ranks;
        if (node < SHOWN)
            used +=
                (size_t)snprintf(text + used, 128 - used, "%s%d", node == 0 ? " (" : " + ", ranks);
    }
    if (most == 0) return;
    if (least == most)
        snprintf(text, 128, " (%d each)", most);
    else if (comm->node_count > SHOWN)
        snprintf(text, 128, " (%d to %d each)", least, most);
    else
        snprintf(text + used, 128 - used, ")");
}

/* "1 thread each", "8 to 16 threads each".  Collective. */
static void threads_per_rank(const mp_comm *comm, char text[128])
{
    int ends[2] = {mp_threads(), -mp_threads()};

    MPI_Allreduce(MPI_IN_PLACE, ends, 2, MPI_INT, MPI_MAX, comm->mpi);
    if (ends[0] == -ends[1])
        snprintf(text, 128, "%d thread%s each", ends[0], ends[0] == 1 ? "" : "s");
    else
        snprintf(text, 128, "%d to %d threads each", -ends[1], ends[0]);
}

void startup_banner(const mp_comm *comm)
{
    const char *warnings[2];
    char nodes[128], threads[128];
    int count;

    ranks_per_node(comm, nodes);
    threads_per_rank(comm, threads);
    mp_log(MP_LOG_INFO, "%d rank%s on %d node%s%s, %s", comm->size, comm->size == 1 ? "" : "s",
           comm->node_count, comm->node_count == 1 ? "" : "s", nodes, threads);
    count = startup_warnings(comm, warnings);
    for (int w = 0; w < count; w++) mp_log(MP_LOG_WARNING, "%s", warnings[w]);
}
