/* Models with factored linear maps, W' = A B, and what they are seen as.
 * Floor 7: checkpoint; for the files of src/checkpoint only.
 *
 *   names        A [d_out, rank]       B [rank, d_in]        bias [d_out]
 *   our own      X.A                   X.B                   X.bias
 *   directories  X.ALinear.weight      X.BLinear.weight      X.ALinear.bias
 *
 * X is "model.layers.N.<linear>"; a dense map is X.weight and X.bias in both. */
#ifndef MPRESS_FACTORED_H
#define MPRESS_FACTORED_H

#include "mpress/arch.h"
#include "mpress/source.h"

typedef enum mp_factor_names { MP_NAMES_OWN, MP_NAMES_DIRECTORY } mp_factor_names;

/* A factored linear map: indices of its tensors in the source. */
typedef struct mp_pair {
    char *name;         /* X; owned */
    int64_t a, b, bias; /* bias is -1 where there is none under the names looked for */
    int64_t d_out, d_in, rank;
} mp_pair;

typedef struct mp_pairs {
    mp_pair *pair; /* [count] in the order of the tensors A; owned (mp_pairs_free) */
    int64_t count;
} mp_pairs;

/* The pairs of a source, which may have none.
 * Errors: MP_ERR_FORMAT for half a pair, shapes or dtypes that do not fit together, a dense weight
 * beside the factors. */
mp_status mp_pairs_find(const mp_source *source, mp_factor_names names, mp_pairs *pairs);
void mp_pairs_free(mp_pairs *pairs);

/* MP_ERR_FORMAT unless every pair is a linear map of the architecture, with its shape.  `path` is
 * for the message. */
mp_status mp_pairs_check(const mp_pairs *pairs, const mp_arch *arch, const char *path);

/* The ending of a tensor of the pair: ".A" or ".ALinear.weight", ... */
const char *mp_factor_ending(mp_factor_names names, const mp_pair *pair, int64_t tensor);

/* `source` seen as another: its pairs, found under the names of the other kind, under our own names
 * (the source then belongs to the view, which closes it) or under those of a directory, or
 * X.weight, computed as it is read (product.h), in the place of each.  The others borrow the
 * source.  Nothing of `pairs` is kept. */
mp_status mp_view_own(mp_source *source, const mp_pairs *pairs, mp_source **view);
mp_status mp_view_directory(const mp_source *source, const mp_pairs *pairs, mp_source **view);
mp_status mp_view_dense(const mp_source *source, const mp_pairs *pairs, mp_source **view);

/* *source is the safetensors of a Hugging Face directory: if its config.json is that of a factored
 * export, *source becomes a view of it under our own names.  On error it is as it was.
 * Errors: MP_ERR_FORMAT where "truncation_ranks" and the tensors differ. */
mp_status mp_factored_open(const char *dir, mp_source **source);

/* The files of an export that are not weights, from those of the model (`assets`): with a
 * config.json for factors, keeping what it has beside, and modeling_factored.py for transformers;
 * or with that of a dense model, which is the one of the model unchanged unless that is a factored
 * export.  One rank only. */
mp_status mp_factored_assets(const char *assets, const mp_pairs *pairs, const char *dir);
mp_status mp_dense_assets(const char *assets, const char *dir);

#endif
