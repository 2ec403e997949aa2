/* Which weights go: patterns, exact selection over ranks, N of every M.
 * Floor 5: calibrate.
 *
 * Scores are single precision, non-negative, small = prune.  Ties go to the lower index. */
#ifndef MPRESS_MASKS_H
#define MPRESS_MASKS_H

#include "mpress/comm.h"
#include "mpress/dtype.h"

/* A share of the weights anywhere, or n of every m consecutive weights of a row. */
typedef struct mp_pattern {
    int64_t n, m;    /* m = 0: unstructured */
    double sparsity; /* the share that is removed */
} mp_pattern;

/* "0.5" with 0 < s < 1, or "2:4": n = m / 2, m <= 128.  Errors: MP_ERR_ARG with the explanation. */
mp_status mp_pattern_parse(const char *text, mp_pattern *pattern);

/* Whether the pattern fits a linear map of d_in columns and the block size; MP_ERR_ARG if not. */
mp_status mp_pattern_fits(const mp_pattern *pattern, const char *name, int64_t d_in,
                          int64_t blocksize);

/* The unit of work on rows: the rows of a linear map are cut into strips of this many, counted from its
 * first row, and every product and loop takes one strip in one call of one shape.  So a row's result
 * does not depend on how many other rows its rank has: BLAS rounds differently at the edge of a
 * product (measured: OpenBLAS on AVX2).  128 rows reach 90% of the rate of a large product (64 rows:
 * 80%), and leave 32 units of work in a map of 4096 rows. */
enum { MP_STRIP = 128 };

/* This rank's rows of one linear map: `rows` rows in strips from `first_strip` on, the last one padded
 * with zeros. */
typedef struct mp_part {
    const char *name;  /* "self_attn.q_proj" */
    mp_dtype dtype;    /* that its weights are stored in */
    int64_t d_out;     /* rows on all ranks */
    int64_t first_row; /* of this rank's, in the linear map; a multiple of MP_STRIP */
    int64_t rows;      /* of this rank */
    int64_t first_strip;
} mp_part;

/* For each of `parts` the score of rank k[p] (0-based, ascending) among all its scores on all ranks.
 * Exact: the bit patterns of non-negative floats order as integers, so three histograms find it.
 *
 *   score    in   [strips][stride][MP_STRIP], of which the first `columns` columns count
 *   value    out  [parts] the score of rank k
 *   smaller  out  [parts] how many scores are strictly smaller
 *
 * Collective; three small allreduces. */
mp_status mp_select_kth(const mp_comm *comm, const float *score, int64_t columns, int64_t stride,
                        const mp_part *part, int parts, const int64_t *k, float *value,
                        int64_t *smaller);

/* Within one strip, [m][MP_STRIP]: prune = 1 for the n smallest of the m scores of each row, 0 for the
 * rest.  Local. */
void mp_select_n_of_m(const float *score, int64_t n, int64_t m, unsigned char *prune);

#endif
