#include "mpress/drect.h"

#include "dist_internal.h"
#include "mpress/linalg.h"
#include "mpress/memory.h"

#include <limits.h>

void pdgemm_(const char *, const char *, const int *, const int *, const int *, const double *,
             const double *, const int *, const int *, const int *, const double *, const int *,
             const int *, const int *, const double *, double *, const int *, const int *,
             const int *);
void pdgeadd_(const char *, const int *, const int *, const double *, const double *, const int *,
              const int *, const int *, const double *, double *, const int *, const int *,
              const int *);
void pdtrmm_(const char *, const char *, const char *, const char *, const int *, const int *,
             const double *, const double *, const int *, const int *, const int *, double *,
             const int *, const int *, const int *);
void pdtrsm_(const char *, const char *, const char *, const char *, const int *, const int *,
             const double *, const double *, const int *, const int *, const int *, double *,
             const int *, const int *, const int *);

/* The logical block of PBLAS, a function that its users may bring along: products are cut into panels of
 * so many columns whatever the tiles are.  The library's own says 32, at which a product of 3072 x 3072 on
 * 2 ranks runs at 65% of the rate of dgemm; with 128 it is 83%. */
int pilaenv_(const int *context, const char *precision);

int pilaenv_(const int *context, const char *precision)
{
    (void)context, (void)precision;
    return 128;
}

static const int one = 1;
static const double unit = 1.0, zero = 0.0;

mp_status mp_grid_agree(mp_dmat *on, mp_status mine)
{
    int size = on->grid.rows * on->grid.cols;

    if (size == 1) return mine;
    MP_TRY(mp_dist_open_members(on));
    return mp_agree_over(on->members, on->comm->rank - on->grid.first, size, mine);
}

/* Rows or columns of `count`, cut into tiles of nb, that coordinate `mine` of `parts` holds. */
static int64_t share_of(int64_t count, int64_t nb, int mine, int parts)
{
    int64_t whole = count / nb, local = whole / parts * nb;

    if (whole % parts > mine) return local + nb;
    return whole % parts == mine ? local + count % nb : local;
}

static mp_status allocate(mp_drect *r)
{
    if (r->rows > INT_MAX || r->cols > INT_MAX || r->local_rows * r->local_cols > INT_MAX)
        return mp_fail(
            MP_ERR_NOFIT,
            "a matrix of %lld x %lld, %lld x %lld on a rank, does not fit the 32-bit integers "
            "of ScaLAPACK: use more ranks",
            (long long)r->rows, (long long)r->cols, (long long)r->local_rows,
            (long long)r->local_cols);
    return MP_NEW(r->data, r->local_rows * r->local_cols, "tiles of a distributed matrix");
}

mp_status mp_drect_create(mp_dmat *on, int64_t rows, int64_t cols, mp_drect **rect)
{
    mp_drect *r = NULL;
    mp_status st = MP_NEW(r, 1, "a distributed matrix");

    if (st == MP_OK) {
        *r = (mp_drect){.on = on, .rows = rows, .cols = cols};
        r->local_rows = share_of(rows, on->nb, on->my_row, on->grid.rows);
        r->local_cols = share_of(cols, on->nb, on->my_col, on->grid.cols);
        st = allocate(r);
    }
    st = mp_grid_agree(on, st);
    if (st == MP_OK) st = mp_dist_open_context(on);
    if (st == MP_OK)
        *rect = r;
    else
        mp_drect_free(r);
    return st;
}

void mp_drect_free(mp_drect *rect)
{
    if (rect == NULL) return;
    if (!rect->is_view) mp_free(rect->data);
    mp_free(rect);
}

mp_drect mp_drect_view(mp_dmat *matrix)
{
    return (mp_drect){.on = matrix,
                      .rows = matrix->order,
                      .cols = matrix->order,
                      .local_rows = matrix->local_rows,
                      .local_cols = matrix->local_cols,
                      .data = matrix->data,
                      .is_view = 1};
}

int64_t mp_drect_row(const mp_drect *r, int64_t local)
{
    return (local / r->on->nb * r->on->grid.rows + r->on->my_row) * r->on->nb + local % r->on->nb;
}

int64_t mp_drect_col(const mp_drect *r, int64_t local)
{
    return (local / r->on->nb * r->on->grid.cols + r->on->my_col) * r->on->nb + local % r->on->nb;
}

void mp_dist_describe_rect(const mp_drect *r, int descriptor[9])
{
    const int words[9] = {1,
                          r->on->context,
                          (int)r->rows,
                          (int)r->cols,
                          (int)r->on->nb,
                          (int)r->on->nb,
                          0,
                          0,
                          r->local_rows > 0 ? (int)r->local_rows : 1};

    for (int i = 0; i < 9; i++) descriptor[i] = words[i];
}

/* Column-major on one rank: the same product of transposes for the row-major door. */
static mp_status multiply_local(int trans_a, int trans_b, const mp_drect *a, int64_t first_a,
                                const mp_drect *b, mp_drect *c, int64_t inner)
{
    return mp_dgemm(trans_b, trans_a, c->cols, c->rows, inner, 1.0, b->data, b->rows,
                    a->data + first_a * a->rows, a->rows, 0.0, c->data, c->rows);
}

mp_status mp_drect_multiply(int trans_a, int trans_b, const mp_drect *a, int64_t first_a,
                            const mp_drect *b, mp_drect *c)
{
    const int m = (int)c->rows, n = (int)c->cols, k = (int)(trans_b ? b->cols : b->rows);
    const int column = (int)first_a + 1;
    int da[9], db[9], dc[9];

    if (c->on->grid.rows * c->on->grid.cols == 1)
        return multiply_local(trans_a, trans_b, a, first_a, b, c, k);
    mp_dist_describe_rect(a, da);
    mp_dist_describe_rect(b, db);
    mp_dist_describe_rect(c, dc);
    pdgemm_(trans_a ? "T" : "N", trans_b ? "T" : "N", &m, &n, &k, &unit, a->data, &one, &column, da,
            b->data, &one, &one, db, &zero, c->data, &one, &one, dc);
    return MP_OK;
}

/* Rows and columns from `first` on, `count` columns, of the product that mp_drect_multiply_lower makes. */
static mp_status multiply_panel(const mp_drect *a, const mp_drect *b, mp_drect *c, int64_t first,
                                int64_t count)
{
    const int m = (int)(c->rows - first), n = (int)count, k = (int)a->cols, at = (int)first + 1;
    int da[9], db[9], dc[9];

    if (c->on->grid.rows * c->on->grid.cols == 1)
        return mp_dgemm(1, 0, n, m, k, 1.0, b->data + first, b->rows, a->data + first, a->rows, 0.0,
                        c->data + first * c->rows + first, c->rows);
    mp_dist_describe_rect(a, da);
    mp_dist_describe_rect(b, db);
    mp_dist_describe_rect(c, dc);
    pdgemm_("N", "T", &m, &n, &k, &unit, a->data, &at, &one, da, b->data, &at, &one, db, &zero,
            c->data, &at, &at, dc);
    return MP_OK;
}

mp_status mp_drect_multiply_lower(const mp_drect *a, const mp_drect *b, mp_drect *c)
{
    enum { PANELS = 8 };
    int64_t nb = c->on->nb, width = ((c->rows + PANELS - 1) / PANELS + nb - 1) / nb * nb;

    for (int64_t first = 0; first < c->rows; first += width)
        MP_TRY(multiply_panel(a, b, c, first, c->rows - first < width ? c->rows - first : width));
    return MP_OK;
}

mp_status mp_drect_copy_columns(const mp_drect *from, int64_t first, mp_drect *to)
{
    const int m = (int)from->rows, n = (int)to->cols, column = (int)first + 1;
    int df[9], dt[9];

    mp_dist_describe_rect(from, df);
    mp_dist_describe_rect(to, dt);
    pdgeadd_("N", &m, &n, &unit, from->data, &one, &column, df, &zero, to->data, &one, &one, dt);
    return MP_OK;
}

mp_status mp_drect_times_lower(const mp_drect *factor, int inverse, mp_drect *a)
{
    const int m = (int)a->rows, n = (int)a->cols;
    int df[9], da[9];

    mp_dist_describe_rect(factor, df);
    mp_dist_describe_rect(a, da);
    (inverse ? pdtrsm_ : pdtrmm_)("R", "L", "N", "N", &m, &n, &unit, factor->data, &one, &one, df,
                                  a->data, &one, &one, da);
    return MP_OK;
}
