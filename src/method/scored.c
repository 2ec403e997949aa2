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

/* score[j * ld + r] = |w| * norm[j], or |w| where norm is NULL. */
static void score_weights(const mp_problem *p, const double *squares, float *score)
{
    for (int64_t j = 0; j < p->n; j++) {
        float norm = squares != NULL ? (float)sqrt(squares[j]) : 1.0f;

        for (int64_t r = 0; r < p->ld; r++)
            score[j * p->ld + r] = fabsf(p->weight[j * p->ld + r]) * norm;
    }
}

/* n of every m of each row: the groups lie along the columns. */
static mp_status prune_groups(mp_problem *p, const mp_pattern *pattern, const float *score)
{
    unsigned char *prune = NULL;

    MP_TRY(MP_NEW_RAW(prune, pattern->m * p->ld, "a mask"));
    for (int64_t j = 0; j < p->n; j += pattern->m) {
        mp_select_n_of_m(score + j * p->ld, p->ld, p->ld, pattern->n, pattern->m, prune);
        for (int64_t i = 0; i < pattern->m * p->ld; i++)
            if (prune[i]) p->weight[j * p->ld + i] = 0.0f;
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
    for (int64_t r = 0; r < p->ld && k > 0; r++) {
        for (int64_t j = 0; j < p->n; j++) {
            uint32_t bits;

            memcpy(&bits, &score[j * p->ld + r], sizeof bits);
            key[j] = (uint64_t)bits << 32 | (uint64_t)j;
        }
        select_keys(key, p->n, k - 1);
        for (int64_t i = 0; i < k; i++) p->weight[(int64_t)(key[i] & 0xffffffffu) * p->ld + r] = 0.0f;
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

/* Scores that equal the threshold go in the order of rows and columns until `wanted` of all ranks are
 * gone; the rows of the ranks before this one come first. */
static mp_status prune_ties(mp_problem *p, int part, const float *score, float threshold,
                            int64_t wanted)
{
    mp_rows rows = p->part[part];
    int64_t mine = 0, before = 0;

    for (int64_t j = 0; j < p->n; j++)
        for (int64_t r = rows.first; r < rows.first + rows.count; r++)
            mine += score[j * p->ld + r] == threshold;
    MP_TRY(mp_mpi_check(MPI_Exscan(&mine, &before, 1, MPI_INT64_T, MPI_SUM, p->comm->mpi),
                        "counting ties"));
    if (p->comm->rank == 0) before = 0; /* which MPI leaves undefined */
    for (int64_t r = rows.first; r < rows.first + rows.count; r++)
        for (int64_t j = 0; j < p->n && before < wanted; j++)
            if (score[j * p->ld + r] == threshold) {
                p->weight[j * p->ld + r] = 0.0f;
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
        k[i] = (int64_t)((double)(p->d_out[i] * p->n) * pattern->sparsity);
    MP_TRY(mp_select_kth(p->comm, score, p->n, p->ld, p->part, p->parts, k, threshold, smaller));
    for (int i = 0; i < p->parts; i++) {
        for (int64_t j = 0; j < p->n; j++)
            for (int64_t r = p->part[i].first; r < p->part[i].first + p->part[i].count; r++)
                if (score[j * p->ld + r] < threshold[i]) p->weight[j * p->ld + r] = 0.0f;
        MP_TRY(prune_ties(p, i, score, threshold[i], k[i] - smaller[i]));
    }
    return MP_OK;
}

static mp_status magnitude(const mp_method_options *options, const mp_outcome *outcome, mp_problem *p)
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
    .needs = MP_NEED_MOMENT,
    .fits = fits,
    .prepare = count_dead,
    .compress = wanda,
};

const mp_method mp_method_magnitude = {
    .name = "magnitude",
    .words = "pruning by |weight|, matrix by matrix; needs no calibration",
    .source = "the baseline of both papers above",
    .needs = 0,
    .fits = fits,
    .prepare = NULL,
    .compress = magnitude,
};
