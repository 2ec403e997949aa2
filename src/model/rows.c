/* Rows of matrices in single precision, or of integers: for this rank, or for the memory of every node. */
#include "mpress/weights.h"

#include "mpress/memory.h"
#include "mpress/tensor.h"

#include <math.h>
#include <string.h>

/* Read and converted at a time, and sent where rank 0 alone reads: stays in the cache in between. */
enum { PIECE_BYTES = 4 << 20 };

/* A tensor as rows (a vector has one column), and room to read some of them. */
typedef struct reader {
    const mp_source *source;
    const mp_tensor_info *info;
    int64_t index, rows, columns;
    int64_t width; /* bytes of a row where it goes to: in single precision, or as it is stored */
    int64_t piece; /* rows that fit the buffer */
    void *buffer;  /* owned */
} reader;

static int64_t row_bytes(const reader *r)
{
    return r->columns * (int64_t)mp_dtype_size(r->info->dtype);
}

/* Integers are delivered as they are. */
static int is_raw(const reader *r)
{
    return !mp_dtype_is_weight(r->info->dtype);
}

static mp_status reader_open(const mp_source *source, int64_t index, reader *r)
{
    int64_t width;

    *r = (reader){.source = source, .info = source->at(source->self, index), .index = index};
    r->rows = r->info->ndim > 0 ? r->info->shape[0] : 1;
    r->columns = r->info->ndim > 1 ? r->info->shape[1] : 1;
    if (r->info->ndim > 2)
        return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\" has %d dimensions, expected up to 2",
                       source->path, r->info->name, r->info->ndim);
    width = row_bytes(r);
    r->width = is_raw(r) ? width : r->columns * (int64_t)sizeof(float);
    r->piece = width < PIECE_BYTES && width > 0 ? PIECE_BYTES / width : 1;
    if (r->piece > r->rows) r->piece = r->rows;
    return mp_alloc(&r->buffer, r->piece * width, 1, 0, "a piece of a tensor");
}

static mp_status check_finite(const reader *r, int64_t first, int64_t count, const float *values)
{
    int64_t at = mp_first_nonfinite(values, count * r->columns);

    if (at < 0) return MP_OK;
    return mp_fail(MP_ERR_FORMAT,
                   "%s: tensor \"%s\": row %lld, column %lld is %s, expected a finite number",
                   r->source->path, r->info->name, (long long)(first + at / r->columns),
                   (long long)(at % r->columns), isnan(values[at]) ? "nan" : "infinite");
}

static mp_status check_range(const reader *r, int64_t first, int64_t count)
{
    if (first >= 0 && count >= 0 && first <= r->rows && count <= r->rows - first) return MP_OK;
    return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\" has %lld rows, asked for row %lld",
                   r->source->path, r->info->name, (long long)r->rows,
                   (long long)(first < 0 ? first : first + count - 1));
}

/* Rows from the buffer to where they go. */
static void deliver(const reader *r, int64_t count, void *to)
{
    if (is_raw(r))
        memcpy(to, r->buffer, (size_t)(count * r->width));
    else
        mp_to_f32(r->info->dtype, r->buffer, count * r->columns, to);
}

/* At most a piece of rows: as they are stored in the buffer, and delivered. */
static mp_status read_piece(const reader *r, int64_t first, int64_t count, void *to)
{
    MP_TRY(r->source->read(r->source->self, r->index, first * row_bytes(r), count * row_bytes(r),
                           r->buffer));
    deliver(r, count, to);
    return is_raw(r) ? MP_OK : check_finite(r, first, count, to);
}

static int64_t piece_at(const reader *r, int64_t at, int64_t count)
{
    return count - at < r->piece ? count - at : r->piece;
}

static mp_status reader_rows(const reader *r, int64_t first, int64_t count, void *rows)
{
    MP_TRY(check_range(r, first, count));
    for (int64_t i = 0; i < count; i += r->piece)
        MP_TRY(read_piece(r, first + i, piece_at(r, i, count), (char *)rows + i * r->width));
    return MP_OK;
}

static mp_status require(const mp_source *source, const char *name, int64_t *index)
{
    *index = mp_source_find(source, name);
    return *index >= 0 ? MP_OK
                       : mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\" is missing", source->path, name);
}

/* The same for numbers in single precision. */
static mp_status require_numbers(const mp_source *source, const char *name, int64_t *index)
{
    const mp_tensor_info *info;

    MP_TRY(require(source, name, index));
    info = source->at(source->self, *index);
    if (mp_dtype_is_weight(info->dtype)) return MP_OK;
    return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\" has dtype %s, expected F32, F16 or BF16",
                   source->path, name, mp_dtype_name(info->dtype));
}

mp_status mp_weights_rows(const mp_source *source, const char *name, int64_t first, int64_t count,
                          float *rows)
{
    reader r = {.buffer = NULL};
    int64_t index;
    mp_status st;

    MP_TRY(require_numbers(source, name, &index));
    MP_GO(reader_open(source, index, &r));
    st = reader_rows(&r, first, count, rows);
out:
    mp_free(r.buffer);
    return st;
}

mp_status mp_weights_gather(const mp_source *source, const char *name, const int32_t *ids,
                            int64_t count, float *rows)
{
    reader r = {.buffer = NULL};
    int64_t index;
    mp_status st;

    MP_TRY(require_numbers(source, name, &index));
    MP_GO(reader_open(source, index, &r));
    for (int64_t i = 0; i < count; i++) {
        if (ids[i] < 0 || ids[i] >= r.rows)
            MP_GO(mp_fail(MP_ERR_FORMAT,
                          "token %lld has id %d, expected 0 to %lld, the rows of \"%s\" in %s",
                          (long long)i, (int)ids[i], (long long)r.rows - 1, name, source->path));
        MP_GO(reader_rows(&r, ids[i], 1, rows + i * r.columns));
    }
out:
    mp_free(r.buffer);
    return st;
}

/* Every rank of the node its share. */
static mp_status publish_shares(const mp_comm *comm, const reader *r, int64_t first, int64_t count,
                                void *rows)
{
    int64_t begin, end;

    MP_TRY(check_range(r, first, count));
    mp_share(count, 1, comm->node_rank, comm->node_size, &begin, &end);
    return reader_rows(r, first + begin, end - begin, (char *)rows + begin * r->width);
}

/* Piece by piece from rank 0 to the first rank of every node.  What rank 0 could not read is sent all
 * the same: the others are waiting for it, and learn of the failure when all agree. */
static mp_status publish_from_root(const mp_comm *comm, const reader *r, int64_t first,
                                   int64_t count, void *rows)
{
    mp_status st = MP_OK;

    for (int64_t i = 0; i < count && comm->node_rank == 0; i += r->piece) {
        int64_t n = piece_at(r, i, count);
        char *to = (char *)rows + i * r->width;

        if (comm->rank == 0 && st == MP_OK) st = read_piece(r, first + i, n, to);
        MP_TRY(mp_comm_bcast_nodes(comm, r->buffer, (size_t)(n * row_bytes(r)), 0));
        if (comm->rank != 0) deliver(r, n, to);
    }
    return st;
}

mp_status mp_weights_publish(const mp_comm *comm, const mp_source *source, const char *name,
                             int64_t first, int64_t count, void *rows)
{
    reader r = {.buffer = NULL};
    int64_t index;
    mp_status st;

    MP_TRY(require(source, name, &index));
    st = reader_open(source, index, &r);
    if (source->readers == MP_READ_BY_ALL) {
        if (st == MP_OK) st = publish_shares(comm, &r, first, count, rows);
    } else {
        if (st == MP_OK) st = check_range(&r, first, count);
        MP_GO(mp_comm_agree(comm, st));
        MP_GO(mp_comm_agree(comm, publish_from_root(comm, &r, first, count, rows)));
    }
out:
    mp_free(r.buffer);
    return st;
}
