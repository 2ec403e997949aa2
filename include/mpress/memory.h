/* Aligned allocation with a balance, so that every test is a leak test.
 * Floor 0: base. */
#ifndef MPRESS_MEMORY_H
#define MPRESS_MEMORY_H

#include "mpress/error.h"

#include <stddef.h>
#include <stdint.h>

/* Allocates `count` elements of the type `*pointer`, 64-byte aligned.  `what` names the buffer in the
 * error message ("hidden states").  count = 0 gives a valid pointer that must be freed.
 * MP_NEW zeroes the memory, MP_NEW_RAW does not.  Errors: MP_ERR_NOMEM (the pointer is then NULL). */
#define MP_NEW(pointer, count, what)                                                               \
    mp_alloc((void **)&(pointer), (int64_t)(count), sizeof *(pointer), 1, what)
#define MP_NEW_RAW(pointer, count, what)                                                           \
    mp_alloc((void **)&(pointer), (int64_t)(count), sizeof *(pointer), 0, what)

mp_status mp_alloc(void **pointer, int64_t count, size_t size, int zeroed, const char *what);

/* Frees what mp_alloc gave; NULL is fine. */
void mp_free(void *pointer);

/* A copy of a string, owned by the caller (mp_free). */
mp_status mp_strdup(const char *text, char **copy);

/* Allocations not yet freed, over all threads: 0 at the end of a clean run. */
int64_t mp_memory_balance(void);

/* Bytes in live allocations now. */
int64_t mp_memory_bytes(void);

/* Peak resident memory of this process in bytes (VmHWM of the kernel; 0 where it is not known). */
int64_t mp_memory_peak(void);

/* Bytes of this machine that could be had without swapping, and within the limits of a batch system or
 * container: those of the control group of this process (version 1 or 2) and of every group above it, less
 * what is used there but for cached files.  Infinite where nothing is known. */
double mp_memory_available(void);

/* The same by the files of the kernel below `root`: "" for those of this machine. */
double mp_memory_available_below(const char *root);

#endif
