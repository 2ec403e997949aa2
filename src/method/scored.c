/* Pruning by a score without updates: Wanda and magnitude are two rows that differ in the score and in
 * what it is compared with. */
#include "mpress/method.h"

#include "mpress/memory.h"

#include <math.h>
#include <string.h>

static mp_status fits(const mp_method_options *options, const char *name, int64_t d_in)
{
    return mp_pattern_fits(&options->pattern, name, d_in, options->blocksize);
}

/* |w| * norm[j], or |w| where there are no norms, to `score`, of the shape of the weights. */
static void score_weights(const mp_problem *p, const double *squares, float *score)
{
    for (int64_t strip = 0; strip < p->strips; strip++)
        for (int64_t j = 0; j < p->n; j++) {
            int64_t at = (strip * p->order + j) * MP_STRIP;
            float norm = squares != NULL ? (float)sqrt(squares[j]) : 1.0f;

            for (int r = 0; r < MP_STRIP; r++) score[at + r] = fabsf(p->weight[at + r]) * norm;
        }
}

/* n of every m of each row: the groups lie along the columns. */
static mp_status prune_groups(mp_problem *p, const mp_pattern *pattern, const float *score)
{
    unsigned char *prune = NULL;

    MP_TRY(MP_NEW_RAW(prune, pattern->m * MP_STRIP, "a mask"));
    for (int64_t strip = 0; strip < p->strips; strip++)
        for (int64_t j = 0; j < p->n; j += pattern->m) {
            int64_t at = (strip * p->order + j) * MP_STRIP;

            mp_select_n_of_m(score + at, pattern->n, pattern->m, prune);
            for (int64_t i = 0; i < pattern->m * MP_STRIP; i++)
                if (prune[i]) p->weight[at + i] = 0.0f;
        }
    mp_free(prune);
    return MP_OK;
}

/* Moves the k smallest keys to the front (quickselect; keys are distinct). */
static void select_keys(uint64_t *key, int64_t count, int64_t k)
{
    int64_t low = 0, high = count - 1;

    while (low < high) {
        uint64_t pivot = key[low + (high - low) / 2];
        int64_t i = low, j = high;

        while (i <= j) {
            while (key[i] < pivot) i++;
            while (key[j] > pivot) j--;
            if (i <= j) {
                uint64_t swap = key[i];

                key[i++] = key[j];
                key[j--] = swap;
            }
        }
        if (k <= j)
            high = j;
        else if (k >= i)
            low = i;
        else
            return;
    }
}

/* The int(n s) smallest scores of each row, ties to the lower column: the column is the low half of
 * the key that is compared. */
static mp_status prune_rows(mp_problem *p, const mp_pattern *pattern, const float *score)
{
    int64_t k = (int64_t)((double)p->n * pattern->sparsity);
    uint64_t *key = NULL;

    MP_TRY(MP_NEW_RAW(key, p->n, "scores of a row"));
    for (int64_t row = 0; row < p->strips * MP_STRIP && k > 0; row++) {
        int64_t at = row / MP_STRIP * p->order * MP_STRIP + row % MP_STRIP;

        for (int64_t j = 0; j < p->n; j++) {
            uint32_t bits;

            memcpy(&bits, &score[at + j * MP_STRIP], sizeof bits);
            key[j] = (uint64_t)bits << 32 | (uint64_t)j;
        }
        select_keys(key, p->n, k - 1);
        for (int64_t i = 0; i < k; i++)
            p->weight[at + (int64_t)(key[i] & 0xffffffffu) * MP_STRIP] = 0.0f;
    }
    mp_free(key);
    return MP_OK;
}

static mp_status wanda(const mp_method_options *options, const mp_outcome *outcome, mp_problem *p)
{
    double *squares = NULL;
    float *score = p->difference;
    mp_status st;

    (void)outcome;
    MP_TRY(MP_NEW_RAW(squares, p->n, "channel norms"));
    mp_moment_channels(p->moment, squares);
    score_weights(p, squares, score);
    st = options->pattern.m != 0 ? prune_groups(p, &options->pattern, score)
                                 : prune_rows(p, &options->pattern, score);
    mp_free(squares);
    return st;
}

static mp_status count_dead(const mp_method_options *options, mp_moment *m, mp_outcome *outcome)
{
    (void)options;
    outcome->dead = 0;
    for (int64_t r = m->order - m->n; r < m->order; r++) outcome->dead += m->diagonal[r] == 0.0;
    return MP_OK;
}

/* Where the score of row r, column j of a part on this rank stands. */
static int64_t place(const mp_problem *p, const mp_part *part, int64_t r, int64_t j)
{
    return ((part->first_strip + r / MP_STRIP) * p->order + j) * MP_STRIP + r % MP_STRIP;
}

/* Scores that equal the threshold go in the order of rows and columns until `wanted` of all ranks are
 * gone; the rows of the ranks before this one come first. */
static mp_status prune_ties(mp_problem *p, const mp_part *part, const float *score, float threshold,
                            int64_t wanted)
{
    int64_t mine = 0, before = 0;

    for (int64_t r = 0; r < part->rows; r++)
        for (int64_t j = 0; j < p->n; j++) mine += score[place(p, part, r, j)] == threshold;
    MP_TRY(mp_mpi_check(MPI_Exscan(&mine, &before, 1, MPI_INT64_T, MPI_SUM, p->comm->mpi),
                        "counting ties"));
    if (p->comm->rank == 0) before = 0; /* which MPI leaves undefined */
    for (int64_t r = 0; r < part->rows; r++)
        for (int64_t j = 0; j < p->n && before < wanted; j++)
            if (score[place(p, part, r, j)] == threshold) {
                p->weight[place(p, part, r, j)] = 0.0f;
                before++;
            }
    return MP_OK;
}

/* The int(d_out n s) smallest weights of each linear map. */
static mp_status prune_matrices(mp_problem *p, const mp_pattern *pattern, const float *score)
{
    int64_t k[MP_MAX_LINEARS], smaller[MP_MAX_LINEARS];
    float threshold[MP_MAX_LINEARS];

    for (int i = 0; i < p->parts; i++)
        k[i] = (int64_t)((double)(p->part[i].d_out * p->n) * pattern->sparsity);
    MP_TRY(mp_select_kth(p->comm, score, p->n, p->order, p->part, p->parts, k, threshold, smaller));
    for (int i = 0; i < p->parts; i++) {
        const mp_part *part = &p->part[i];

        for (int64_t r = 0; r < part->rows; r++)
            for (int64_t j = 0; j < p->n; j++)
                if (score[place(p, part, r, j)] < threshold[i])
                    p->weight[place(p, part, r, j)] = 0.0f;
        MP_TRY(prune_ties(p, part, score, threshold[i], k[i] - smaller[i]));
    }
    return MP_OK;
}

static mp_status magnitude(const mp_method_options *options, const mp_outcome *outcome,
                           mp_problem *p)
{
    float *score = p->difference;

    (void)outcome;
    score_weights(p, NULL, score);
    return options->pattern.m != 0 ? prune_groups(p, &options->pattern, score)
                                   : prune_matrices(p, &options->pattern, score);
}

const mp_method mp_method_wanda = {
    .name = "wanda",
    .words = "pruning by |weight| x norm of its input channel, row by row",
    .source = "Sun et al., \"A Simple and Effective Pruning Approach for Large Language Models\", "
              "arXiv:2306.11695",
    .order = "block",
    .needs = MP_NEED_MOMENT,
    .prunes = 1,
    .fits = fits,
    .prepare = count_dead,
    .compress = wanda,
};

const mp_method mp_method_magnitude = {
    .name = "magnitude",
    .words = "pruning by |weight|, matrix by matrix; needs no calibration",
    .source = "the baseline of both papers above",
    .order = "block",
    .needs = 0,
    .prunes = 1,
    .fits = fits,
    .prepare = NULL,
    .compress = magnitude,
};
