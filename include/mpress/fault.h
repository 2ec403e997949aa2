/* Failures on purpose: every place that can fail because of a machine can be told to, so that what
 * comes after a failure is tested like the rest.
 * Floor 0: base.
 *
 * MPRESS_FAULT=SITE:rank=R:nth=K makes the K-th call at SITE on rank R fail, once.  A place asks
 * mp_fault(site) and, if told so, behaves as if the system had said no.  Where several ranks make a
 * call together, it is made, and then one of them calls it failed: what is tested is what the program
 * does, not whether a library hangs when it is called by some. */
#ifndef MPRESS_FAULT_H
#define MPRESS_FAULT_H

#include "mpress/error.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>

/* Id, name, the errno of a system call that fails there, what is counted. */
#define MP_FAULT_LIST(X)                                                                           \
    X(MP_FAULT_ALLOC, "alloc", ENOMEM, "an allocation")                                            \
    X(MP_FAULT_OPEN, "open", EIO, "opening a file or directory to read")                           \
    X(MP_FAULT_READ, "read", EIO, "reading from a file")                                           \
    X(MP_FAULT_CREATE, "create", EACCES, "making a directory, or opening a file to write")         \
    X(MP_FAULT_WRITE, "write", ENOSPC, "writing to a file")                                        \
    X(MP_FAULT_RESERVE, "reserve", ENOSPC, "reserving space for a file")                           \
    X(MP_FAULT_SYNC, "sync", EIO, "syncing a file or directory")                                   \
    X(MP_FAULT_RENAME, "rename", EACCES, "giving a file its final name")                           \
    X(MP_FAULT_REMOVE, "remove", EACCES, "removing a file or directory")                           \
    X(MP_FAULT_H5_CREATE, "h5-create", 0, "making a file, group, data set or attribute of HDF5")   \
    X(MP_FAULT_H5_OPEN, "h5-open", 0, "opening a file or data set of HDF5")                        \
    X(MP_FAULT_H5_READ, "h5-read", 0, "reading an attribute of HDF5")                              \
    X(MP_FAULT_H5_WRITE, "h5-write", 0, "writing to a data set of HDF5")                           \
    X(MP_FAULT_H5_FLUSH, "h5-flush", 0, "flushing a file of HDF5")                                 \
    X(MP_FAULT_H5_CLOSE, "h5-close", 0, "closing a file of HDF5")                                  \
    X(MP_FAULT_SHARED, "shared", 0, "memory shared by the ranks of a node")                        \
    X(MP_FAULT_AGREE, "agree", 0, "what this rank brings to an agreement")                         \
    X(MP_FAULT_CHOLESKY, "cholesky", 0, "a Cholesky factorisation")                                \
    X(MP_FAULT_EIGEN, "eigen", 0, "eigenvectors by divide and conquer")                            \
    X(MP_FAULT_SVD, "svd", 0, "a singular value decomposition, or eigenvectors by QR iteration")

#define MP_FAULT_ENUM_(id, name, error, words) id,
typedef enum mp_fault_site { MP_FAULT_LIST(MP_FAULT_ENUM_) MP_FAULT_SITES } mp_fault_site;
#undef MP_FAULT_ENUM_

typedef struct mp_fault_plan {
    mp_fault_site site;
    int rank;
    int64_t nth; /* from 1 on; 0: nothing fails */
} mp_fault_plan;

/* What MPRESS_FAULT says of a job of `ranks`; nth = 0 where it is not set.  Errors: MP_ERR_ARG. */
mp_status mp_fault_read(int ranks, mp_fault_plan *plan);

/* Counts calls from now on, from 1, and fails the planned one if this is rank `rank`.  A plan of
 * nth = 0 only counts; NULL stops counting. */
void mp_fault_arm(const mp_fault_plan *plan, int rank);

/* Calls at a site since mp_fault_arm, on this rank. */
int64_t mp_fault_calls(mp_fault_site site);

/* Called at every counted call, so that whoever counts can see where from; NULL: nobody. */
void mp_fault_observe(void (*observer)(mp_fault_site site, int64_t call));

const char *mp_fault_name(mp_fault_site site);

extern atomic_int mp_fault_is_armed;
int mp_fault_count(mp_fault_site site);

/* Whether this call is to fail; errno is then set.  Costs one branch while nothing is armed. */
static inline int mp_fault(mp_fault_site site)
{
    return atomic_load_explicit(&mp_fault_is_armed, memory_order_relaxed) && mp_fault_count(site);
}

#endif
