/* The product of two factors, computed as it is read.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_PRODUCT_H
#define MPRESS_PRODUCT_H

#include "mpress/source.h"

/* Bytes [begin, begin + length) of the row-major product of tensors `a` [d_out, rank] and `b`
 * [rank, d_in] of `source`, in single precision, rounded to the dtype of `product` [d_out, d_in],
 * which is that of the factors.  A value does not depend on the range it is asked for in: it comes
 * from a block of rows that follows from the shape alone, so ask for whole pieces (pieces.h).
 * Cost: 2 d_in rank flop for each row, and reading `b` once for each block.
 * Memory: at most 128 MiB.
 * Errors: MP_ERR_NUMERIC where a value is not finite in that dtype. */
mp_status mp_product_read(const mp_source *source, int64_t a, int64_t b,
                          const mp_tensor_info *product, int64_t begin, int64_t length, void *to);

#endif
