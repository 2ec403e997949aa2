/* Numbers in the dtypes of a checkpoint, and the rounding between them and single precision.
 * Floor 2: tensor. */
#ifndef MPRESS_TENSOR_H
#define MPRESS_TENSOR_H

#include "mpress/dtype.h"
#include "mpress/error.h"

#include <stdint.h>

/* `count` elements of `dtype` (F32, F16, BF16) to single precision, exactly; no overlap. */
void mp_to_f32(mp_dtype dtype, const void *from, int64_t count, float *to);

/* Single precision to `dtype`, to nearest, ties to even; negative zero becomes +0.0 (a sparse
 * loader must find plain zeros).  Values too large for F16 become infinite: check with
 * mp_first_nonfinite. */
void mp_from_f32(mp_dtype dtype, const float *from, int64_t count, void *to);

/* In place: the single-precision value of what mp_from_f32 would store. */
void mp_round_f32(mp_dtype dtype, float *values, int64_t count);

/* Index of the first NaN or infinity, or -1. */
int64_t mp_first_nonfinite(const float *values, int64_t count);

#endif
