/* The element types of a checkpoint on disk.
 * Floor 1: formats. */
#ifndef MPRESS_DTYPE_H
#define MPRESS_DTYPE_H

#include <stddef.h>

/* name as in a safetensors header, bytes per element */
#define MP_DTYPE_LIST(X)                                                                           \
    X(MP_F64, "F64", 8)                                                                            \
    X(MP_F32, "F32", 4)                                                                            \
    X(MP_F16, "F16", 2)                                                                            \
    X(MP_BF16, "BF16", 2)                                                                          \
    X(MP_I64, "I64", 8)                                                                            \
    X(MP_I32, "I32", 4)                                                                            \
    X(MP_I16, "I16", 2)                                                                            \
    X(MP_I8, "I8", 1)                                                                              \
    X(MP_U64, "U64", 8)                                                                            \
    X(MP_U32, "U32", 4)                                                                            \
    X(MP_U16, "U16", 2)                                                                            \
    X(MP_U8, "U8", 1)                                                                              \
    X(MP_BOOL, "BOOL", 1)                                                                          \
    X(MP_F8_E4M3, "F8_E4M3", 1)                                                                    \
    X(MP_F8_E5M2, "F8_E5M2", 1)

#define MP_DTYPE_ENUM_(name, text, size) name,
typedef enum mp_dtype { MP_DTYPE_LIST(MP_DTYPE_ENUM_) MP_DTYPE_COUNT } mp_dtype;
#undef MP_DTYPE_ENUM_

const char *mp_dtype_name(mp_dtype dtype);
size_t mp_dtype_size(mp_dtype dtype);

/* MP_DTYPE_COUNT if the name is unknown. */
mp_dtype mp_dtype_from_name(const char *name);

/* Whether a weight may have this type here: F32, F16, BF16. */
int mp_dtype_is_weight(mp_dtype dtype);

#endif
