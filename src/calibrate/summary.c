/* What there is to say of a second moment (moment.h). */
#include "mpress/memory.h"
#include "mpress/moment.h"

/* The place of tile (i, j), i >= j, in a list of the lower tiles. */
static int64_t place_of(int64_t i, int64_t j)
{
    return i * (i + 1) / 2 + j;
}

/* The sum of squares of one tile; of the first one without the padding, which has ones. */
static double square_tile(const mp_moment *m, int64_t i, int64_t j)
{
    const mp_dmat *d = m->matrix;
    const double *tile = mp_dmat_tile(d, i, j);
    int64_t pad = m->order - m->n;
    double sum = 0.0;

    for (int64_t c = j == 0 ? pad : 0; c < d->nb; c++)
        for (int64_t r = 0; r < d->nb; r++)
            sum += tile[c * d->local_rows + r] * tile[c * d->local_rows + r];
    return sum;
}

/* ||H||_F^2: each lower tile is summed where it is, and then all of them in their order. */
static mp_status square_norm(const mp_moment *m, double *norm)
{
    const mp_dmat *d = m->matrix;
    int64_t count = place_of(d->tiles, 0);
    double *tiles = NULL;
    mp_status st = MP_NEW(tiles, count, "sums of tiles");

    MP_GO(mp_comm_agree(m->comm, st));
    for (int64_t i = 0; i < d->tiles; i++)
        for (int64_t j = 0; j <= i; j++)
            if (mp_grid_rank(&d->grid, i, j) == m->comm->rank)
                tiles[place_of(i, j)] = square_tile(m, i, j);
    /* one rank has a number, the others have zeros: the order of the sum does not matter */
    MP_GO(mp_comm_sum(m->comm, tiles, (int)count));
    *norm = 0.0;
    for (int64_t i = 0; i < d->tiles; i++)
        for (int64_t j = 0; j <= i; j++) *norm += (i == j ? 1.0 : 2.0) * tiles[place_of(i, j)];
out:
    mp_free(tiles);
    return st;
}

mp_status mp_moment_summarise(const mp_moment *m, mp_moment_summary *summary)
{
    double trace = 0.0, norm;

    *summary = (mp_moment_summary){.probes = m->probe != NULL ? MP_PROBES : 0};
    MP_TRY(square_norm(m, &norm));
    for (int64_t r = m->order - m->n; r < m->order; r++) trace += m->diagonal[r];
    summary->effective_rank = norm > 0.0 ? trace * trace / norm : 0.0;
    if (m->probe == NULL) return MP_OK;
    return mp_probe_finish(m->probe, &summary->distance, &summary->distance_error);
}
