/* What a run must give back: memory, descriptors, and the objects of MPI, HDF5 and jansson. */
#ifndef MPRESS_TESTS_FAULT_BALANCE_H
#define MPRESS_TESTS_FAULT_BALANCE_H

#include <stdint.h>

/* Name in a message, and the field. */
#define BALANCE_LIST(X)                                                                            \
    X(memory, "allocations")                                                                       \
    X(json, "allocations of jansson")                                                              \
    X(descriptors, "open descriptors")                                                             \
    X(communicators, "communicators")                                                              \
    X(groups, "groups of ranks")                                                                   \
    X(windows, "windows of shared memory")                                                         \
    X(files, "files of MPI")                                                                       \
    X(requests, "broadcasts under way")                                                            \
    X(objects, "objects of HDF5")

#define BALANCE_FIELD_(field, words) int64_t field;
typedef struct balance {
    BALANCE_LIST(BALANCE_FIELD_)
} balance;
#undef BALANCE_FIELD_

/* Counts jansson's allocations from now on: before the first of them. */
void balance_start(void);

/* Of this process, now. */
balance balance_take(void);

/* "2 allocations, 1 communicators" that are there after and were not before; NULL if none are. */
const char *balance_leaks(const balance *before, const balance *after, char text[256]);

#endif
