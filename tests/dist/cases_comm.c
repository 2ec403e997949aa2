/* Floor 3: agreement, shares, shared memory, distributed matrices. */
#include "worker.h"

#include "mpress/dlinalg.h"
#include "mpress/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static mp_status agree_names_the_lowest_failing_rank(const mp_comm *c)
{
    mp_status mine =
        c->rank >= c->size - 2 ? mp_fail(MP_ERR_IO, "disk of rank %d full", c->rank) : MP_OK;
    mp_status st = mp_comm_agree(c, mine);
    char expected[64];

    snprintf(expected, sizeof expected, "disk of rank %d full", c->size > 2 ? c->size - 2 : 0);
    MP_EXPECT(st == MP_ERR_IO);
    MP_EXPECT(strcmp(mp_error_message(), expected) == 0);
    MP_EXPECT(mp_comm_agree(c, MP_OK) == MP_OK);
    return MP_OK;
}

static mp_status same_finds_a_rank_that_differs(const mp_comm *c)
{
    MP_EXPECT(mp_comm_same(c, -7, "a constant") == MP_OK);
    if (c->size > 1) MP_EXPECT(mp_comm_same(c, c->rank == 1 ? 8 : 7, "a size") == MP_ERR_DIVERGED);
    return MP_OK;
}

static mp_status shares_cover_everything_once(const mp_comm *c)
{
    const int64_t counts[] = {0, 1, 15, 16, 17, 100, 704, 4096}, units[] = {1, 16, 64};

    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++)
        for (size_t u = 0; u < sizeof units / sizeof units[0]; u++)
            for (int parts = 1; parts <= 9; parts++) {
                int64_t at = 0, begin, end;

                for (int p = 0; p < parts; p++) {
                    mp_share(counts[i], units[u], p, parts, &begin, &end);
                    MP_EXPECT(begin == at && end >= begin);
                    MP_EXPECT(end == counts[i] || end % units[u] == 0);
                    at = end;
                }
                MP_EXPECT(at == counts[i]);
            }
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        int64_t at = 0, begin, end;

        for (int next, r = 0; r < c->size; r = next) {
            next = mp_share_of_node(c, counts[i], 16, r, &begin, &end);
            MP_EXPECT(next > r && begin == at && end >= begin);
            MP_EXPECT(next == c->size || c->node_of[next] != c->node_of[r]);
            at = end;
        }
        MP_EXPECT(at == counts[i]);
    }
    return MP_OK;
}

static mp_status shared_memory_is_seen_by_the_whole_node(const mp_comm *c)
{
    mp_shared *shared = NULL;
    int *values;

    MP_TRY(mp_shared_create(c, 64 * sizeof(int), "a test window", &shared));
    values = shared->base;
    values[c->node_rank] = 100 + c->node_rank;
    MP_TRY(mp_shared_fence(c, shared));
    for (int r = 0; r < c->node_size; r++) MP_EXPECT(values[r] == 100 + r);
    MP_TRY(mp_shared_fence(c, shared));
    mp_shared_free(shared);
    MP_EXPECT(mp_shared_peak() >= (int64_t)(64 * sizeof(int)));
    return MP_OK;
}

/* A symmetric positive definite matrix that every rank can write down. */
static double entry(int64_t i, int64_t j)
{
    return (i == j ? 3.0 : 0.0) + cos(0.01 * (double)(i - j)) +
           1.0 / (1.0 + (double)(i > j ? i - j : j - i));
}

static int mine(const mp_dmat *m, int64_t i, int64_t j)
{
    return mp_grid_rank(&m->grid, i / m->nb, j / m->nb) == m->comm->rank;
}

static double *at(const mp_dmat *m, int64_t i, int64_t j)
{
    return mp_dmat_tile(m, i / m->nb, j / m->nb) + j % m->nb * m->local_rows + i % m->nb;
}

static void fill_lower(mp_dmat *m)
{
    for (int64_t j = 0; j < m->order; j++)
        for (int64_t i = j; i < m->order; i++)
            if (mine(m, i, j)) *at(m, i, j) = entry(i, j);
}

static int holds_entries(const mp_dmat *m, int lower, int upper)
{
    for (int64_t j = 0; j < m->order; j++)
        for (int64_t i = 0; i < m->order; i++)
            if (mine(m, i, j) && (i == j || (i > j ? lower : upper)) && *at(m, i, j) != entry(i, j))
                return 0;
    return 1;
}

static mp_status a_matrix_moves_between_grids_unchanged(const mp_comm *c)
{
    const int64_t orders[] = {16, 48, 208};

    for (size_t o = 0; o < sizeof orders / sizeof orders[0]; o++)
        for (int last = 0; last < c->size; last++) {
            mp_grid one = {last, 1, 1};
            mp_dmat *m = NULL, *moved = NULL, *back = NULL;

            MP_TRY(mp_dmat_create(c, mp_grid_of(0, c->size), orders[o], 16, &m));
            fill_lower(m);
            MP_TRY(mp_dmat_move(&m, one, &moved));
            MP_EXPECT(m == NULL && holds_entries(moved, 1, 0));
            MP_TRY(mp_dmat_move(&moved, mp_grid_of(0, c->size), &back));
            MP_EXPECT(moved == NULL && holds_entries(back, 1, 0));
            mp_dmat_free(back);
        }
    return MP_OK;
}

static mp_status mirroring_fills_the_other_triangle(const mp_comm *c)
{
    mp_dmat *m = NULL;

    MP_TRY(mp_dmat_create(c, mp_grid_of(0, c->size), 208, 16, &m));
    fill_lower(m);
    MP_TRY(mp_dmat_mirror(m, MP_LOWER_HALF));
    MP_EXPECT(holds_entries(m, 1, 1));
    for (int64_t j = 0; j < m->order; j++)
        for (int64_t i = j + 1; i < m->order; i++)
            if (mine(m, i, j)) *at(m, i, j) = -1.0;
    MP_TRY(mp_dmat_mirror(m, MP_UPPER_HALF));
    MP_EXPECT(holds_entries(m, 1, 1));
    mp_dmat_free(m);
    return MP_OK;
}

/* A permutation with no order in it: 89 has no divisor in common with 208.  Every pair has a number of its
 * own, which stands in the upper triangle alone. */
static mp_status permuting_takes_the_lower_triangle_from_the_upper(const mp_comm *c)
{
    enum { ORDER = 208 };
    int64_t from[ORDER];

    for (int i = 0; i < ORDER; i++) from[i] = (i * 89 + 5) % ORDER;
    for (int ranks = 1; ranks <= c->size; ranks++) {
        mp_dmat *m = NULL;

        MP_TRY(mp_dmat_create(c, mp_grid_of(c->size - ranks, ranks), ORDER, 16, &m));
        for (int64_t j = 0; j < ORDER; j++)
            for (int64_t i = 0; i < ORDER; i++)
                if (mine(m, i, j)) *at(m, i, j) = i <= j ? (double)(i * ORDER + j) : -1.0;
        MP_TRY(mp_dmat_permute(m, from));
        for (int64_t j = 0; j < ORDER; j++)
            for (int64_t i = 0; i < ORDER; i++) {
                int64_t x = i <= j ? i : from[i], y = i <= j ? j : from[j];
                int64_t low = x < y ? x : y, high = x < y ? y : x;

                if (mine(m, i, j)) MP_EXPECT(*at(m, i, j) == (double)(low * ORDER + high));
            }
        mp_dmat_free(m);
    }
    return mp_comm_agree(c, MP_OK);
}

static mp_status the_diagonal_reaches_all_ranks(const mp_comm *c)
{
    double diagonal[208];
    mp_dmat *m = NULL;

    MP_TRY(mp_dmat_create(c, mp_grid_of(0, c->size), 208, 16, &m));
    fill_lower(m);
    MP_TRY(mp_dmat_get_diagonal(m, diagonal));
    for (int i = 0; i < 208; i++) MP_EXPECT(diagonal[i] == entry(i, i));
    for (int i = 0; i < 208; i++) diagonal[i] += 1.0;
    mp_dmat_set_diagonal(m, diagonal);
    memset(diagonal, 0, sizeof diagonal);
    MP_TRY(mp_dmat_get_diagonal(m, diagonal));
    for (int i = 0; i < 208; i++) MP_EXPECT(diagonal[i] == entry(i, i) + 1.0);
    mp_dmat_free(m);
    return MP_OK;
}

/* The stream gives each column in falling order of rows and columns (dmat.h). */
static mp_status check_stream(const mp_dmat *m, mp_half half, int64_t first, int64_t step)
{
    mp_stream *stream = NULL;
    float *column;
    int64_t length;

    MP_TRY(mp_stream_create(m, half, first, step, &stream));
    for (int64_t j = first; j >= 0 && j < m->tiles; j += step) {
        int64_t end = half == MP_LOWER_HALF ? m->order : (j + 1) * m->nb;

        MP_TRY(mp_stream_next(stream, &column, &length));
        MP_EXPECT(length == (half == MP_LOWER_HALF ? m->order - j * m->nb : end));
        for (int64_t c = 0; c < m->nb; c++)
            for (int64_t k = 0; k < length; k++)
                MP_EXPECT(column[c * length + k] ==
                          (float)entry(end - 1 - k, (j + 1) * m->nb - 1 - c));
    }
    MP_EXPECT(mp_stream_next(stream, &column, &length) == MP_ERR_INTERNAL);
    mp_stream_free(stream);
    return MP_OK;
}

static mp_status a_stream_gives_every_column_to_all_ranks(const mp_comm *c)
{
    mp_dmat *m = NULL, *moved = NULL;
    mp_grid one = {c->size - 1, 1, 1};

    MP_TRY(mp_dmat_create(c, mp_grid_of(0, c->size), 112, 16, &m));
    fill_lower(m);
    MP_TRY(mp_dmat_mirror(m, MP_LOWER_HALF));
    MP_TRY(check_stream(m, MP_LOWER_HALF, m->tiles - 1, -1));
    MP_TRY(check_stream(m, MP_UPPER_HALF, 0, 1));
    MP_TRY(mp_dmat_move(&m, one, &moved));
    MP_TRY(mp_dmat_mirror(moved, MP_LOWER_HALF));
    MP_TRY(check_stream(moved, MP_UPPER_HALF, moved->tiles - 1, -1));
    mp_dmat_free(moved);
    return MP_OK;
}

/* L L^T = A, checked by every rank on the whole factor. */
static mp_status check_factor(const mp_comm *c, mp_grid grid, int64_t order)
{
    double *all = NULL, worst = 0.0;
    int64_t failed_at = 0;
    mp_dmat *m = NULL;

    MP_TRY(mp_dmat_create(c, grid, order, 16, &m));
    fill_lower(m);
    MP_TRY(mp_dmat_mirror(m, MP_LOWER_HALF));
    MP_TRY(mp_dmat_cholesky(m, &failed_at));
    MP_EXPECT(failed_at == 0);
    MP_TRY(MP_NEW(all, order * order, "a whole matrix"));
    for (int64_t j = 0; j < order; j++)
        for (int64_t i = 0; i < order; i++) {
            if (mine(m, i, j) && i < j) MP_EXPECT(*at(m, i, j) == entry(i, j));
            if (mine(m, i, j) && i >= j) all[i * order + j] = *at(m, i, j);
        }
    MP_TRY(mp_comm_sum(c, all, (int)(order * order)));
    for (int64_t i = 0; i < order; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0.0;

            for (int64_t k = 0; k <= j; k++) sum += all[i * order + k] * all[j * order + k];
            worst = fmax(worst, fabs(sum - entry(i, j)));
        }
    MP_EXPECT(worst < 1e-12 * (double)order);
    mp_free(all);
    mp_dmat_free(m);
    return MP_OK;
}

static mp_status cholesky_keeps_the_upper_triangle(const mp_comm *c)
{
    mp_grid one = {0, 1, 1};

    MP_TRY(check_factor(c, one, 80));
    MP_TRY(check_factor(c, mp_grid_of(0, c->size), 80));
    return check_factor(c, mp_grid_of(c->size > 1, c->size > 1 ? c->size - 1 : 1), 208);
}

static mp_status cholesky_says_which_minor_is_not_positive(const mp_comm *c)
{
    double diagonal[80];
    int64_t failed_at = 0;
    mp_dmat *m = NULL;

    MP_TRY(mp_dmat_create(c, mp_grid_of(0, c->size), 80, 16, &m));
    for (int i = 0; i < 80; i++) diagonal[i] = i == 40 ? -1.0 : 1.0;
    mp_dmat_set_diagonal(m, diagonal);
    MP_TRY(mp_dmat_cholesky(m, &failed_at));
    if (m->my_row >= 0) MP_EXPECT(failed_at == 41);
    mp_dmat_free(m);
    return MP_OK;
}

const mp_case cases_comm[] = {
    {"agree_names_the_lowest_failing_rank", agree_names_the_lowest_failing_rank},
    {"same_finds_a_rank_that_differs", same_finds_a_rank_that_differs},
    {"shares_cover_everything_once", shares_cover_everything_once},
    {"shared_memory_is_seen_by_the_whole_node", shared_memory_is_seen_by_the_whole_node},
    {"a_matrix_moves_between_grids_unchanged", a_matrix_moves_between_grids_unchanged},
    {"permuting_takes_the_lower_triangle_from_the_upper",
     permuting_takes_the_lower_triangle_from_the_upper},
    {"mirroring_fills_the_other_triangle", mirroring_fills_the_other_triangle},
    {"the_diagonal_reaches_all_ranks", the_diagonal_reaches_all_ranks},
    {"a_stream_gives_every_column_to_all_ranks", a_stream_gives_every_column_to_all_ranks},
    {"cholesky_keeps_the_upper_triangle", cholesky_keeps_the_upper_triangle},
    {"cholesky_says_which_minor_is_not_positive", cholesky_says_which_minor_is_not_positive},
    {NULL, NULL},
};
