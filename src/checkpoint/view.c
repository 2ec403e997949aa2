/* A source seen as another: factors under other names, or multiplied out; integers in another layout. */
#include "factored.h"
#include "formats.h"

#include "mpress/memory.h"
#include "product.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct seen {
    mp_tensor_info info;    /* info.name is owned */
    int64_t index;          /* of the tensor behind it, or of factor A */
    int64_t b;              /* of factor B where the tensor is a product; otherwise -1 */
    const mp_integers *map; /* whose integers the tensor is made of; NULL: of none */
    mp_repack repack;
} seen;

typedef struct view {
    const mp_source *source;
    mp_source *owned; /* the source, where it is closed with the view */
    seen *tensors;    /* [count] in the order of names */
    int64_t count;
} view;

static const mp_tensor_info *view_at(void *self, int64_t index)
{
    const view *v = self;

    return &v->tensors[index].info;
}

static mp_status view_read(void *self, int64_t index, int64_t begin, int64_t length, void *to)
{
    const view *v = self;
    const seen *t = &v->tensors[index];

    if (t->map != NULL)
        return mp_repack_read(v->source, t->map, t->repack, &t->info, begin, length, to);
    if (t->b >= 0) return mp_product_read(v->source, t->index, t->b, &t->info, begin, length, to);
    return v->source->read(v->source->self, t->index, begin, length, to);
}

static void view_prefetch(void *self, int64_t index)
{
    const view *v = self;
    const seen *t = &v->tensors[index];

    if (v->source->prefetch == NULL) return;
    v->source->prefetch(v->source->self, t->index);
    if (t->b >= 0) v->source->prefetch(v->source->self, t->b);
}

static void view_close(void *self)
{
    view *v = self;

    if (v == NULL) return;
    for (int64_t i = 0; i < v->count; i++) mp_free((char *)v->tensors[i].info.name);
    mp_free(v->tensors);
    mp_source_close(&v->owned);
    mp_free(v);
}

static int by_name(const void *left, const void *right)
{
    return strcmp(((const seen *)left)->info.name, ((const seen *)right)->info.name);
}

/* One more tensor: that of `index` under the name <stem><ending>. */
static mp_status add(view *v, int64_t index, const char *stem, const char *ending)
{
    seen t = {.info = *v->source->at(v->source->self, index), .index = index, .b = -1};
    char *name = NULL;

    MP_TRY(mp_alloc((void **)&name, (int64_t)(strlen(stem) + strlen(ending) + 1), 1, 0, "a name"));
    sprintf(name, "%s%s", stem, ending);
    t.info.name = name;
    v->tensors[v->count++] = t;
    return MP_OK;
}

/* The pair that each tensor of the source belongs to, -1 for none. */
static mp_status list_owners(const mp_source *source, const mp_pairs *pairs, int64_t **owners)
{
    MP_TRY(MP_NEW(*owners, source->count, "the list of tensors"));
    for (int64_t i = 0; i < source->count; i++) (*owners)[i] = -1;
    for (int64_t p = 0; p < pairs->count; p++) {
        (*owners)[pairs->pair[p].a] = (*owners)[pairs->pair[p].b] = p;
        if (pairs->pair[p].bias >= 0) (*owners)[pairs->pair[p].bias] = p;
    }
    return MP_OK;
}

/* What becomes of tensor `index` of a pair: nothing, or an entry of the view. */
typedef mp_status (*change)(view *v, const mp_pair *pair, int64_t index);

static mp_status to_own(view *v, const mp_pair *pair, int64_t index)
{
    return add(v, index, pair->name, mp_factor_ending(MP_NAMES_OWN, pair, index));
}

static mp_status to_directory(view *v, const mp_pair *pair, int64_t index)
{
    return add(v, index, pair->name, mp_factor_ending(MP_NAMES_DIRECTORY, pair, index));
}

static mp_status to_product(view *v, const mp_pair *pair, int64_t index)
{
    seen *t;

    if (index == pair->b) return MP_OK;
    if (index == pair->bias) return to_own(v, pair, index);
    MP_TRY(add(v, index, pair->name, ".weight"));
    t = &v->tensors[v->count - 1];
    t->info.shape[1] = pair->d_in;
    t->b = pair->b;
    return MP_OK;
}

/* What a view is made of, for the function that lists its tensors. */
typedef struct plan {
    const mp_pairs *pairs;
    change changed; /* what becomes of them */
    const mp_integer_maps *maps;
    const mp_layout *layout;
} plan;

typedef mp_status (*lister)(view *v, const plan *p);

static mp_status list_pairs(view *v, const plan *p)
{
    const mp_source *source = v->source;
    int64_t *owners = NULL;
    mp_status st;

    MP_GO(list_owners(source, p->pairs, &owners));
    MP_GO(MP_NEW(v->tensors, source->count, "the list of tensors"));
    for (int64_t i = 0; i < source->count; i++) {
        if (owners[i] >= 0)
            MP_GO(p->changed(v, &p->pairs->pair[owners[i]], i));
        else
            MP_GO(add(v, i, source->at(source->self, i)->name, ""));
    }
out:
    mp_free(owners);
    return st;
}

/* The tensors that a quantised map becomes. */
static mp_status add_map(view *v, const mp_integers *map, const mp_layout *layout)
{
    for (const mp_layout_tensor *t = layout->tensors; t->ending != NULL; t++) {
        seen *made;

        if (t->if_asymmetric && map->quant.symmetric) continue;
        MP_TRY(add(v, map->packed, map->name, t->ending));
        made = &v->tensors[v->count - 1];
        made->info = (mp_tensor_info){.name = made->info.name,
                                      .dtype = t->dtype == MP_DTYPE_COUNT ? map->dtype : t->dtype};
        t->shape(map, &made->info);
        made->map = map;
        made->repack = t->repack;
    }
    return MP_OK;
}

static int64_t tensors_of(const mp_layout *layout)
{
    int64_t count = 0;

    while (layout->tensors[count].ending != NULL) count++;
    return count;
}

static mp_status list_maps(view *v, const plan *p)
{
    const mp_source *source = v->source;
    char *is_part = NULL; /* of a quantised map */
    mp_status st;

    MP_GO(MP_NEW(is_part, source->count, "the list of tensors"));
    MP_GO(MP_NEW(v->tensors, source->count + p->maps->count * tensors_of(p->layout),
                 "the list of tensors"));
    for (int64_t i = 0; i < p->maps->count; i++) {
        const mp_integers *map = &p->maps->map[i];

        is_part[map->packed] = is_part[map->scale] = 1;
        if (map->zero >= 0) is_part[map->zero] = 1;
        MP_GO(add_map(v, map, p->layout));
    }
    for (int64_t i = 0; i < source->count; i++)
        if (!is_part[i]) MP_GO(add(v, i, source->at(source->self, i)->name, ""));
out:
    mp_free(is_part);
    return st;
}

static mp_status fill(view *v, lister list, const plan *p)
{
    MP_TRY(list(v, p));
    qsort(v->tensors, (size_t)v->count, sizeof *v->tensors, by_name);
    for (int64_t i = 1; i < v->count; i++)
        if (by_name(&v->tensors[i - 1], &v->tensors[i]) == 0)
            return mp_fail(MP_ERR_FORMAT, "%s: two tensors would be named \"%s\"", v->source->path,
                           v->tensors[i].info.name);
    return MP_OK;
}

static mp_status view_create(const mp_source *source, lister list, const plan *p,
                             mp_source **seen_as)
{
    mp_source *made = NULL;
    view *v = NULL;
    mp_status st;

    MP_GO(MP_NEW(made, 1, "a source of tensors"));
    MP_GO(MP_NEW(v, 1, "a source of tensors"));
    v->source = source;
    MP_GO(fill(v, list, p));
    *made = (mp_source){.self = v,
                        .path = source->path,
                        .count = v->count,
                        .readers = source->readers,
                        .at = view_at,
                        .read = view_read,
                        .prefetch = view_prefetch,
                        .close = view_close};
    *seen_as = made;
    made = NULL;
    v = NULL;
out:
    mp_free(made);
    view_close(v);
    return st;
}

mp_status mp_view_own(mp_source *source, const mp_pairs *pairs, mp_source **seen_as)
{
    MP_TRY(view_create(source, list_pairs, &(plan){.pairs = pairs, .changed = to_own}, seen_as));
    ((view *)(*seen_as)->self)->owned = source;
    return MP_OK;
}

mp_status mp_view_directory(const mp_source *source, const mp_pairs *pairs, mp_source **seen_as)
{
    return view_create(source, list_pairs, &(plan){.pairs = pairs, .changed = to_directory},
                       seen_as);
}

mp_status mp_view_dense(const mp_source *source, const mp_pairs *pairs, mp_source **seen_as)
{
    return view_create(source, list_pairs, &(plan){.pairs = pairs, .changed = to_product}, seen_as);
}

mp_status mp_view_layout(const mp_source *source, const mp_integer_maps *maps,
                         const mp_layout *layout, mp_source **seen_as)
{
    return view_create(source, list_maps, &(plan){.maps = maps, .layout = layout}, seen_as);
}
