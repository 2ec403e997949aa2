/* Which linear maps of a source are factored. */
#include "factored.h"

#include "mpress/export.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>

static const char prefix[] = "model.layers.";

/* The endings of a factored map's tensors, by mp_factor_names. */
static const struct {
    const char *a, *b, *bias;
} endings[] = {
    [MP_NAMES_OWN] = {".A", ".B", ".bias"},
    [MP_NAMES_DIRECTORY] = {".ALinear.weight", ".BLinear.weight", ".ALinear.bias"},
};

const char *mp_factor_ending(mp_factor_names names, const mp_pair *pair, int64_t tensor)
{
    if (tensor == pair->a) return endings[names].a;
    return tensor == pair->b ? endings[names].b : endings[names].bias;
}

/* X of a name X<ending>, in a block; NULL for another name.  Owned by the caller. */
static mp_status stem_of(const char *name, const char *ending, char **stem)
{
    size_t length = strlen(name), tail = strlen(ending);

    *stem = NULL;
    if (length <= tail || strcmp(name + length - tail, ending) != 0) return MP_OK;
    if (strncmp(name, prefix, sizeof prefix - 1) != 0) return MP_OK;
    MP_TRY(mp_strdup(name, stem));
    (*stem)[length - tail] = '\0';
    return MP_OK;
}

/* The index of tensor <stem><ending>, or -1. */
static mp_status find(const mp_source *source, const char *stem, const char *ending, int64_t *index)
{
    char *name = NULL;

    MP_TRY(mp_alloc((void **)&name, (int64_t)(strlen(stem) + strlen(ending) + 1), 1, 0, "a name"));
    sprintf(name, "%s%s", stem, ending);
    *index = mp_source_find(source, name);
    mp_free(name);
    return MP_OK;
}

static mp_status half_a_pair(const mp_source *source, const char *stem, const char *there,
                             const char *missing)
{
    return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s%s\" is there, but \"%s%s\" is missing",
                   source->path, stem, there, stem, missing);
}

static int is_matrix(const mp_tensor_info *info)
{
    return info->ndim == 2 && info->shape[0] > 0 && info->shape[1] > 0 &&
           info->shape[0] <= INT32_MAX && info->shape[1] <= INT32_MAX &&
           mp_dtype_is_weight(info->dtype);
}

/* Sizes from A [d_out, rank] and B [rank, d_in]. */
static mp_status measure(const mp_source *source, mp_pair *pair)
{
    const mp_tensor_info *a = source->at(source->self, pair->a);
    const mp_tensor_info *b = source->at(source->self, pair->b);

    if (!is_matrix(a) || !is_matrix(b) || a->dtype != b->dtype || a->shape[1] != b->shape[0])
        return mp_fail(
            MP_ERR_FORMAT,
            "%s: tensors \"%s\" and \"%s\" do not make a product, expected [d_out, rank] "
            "and [rank, d_in], both F32, F16 or BF16",
            source->path, a->name, b->name);
    pair->d_out = a->shape[0];
    pair->d_in = b->shape[1];
    pair->rank = a->shape[1];
    if (pair->rank <= pair->d_out && pair->rank <= pair->d_in) return MP_OK;
    return mp_fail(MP_ERR_FORMAT,
                   "%s: the product of \"%s\" and \"%s\" is %lld x %lld of rank %lld", source->path,
                   a->name, b->name, (long long)pair->d_out, (long long)pair->d_in,
                   (long long)pair->rank);
}

/* Fills the pair whose name and A are known. */
static mp_status complete(const mp_source *source, mp_factor_names names, mp_pair *pair)
{
    int64_t dense;

    MP_TRY(find(source, pair->name, endings[names].b, &pair->b));
    if (pair->b < 0) return half_a_pair(source, pair->name, endings[names].a, endings[names].b);
    MP_TRY(find(source, pair->name, endings[names].bias, &pair->bias));
    MP_TRY(find(source, pair->name, ".weight", &dense));
    if (dense >= 0)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: both \"%s.weight\" and its factor \"%s%s\" are there, expected one",
                       source->path, pair->name, pair->name, endings[names].a);
    return measure(source, pair);
}

/* Tensor i, if it is a factor: A begins a pair, B must have its A. */
static mp_status look_at(const mp_source *source, mp_factor_names names, int64_t i, mp_pairs *pairs)
{
    const char *name = source->at(source->self, i)->name;
    char *stem = NULL;
    int64_t other = 0;
    mp_status st = MP_OK;

    MP_TRY(stem_of(name, endings[names].a, &stem));
    if (stem != NULL) {
        pairs->pair[pairs->count] = (mp_pair){.name = stem, .a = i};
        return complete(source, names, &pairs->pair[pairs->count++]);
    }
    MP_TRY(stem_of(name, endings[names].b, &stem));
    if (stem != NULL) st = find(source, stem, endings[names].a, &other);
    if (st == MP_OK && other < 0)
        st = half_a_pair(source, stem, endings[names].b, endings[names].a);
    mp_free(stem);
    return st;
}

mp_status mp_pairs_find(const mp_source *source, mp_factor_names names, mp_pairs *pairs)
{
    mp_status st;

    *pairs = (mp_pairs){.count = 0};
    MP_GO(MP_NEW(pairs->pair, source->count, "the list of factored linear maps"));
    for (int64_t i = 0; i < source->count; i++) MP_GO(look_at(source, names, i, pairs));
out:
    if (st != MP_OK) mp_pairs_free(pairs);
    return st;
}

void mp_pairs_free(mp_pairs *pairs)
{
    for (int64_t i = 0; i < pairs->count; i++) mp_free(pairs->pair[i].name);
    mp_free(pairs->pair);
    *pairs = (mp_pairs){.count = 0};
}

mp_status mp_pairs_check(const mp_pairs *pairs, const mp_arch *arch, const char *path)
{
    for (int64_t i = 0; i < pairs->count; i++) {
        const mp_pair *pair = &pairs->pair[i];
        const mp_linear_row *row = mp_arch_find_linear(arch, pair->name);

        if (row == NULL)
            return mp_fail(MP_ERR_FORMAT, "%s: \"%s\" is factored, but no linear map of a \"%s\"",
                           path, pair->name, arch->family);
        if (pair->d_out != row->d_out || pair->d_in != row->d_in)
            return mp_fail(MP_ERR_FORMAT,
                           "%s: the factors of \"%s\" make %lld x %lld, expected %lld x %lld", path,
                           pair->name, (long long)pair->d_out, (long long)pair->d_in,
                           (long long)row->d_out, (long long)row->d_in);
    }
    return MP_OK;
}
