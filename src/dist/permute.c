/* Another order of the rows and columns of a symmetric matrix (dmat.h). */
#include "mpress/dmat.h"

#include "dist_internal.h"
#include "mpress/memory.h"

/* The exchange.  Element (r, c) of the new lower triangle is that of the pair x = from[c], y = from[r] of
 * the old matrix, which stands at (x, y) of its upper triangle or, where y < x, at (y, x).  For every x,
 * first the pairs with y > x, then those with y < x, each by rising r: both sides walk in this order, so
 * that no index travels with the numbers.  By rising x, since the eight neighbours of an element in its
 * column, which come into the cache with it, are then the next to be read. */
typedef struct walk {
    mp_dmat *m;
    const int64_t *from;
    int64_t *to;                /* [order] from[to[y]] = y */
    int *row_owner, *col_owner; /* [order] grid coordinates */
    int64_t *row_at, *col_at;   /* [order] where a row or column stands in the local matrix */
    int64_t *rows, *cols;       /* of the old matrix that this rank holds, by rising `to` */
    int64_t *new_rows;          /* of the new one, rising */
    int64_t n_rows, n_cols;     /* of this rank */
} walk;

static void walk_close(walk *w)
{
    mp_free(w->to);
    mp_free(w->row_owner);
    mp_free(w->row_at);
    mp_free(w->rows);
}

static mp_status walk_allocate(walk *w)
{
    const mp_dmat *m = w->m;

    MP_TRY(MP_NEW_RAW(w->to, m->order, "an order of rows"));
    MP_TRY(MP_NEW_RAW(w->row_owner, 2 * m->order, "owners of rows and columns"));
    MP_TRY(MP_NEW_RAW(w->row_at, 2 * m->order, "places of rows and columns"));
    MP_TRY(MP_NEW_RAW(w->rows, 2 * m->local_rows + m->local_cols, "rows and columns of a rank"));
    w->col_owner = w->row_owner + m->order;
    w->col_at = w->row_at + m->order;
    w->new_rows = w->rows + m->local_rows;
    w->cols = w->new_rows + m->local_rows;
    return MP_OK;
}

static mp_status walk_open(mp_dmat *m, const int64_t *from, walk *w)
{
    int64_t n_new = 0;

    *w = (walk){.m = m, .from = from};
    MP_TRY(walk_allocate(w));
    for (int64_t i = 0; i < m->order; i++) {
        int64_t tile = i / m->nb, rest = i % m->nb;

        w->to[from[i]] = i;
        w->row_owner[i] = (int)(tile % m->grid.rows);
        w->col_owner[i] = (int)(tile % m->grid.cols);
        w->row_at[i] = tile / m->grid.rows * m->nb + rest;
        w->col_at[i] = (tile / m->grid.cols * m->nb + rest) * m->local_rows;
        if (w->row_owner[i] == m->my_row) w->new_rows[n_new++] = i;
    }
    for (int64_t i = 0; i < m->order; i++) {
        if (w->row_owner[from[i]] == m->my_row) w->rows[w->n_rows++] = from[i];
        if (w->col_owner[from[i]] == m->my_col) w->cols[w->n_cols++] = from[i];
    }
    return MP_OK;
}

/* The rank of `members` that holds an element. */
static int owner(const walk *w, int64_t row, int64_t col)
{
    return w->row_owner[row] * w->m->grid.cols + w->col_owner[col];
}

/* The last `count` of a list that rises in key (its own values where there is none) are behind c: the
 * first of them. */
static int64_t first_behind(const int64_t *list, int64_t count, const int64_t *key, int64_t c)
{
    int64_t low = 0;

    while (low < count) {
        int64_t middle = low + (count - low) / 2;

        if ((key != NULL ? key[list[middle]] : list[middle]) > c)
            count = middle;
        else
            low = middle + 1;
    }
    return low;
}

/* What this rank has of the pairs of x: cursor[rank] counts on, and where `out` is there the numbers go
 * to it. */
static void send_pairs(const walk *w, int64_t x, int *cursor, double *out)
{
    const mp_dmat *m = w->m;
    const int64_t c = w->to[x];

    if (w->row_owner[x] == m->my_row)
        for (int64_t i = first_behind(w->cols, w->n_cols, w->to, c); i < w->n_cols; i++) {
            int64_t y = w->cols[i];
            int *at = &cursor[owner(w, w->to[y], c)];

            if (y < x) continue;
            if (out != NULL) out[*at] = m->data[w->col_at[y] + w->row_at[x]];
            ++*at;
        }
    if (w->col_owner[x] == m->my_col)
        for (int64_t i = first_behind(w->rows, w->n_rows, w->to, c); i < w->n_rows; i++) {
            int64_t y = w->rows[i];
            int *at = &cursor[owner(w, w->to[y], c)];

            if (y > x) continue;
            if (out != NULL) out[*at] = m->data[w->col_at[x] + w->row_at[y]];
            ++*at;
        }
}

/* What this rank gets of them, in the same manner. */
static void receive_pairs(const walk *w, int64_t x, int *cursor, const double *in)
{
    const mp_dmat *m = w->m;
    const int64_t c = w->to[x];
    int64_t first;

    if (w->col_owner[c] != m->my_col) return;
    first = first_behind(w->new_rows, m->local_rows, NULL, c);
    for (int below = 0; below <= 1; below++)
        for (int64_t i = first; i < m->local_rows; i++) {
            int64_t y = w->from[w->new_rows[i]];
            int *at;

            if ((y < x) != below) continue;
            at = &cursor[below ? owner(w, y, x) : owner(w, x, y)];
            if (in != NULL) m->data[w->col_at[c] + i] = in[*at];
            ++*at;
        }
}

/* One exchange among the ranks of the grid: the pairs of x in [begin, end). */
static mp_status exchange_pairs(const walk *w, const mp_comm *members, int64_t begin, int64_t end)
{
    mp_exchange *e = NULL;
    double *out = NULL, *in = NULL;
    mp_status st;

    MP_GO(mp_exchange_create(members, &e));
    for (int64_t x = begin; x < end; x++) {
        send_pairs(w, x, e->send_counts, NULL);
        receive_pairs(w, x, e->receive_counts, NULL);
    }
    MP_GO(mp_exchange_ready(members, e));
    MP_GO(MP_NEW_RAW(out, e->send_total, "elements to send"));
    MP_GO(MP_NEW_RAW(in, e->receive_total, "elements to receive"));
    for (int64_t x = begin; x < end; x++) send_pairs(w, x, e->send_starts, out);
    MP_GO(mp_exchange_ready(members, e)); /* the starts were used as cursors */
out:
    st = mp_grid_agree(w->m, st);
    if (st == MP_OK) st = mp_comm_exchange(members, e, MPI_DOUBLE, out, in);
    for (int64_t x = begin; x < end && st == MP_OK; x++) receive_pairs(w, x, e->receive_starts, in);
    mp_free(out);
    mp_free(in);
    mp_exchange_free(e);
    return st;
}

/* On one rank the elements are all there. */
static void permute_local(const walk *w)
{
    const mp_dmat *m = w->m;

#pragma omp parallel for schedule(static, 64)
    for (int64_t x = 0; x < m->order; x++) {
        double *column = m->data + w->to[x] * m->order;

        for (int64_t r = w->to[x] + 1; r < m->order; r++) {
            int64_t y = w->from[r];

            column[r] = x < y ? m->data[y * m->order + x] : m->data[x * m->order + y];
        }
    }
}

static mp_status permute_on_grid(const walk *w)
{
    enum { PIECE = 1 << 24 }; /* elements per exchange, all ranks together: 128 MiB */
    mp_dmat *m = w->m;
    const mp_comm members = {.mpi = m->members,
                             .rank = m->comm->rank - m->grid.first,
                             .size = m->grid.rows * m->grid.cols,
                             .node_index = m->comm->node_index,
                             .node_of = m->comm->node_of + m->grid.first};
    int64_t end;

    for (int64_t begin = 0; begin < m->order; begin = end) {
        int64_t elements = 0;

        for (end = begin; end < m->order && elements < PIECE; end++)
            elements += m->order - w->to[end];
        MP_TRY(exchange_pairs(w, &members, begin, end));
    }
    return MP_OK;
}

mp_status mp_dmat_permute(mp_dmat *matrix, const int64_t *from)
{
    walk w;
    mp_status st;

    if (matrix->my_row < 0) return MP_OK;
    MP_GO(mp_grid_agree(matrix, walk_open(matrix, from, &w)));
    if (matrix->grid.rows * matrix->grid.cols > 1)
        st = permute_on_grid(&w);
    else
        permute_local(&w);
out:
    walk_close(&w);
    return st;
}
