#include "mpress/dmat.h"

#include "dist_internal.h"
#include "mpress/memory.h"

#include <limits.h>
#include <string.h>

/* Most ranks first, but never flatter than 1 : 4 (a panel's column of ranks works alone while the
 * rest of its row waits); 2 and 3 ranks have no better than 1 x 2 and 1 x 3. */
mp_grid mp_grid_of(int first, int ranks)
{
    mp_grid best = {first, 1, 1};

    for (int rows = 1; rows * rows <= ranks; rows++) {
        int cols = ranks / rows < 4 * rows ? ranks / rows : 4 * rows;

        if (rows * cols >= best.rows * best.cols) {
            best.rows = rows;
            best.cols = cols;
        }
    }
    return best;
}

int mp_grid_rank(const mp_grid *grid, int64_t tile_row, int64_t tile_col)
{
    return grid->first + (int)(tile_row % grid->rows) * grid->cols + (int)(tile_col % grid->cols);
}

int mp_grid_holds(const mp_grid *grid, int rank)
{
    return rank >= grid->first && rank < grid->first + grid->rows * grid->cols;
}

/* Tiles of `tiles` that grid coordinate `mine` of `parts` holds. */
static int64_t tiles_of(int64_t tiles, int mine, int parts)
{
    return (tiles - mine + parts - 1) / parts;
}

mp_status mp_grid_share(const mp_grid *grid, int rank, int64_t order, int64_t nb, int64_t *rows,
                        int64_t *cols)
{
    int inside = mp_grid_holds(grid, rank), place = rank - grid->first;

    *rows = inside ? tiles_of(order / nb, place / grid->cols, grid->rows) * nb : 0;
    *cols = inside ? tiles_of(order / nb, place % grid->cols, grid->cols) * nb : 0;
    if (order <= INT_MAX && *rows * *cols <= INT_MAX) return MP_OK;
    return mp_fail(MP_ERR_NOFIT,
                   "a matrix of order %lld, %lld x %lld of it on one rank, does not fit the 32-bit "
                   "integers of ScaLAPACK: use more ranks",
                   (long long)order, (long long)*rows, (long long)*cols);
}

static mp_status allocate(mp_dmat *m)
{
    int inside = mp_grid_holds(&m->grid, m->comm->rank);
    int place = m->comm->rank - m->grid.first;

    m->my_row = inside ? place / m->grid.cols : -1;
    m->my_col = inside ? place % m->grid.cols : -1;
    MP_TRY(mp_grid_share(&m->grid, m->comm->rank, m->order, m->nb, &m->local_rows, &m->local_cols));
    if (mp_comm_is_dry(m->comm)) return MP_OK;
    return MP_NEW(m->data, m->local_rows * m->local_cols, "tiles of a distributed matrix");
}

mp_status mp_dmat_create(const mp_comm *comm, mp_grid grid, int64_t order, int64_t nb,
                         mp_dmat **matrix)
{
    mp_dmat *m = NULL;
    mp_status st;

    if (order % nb != 0)
        return mp_fail(MP_ERR_INTERNAL, "order %lld is no multiple of the tile size %lld",
                       (long long)order, (long long)nb);
    st = MP_NEW(m, 1, "a distributed matrix");
    if (st == MP_OK) {
        *m = (mp_dmat){.comm = comm,
                       .grid = grid,
                       .order = order,
                       .nb = nb,
                       .tiles = order / nb,
                       .context = -1,
                       .members = MPI_COMM_NULL};
        st = allocate(m);
    }
    st = mp_comm_agree(comm, st);
    if (st != MP_OK) {
        mp_dmat_free(m);
        return st;
    }
    *matrix = m;
    return MP_OK;
}

void mp_dmat_free(mp_dmat *matrix)
{
    if (matrix == NULL) return;
    mp_dist_close_context(matrix);
    mp_free(matrix->data);
    mp_free(matrix);
}

double *mp_dmat_tile(const mp_dmat *matrix, int64_t tile_row, int64_t tile_col)
{
    int64_t row = tile_row / matrix->grid.rows * matrix->nb;
    int64_t col = tile_col / matrix->grid.cols * matrix->nb;

    return matrix->data + col * matrix->local_rows + row;
}

static int owns(const mp_dmat *m, int64_t tile_row, int64_t tile_col)
{
    return mp_grid_rank(&m->grid, tile_row, tile_col) == m->comm->rank;
}

mp_status mp_dmat_get_diagonal(const mp_dmat *matrix, double *diagonal)
{
    memset(diagonal, 0, (size_t)matrix->order * sizeof *diagonal);
    for (int64_t t = 0; t < matrix->tiles; t++) {
        const double *tile;

        if (!owns(matrix, t, t)) continue;
        tile = mp_dmat_tile(matrix, t, t);
        for (int64_t i = 0; i < matrix->nb; i++)
            diagonal[t * matrix->nb + i] = tile[i * matrix->local_rows + i];
    }
    /* one rank has a number, the others have zeros: the order of the sum does not matter */
    return mp_comm_sum(matrix->comm, diagonal, (int)matrix->order);
}

void mp_dmat_set_diagonal(mp_dmat *matrix, const double *diagonal)
{
    for (int64_t t = 0; t < matrix->tiles; t++) {
        double *tile;

        if (!owns(matrix, t, t)) continue;
        tile = mp_dmat_tile(matrix, t, t);
        for (int64_t i = 0; i < matrix->nb; i++)
            tile[i * matrix->local_rows + i] = diagonal[t * matrix->nb + i];
    }
}

/* Copies a tile between a local matrix and a packed buffer. */
static void pack_tile(const mp_dmat *m, int64_t i, int64_t j, double *to)
{
    const double *tile = mp_dmat_tile(m, i, j);

    for (int64_t c = 0; c < m->nb; c++)
        memcpy(to + c * m->nb, tile + c * m->local_rows, (size_t)m->nb * sizeof *to);
}

static void unpack_tile(mp_dmat *m, int64_t i, int64_t j, const double *from)
{
    double *tile = mp_dmat_tile(m, i, j);

    for (int64_t c = 0; c < m->nb; c++)
        memcpy(tile + c * m->local_rows, from + c * m->nb, (size_t)m->nb * sizeof *from);
}

/* One exchange: the lower tiles of tile columns [begin, end) from the owners in `from` to those in
 * `to`.  Both sides walk the tiles in the same order, so that no index travels with them. */
static mp_status move_columns(const mp_dmat *from, mp_dmat *to, int64_t begin, int64_t end)
{
    const mp_comm *comm = from->comm;
    int64_t size = from->nb * from->nb;
    int rank = comm->rank;
    mp_exchange *e = NULL;
    double *out = NULL, *in = NULL;
    mp_status st;

    MP_GO(mp_exchange_create(comm, &e));
    for (int64_t j = begin; j < end; j++)
        for (int64_t i = j; i < from->tiles; i++) {
            if (owns(from, i, j)) e->send_counts[mp_grid_rank(&to->grid, i, j)] += (int)size;
            if (owns(to, i, j)) e->receive_counts[mp_grid_rank(&from->grid, i, j)] += (int)size;
        }
    MP_GO(mp_exchange_ready(comm, e));
    if (mp_comm_is_dry(comm)) goto out;
    MP_GO(MP_NEW_RAW(out, e->send_total, "tiles to send"));
    MP_GO(MP_NEW_RAW(in, e->receive_total, "tiles to receive"));
    for (int64_t j = begin; j < end; j++)
        for (int64_t i = j; i < from->tiles; i++)
            if (owns(from, i, j)) {
                int *start = &e->send_starts[mp_grid_rank(&to->grid, i, j)];

                pack_tile(from, i, j, out + *start);
                *start += (int)size;
            }
    MP_GO(mp_exchange_ready(comm, e)); /* the starts were used as cursors */
out:
    st = mp_comm_agree(comm, st);
    if (st == MP_OK) st = mp_comm_exchange(comm, e, MPI_DOUBLE, out, in);
    for (int64_t j = begin; j < end && st == MP_OK && in != NULL; j++)
        for (int64_t i = j; i < from->tiles; i++)
            if (mp_grid_rank(&to->grid, i, j) == rank) {
                int *start = &e->receive_starts[mp_grid_rank(&from->grid, i, j)];

                unpack_tile(to, i, j, in + *start);
                *start += (int)size;
            }
    mp_free(out);
    mp_free(in);
    mp_exchange_free(e);
    return st;
}

void mp_dmat_count_move(const mp_comm *comm, const mp_grid *from, const mp_grid *to, int64_t tiles,
                        int64_t nb)
{
    const int64_t bytes = 8 * nb * nb;
    int64_t moved = 0, crossed = 0;

    if (memcmp(from, to, sizeof *from) == 0) return;
    for (int64_t j = 0; j < tiles; j++)
        for (int64_t i = j; i < tiles; i++) {
            int owner = mp_grid_rank(from, i, j), next = mp_grid_rank(to, i, j);

            moved += owner != next;
            crossed += comm->node_of[owner] != comm->node_of[next];
        }
    mp_comm_count_bytes(moved * bytes, crossed * bytes);
}

mp_status mp_dmat_move(mp_dmat **from, mp_grid grid, mp_dmat **to)
{
    enum { PIECE_TILES = 1024 }; /* tiles per exchange, all ranks together: 128 MiB at nb = 128 */
    mp_dmat *old = *from, *moved = NULL;
    int64_t end;
    mp_status st = MP_OK;

    if (memcmp(&old->grid, &grid, sizeof grid) == 0) {
        *to = old;
        *from = NULL;
        return MP_OK;
    }
    MP_TRY(mp_dmat_create(old->comm, grid, old->order, old->nb, &moved));
    for (int64_t begin = 0; begin < old->tiles && st == MP_OK; begin = end) {
        int64_t tiles = 0;

        for (end = begin; end < old->tiles && (end == begin || tiles < PIECE_TILES); end++)
            tiles += old->tiles - end;
        st = move_columns(old, moved, begin, end);
    }
    if (st != MP_OK) {
        mp_dmat_free(moved);
        return st;
    }
    mp_dmat_free(old);
    *from = NULL;
    *to = moved;
    return MP_OK;
}
