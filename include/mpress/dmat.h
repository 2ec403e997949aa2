/* Square double-precision matrices in ScaLAPACK's block-cyclic layout, on a grid of some of the ranks.
 * Floor 3: dist.
 *
 * Tile (I, J) of size nb x nb lies on grid position (I mod rows, J mod cols); a rank keeps its tiles in
 * one column-major local matrix.  The order is a multiple of nb: whoever needs another pads. */
#ifndef MPRESS_DMAT_H
#define MPRESS_DMAT_H

#include "mpress/comm.h"

/* `rows` x `cols` consecutive ranks from `first` on, position (p, q) on rank first + p * cols + q. */
typedef struct mp_grid {
    int first, rows, cols;
} mp_grid;

typedef struct mp_dmat {
    const mp_comm *comm; /* borrowed */
    mp_grid grid;
    int64_t order, nb, tiles; /* order = tiles * nb */
    int my_row, my_col;       /* grid position of this rank, -1 outside the grid */
    int64_t local_rows, local_cols;
    double *data; /* [local_cols][local_rows], column-major, leading dimension local_rows */

    /* made by the first call of ScaLAPACK on a grid of several ranks (dlinalg.c), -1 before */
    int context;      /* of BLACS */
    MPI_Comm members; /* the ranks of the grid */
} mp_dmat;

/* The best grid of at most `ranks`: rather leaves ranks idle than takes 1 x P. */
mp_grid mp_grid_of(int first, int ranks);

int mp_grid_rank(const mp_grid *grid, int64_t tile_row, int64_t tile_col);
int mp_grid_holds(const mp_grid *grid, int rank);

/* Rows and columns of a matrix of this order that `rank` has in its local matrix, none outside the grid.
 * Local.  Errors: MP_ERR_NOFIT as below. */
mp_status mp_grid_share(const mp_grid *grid, int rank, int64_t order, int64_t nb, int64_t *rows,
                        int64_t *cols);

/* Zeroed.  Collective over all of `comm`, whoever is in the grid.  Errors: MP_ERR_NOMEM, MP_ERR_NOFIT
 * (a local dimension or the local matrix does not fit the 32-bit integers of ScaLAPACK); agreed. */
mp_status mp_dmat_create(const mp_comm *comm, mp_grid grid, int64_t order, int64_t nb,
                         mp_dmat **matrix);
void mp_dmat_free(mp_dmat *matrix);

/* The address of tile (I, J) in the local matrix of its owner. */
double *mp_dmat_tile(const mp_dmat *matrix, int64_t tile_row, int64_t tile_col);

/* Moves the lower triangle (with whole diagonal tiles) of `from` to a new matrix on `grid`; `from` is
 * freed.  Where the grid is the same nothing moves.  Collective over the communicator.
 * Cost: order^2 / 2 doubles over the network, in pieces of a few tile columns. */
mp_status mp_dmat_move(mp_dmat **from, mp_grid grid, mp_dmat **to);

/* Counts what all ranks of `comm`, which is dry, would send in that, for a matrix of `tiles` tile columns. */
void mp_dmat_count_move(const mp_comm *comm, const mp_grid *from, const mp_grid *to, int64_t tiles,
                        int64_t nb);

/* The diagonal, [order], on all ranks; and back: each owner sets its elements.  Get is collective. */
mp_status mp_dmat_get_diagonal(const mp_dmat *matrix, double *diagonal);
void mp_dmat_set_diagonal(mp_dmat *matrix, const double *diagonal);

/* Another order of the rows and columns of a symmetric matrix whose upper triangle is given: element (r, c)
 * below the diagonal becomes that of from[r] and from[c].  The upper triangle and the diagonal stay.
 *   from  in  [order] a permutation, the same on all ranks
 * Collective over the grid; ranks outside return at once.  No rank holds more than its share, and of what
 * is under way 128 MiB in all.
 * Cost: order^2 / 2 doubles over the network. */
mp_status mp_dmat_permute(mp_dmat *matrix, const int64_t *from);

/* A stream of tile columns to all ranks in single precision, the next one under way while the caller
 * works on the last: half of each column, from the diagonal tile to the lower or the upper end. */
typedef enum mp_half { MP_LOWER_HALF, MP_UPPER_HALF } mp_half;
typedef struct mp_stream mp_stream;

/* Starts at tile column `first` and goes by `step` (1 or -1).  Collective over the communicator. */
mp_status mp_stream_create(const mp_dmat *matrix, mp_half half, int64_t first, int64_t step,
                           mp_stream **stream);

/* The next column: column[c][k], c in [0, nb), k in [0, length), rows in *falling* order, columns
 * too: c counts from the last column of the tile, k from the last row of the half
 * (lower: row order - 1 - k; upper: row (J + 1) nb - 1 - k).  The caller may write to it.
 * Valid until the next call.  Collective.
 * Cost: one broadcast of nb * length floats per grid row. */
mp_status mp_stream_next(mp_stream *stream, float **column, int64_t *length);
void mp_stream_free(mp_stream *stream);

#endif
