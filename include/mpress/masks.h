/* Which weights go: patterns, exact selection over ranks, N of every M.
 * Floor 5: calibrate.
 *
 * Scores are single precision, non-negative, small = prune.  They lie as the weights of a problem do:
 * score[column * ld + row], rows of this rank (method.h).  Ties go to the lower index. */
#ifndef MPRESS_MASKS_H
#define MPRESS_MASKS_H

#include "mpress/comm.h"

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

/* Local rows [first, first + count) of `ld`, of one linear map. */
typedef struct mp_rows {
    int64_t first, count;
} mp_rows;

/* For each of `parts` the element of rank k[p] (0-based, ascending) among all its scores on all ranks:
 * columns 0 .. columns - 1, the part's rows.  Exact: the bit patterns of non-negative floats order as
 * integers, so three histograms find it.  Collective; three small allreduces.
 * rank[p] is how many scores are strictly smaller. */
mp_status mp_select_kth(const mp_comm *comm, const float *score, int64_t columns, int64_t ld,
                        const mp_rows *part, int parts, const int64_t *k, float *value,
                        int64_t *smaller);

/* prune[c * ld + r] = 1 for the n smallest of the m scores of each of the rows 0 .. rows - 1, columns
 * c in [0, m); 0 for the rest.  Local. */
void mp_select_n_of_m(const float *score, int64_t ld, int64_t rows, int64_t n, int64_t m,
                      unsigned char *prune);

#endif
