/* Another order of the rows and columns of a symmetric matrix (dmat.h). */
#include "mpress/dmat.h"

#include "dist_internal.h"
#include "mpress/memory.h"

#include <string.h>

/* The exchange: element (r, c) of the new lower triangle is the pair of x = from[c] and y = from[r] of the
 * old matrix, which stands at (x, y) or, where y < x, at (y, x) of its upper triangle.  For every column c,
 * first those with y > x, then those with y < x, each by rising r: so both sides walk, and no index
 * travels with the numbers. */
typedef struct walk {
    mp_dmat *m;
    const int64_t *from;
    int64_t *to;          /* [order] from[to[y]] = y */
    int64_t *rows, *cols; /* of the old matrix that this rank holds, by rising `to` */
    int64_t n_rows, n_cols;
} walk;

static void walk_close(walk *w)
{
    mp_free(w->to);
    mp_free(w->rows);
    mp_free(w->cols);
}

static int row_owner(const mp_dmat *m, int64_t row)
{
    return (int)(row / m->nb % m->grid.rows);
}

static int col_owner(const mp_dmat *m, int64_t col)
{
    return (int)(col / m->nb % m->grid.cols);
}

/* The rank of `members` that holds an element. */
static int owner(const mp_dmat *m, int64_t row, int64_t col)
{
    return row_owner(m, row) * m->grid.cols + col_owner(m, col);
}

/* Where an element of this rank stands. */
static double *element(const mp_dmat *m, int64_t row, int64_t col)
{
    return mp_dmat_tile(m, row / m->nb, col / m->nb) + col % m->nb * m->local_rows + row % m->nb;
}

static mp_status walk_open(mp_dmat *m, const int64_t *from, walk *w)
{
    *w = (walk){.m = m, .from = from};
    MP_TRY(MP_NEW_RAW(w->to, m->order, "an order of rows"));
    MP_TRY(MP_NEW_RAW(w->rows, m->local_rows, "an order of rows"));
    MP_TRY(MP_NEW_RAW(w->cols, m->local_cols, "an order of columns"));
    for (int64_t r = 0; r < m->order; r++) {
        w->to[from[r]] = r;
        if (row_owner(m, from[r]) == m->my_row) w->rows[w->n_rows++] = from[r];
        if (col_owner(m, from[r]) == m->my_col) w->cols[w->n_cols++] = from[r];
    }
    return MP_OK;
}

/* The first of `count` rows or columns in `list` whose new place is behind c. */
static int64_t behind(const walk *w, const int64_t *list, int64_t count, int64_t c)
{
    int64_t low = 0;

    while (low < count) {
        int64_t middle = low + (count - low) / 2;

        if (w->to[list[middle]] > c)
            count = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* What this rank has of new columns [begin, end): cursor[rank] counts on, and where `out` is there the
 * numbers go to it. */
static void walk_sent(const walk *w, int64_t begin, int64_t end, int *cursor, double *out)
{
    const mp_dmat *m = w->m;

    for (int64_t c = begin; c < end; c++) {
        int64_t x = w->from[c];
        int64_t i = row_owner(m, x) == m->my_row ? behind(w, w->cols, w->n_cols, c) : w->n_cols;
        int64_t k = col_owner(m, x) == m->my_col ? behind(w, w->rows, w->n_rows, c) : w->n_rows;

        for (; i < w->n_cols; i++) {
            int64_t y = w->cols[i];
            int *at = &cursor[owner(m, w->to[y], c)];

            if (y < x) continue;
            if (out != NULL) out[*at] = *element(m, x, y);
            ++*at;
        }
        for (; k < w->n_rows; k++) {
            int64_t y = w->rows[k];
            int *at = &cursor[owner(m, w->to[y], c)];

            if (y > x) continue;
            if (out != NULL) out[*at] = *element(m, y, x);
            ++*at;
        }
    }
}

/* What this rank gets of new columns [begin, end), in the same manner. */
static void walk_received(const walk *w, int64_t begin, int64_t end, int *cursor, const double *in)
{
    const mp_dmat *m = w->m;

    for (int64_t c = begin; c < end; c++) {
        int64_t x = w->from[c];

        if (col_owner(m, c) != m->my_col) continue;
        for (int low = 0; low <= 1; low++)
            for (int64_t r = c + 1; r < m->order; r++) {
                int64_t y = w->from[r];
                int *at;

                if ((y < x) != low || row_owner(m, r) != m->my_row) continue;
                at = &cursor[low ? owner(m, y, x) : owner(m, x, y)];
                if (in != NULL) *element(m, r, c) = in[*at];
                ++*at;
            }
    }
}

/* One exchange among the ranks of the grid. */
static mp_status exchange_columns(const walk *w, const mp_comm *members, int64_t begin, int64_t end)
{
    mp_exchange *e = NULL;
    double *out = NULL, *in = NULL;
    mp_status st;

    MP_GO(mp_exchange_create(members, &e));
    walk_sent(w, begin, end, e->send_counts, NULL);
    walk_received(w, begin, end, e->receive_counts, NULL);
    MP_GO(mp_exchange_ready(members, e));
    MP_GO(MP_NEW_RAW(out, e->send_total, "elements to send"));
    MP_GO(MP_NEW_RAW(in, e->receive_total, "elements to receive"));
    walk_sent(w, begin, end, e->send_starts, out);
    MP_GO(mp_exchange_ready(members, e)); /* the starts were used as cursors */
out:
    st = mp_grid_agree(w->m, st);
    if (st == MP_OK) st = mp_comm_exchange(members, e, MPI_DOUBLE, out, in);
    if (st == MP_OK) walk_received(w, begin, end, e->receive_starts, in);
    mp_free(out);
    mp_free(in);
    mp_exchange_free(e);
    return st;
}

/* On one rank the elements are all there. */
static void permute_local(mp_dmat *m, const int64_t *from)
{
#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t c = 0; c < m->order; c++)
        for (int64_t r = c + 1; r < m->order; r++) {
            int64_t x = from[c], y = from[r];

            m->data[c * m->order + r] = m->data[(x < y ? y : x) * m->order + (x < y ? x : y)];
        }
}

mp_status mp_dmat_permute(mp_dmat *matrix, const int64_t *from)
{
    enum { PIECE = 1 << 24 }; /* elements per exchange, all ranks together: 128 MiB */
    mp_comm members = {.rank = matrix->comm->rank - matrix->grid.first,
                       .size = matrix->grid.rows * matrix->grid.cols};
    int64_t end;
    walk w;
    mp_status st = MP_OK;

    if (matrix->my_row < 0) return MP_OK;
    if (members.size == 1) {
        permute_local(matrix, from);
        return MP_OK;
    }
    MP_GO(mp_grid_agree(matrix, walk_open(matrix, from, &w)));
    members.mpi = matrix->members;
    for (int64_t begin = 0; begin < matrix->order && st == MP_OK; begin = end) {
        int64_t elements = 0;

        for (end = begin; end < matrix->order && elements < PIECE; end++)
            elements += matrix->order - end;
        st = exchange_columns(&w, &members, begin, end);
    }
out:
    walk_close(&w);
    return st;
}
