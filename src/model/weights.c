#include "mpress/weights.h"

#include "mpress/memory.h"
#include "mpress/tensor.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ALIGNMENT = 16, /* floats: a cache line */
    MAX_PARTS = 2 * MP_MAX_LINEARS + MP_MAX_VECTORS
};

enum { WEIGHT, BIAS, VECTOR };

/* A tensor of a block, and where it lies in the block's memory. */
typedef struct part {
    int kind, of;              /* WEIGHT or BIAS of linear map `of`, or VECTOR of role `of` */
    const char *name, *ending; /* the tensor is model.layers.N.<name><ending> */
    int64_t rows, columns;     /* columns is 0 for a vector of `rows` */
    int64_t offset;            /* floats from the start of the memory */
} part;

typedef struct part_list {
    part parts[MAX_PARTS]; /* in the order: for each linear weight and bias, then the vectors */
    int count;
    int64_t floats;
} part_list;

static int64_t elements_of(const part *p)
{
    return p->columns > 0 ? p->rows * p->columns : p->rows;
}

static void add_part(part_list *list, int kind, int of, const char *name, const char *ending,
                     int64_t rows, int64_t columns)
{
    part *p = &list->parts[list->count++];

    *p = (part){kind, of, name, ending, rows, columns, list->floats};
    list->floats += (elements_of(p) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static part_list list_parts(const mp_arch *arch)
{
    part_list list = {.count = 0};

    for (int i = 0; i < arch->n_linears; i++) {
        const mp_linear_row *row = &arch->linears[i];

        add_part(&list, WEIGHT, i, row->name, ".weight", row->d_out, row->d_in);
        if (row->has_bias) add_part(&list, BIAS, i, row->name, ".bias", row->d_out, 0);
    }
    for (int i = 0; i < arch->n_vectors; i++)
        add_part(&list, VECTOR, arch->vectors[i].role, arch->vectors[i].name, "",
                 arch->vectors[i].size, 0);
    return list;
}

static void tensor_name(int64_t block, const char *of, const char *ending, char name[256])
{
    char suffix[128];

    snprintf(suffix, sizeof suffix, "%s%s", of, ending);
    mp_arch_tensor_name(block, suffix, name);
}

static const char *shape_text(const int64_t *shape, int ndim, char text[256])
{
    int at = snprintf(text, 256, "[");

    for (int i = 0; i < ndim && at < 200; i++)
        at +=
            snprintf(text + at, 256 - (size_t)at, "%s%lld", i > 0 ? ", " : "", (long long)shape[i]);
    snprintf(text + at, 256 - (size_t)at, "]");
    return text;
}

const char *const mp_weight_endings[] = {".weight", ".A", ".B", ".packed", ".scale", ".zero", NULL};

/* The index of a tensor that has the shape. */
static mp_status find_shape(const mp_source *source, const char *name, int64_t rows,
                            int64_t columns, int64_t *index)
{
    const int64_t shape[2] = {rows, columns};
    const int ndim = columns > 0 ? 2 : 1;
    char expected[256], found[256];
    const mp_tensor_info *info;
    int64_t i = mp_source_find(source, name);

    shape_text(shape, ndim, expected);
    if (i < 0)
        return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\" is missing, expected shape %s",
                       source->path, name, expected);
    info = source->at(source->self, i);
    if (info->ndim != ndim || memcmp(info->shape, shape, (size_t)ndim * sizeof shape[0]) != 0)
        return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\" has shape %s, expected %s", source->path,
                       name, shape_text(info->shape, info->ndim, found), expected);
    *index = i;
    return MP_OK;
}

/* The same with a dtype that a weight may have. */
static mp_status find_tensor(const mp_source *source, const char *name, int64_t rows,
                             int64_t columns, int64_t *index)
{
    mp_dtype dtype;

    MP_TRY(find_shape(source, name, rows, columns, index));
    dtype = source->at(source->self, *index)->dtype;
    if (mp_dtype_is_weight(dtype)) return MP_OK;
    return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\" has dtype %s, expected F32, F16 or BF16",
                   source->path, name, mp_dtype_name(dtype));
}

/* The same with one dtype. */
static mp_status find_integers(const mp_source *source, const char *name, mp_dtype dtype,
                               int64_t rows, int64_t columns, int64_t *index)
{
    mp_dtype found;

    MP_TRY(find_shape(source, name, rows, columns, index));
    found = source->at(source->self, *index)->dtype;
    if (found == dtype) return MP_OK;
    return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\" has dtype %s, expected %s", source->path, name,
                   mp_dtype_name(found), mp_dtype_name(dtype));
}

/* What is stored for a part: one tensor; or the two factors of a weight, A and B; or its integers, scales
 * and zero points. */
typedef struct stored {
    int64_t index[3];
    int count;
    mp_dtype dtype; /* of the part's numbers */
    int64_t rank;   /* > 0: factors */
    mp_quant quant; /* bits > 0: integers */
} stored;

/* A [d_out, rank] and B [rank, d_in] in place of a weight; dense they would take at least as much. */
static mp_status find_factors(const mp_source *source, int64_t block, const part *p, int64_t a,
                              stored *found)
{
    const mp_tensor_info *info = source->at(source->self, a);
    int64_t rank = info->ndim == 2 ? info->shape[1] : 0;
    char name[256], text[256];

    if (rank < 1 || rank > p->rows * p->columns / (p->rows + p->columns))
        return mp_fail(
            MP_ERR_FORMAT,
            "%s: tensor \"%s\" has shape %s, expected [%lld, rank] with a rank of 1 to %lld",
            source->path, info->name, shape_text(info->shape, info->ndim, text), (long long)p->rows,
            (long long)(p->rows * p->columns / (p->rows + p->columns)));
    found->rank = rank;
    found->count = 2;
    found->dtype = info->dtype;
    MP_TRY(find_tensor(source, info->name, p->rows, rank, &found->index[0]));
    tensor_name(block, p->name, ".B", name);
    MP_TRY(find_tensor(source, name, rank, p->columns, &found->index[1]));
    if (source->at(source->self, found->index[1])->dtype == info->dtype) return MP_OK;
    return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\" has not the dtype of \"%s\", %s", source->path,
                   name, info->name, mp_dtype_name(info->dtype));
}

/* Integers in place of a weight; one without `bits` is no checkpoint's. */
static mp_status find_packed(const mp_source *source, int64_t block, const part *p, int64_t packed,
                             stored *found)
{
    const mp_tensor_info *info = source->at(source->self, packed);
    const mp_quant quant = {info->bits, info->group, 1};
    char name[256];
    int64_t groups;

    if (info->bits == 0 || info->columns != p->columns)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: tensor \"%s\": integers of %lld columns and %d bits, expected %lld "
                       "columns and 2 to 8 bits",
                       source->path, info->name, (long long)info->columns, info->bits,
                       (long long)p->columns);
    groups = mp_quant_groups(&quant, p->columns);
    found->quant = quant;
    found->count = 2;
    MP_TRY(find_integers(source, info->name, MP_I32, p->rows,
                         mp_packed_words(quant.bits, p->columns), &found->index[0]));
    tensor_name(block, p->name, ".scale", name);
    MP_TRY(find_tensor(source, name, p->rows, groups, &found->index[1]));
    found->dtype = source->at(source->self, found->index[1])->dtype;
    tensor_name(block, p->name, ".zero", name);
    if (mp_source_find(source, name) < 0) return MP_OK;
    found->quant.symmetric = 0;
    found->count = 3;
    return find_integers(source, name, MP_U8, p->rows, groups, &found->index[2]);
}

static mp_status find_part(const mp_source *source, int64_t block, const part *p, stored *found)
{
    char name[256], other[256];
    int64_t a = -1, packed = -1;

    *found = (stored){.count = 1};
    tensor_name(block, p->name, p->ending, name);
    if (p->kind == WEIGHT && mp_source_find(source, name) < 0) {
        tensor_name(block, p->name, ".A", other);
        a = mp_source_find(source, other);
        tensor_name(block, p->name, ".packed", other);
        packed = mp_source_find(source, other);
    }
    if (a >= 0) return find_factors(source, block, p, a, found);
    if (packed >= 0) return find_packed(source, block, p, packed, found);
    MP_TRY(find_tensor(source, name, p->rows, p->columns, &found->index[0]));
    found->dtype = source->at(source->self, found->index[0])->dtype;
    return MP_OK;
}

/* Whether a tensor that is named as a part of a weight in some storage is one that is read: beside the
 * weight itself nobody would read others, nor integers beside factors. */
static int is_read(const mp_source *source, int64_t block, const part *p, const char *ending)
{
    char name[256];
    stored found;

    tensor_name(block, p->name, ending, name);
    if (find_part(source, block, p, &found) != MP_OK) return 0;
    for (int i = 0; i < found.count; i++)
        if (found.index[i] == mp_source_find(source, name)) return 1;
    return 0;
}

static int is_weight_ending(const char *ending)
{
    for (int i = 0; mp_weight_endings[i] != NULL; i++)
        if (strcmp(ending, mp_weight_endings[i]) == 0) return 1;
    return 0;
}

/* Whether the architecture has a tensor of this name.  Old exports of Llama also stored the rotary
 * frequencies, which follow from config.json; a tied head may be stored, and is not read. */
static int is_known(const mp_arch *arch, const part_list *list, const mp_source *source,
                    const char *name)
{
    static const char prefix[] = "model.layers.", frequencies[] = ".rotary_emb.inv_freq";
    const size_t length = strlen(name), tail = sizeof frequencies - 1;
    char *rest;
    long long block;

    if (length > tail && strcmp(name + length - tail, frequencies) == 0) return 1;
    if (strcmp(name, MP_EMBED_NAME) == 0 || strcmp(name, MP_NORM_NAME) == 0 ||
        strcmp(name, MP_HEAD_NAME) == 0)
        return 1;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return 0;
    block = strtoll(name + sizeof prefix - 1, &rest, 10);
    if (block < 0 || block >= arch->n_blocks || *rest != '.') return 0;
    for (int i = 0; i < list->count; i++) {
        const part *p = &list->parts[i];
        const char *ending = rest + 1 + strlen(p->name);

        if (strncmp(rest + 1, p->name, strlen(p->name)) != 0) continue;
        if (strcmp(ending, p->ending) == 0) return 1;
        if (p->kind == WEIGHT && is_weight_ending(ending)) return is_read(source, block, p, ending);
    }
    return 0;
}

mp_status mp_weights_check(const mp_arch *arch, const mp_source *source)
{
    const part_list list = list_parts(arch);
    stored found;
    int64_t index;

    MP_TRY(find_tensor(source, MP_EMBED_NAME, arch->vocabulary, arch->d_model, &index));
    MP_TRY(find_tensor(source, MP_NORM_NAME, arch->d_model, 0, &index));
    if (!arch->tied_head)
        MP_TRY(find_tensor(source, MP_HEAD_NAME, arch->vocabulary, arch->d_model, &index));
    for (int64_t block = 0; block < arch->n_blocks; block++)
        for (int i = 0; i < list.count; i++)
            MP_TRY(find_part(source, block, &list.parts[i], &found));
    for (index = 0; index < source->count; index++)
        if (!is_known(arch, &list, source, source->at(source->self, index)->name))
            return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\" is not one of a \"%s\" of %lld blocks",
                           source->path, source->at(source->self, index)->name, arch->family,
                           (long long)arch->n_blocks);
    return MP_OK;
}

/* Points the linears and norms into the block's memory. */
static void point(mp_block *block, float *base, const part_list *list)
{
    const mp_arch *arch = block->arch;
    const part *p = list->parts;

    for (int i = 0; i < arch->n_linears; i++) {
        const mp_linear_row *row = &arch->linears[i];

        block->linears[i] =
            (mp_linear){.d_out = row->d_out, .d_in = row->d_in, .dtype = arch->dtype};
        block->linears[i].weight = base + (p++)->offset;
        if (row->has_bias) block->linears[i].bias = base + (p++)->offset;
    }
    for (int i = 0; i < arch->n_vectors; i++)
        block->norms[arch->vectors[i].role] = base + (p++)->offset;
}

size_t mp_block_bytes(const mp_arch *arch)
{
    const part_list list = list_parts(arch);

    return (size_t)list.floats * sizeof(float);
}

mp_status mp_block_create(const mp_comm *comm, const mp_arch *arch, mp_block **block)
{
    const part_list list = list_parts(arch);
    mp_block *b = NULL;
    mp_status st;

    st = MP_NEW(b, 1, "a block");
    MP_GO(mp_comm_agree(comm, st));
    b->arch = arch;
    b->index = -1;
    MP_GO(mp_shared_create(comm, mp_block_bytes(arch), "the weights of a block", &b->memory));
    point(b, b->memory->base, &list);
    *block = b;
    b = NULL;
out:
    mp_block_free(b);
    return st;
}

void mp_block_free(mp_block *block)
{
    if (block == NULL) return;
    mp_shared_free(block->memory);
    mp_free(block);
}

static mp_dtype *stored_dtype(mp_block *block, const part *p)
{
    if (p->kind == WEIGHT) return &block->linears[p->of].dtype;
    if (p->kind == BIAS) return &block->linears[p->of].bias_dtype;
    return &block->norm_dtypes[p->of];
}

/* A tensor of the block, to its place in the memory of every node. */
static mp_status load_tensor(const mp_comm *comm, const mp_source *source, int64_t index, void *to)
{
    const mp_tensor_info *info = source->at(source->self, index);

    return mp_weights_publish(comm, source, info->name, 0, info->shape[0], to);
}

/* A weight in the storage that it has. */
static mp_status load_weight(const mp_comm *comm, const mp_source *source, const stored *found,
                             mp_linear *linear)
{
    void *to[3] = {linear->weight, NULL, NULL};

    linear->rank = linear->a_stride = found->rank;
    linear->packed = (mp_packed){.quant.bits = 0};
    if (found->rank > 0) to[1] = mp_linear_b(linear);
    if (found->quant.bits > 0) {
        MP_TRY(mp_linear_set_packed(linear, &found->quant));
        to[0] = linear->packed.words;
        to[1] = linear->packed.scale;
        to[2] = linear->packed.zero;
    }
    for (int i = 0; i < found->count; i++)
        MP_TRY(load_tensor(comm, source, found->index[i], to[i]));
    return MP_OK;
}

static mp_status load_tensors(mp_block *block, const mp_comm *comm, const mp_source *source,
                              int64_t number)
{
    const part_list list = list_parts(block->arch);

    for (int i = 0; i < list.count; i++) {
        const part *p = &list.parts[i];
        stored found;

        MP_TRY(find_part(source, number, p, &found));
        *stored_dtype(block, p) = found.dtype;
        if (p->kind == WEIGHT)
            MP_TRY(load_weight(comm, source, &found, &block->linears[p->of]));
        else
            MP_TRY(load_tensor(comm, source, found.index[0],
                               (float *)block->memory->base + p->offset));
    }
    return MP_OK;
}

mp_status mp_block_load(mp_block *block, const mp_comm *comm, const mp_source *source,
                        int64_t index)
{
    mp_status st = MP_OK;

    /* a rank that is still computing with the block that was here must be done with it */
    MP_TRY(mp_shared_fence(comm, block->memory));
    if (index < 0 || index >= block->arch->n_blocks)
        st = mp_fail(MP_ERR_INTERNAL, "block %lld of a model of %lld", (long long)index,
                     (long long)block->arch->n_blocks);
    else
        st = load_tensors(block, comm, source, index);
    block->index = -1;
    MP_TRY(mp_comm_agree(comm, st));
    block->index = index;
    return mp_shared_fence(comm, block->memory);
}

void mp_block_prefetch(const mp_arch *arch, const mp_comm *comm, const mp_source *source,
                       int64_t index)
{
    const part_list list = list_parts(arch);
    const int step = source->readers == MP_READ_BY_ROOT ? 1 : comm->node_size;

    if (index < 0 || index >= arch->n_blocks || source->prefetch == NULL) return;
    for (int i = comm->node_rank; i < list.count; i += step) {
        stored found;

        if (find_part(source, index, &list.parts[i], &found) != MP_OK) continue;
        for (int k = 0; k < found.count; k++) source->prefetch(source->self, found.index[k]);
    }
}
