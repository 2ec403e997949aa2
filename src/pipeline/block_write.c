/* The block at hand, as it stands in memory, into the checkpoint. */
#include "run.h"

#include "mpress/memory.h"
#include "mpress/tensor.h"

#include <stdio.h>

/* Of a linear map at most integers, scales, zero points, a mask and a bias. */
enum { MAX_SLABS = 5 * MP_MAX_LINEARS + MP_MAX_VECTORS + MP_MAX_STATES };

/* A block as slabs: weights, masks and biases of the linear maps, norms, squares of the states. */
typedef struct slabs {
    mp_slab slab[MAX_SLABS];
    mp_linear_record record[MP_MAX_LINEARS];
    mp_state_record state[MP_MAX_STATES];
    char name[MAX_SLABS][128];
    void *data[MAX_SLABS]; /* owned; NULL where the slab's data is borrowed */
    int count, states;
} slabs;

/* A slab of this rank's rows [begin, end) of [rows][columns], which are at `data`. */
static void describe_slab(slabs *s, mp_dtype dtype, int ndim, int64_t rows, int64_t columns,
                          int64_t begin, int64_t end, const void *data)
{
    int i = s->count++;

    s->slab[i] = (mp_slab){.name = s->name[i],
                           .dtype = dtype,
                           .ndim = ndim,
                           .shape = {rows, columns},
                           .first_row = begin,
                           .n_rows = end - begin,
                           .data = data};
}

/* A slab of rows [begin, end) of `values` ([rows][columns] in single precision) in `dtype`. */
static mp_status add_slab(slabs *s, const char *name, const char *suffix, mp_dtype dtype, int ndim,
                          int64_t rows, int64_t columns, int64_t begin, int64_t end,
                          const float *values)
{
    int i = s->count;

    snprintf(s->name[i], sizeof s->name[i], "%s%s", name, suffix);
    MP_TRY(mp_alloc(&s->data[i], (end - begin) * columns, mp_dtype_size(dtype), 0, s->name[i]));
    mp_from_f32(dtype, values + begin * columns, (end - begin) * columns, s->data[i]);
    describe_slab(s, dtype, ndim, rows, columns, begin, end, s->data[i]);
    return MP_OK;
}

/* One bit per weight that is zero, low bit first. */
static void mark_zeros(const float *row, int64_t columns, unsigned char *bits)
{
    for (int64_t c = 0; c < columns; c++)
        if (row[c] == 0.0f) bits[c / 8] |= (unsigned char)(1u << c % 8);
}

/* The zeros of this rank's rows, rows padded to whole bytes. */
static mp_status add_mask(slabs *s, const mp_linear *linear, const char *name, int64_t begin,
                          int64_t end)
{
    int64_t bytes = (linear->d_in + 7) / 8;
    unsigned char *bits = NULL;
    float *row = NULL;
    int i = s->count;

    snprintf(s->name[i], sizeof s->name[i], "%s.mask", name);
    MP_TRY(MP_NEW(bits, (end - begin) * bytes, s->name[i]));
    s->data[i] = bits;
    if (linear->packed.quant.bits > 0) MP_TRY(MP_NEW_RAW(row, linear->d_in, "a row of weights"));
    for (int64_t r = begin; r < end; r++) {
        if (row != NULL) mp_packed_weights(&linear->packed, r, 1, row);
        mark_zeros(row != NULL ? row : linear->weight + r * linear->d_in, linear->d_in,
                   bits + (r - begin) * bytes);
    }
    mp_free(row);
    describe_slab(s, MP_U8, 2, linear->d_out, bytes, begin, end, bits);
    return MP_OK;
}

/* Integers, scales and zero points in place of a weight. */
static mp_status add_packed(slabs *s, const mp_linear *linear, const char *name, int64_t begin,
                            int64_t end)
{
    const mp_packed *p = &linear->packed;
    int64_t words = mp_packed_words(p->quant.bits, p->columns);
    int64_t groups = mp_quant_groups(&p->quant, p->columns);

    snprintf(s->name[s->count], sizeof s->name[0], "%s.packed", name);
    describe_slab(s, MP_I32, 2, linear->d_out, words, begin, end, p->words + begin * words);
    MP_TRY(
        add_slab(s, name, ".scale", linear->dtype, 2, linear->d_out, groups, begin, end, p->scale));
    if (p->zero == NULL) return MP_OK;
    snprintf(s->name[s->count], sizeof s->name[0], "%s.zero", name);
    describe_slab(s, MP_U8, 2, linear->d_out, groups, begin, end, p->zero + begin * groups);
    return MP_OK;
}

/* A and B in place of a weight: the rows of each are shared out among the ranks. */
static mp_status add_factors(const run *r, slabs *s, const mp_linear *linear, const char *name)
{
    int64_t begin, end;

    mp_share(linear->d_out, 1, r->comm->rank, r->comm->size, &begin, &end);
    MP_TRY(add_slab(s, name, ".A", linear->dtype, 2, linear->d_out, linear->rank, begin, end,
                    mp_linear_a(linear)));
    mp_share(linear->rank, 1, r->comm->rank, r->comm->size, &begin, &end);
    return add_slab(s, name, ".B", linear->dtype, 2, linear->rank, linear->d_in, begin, end,
                    mp_linear_b(linear));
}

static mp_status add_weight(const run *r, slabs *s, int i, int is_pruned)
{
    const mp_linear *linear = &r->runner.block->linears[i];
    const char *name = r->arch.linears[i].name;
    int64_t begin, end;

    if (linear->rank > 0) return add_factors(r, s, linear, name);
    mp_runner_rows(&r->runner, i, &begin, &end);
    if (linear->packed.quant.bits > 0)
        MP_TRY(add_packed(s, linear, name, begin, end));
    else
        MP_TRY(add_slab(s, name, ".weight", linear->dtype, 2, linear->d_out, linear->d_in, begin,
                        end, linear->weight));
    return is_pruned ? add_mask(s, linear, name, begin, end) : MP_OK;
}

static mp_status add_linear(const run *r, slabs *s, int i, const mp_linear_result *result)
{
    const mp_linear *linear = &r->runner.block->linears[i];
    const mp_linear_row *row = &r->arch.linears[i];
    int64_t begin, end;

    mp_runner_rows(&r->runner, i, &begin, &end);
    MP_TRY(add_weight(r, s, i, result->compressed && r->runner.method->prunes));
    if (row->has_bias)
        MP_TRY(add_slab(s, row->name, ".bias", linear->bias_dtype, 1, linear->d_out, 1, begin, end,
                        linear->bias));
    s->record[i] = (mp_linear_record){
        .name = row->name,
        .method = result->compressed ? r->runner.method->name : "dense",
        .d_out = linear->d_out,
        .d_in = linear->d_in,
        .tokens = result->tokens,
        .dead = result->outcome.dead,
        .retries = result->outcome.retries,
        .by_qr = result->outcome.by_qr,
        .damping = result->outcome.damping,
        .rel_error = result->rel_error,
        .sparsity = result->sparsity,
        .rank = linear->rank,
        .quant = linear->packed.quant,
        .kept = result->kept,
    };
    return MP_OK;
}

/* The squares of a state's channels, each rank its share, and what else is known of it. */
static mp_status add_state(const run *r, slabs *s, int state, const mp_state_result *result)
{
    const mp_state *row = &r->arch.states[state];
    int64_t begin, end;
    int i = s->count;

    if (result->squares == NULL) return MP_OK;
    mp_share(row->width, 1, r->comm->rank, r->comm->size, &begin, &end);
    snprintf(s->name[i], sizeof s->name[i], "%s.in_sum2", row->name);
    s->slab[i] = (mp_slab){.name = s->name[i],
                           .dtype = MP_F64,
                           .ndim = 1,
                           .shape = {row->width, 1},
                           .first_row = begin,
                           .n_rows = end - begin,
                           .data = result->squares + begin};
    s->count++;
    s->state[s->states++] = (mp_state_record){.name = row->name,
                                              .tokens = result->tokens,
                                              .weight = result->weight,
                                              .effective_rank = result->summary.effective_rank,
                                              .distance = result->summary.distance,
                                              .distance_error = result->summary.distance_error,
                                              .probes = result->summary.probes};
    return MP_OK;
}

static mp_status collect_slabs(const run *r, const mp_linear_result *results,
                               const mp_state_result *states, slabs *s)
{
    for (int i = 0; i < r->arch.n_states && states != NULL; i++)
        MP_TRY(add_state(r, s, i, &states[i]));
    for (int i = 0; i < r->arch.n_linears; i++) MP_TRY(add_linear(r, s, i, &results[i]));
    for (int i = 0; i < r->arch.n_vectors; i++) {
        const mp_vector_row *row = &r->arch.vectors[i];
        int64_t begin, end;

        mp_share(row->size, 1, r->comm->rank, r->comm->size, &begin, &end);
        MP_TRY(add_slab(s, row->name, "", r->runner.block->norm_dtypes[row->role], 1, row->size, 1,
                        begin, end, r->runner.block->norms[row->role]));
    }
    return MP_OK;
}

mp_status run_write_block(run *r, mp_checkpoint *to, int64_t block, const mp_linear_result *results,
                          mp_state_result *states)
{
    slabs *s = NULL;
    mp_status st = MP_NEW(s, 1, "slabs of a block");

    if (st == MP_OK) st = collect_slabs(r, results, states, s);
    MP_GO(mp_comm_agree(r->comm, st));
    MP_GO(mp_checkpoint_put_block(to, block, s->slab, s->count, s->record, r->arch.n_linears,
                                  s->state, s->states));
out:
    for (int i = 0; s != NULL && i < MAX_SLABS; i++) mp_free(s->data[i]);
    mp_free(s);
    for (int i = 0; states != NULL && i < r->arch.n_states; i++) {
        mp_free(states[i].squares);
        states[i].squares = NULL;
    }
    return st;
}
