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

double mp_memory_available(void)
{
    double limit = kernel_figure("/sys/fs/cgroup/memory.max", "%lf");
    double used = kernel_figure("/sys/fs/cgroup/memory.current", "%lf");
    double free = 1024.0 * kernel_figure("/proc/meminfo", "MemAvailable: %lf");

    return isfinite(limit) && isfinite(used) ? fmin(free, fmax(limit - used, 0.0)) : free;
}
