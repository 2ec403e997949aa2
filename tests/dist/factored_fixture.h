/* The fixture's model with factors in the place of some weights. */
#ifndef MPRESS_TESTS_FACTORED_FIXTURE_H
#define MPRESS_TESTS_FACTORED_FIXTURE_H

#include "checkpoint_fixture.h"

enum { FACTORED = 4 };

extern const struct factored_linear {
    const char *name;
    int64_t rank, d_out, d_in;
} factored[FACTORED];

/* The tensors of f->arch in `dtype`, small random numbers, and random factors of the ranks above
 * for four of its weights; a memory source (memory_source.h), closed by mp_source_close. */
mp_status factored_source(const fixture *f, mp_dtype dtype, mp_source **source);

/* Runs `body` on a fixture of its own with such a source.  Collective; the status is agreed. */
mp_status factored_with(const mp_comm *comm, mp_dtype dtype,
                        mp_status (*body)(const fixture *, mp_source *));

/* "dir/name" as text with its length; owned by the caller. */
mp_status factored_read_file(const char *dir, const char *name, char **text, size_t *length);

/* MP_OK if rows [first, first + count) of `product` [.., d_in] are those of A B, added in double,
 * to half a unit in the last place of the dtype and the error of a sum in single precision. */
mp_status factored_compare(const float *a, const float *b, const float *product, int64_t rank,
                           int64_t d_in, int64_t first, int64_t count, mp_dtype dtype);

#endif
