#include "mpress/moment.h"

#include "mpress/dlinalg.h"
#include "mpress/linalg.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/tensor.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A panel is at most this many floats: wide enough for a fast product (over 1000 columns at 28672
 * channels), small beside the rest.  It depends on nothing but n, so that the bits do not either. */
enum { PANEL_FLOATS = 1 << 25 };

struct mp_moment_scratch {
    float *x;       /* [max_tokens, order] weighted states, channels reversed and padded */
    float *panel;   /* product of one sequence, columns begin .. end of the lower triangle */
    float *send;    /* the panel cut by owner (several ranks only) */
    float *receive; /* all ranks' parts of this rank's tiles */
    mp_exchange *exchange;
    mp_probe_room *probes;
};

static mp_moment_times clock_so_far;

mp_moment_times mp_moment_clock(void)
{
    return clock_so_far;
}

/* The widest panel of whole tile columns from `begin` on, at least one. */
static int64_t panel_end(int64_t tiles, int64_t nb, int64_t begin)
{
    int64_t width = PANEL_FLOATS / ((tiles - begin) * nb * nb);
    int64_t end = begin + (width > 1 ? width : 1);

    return end < tiles ? end : tiles;
}

/* Floats of the largest panel of a moment of `tiles`, and of all ranks' parts of it at one owner. */
static void panel_needs(int64_t tiles, int64_t nb, int ranks, int64_t *panel, int64_t *receive)
{
    mp_grid grid = mp_grid_of(0, ranks);
    int64_t end;

    for (int64_t begin = 0; begin < tiles; begin = end) {
        int64_t columns, rows = (tiles - begin + grid.rows - 1) / grid.rows;

        end = panel_end(tiles, nb, begin);
        columns = (end - begin + grid.cols - 1) / grid.cols;
        if ((end - begin) * (tiles - begin) * nb * nb > *panel)
            *panel = (end - begin) * (tiles - begin) * nb * nb;
        if (columns * rows * ranks * nb * nb > *receive)
            *receive = columns * rows * ranks * nb * nb;
    }
}

/* The same over all states, and the widest of them with its padding. */
static void needs_of(int ranks, const int64_t *widths, int count, int64_t tile, int64_t *panel,
                     int64_t *receive, int64_t *widest)
{
    *panel = *receive = *widest = 0;
    for (int i = 0; i < count; i++) {
        int64_t tiles = (widths[i] + tile - 1) / tile;

        panel_needs(tiles, tile, ranks, panel, receive);
        if (tiles * tile > *widest) *widest = tiles * tile;
    }
}

int64_t mp_moment_scratch_bytes(int ranks, const int64_t *widths, int count, int64_t tile,
                                int64_t max_tokens)
{
    int64_t panel, receive, widest, floats;

    needs_of(ranks, widths, count, tile, &panel, &receive, &widest);
    floats = max_tokens * widest + panel + (ranks > 1 ? panel + receive : 0);
    return (int64_t)sizeof(mp_moment_scratch) + floats * (int64_t)sizeof(float) +
           mp_probe_room_bytes(ranks, widest, max_tokens) +
           (ranks > 1 ? mp_exchange_bytes(ranks) : 0);
}

mp_status mp_moment_scratch_create(const mp_comm *comm, const int64_t *widths, int count,
                                   int64_t tile, int64_t max_tokens, mp_moment_scratch **scratch)
{
    int64_t panel, receive, widest;
    mp_moment_scratch *s = NULL;
    mp_status st;

    needs_of(comm->size, widths, count, tile, &panel, &receive, &widest);
    MP_GO(MP_NEW(s, 1, "buffers of the statistics"));
    MP_GO(MP_NEW_RAW(s->x, max_tokens * widest, "states of one sequence"));
    MP_GO(MP_NEW_RAW(s->panel, panel, "a panel of a second moment"));
    MP_GO(mp_probe_room_create(comm, widest, max_tokens, &s->probes));
    if (comm->size > 1) {
        MP_GO(MP_NEW_RAW(s->send, panel, "a panel to send"));
        MP_GO(MP_NEW_RAW(s->receive, receive, "panels to receive"));
        MP_GO(mp_exchange_create(comm, &s->exchange));
    }
    *scratch = s;
    return MP_OK;
out:
    mp_moment_scratch_free(s);
    return st;
}

void mp_moment_scratch_free(mp_moment_scratch *scratch)
{
    if (scratch == NULL) return;
    mp_free(scratch->x);
    mp_free(scratch->panel);
    mp_free(scratch->send);
    mp_free(scratch->receive);
    mp_exchange_free(scratch->exchange);
    mp_probe_room_free(scratch->probes);
    mp_free(scratch);
}

mp_status mp_moment_create(const mp_comm *comm, int64_t n, int64_t tile, mp_moment **moment)
{
    mp_moment *m = NULL;
    mp_status st;

    MP_GO(MP_NEW(m, 1, "a second moment"));
    m->comm = comm;
    m->n = n;
    m->order = (n + tile - 1) / tile * tile;
    m->bad_token = m->bad_channel = -1;
    MP_GO(MP_NEW(m->diagonal, m->order, "diagonal of a second moment"));
out:
    st = mp_comm_agree(comm, st);
    if (st == MP_OK)
        st = mp_dmat_create(comm, mp_grid_of(0, comm->size), m->order, tile, &m->matrix);
    if (st != MP_OK) {
        mp_moment_free(m);
        return st;
    }
    *moment = m;
    return MP_OK;
}

void mp_moment_free(mp_moment *moment)
{
    if (moment == NULL) return;
    mp_dmat_free(moment->matrix);
    mp_channels_free(moment->channels);
    mp_probe_free(moment->probe);
    mp_free(moment->diagonal);
    mp_free(moment);
}

mp_status mp_moment_track_channels(mp_moment *moment)
{
    return mp_comm_agree(moment->comm, mp_channels_create(moment->n, &moment->channels));
}

mp_status mp_moment_track_distance(mp_moment *moment)
{
    return mp_comm_agree(moment->comm, mp_probe_create(moment->comm, moment->n, &moment->probe));
}

/* sqrt(w_t) x_t for the tokens that count, channels reversed behind their padding; returns how many. */
static int64_t weigh(const mp_moment *m, const float *x, int64_t n_tokens, const float *weights,
                     float *out)
{
    int64_t rows = 0, pad = m->order - m->n;

    for (int64_t t = 0; t < n_tokens; t++) {
        const float *from = x + t * m->n;
        float *to = out + rows * m->order;
        float root = sqrtf(weights[t]);

        if (weights[t] == 0.0f) continue;
        memset(to, 0, (size_t)pad * sizeof *to);
        for (int64_t i = 0; i < m->n; i++) to[pad + i] = root * from[m->n - 1 - i];
        rows++;
    }
    return rows;
}

/* Columns [begin, end) of the lower triangle of x^T x: panel[c - begin][r - begin], r from begin on. */
static mp_status product(const mp_moment *m, const float *x, int64_t rows, int64_t begin,
                         int64_t end, float *panel)
{
    int64_t width = end - begin, length = m->order - begin;

    MP_TRY(mp_ssyrk(width, rows, x + begin, m->order, panel, length));
    return mp_sgemm(1, 0, width, m->order - end, rows, 1.0f, x + begin, m->order, x + end, m->order,
                    0.0f, panel + width, length);
}

/* The runs of one column that a grid row holds: tiles I >= J with I mod rows = p. */
static int64_t first_tile(int64_t j, int p, int rows)
{
    return j + (p - j % rows + rows) % rows;
}

static int64_t tile_count(const mp_dmat *d, int64_t j, int p)
{
    int64_t first = first_tile(j, p, d->grid.rows);

    return first < d->tiles ? (d->tiles - first + d->grid.rows - 1) / d->grid.rows : 0;
}

/* Cuts the panel of tile columns [begin, end) by owner: for each owner its columns in order, each the
 * run of rows that lies contiguous in the owner's local matrix. */
static void cut(const mp_dmat *d, const float *panel, int64_t begin, int64_t end, int owner,
                float *to)
{
    int p = (owner - d->grid.first) / d->grid.cols, q = (owner - d->grid.first) % d->grid.cols;
    int64_t nb = d->nb, length = d->order - begin * nb;

    for (int64_t j = begin; j < end; j++) {
        if (j % d->grid.cols != q) continue;
        for (int64_t c = 0; c < nb; c++) {
            const float *column = panel + ((j - begin) * nb + c) * length;

            for (int64_t i = first_tile(j, p, d->grid.rows); i < d->tiles; i += d->grid.rows) {
                memcpy(to, column + (i - begin) * nb, (size_t)nb * sizeof *to);
                to += nb;
            }
        }
    }
}

/* Adds what `cut` made for this rank to its tiles. */
static void add_cut(mp_dmat *d, const float *from, int64_t begin, int64_t end)
{
    for (int64_t j = begin; j < end; j++) {
        int64_t run = tile_count(d, j, d->my_row) * d->nb;
        double *column;

        if (j % d->grid.cols != d->my_col || run == 0) continue;
        column = mp_dmat_tile(d, first_tile(j, d->my_row, d->grid.rows), j);
#pragma omp parallel for
        for (int64_t c = 0; c < d->nb; c++)
            for (int64_t r = 0; r < run; r++)
                column[c * d->local_rows + r] += (double)from[c * run + r];
        from += run * d->nb;
    }
}

/* On one rank: straight from the panel. */
static void add_panel(mp_dmat *d, const float *panel, int64_t begin, int64_t end)
{
    int64_t nb = d->nb, length = d->order - begin * nb;

#pragma omp parallel for schedule(dynamic, 16)
    for (int64_t c = 0; c < (end - begin) * nb; c++) {
        int64_t skip = c / nb * nb; /* rows above the diagonal tile */
        const float *from = panel + c * length;
        double *to = d->data + (begin * nb + c) * d->local_rows + begin * nb;

        for (int64_t r = skip; r < length; r++) to[r] += (double)from[r];
    }
}

/* Elements of the tile columns [begin, end) that `owner` holds: none outside the grid. */
static int64_t elements_of(const mp_dmat *d, int64_t begin, int64_t end, int owner)
{
    int p = (owner - d->grid.first) / d->grid.cols, q = (owner - d->grid.first) % d->grid.cols;
    int64_t elements = 0;

    if (!mp_grid_holds(&d->grid, owner)) return 0;
    for (int64_t j = begin; j < end; j++)
        if (j % d->grid.cols == q) elements += tile_count(d, j, p) * d->nb * d->nb;
    return elements;
}

/* Who has how much of the panel of tile columns [begin, end) for whom. */
static mp_status plan_merge(const mp_moment *m, mp_exchange *e, int active, int64_t begin,
                            int64_t end)
{
    const mp_comm *comm = m->comm;
    int mine = (int)elements_of(m->matrix, begin, end, comm->rank);

    for (int r = 0; r < comm->size; r++) {
        e->send_counts[r] = comm->rank < active ? (int)elements_of(m->matrix, begin, end, r) : 0;
        e->receive_counts[r] = r < active ? mine : 0;
    }
    return mp_exchange_ready(comm, e);
}

/* Every rank's panel to the owners of its tiles, who add them in the order of the ranks. */
static mp_status merge(mp_moment *m, mp_moment_scratch *s, int active, int64_t begin, int64_t end)
{
    const mp_comm *comm = m->comm;
    mp_dmat *d = m->matrix;
    mp_exchange *e = s->exchange;

    MP_TRY(plan_merge(m, e, active, begin, end));
    for (int r = 0; r < comm->size && comm->rank < active; r++)
        if (mp_grid_holds(&d->grid, r))
            cut(d, s->panel, begin, end, r, s->send + e->send_starts[r]);
    MP_TRY(mp_comm_exchange(comm, e, MPI_FLOAT, s->send, s->receive));
    for (int r = 0; r < active; r++) add_cut(d, s->receive + e->receive_starts[r], begin, end);
    return MP_OK;
}

static void remember_bad(mp_moment *m, const float *x, int64_t n_tokens)
{
    int64_t bad = m->bad_token < 0 ? mp_first_nonfinite(x, n_tokens * m->n) : -1;

    if (bad < 0) return;
    m->bad_token = bad / m->n;
    m->bad_channel = bad % m->n;
}

mp_status mp_moment_add(mp_moment *m, mp_moment_scratch *s, int active, const float *x,
                        int64_t n_tokens, const float *weights)
{
    mp_dmat *d = m->matrix;
    int mine = m->comm->rank < active;
    int64_t rows = 0, end;

    if (m->probe != NULL) MP_TRY(mp_probe_add(m->probe, s->probes, active, x, n_tokens, weights));
    if (mine) {
        remember_bad(m, x, n_tokens);
        rows = weigh(m, x, n_tokens, weights, s->x);
        m->tokens += rows;
        if (m->channels != NULL) mp_channels_add(m->channels, x, n_tokens, weights);
    }
    for (int64_t begin = 0; begin < d->tiles; begin = end) {
        double start = mp_seconds(), between;

        end = panel_end(d->tiles, d->nb, begin);
        if (mine) MP_TRY(product(m, s->x, rows, begin * d->nb, end * d->nb, s->panel));
        between = mp_seconds();
        if (m->comm->size == 1)
            add_panel(d, s->panel, begin, end);
        else
            MP_TRY(merge(m, s, active, begin, end));
        clock_so_far.product_s += between - start;
        clock_so_far.merge_s += mp_seconds() - between;
    }
    clock_so_far.product_flop += (double)rows * (double)m->n * (double)m->n;
    return MP_OK;
}

mp_status mp_moment_add_dry(mp_moment *m, int active)
{
    const mp_dmat *d = m->matrix;
    const mp_comm *comm = m->comm;
    int64_t all = d->tiles * (d->tiles + 1) / 2 * d->nb * d->nb, here = 0;

    if (comm->size == 1 || comm->rank >= active) return MP_OK;
    /* panel by panel each rank has its tiles of what this one has computed: over all panels, all of them */
    for (int r = 0; r < comm->size; r++)
        if (comm->node_of[r] == comm->node_index) here += elements_of(d, 0, d->tiles, r);
    mp_comm_count_bytes(4 * (all - elements_of(d, 0, d->tiles, comm->rank)), 4 * (all - here));
    return MP_OK;
}

static mp_status check_finite(const mp_moment *m)
{
    if (m->bad_token < 0) return MP_OK;
    return mp_fail(MP_ERR_NUMERIC, "a non-finite activation (token %lld of a window, channel %lld)",
                   (long long)m->bad_token, (long long)m->bad_channel);
}

mp_status mp_moment_finish(mp_moment *m, mp_grid grid)
{
    mp_dmat *moved = NULL;

    MP_TRY(mp_comm_agree(m->comm, check_finite(m)));
    MP_TRY(mp_comm_sum_int(m->comm, &m->tokens, 1));
    if (m->channels != NULL) MP_TRY(mp_channels_finish(m->comm, m->channels));
    MP_TRY(mp_dmat_move(&m->matrix, grid, &moved));
    m->matrix = moved;
    MP_TRY(mp_dmat_get_diagonal(m->matrix, m->diagonal));
    for (int64_t r = 0; r < m->order - m->n; r++) m->diagonal[r] = 1.0;
    mp_dmat_set_diagonal(m->matrix, m->diagonal);
    return mp_comm_agree(m->comm, mp_dmat_mirror(m->matrix, MP_LOWER_HALF));
}

void mp_moment_channels(const mp_moment *moment, double *squares)
{
    for (int64_t i = 0; i < moment->n; i++) squares[i] = moment->diagonal[moment->order - 1 - i];
}

typedef struct channel_energy {
    double square;
    int64_t channel;
} channel_energy;

static int by_falling_energy(const void *left, const void *right)
{
    const channel_energy *a = left, *b = right;

    if (a->square != b->square) return a->square > b->square ? -1 : 1;
    return a->channel < b->channel ? -1 : 1;
}

mp_status mp_moment_order(const mp_moment *m, int64_t *channel)
{
    channel_energy *all = NULL;

    MP_TRY(MP_NEW_RAW(all, m->n, "energies of channels"));
    for (int64_t j = 0; j < m->n; j++) all[j] = (channel_energy){m->diagonal[m->order - 1 - j], j};
    qsort(all, (size_t)m->n, sizeof *all, by_falling_energy);
    for (int64_t j = 0; j < m->n; j++) channel[j] = all[j].channel;
    for (int64_t j = m->n; j < m->order; j++) channel[j] = j;
    mp_free(all);
    return MP_OK;
}
