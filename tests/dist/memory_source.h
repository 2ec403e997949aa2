/* A model with random weights in memory, as a source of tensors that a test can spoil. */
#ifndef MPRESS_TESTS_MEMORY_SOURCE_H
#define MPRESS_TESTS_MEMORY_SOURCE_H

#include "mpress/arch.h"
#include "mpress/quant.h"
#include "mpress/source.h"

typedef struct memory_tensor {
    mp_tensor_info info; /* info.name points to name */
    char name[256];
    void *data;    /* owned */
    int fails;     /* reading it is MP_ERR_IO */
    int64_t hints; /* how often prefetch named it */
} memory_tensor;

/* Every tensor of `arch`, normal deviates of (seed, position in the order of names) times 0.05
 * (norms 1 plus that), stored as `dtype`.  Closed by mp_source_close. */
mp_status memory_source_create(const mp_arch *arch, mp_dtype dtype, uint64_t seed,
                               mp_source **source);

/* A tensor to look at or to spoil; the test is wrong if there is none (NULL). */
memory_tensor *memory_source_tensor(mp_source *source, const char *name);

/* Random factors of `rank`, in the dtype of the weight, in its place: "<linear>.A" and ".B". */
mp_status memory_source_factor(mp_source *source, const char *linear, int64_t rank, uint64_t seed);

/* Random integers on a grid, scales in the dtype of the weight, in its place: "<linear>.packed", ".scale" and,
 * where it is asymmetric, ".zero" (never 0, so that every format can hold them).  Rows end with bits that
 * belong to no code, which are zero. */
mp_status memory_source_quantise(mp_source *source, const char *linear, const mp_quant *quant,
                                 uint64_t seed);

/* All linear maps of block 0; and a source that has them so. */
mp_status memory_source_quantise_block(mp_source *source, const mp_arch *arch,
                                       const mp_quant *quant);
mp_status memory_source_integers(const mp_arch *arch, mp_dtype dtype, const mp_quant *quant,
                                 mp_source **source);

void memory_source_remove(mp_source *source, const char *name);
void memory_source_rename(mp_source *source, const char *name, const char *new_name);

/* An architecture of a few channels: every family by its name, `extra` (JSON members, may be "")
 * overrides what is there. */
mp_status tiny_arch(const char *family, const char *extra, mp_arch *arch);

#endif
