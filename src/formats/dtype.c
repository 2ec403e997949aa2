#include "mpress/dtype.h"

#include <string.h>

static const struct {
    const char *name;
    size_t size;
} dtypes[MP_DTYPE_COUNT] = {
#define MP_DTYPE_ROW_(id, text, bytes) [id] = {text, bytes},
    MP_DTYPE_LIST(MP_DTYPE_ROW_)
#undef MP_DTYPE_ROW_
};

const char *mp_dtype_name(mp_dtype dtype)
{
    return dtypes[dtype].name;
}

size_t mp_dtype_size(mp_dtype dtype)
{
    return dtypes[dtype].size;
}

mp_dtype mp_dtype_from_name(const char *name)
{
    int i = 0;

    while (i < MP_DTYPE_COUNT && strcmp(dtypes[i].name, name) != 0) i++;
    return (mp_dtype)i;
}

int mp_dtype_is_weight(mp_dtype dtype)
{
    return dtype == MP_F32 || dtype == MP_F16 || dtype == MP_BF16;
}
