/* Tile columns of a distributed matrix, one after another, to all ranks (dmat.h). */
#include "mpress/dmat.h"

#include "mpress/memory.h"

/* One column under way: a packed piece from every grid row, then unpacked into `column`. */
typedef struct in_flight {
    int64_t tile;          /* J; -1: nothing under way */
    float *packed;         /* pieces of the grid rows side by side */
    MPI_Request *requests; /* [grid rows] */
} in_flight;

struct mp_stream {
    const mp_dmat *matrix;
    mp_half half;
    int64_t next, step;
    in_flight slots[2]; /* the one that is waited for, the one behind it */
    int turn;
    float *column; /* [nb][order] at the most */
};

/* Tile rows [begin, end) of the half of column J. */
static void half_rows(const mp_stream *s, int64_t j, int64_t *begin, int64_t *end)
{
    *begin = s->half == MP_LOWER_HALF ? j : 0;
    *end = s->half == MP_LOWER_HALF ? s->matrix->tiles : j + 1;
}

/* Tiles of rows [begin, end) that grid row p holds, and the first of them. */
static int64_t tiles_of_row(int64_t begin, int64_t end, int p, int rows, int64_t *first)
{
    *first = begin + (p - begin % rows + rows) % rows;
    return *first < end ? (end - *first + rows - 1) / rows : 0;
}

/* The sender's part: its tiles, [tile][c][r], rows and columns falling, rounded to single. */
static void pack(const mp_dmat *m, int64_t j, int64_t first, int64_t count, float *to)
{
    int64_t nb = m->nb;

#pragma omp parallel for
    for (int64_t k = 0; k < count; k++) {
        const double *tile = mp_dmat_tile(m, first + k * m->grid.rows, j);

        for (int64_t c = 0; c < nb; c++)
            for (int64_t r = 0; r < nb; r++)
                to[(k * nb + nb - 1 - c) * nb + nb - 1 - r] = (float)tile[c * m->local_rows + r];
    }
}

static mp_status start(mp_stream *s, in_flight *slot)
{
    const mp_dmat *m = s->matrix;
    int64_t begin, end, offset = 0, tile = m->nb * m->nb;

    slot->tile = -1;
    if (s->next < 0 || s->next >= m->tiles) return MP_OK;
    half_rows(s, s->next, &begin, &end);
    for (int p = 0; p < m->grid.rows; p++) {
        int64_t first, count = tiles_of_row(begin, end, p, m->grid.rows, &first);
        int root = mp_grid_rank(&m->grid, p, s->next);

        if (root == m->comm->rank)
            mp_comm_count_broadcast(m->comm, count * tile * 4, 0, m->comm->size);
        if (mp_comm_is_dry(m->comm)) continue;
        if (root == m->comm->rank) pack(m, s->next, first, count, slot->packed + offset);
        MP_TRY(mp_mpi_check(MPI_Ibcast(slot->packed + offset, (int)(count * tile), MPI_FLOAT, root,
                                       m->comm->mpi, &slot->requests[p]),
                            "broadcasting a tile column"));
        offset += count * tile;
    }
    slot->tile = s->next;
    s->next += s->step;
    return MP_OK;
}

static mp_status wait_for(const mp_stream *s, const in_flight *slot)
{
    if (mp_comm_is_dry(s->matrix->comm)) return MP_OK;
    return mp_mpi_check(MPI_Waitall(s->matrix->grid.rows, slot->requests, MPI_STATUSES_IGNORE),
                        "receiving a tile column");
}

mp_status mp_stream_create(const mp_dmat *matrix, mp_half half, int64_t first, int64_t step,
                           mp_stream **stream)
{
    mp_stream *s = NULL;
    mp_status st;

    MP_GO(MP_NEW(s, 1, "a stream of tile columns"));
    *s = (mp_stream){.matrix = matrix, .half = half, .next = first, .step = step};
    s->slots[0].tile = s->slots[1].tile = -1;
    MP_GO(MP_NEW_RAW(s->column, matrix->nb * matrix->order, "a tile column"));
    for (int i = 0; i < 2; i++) {
        MP_GO(MP_NEW_RAW(s->slots[i].packed, matrix->nb * matrix->order, "a tile column"));
        MP_GO(MP_NEW(s->slots[i].requests, matrix->grid.rows, "requests"));
    }
    if (matrix->nb * matrix->order > INT32_MAX)
        st = mp_fail(MP_ERR_NOFIT, "a column of %lld x %lld numbers does not fit one message",
                     (long long)matrix->order, (long long)matrix->nb);
out:
    st = mp_comm_agree(matrix->comm, st);
    if (st == MP_OK) st = start(s, &s->slots[0]);
    if (st != MP_OK) {
        mp_stream_free(s);
        return st;
    }
    *stream = s;
    return MP_OK;
}

static void unpack(const mp_stream *s, const in_flight *slot, int64_t length)
{
    const mp_dmat *m = s->matrix;
    int64_t begin, end, nb = m->nb, offset = 0;

    half_rows(s, slot->tile, &begin, &end);
    for (int p = 0; p < m->grid.rows; p++) {
        int64_t first, count = tiles_of_row(begin, end, p, m->grid.rows, &first);

#pragma omp parallel for
        for (int64_t k = 0; k < count; k++) {
            const float *tile = slot->packed + offset + k * nb * nb;
            int64_t place = (end - 1 - (first + k * m->grid.rows)) * nb;

            for (int64_t c = 0; c < nb; c++)
                for (int64_t r = 0; r < nb; r++)
                    s->column[c * length + place + r] = tile[c * nb + r];
        }
        offset += count * nb * nb;
    }
}

mp_status mp_stream_next(mp_stream *stream, float **column, int64_t *length)
{
    in_flight *slot = &stream->slots[stream->turn];
    int64_t begin, end;

    if (slot->tile < 0) return mp_fail(MP_ERR_INTERNAL, "a stream of tile columns has ended");
    MP_TRY(wait_for(stream, slot));
    MP_TRY(start(stream, &stream->slots[1 - stream->turn]));
    half_rows(stream, slot->tile, &begin, &end);
    *length = (end - begin) * stream->matrix->nb;
    if (!mp_comm_is_dry(stream->matrix->comm)) unpack(stream, slot, *length);
    *column = stream->column;
    slot->tile = -1;
    stream->turn = 1 - stream->turn;
    return MP_OK;
}

void mp_stream_free(mp_stream *stream)
{
    if (stream == NULL) return;
    for (int i = 0; i < 2; i++) {
        in_flight *slot = &stream->slots[i];

        if (slot->tile >= 0) wait_for(stream, slot);
        mp_free(slot->packed);
        mp_free(slot->requests);
    }
    mp_free(stream->column);
    mp_free(stream);
}
