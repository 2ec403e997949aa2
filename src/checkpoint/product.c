#include "product.h"

#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/tensor.h"
#include "pieces.h"

#include <string.h>

/* Elements of a block of the product, of the rows of A that it needs and of the part of B that is
 * in memory: four blocks to a piece of an export in bf16, and enough work for each byte of B. */
enum { BLOCK_ELEMENTS = 1 << 23 };

typedef struct product {
    const mp_source *source;
    const mp_tensor_info *info; /* of the product */
    int64_t a, b;               /* the factors in the source */
    int64_t d_out, d_in, rank;
    int64_t rows;                /* of A and of the product in a block */
    int64_t inner;               /* rows of B in memory */
    float *left, *right, *block; /* [rows, rank], [inner, d_in], [rows, d_in]; owned */
    void *stored;                /* the largest of them in the stored dtype; owned */
} product;

static void product_close(product *p)
{
    mp_free(p->left);
    mp_free(p->right);
    mp_free(p->block);
    mp_free(p->stored);
}

static int64_t at_most(int64_t value, int64_t limit)
{
    return value < limit ? value : limit;
}

/* How many rows of `columns` make a block. */
static int64_t rows_of_block(int64_t columns)
{
    return columns < BLOCK_ELEMENTS ? BLOCK_ELEMENTS / columns : 1;
}

static mp_status product_open(product *p)
{
    int64_t largest;

    p->d_out = p->info->shape[0];
    p->d_in = p->info->shape[1];
    p->rank = p->source->at(p->source->self, p->b)->shape[0];
    p->rows = at_most(rows_of_block(p->d_in), p->d_out);
    p->inner = at_most(rows_of_block(p->d_in), p->rank);
    largest = p->rows > p->inner ? p->rows : p->inner; /* rank <= d_in */
    MP_TRY(MP_NEW_RAW(p->left, p->rows * p->rank, "a factor"));
    MP_TRY(MP_NEW_RAW(p->right, p->inner * p->d_in, "a factor"));
    MP_TRY(MP_NEW_RAW(p->block, p->rows * p->d_in, "a product of factors"));
    return mp_alloc(&p->stored, largest * p->d_in, mp_dtype_size(p->info->dtype), 0, "a factor");
}

/* The block that row `row` is in.  Blocks begin anew with every piece of the tensor: who reads
 * piece by piece has no row computed twice. */
static void block_of(const product *p, int64_t row, int64_t *first, int64_t *end)
{
    mp_pieces pieces;
    int64_t steps, start;

    mp_pieces_cut(p->info, &pieces);
    steps = pieces.axis == 0 ? pieces.steps : 1;
    start = row / steps * steps;
    *first = start + (row - start) / p->rows * p->rows;
    *end = at_most(*first + p->rows, at_most(start + steps, p->d_out));
}

/* Rows of a factor in single precision. */
static mp_status read_rows(const product *p, int64_t tensor, int64_t columns, int64_t first,
                           int64_t count, float *rows)
{
    const int64_t width = columns * (int64_t)mp_dtype_size(p->info->dtype);

    MP_TRY(p->source->read(p->source->self, tensor, first * width, count * width, p->stored));
    mp_to_f32(p->info->dtype, p->stored, count * columns, rows);
    return MP_OK;
}

static mp_status check_finite(const product *p, int64_t first, int64_t count)
{
    int64_t at = mp_first_nonfinite(p->block, count * p->d_in);

    if (at < 0) return MP_OK;
    return mp_fail(
        MP_ERR_NUMERIC,
        "%s: the product of \"%s\" and \"%s\" is not finite as %s in row %lld, column %lld",
        p->source->path, p->source->at(p->source->self, p->a)->name,
        p->source->at(p->source->self, p->b)->name, mp_dtype_name(p->info->dtype),
        (long long)(first + at / p->d_in), (long long)(at % p->d_in));
}

/* Rows [first, end) of the product into `stored`, in the stored dtype. */
static mp_status compute_block(const product *p, int64_t first, int64_t end)
{
    const int64_t rows = end - first;

    MP_TRY(read_rows(p, p->a, p->rank, first, rows, p->left));
    for (int64_t k = 0; k < p->rank; k += p->inner) {
        int64_t inner = at_most(p->rank - k, p->inner);

        MP_TRY(read_rows(p, p->b, p->d_in, k, inner, p->right));
        MP_TRY(mp_sgemm(0, 0, rows, p->d_in, inner, 1.0f, p->left + k, p->rank, p->right, p->d_in,
                        k > 0 ? 1.0f : 0.0f, p->block, p->d_in));
    }
    mp_round_f32(p->info->dtype, p->block, rows * p->d_in);
    MP_TRY(check_finite(p, first, rows));
    mp_from_f32(p->info->dtype, p->block, rows * p->d_in, p->stored);
    return MP_OK;
}

/* Every block that has some of the bytes, and those of its bytes that were asked for. */
static mp_status read_blocks(const product *p, int64_t begin, int64_t length, char *to)
{
    const int64_t width = p->d_in * (int64_t)mp_dtype_size(p->info->dtype), end = begin + length;
    int64_t first, last;

    for (int64_t at = begin; at < end; at = last * width) {
        block_of(p, at / width, &first, &last);
        MP_TRY(compute_block(p, first, last));
        memcpy(to + at - begin, (const char *)p->stored + at - first * width,
               (size_t)(at_most(last * width, end) - at));
    }
    return MP_OK;
}

mp_status mp_product_read(const mp_source *source, int64_t a, int64_t b, const mp_tensor_info *info,
                          int64_t begin, int64_t length, void *to)
{
    product p = {.source = source, .info = info, .a = a, .b = b};
    int64_t bytes = mp_tensor_bytes(info);
    mp_status st;

    if (begin < 0 || length < 0 || length > bytes || begin > bytes - length)
        return mp_fail(MP_ERR_INTERNAL, "%s: tensor \"%s\": %lld bytes at %lld, but it has %lld",
                       source->path, info->name, (long long)length, (long long)begin,
                       (long long)bytes);
    if (length == 0) return MP_OK;
    MP_GO(product_open(&p));
    st = read_blocks(&p, begin, length, to);
out:
    product_close(&p);
    return st;
}
