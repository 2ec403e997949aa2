#include "mpress/source.h"

#include "mpress/memory.h"

#include <string.h>

int64_t mp_tensor_elements(const mp_tensor_info *info)
{
    int64_t elements = 1;

    for (int i = 0; i < info->ndim; i++) elements *= info->shape[i];
    return elements;
}

int64_t mp_tensor_bytes(const mp_tensor_info *info)
{
    return mp_tensor_elements(info) * (int64_t)mp_dtype_size(info->dtype);
}

int64_t mp_source_find(const mp_source *source, const char *name)
{
    int64_t low = 0, high = source->count;

    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        int order = strcmp(source->at(source->self, middle)->name, name);

        if (order == 0) return middle;
        if (order < 0)
            low = middle + 1;
        else
            high = middle;
    }
    return -1;
}

void mp_source_close(mp_source **source)
{
    if (*source == NULL) return;
    (*source)->close((*source)->self);
    mp_free(*source);
    *source = NULL;
}
