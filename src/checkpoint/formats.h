/* The layouts in which other programs read quantised linear maps: a format is a row.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_FORMATS_H
#define MPRESS_FORMATS_H

#include "integers.h"
#include "mpress/comm.h"
#include "mpress/export.h"

#include <jansson.h>

/* A tensor that a quantised map X becomes. */
typedef struct mp_layout_tensor {
    const char *ending; /* of the name, after X */
    mp_dtype dtype;     /* MP_DTYPE_COUNT: that of the scales */
    void (*shape)(const mp_integers *map, mp_tensor_info *info);
    mp_repack repack;
    int if_asymmetric; /* only then is it there */
} mp_layout_tensor;

/* What config.json has to say: the grids, which are the same for all maps, and who is not quantised. */
typedef struct mp_layout_facts {
    mp_quant quant;
    json_t *dense; /* names of the linear maps of the blocks that are dense; owned */
    json_t *
        inside; /* names inside of a block of those that are quantised, "self_attn.q_proj"; owned */
} mp_layout_facts;

typedef struct mp_layout {
    const char *name; /* as typed */
    const char *loaders;
    const mp_layout_tensor *tensors; /* ends with an ending of NULL */

    /* What the layout takes, in words, where a map is something else; NULL where it is that. */
    const char *(*unfit)(const mp_integers *map);

    /* MP_ERR_ARG where numbers of the map cannot be written exactly; NULL: all can. */
    mp_status (*check)(const mp_source *source, const mp_integers *map);

    /* MP_ERR_ARG where the layout cannot say which maps are dense; NULL: it can. */
    mp_status (*check_dense)(const mp_layout_facts *facts);

    /* The "quantization_config" of config.json; NULL for a layout that needs none, or without memory. */
    json_t *(*config)(const mp_layout_facts *facts);
    const char *file; /* where the same is written once more; NULL: nowhere */
} mp_layout;

/* The layout of a format, AUTO being compressed-tensors. */
const mp_layout *mp_layout_of(mp_export_format format);

/* Whether a source can be written in a layout, exactly.  Errors: MP_ERR_ARG naming map, value, and the
 * formats that would do; MP_ERR_FORMAT where maps differ in their grids.  Every rank that can read the
 * source looks at the numbers of its share of the maps.  Collective; the status is agreed. */
mp_status mp_layout_check(const mp_comm *comm, const mp_layout *layout, const mp_source *source,
                          const mp_integer_maps *maps);

/* `source` seen in a layout.  Source and maps are borrowed by the view.  (view.c) */
mp_status mp_view_layout(const mp_source *source, const mp_integer_maps *maps,
                         const mp_layout *layout, mp_source **view);

/* config.json and what else the layout has beside the weights, into `dir` with the files of the model.
 * One rank only. */
mp_status mp_layout_assets(const mp_layout *layout, const mp_source *source,
                           const mp_integer_maps *maps, const char *assets, const char *dir);

#endif
