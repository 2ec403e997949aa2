#include "mpress/memory.h"

#include "mpress/fault.h"

#include <math.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ALIGNMENT = 64 }; /* a cache line, and the width of an AVX-512 register */

static atomic_llong live_count;
static atomic_llong live_bytes;

/* The size is kept in a header of one alignment unit in front of the block, for the balance. */
mp_status mp_alloc(void **pointer, int64_t count, size_t size, int zeroed, const char *what)
{
    size_t bytes;
    void *made = NULL;
    unsigned char *block;

    *pointer = NULL;
    if (count < 0 || (size != 0 && (uint64_t)count > (PTRDIFF_MAX - 2 * ALIGNMENT) / size))
        return mp_fail(MP_ERR_NOMEM, "%s: %lld elements of %zu bytes is not a possible size", what,
                       (long long)count, size);
    bytes = (size_t)count * size;
    /* Not aligned_alloc: it wants a rounded size, and no sanitizer sees a step into the rest. */
    if (mp_fault(MP_FAULT_ALLOC) || posix_memalign(&made, ALIGNMENT, ALIGNMENT + bytes) != 0)
        return mp_fail(MP_ERR_NOMEM, "%s: could not allocate %.1f MiB", what,
                       (double)bytes / (1 << 20));
    block = made;
    memcpy(block, &bytes, sizeof bytes);
    if (zeroed) memset(block + ALIGNMENT, 0, bytes);
    atomic_fetch_add(&live_count, 1);
    atomic_fetch_add(&live_bytes, (long long)bytes);
    *pointer = block + ALIGNMENT;
    return MP_OK;
}

void mp_free(void *pointer)
{
    unsigned char *block;
    size_t bytes;

    if (pointer == NULL) return;
    block = (unsigned char *)pointer - ALIGNMENT;
    memcpy(&bytes, block, sizeof bytes);
    atomic_fetch_sub(&live_count, 1);
    atomic_fetch_sub(&live_bytes, (long long)bytes);
    free(block);
}

mp_status mp_strdup(const char *text, char **copy)
{
    size_t length = strlen(text);

    MP_TRY(mp_alloc((void **)copy, (int64_t)length + 1, 1, 0, "a string"));
    memcpy(*copy, text, length + 1);
    return MP_OK;
}

int64_t mp_memory_balance(void)
{
    return atomic_load(&live_count);
}

int64_t mp_memory_bytes(void)
{
    return atomic_load(&live_bytes);
}

int64_t mp_memory_peak(void)
{
    FILE *file = fopen("/proc/self/status", "r");
    char line[256];
    long long kib = 0;

    if (file == NULL) return 0;
    while (fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, "VmHWM: %lld kB", &kib) == 1) break;
    fclose(file);
    return (int64_t)kib * 1024;
}

/* The number in a line of a file of the kernel, by its format; infinite where there is none ("max"). */
static double kernel_figure(const char *path, const char *format)
{
    FILE *file = fopen(path, "r");
    double found = INFINITY, value;
    char line[256];

    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        if (sscanf(line, format, &value) == 1) found = value;
    if (file != NULL) fclose(file);
    return found;
}

/* A hierarchy of control groups: where it is mounted, and the names of its figures.  Those of memory.stat
 * are of a group with all below it. */
typedef struct hierarchy {
    const char *mount, *limit, *used, *inactive_file, *active_file;
} hierarchy;

static const hierarchy version_1 = {"/sys/fs/cgroup/memory", "memory.limit_in_bytes",
                                    "memory.usage_in_bytes", "total_inactive_file %lf",
                                    "total_active_file %lf"};
static const hierarchy version_2 = {"/sys/fs/cgroup", "memory.max", "memory.current",
                                    "inactive_file %lf", "active_file %lf"};

enum { LONGEST = 8192 }; /* of a line or a path below /sys; a longer one is not looked at */

static double group_figure(const char *directory, const char *name, const char *format)
{
    char path[LONGEST];

    if (snprintf(path, sizeof path, "%s/%s", directory, name) >= LONGEST) return INFINITY;
    return kernel_figure(path, format);
}

/* What a group may still have: pages that only cache files count as used there, but are given up for
 * others.  Infinite where the group has no limit, or is not there. */
static double group_room(const hierarchy *h, const char *directory)
{
    double limit = group_figure(directory, h->limit, "%lf");
    double used = group_figure(directory, h->used, "%lf");
    double inactive = group_figure(directory, "memory.stat", h->inactive_file);
    double active = group_figure(directory, "memory.stat", h->active_file);

    if (!isfinite(limit) || !isfinite(used)) return INFINITY;
    used -= (isfinite(inactive) ? inactive : 0.0) + (isfinite(active) ? active : 0.0);
    return fmax(limit - fmax(used, 0.0), 0.0);
}

/* The least over a group and all above it.  A container may see its own group as the top while `group` is
 * the path on the host: what is not there limits nothing. */
static double room_upwards(const hierarchy *h, const char *root, const char *group)
{
    double least = INFINITY;
    char directory[LONGEST];
    size_t top = strlen(root) + strlen(h->mount);

    if (snprintf(directory, sizeof directory, "%s%s%s", root, h->mount, group) >= LONGEST)
        directory[top] = '\0';
    for (;;) {
        least = fmin(least, group_room(h, directory));
        if (strlen(directory) <= top) return least;
        *strrchr(directory, '/') = '\0';
    }
}

/* Whether a list of controllers, "cpu,memory", names that of memory. */
static int has_memory(char *controllers)
{
    char *rest = NULL;

    for (char *one = strtok_r(controllers, ",", &rest); one != NULL;
         one = strtok_r(NULL, ",", &rest))
        if (strcmp(one, "memory") == 0) return 1;
    return 0;
}

/* A line of /proc/self/cgroup, "4:memory:/job/step" of version 1, "0::/job/step" of version 2. */
static double room_of_line(const char *root, char *line)
{
    char *controllers = strchr(line, ':');
    char *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;

    if (group == NULL) return INFINITY;
    *group++ = '\0';
    group[strcspn(group, "\n")] = '\0';
    if (*group != '/') return INFINITY;
    if (controllers[1] == '\0') return room_upwards(&version_2, root, group);
    return has_memory(controllers + 1) ? room_upwards(&version_1, root, group) : INFINITY;
}

double mp_memory_available_below(const char *root)
{
    char path[LONGEST], line[LONGEST];
    double least;
    FILE *file;

    snprintf(path, sizeof path, "%s/proc/meminfo", root);
    least = 1024.0 * kernel_figure(path, "MemAvailable: %lf");
    snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
    file = fopen(path, "r");
    while (file != NULL && fgets(line, sizeof line, file) != NULL)
        least = fmin(least, room_of_line(root, line));
    if (file != NULL) fclose(file);
    return least;
}

double mp_memory_available(void)
{
    return mp_memory_available_below("");
}
