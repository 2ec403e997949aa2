/* Reference results (tests/data/golden, and stories260k where the reference material is there). */
#ifndef MPRESS_TESTS_GOLDEN_H
#define MPRESS_TESTS_GOLDEN_H

#include "mpress/method.h"
#include "mpress/source.h"

typedef struct golden {
    const char *model, *dir; /* directories of the model and of its reference results */
    int64_t block;           /* whose results are there */
    const char *lengths;     /* of H_maca, as --lengths has them */
    const char *maca;        /* the file that H_maca is in */
    mp_dtype dtype;          /* of the model's weights */
    const char *integers;    /* the file of `dir` that has weights on integer grids */
} golden;

enum { GOLDENS = 3 };

extern const golden goldens[GOLDENS]; /* the first one is always there */

/* A file of reference results; mp_source_close. */
mp_status golden_open(const golden *g, const char *file, mp_source **source);

/* A tensor as doubles, owned by the caller; NULL where the file does not have it. */
mp_status golden_load(const mp_source *source, const char *name, double **values, int64_t shape[2]);

/* A moment that holds the reference's H, on the grid where it will be factorised. */
mp_status golden_moment(const mp_comm *c, const double *h, int64_t n, int64_t tile, mp_grid grid,
                        mp_moment **moment);

/* Weights of "3.self_attn.q_proj" of the model, owned by the caller. */
mp_status golden_weight(const golden *g, const char *linear, double **weight, int64_t shape[2]);

/* Rows of one linear map, cut over the ranks as the pipeline cuts them; mp_problem_close. */
mp_status golden_problem(const mp_comm *c, const mp_moment *m, const double *weight,
                         const int64_t shape[2], mp_dtype dtype, int64_t groups, mp_problem *p);

/* tr(D H D^T) of rows [begin, begin + count) of two matrices. */
double golden_loss(const double *h, const double *w, const double *v, int64_t n, int64_t begin,
                   int64_t count);

#endif
