/* MPI's profiling interface lets this program count what any library in it makes and frees: HDF5 and
 * ScaLAPACK as well as ours. */
#include "fault_balance.h"

#include "mpress/memory.h"

#include <dirent.h>
#include <hdf5.h>
#include <jansson.h>
#include <mpi.h>
#include <stdio.h>
#include <stdlib.h>

enum { MOST_REQUESTS = 1024 };

static balance now;
static MPI_Request under_way[MOST_REQUESTS]; /* of MPI_Ibcast */

static void *count_json(size_t bytes)
{
    now.json++;
    return malloc(bytes);
}

static void free_json(void *pointer)
{
    if (pointer != NULL) now.json--;
    free(pointer);
}

void balance_start(void)
{
    json_set_alloc_funcs(count_json, free_json);
}

/* The linker turns calls of json_dumps to this: its text goes to whoever called, who frees it. */
char *__real_json_dumps(const json_t *value, size_t flags);
char *__wrap_json_dumps(const json_t *value, size_t flags);

char *__wrap_json_dumps(const json_t *value, size_t flags)
{
    char *text = __real_json_dumps(value, flags);

    now.json -= text != NULL;
    return text;
}

static int made(int code, MPI_Comm comm)
{
    now.communicators += code == MPI_SUCCESS && comm != MPI_COMM_NULL;
    return code;
}

int MPI_Comm_dup(MPI_Comm comm, MPI_Comm *to)
{
    int code = PMPI_Comm_dup(comm, to);

    return made(code, *to);
}

int MPI_Comm_split(MPI_Comm comm, int color, int key, MPI_Comm *to)
{
    int code = PMPI_Comm_split(comm, color, key, to);

    return made(code, *to);
}

int MPI_Comm_split_type(MPI_Comm comm, int type, int key, MPI_Info info, MPI_Comm *to)
{
    int code = PMPI_Comm_split_type(comm, type, key, info, to);

    return made(code, *to);
}

int MPI_Comm_create(MPI_Comm comm, MPI_Group group, MPI_Comm *to)
{
    int code = PMPI_Comm_create(comm, group, to);

    return made(code, *to);
}

int MPI_Comm_create_group(MPI_Comm comm, MPI_Group group, int tag, MPI_Comm *to)
{
    int code = PMPI_Comm_create_group(comm, group, tag, to);

    return made(code, *to);
}

int MPI_Comm_free(MPI_Comm *comm)
{
    now.communicators--;
    return PMPI_Comm_free(comm);
}

int MPI_Comm_group(MPI_Comm comm, MPI_Group *group)
{
    now.groups++;
    return PMPI_Comm_group(comm, group);
}

int MPI_Group_incl(MPI_Group group, int count, const int ranks[], MPI_Group *to)
{
    now.groups++;
    return PMPI_Group_incl(group, count, ranks, to);
}

int MPI_Group_range_incl(MPI_Group group, int count, int ranges[][3], MPI_Group *to)
{
    now.groups++;
    return PMPI_Group_range_incl(group, count, ranges, to);
}

int MPI_Group_free(MPI_Group *group)
{
    now.groups--;
    return PMPI_Group_free(group);
}

int MPI_Win_allocate_shared(MPI_Aint bytes, int unit, MPI_Info info, MPI_Comm comm, void *base,
                            MPI_Win *window)
{
    now.windows++;
    return PMPI_Win_allocate_shared(bytes, unit, info, comm, base, window);
}

int MPI_Win_free(MPI_Win *window)
{
    now.windows--;
    return PMPI_Win_free(window);
}

int MPI_File_open(MPI_Comm comm, const char *path, int mode, MPI_Info info, MPI_File *file)
{
    int code = PMPI_File_open(comm, path, mode, info, file);

    now.files += code == MPI_SUCCESS;
    return code;
}

int MPI_File_close(MPI_File *file)
{
    now.files--;
    return PMPI_File_close(file);
}

int MPI_Ibcast(void *buffer, int count, MPI_Datatype type, int root, MPI_Comm comm,
               MPI_Request *request)
{
    int code = PMPI_Ibcast(buffer, count, type, root, comm, request);

    if (code == MPI_SUCCESS && now.requests < MOST_REQUESTS) under_way[now.requests++] = *request;
    return code;
}

int MPI_Waitall(int count, MPI_Request requests[], MPI_Status statuses[])
{
    for (int i = 0; i < count; i++)
        for (int64_t k = now.requests - 1; k >= 0; k--)
            if (under_way[k] == requests[i]) {
                under_way[k] = under_way[--now.requests];
                break;
            }
    return PMPI_Waitall(count, requests, statuses);
}

static int64_t open_descriptors(void)
{
    DIR *dir = opendir("/proc/self/fd");
    int64_t count = 0;

    while (dir != NULL && readdir(dir) != NULL) count++;
    if (dir != NULL) closedir(dir);
    return count;
}

balance balance_take(void)
{
    balance b = now;

    b.memory = mp_memory_balance();
    b.descriptors = open_descriptors();
    b.objects = (int64_t)H5Fget_obj_count((hid_t)H5F_OBJ_ALL, H5F_OBJ_ALL);
    return b;
}

const char *balance_leaks(const balance *before, const balance *after, char text[256])
{
    size_t used = 0;

#define BALANCE_COMPARE_(field, words)                                                             \
    if (after->field != before->field && used < 200)                                               \
        used += (size_t)snprintf(text + used, 256 - used, "%s%lld " words, used > 0 ? ", " : "",   \
                                 (long long)(after->field - before->field));
    BALANCE_LIST(BALANCE_COMPARE_)
#undef BALANCE_COMPARE_
    return used > 0 ? text : NULL;
}
