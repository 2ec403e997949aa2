/* safetensors files: a directory of them as a source of tensors, and the header of one to write.
 * Floor 1: formats.
 *
 * Layout: 8 bytes little-endian header length N, N bytes JSON, then the data; a tensor's
 * data_offsets [begin, end) count from the end of the header.  Nothing in a header is believed:
 * offsets outside the file, overlaps, holes, sizes that do not match shape x dtype, sizes that
 * overflow and headers over 100 MB are MP_ERR_FORMAT, naming file, tensor, value and what fits. */
#ifndef MPRESS_SAFETENSORS_H
#define MPRESS_SAFETENSORS_H

#include "mpress/error.h"
#include "mpress/source.h"

#include <stddef.h>

/* Opens `path`: one .safetensors file, or a Hugging Face directory with model.safetensors or, if
 * that is not there, model.safetensors.index.json (the order in which transformers looks).  With an
 * index every shard must be there and whole, and each tensor in the shard its map says; the map
 * decides which tensors there are: what a shard holds beside them is checked, too, but not offered.
 * The files stay open, one descriptor each; headers are read here, data only by source->read. */
mp_status mp_safetensors_open(const char *path, mp_source **source);

/* The full header (length word, JSON, padding with spaces to 8 bytes) of a file that holds `count`
 * tensors back to back in the given order, with "__metadata__": {"format": "pt"}.
 * A name given twice is MP_ERR_INTERNAL.
 * begin[i] receives the absolute offset of tensor i in the file, begin[count] the size of the file.
 * The header is owned by the caller (mp_free). */
mp_status mp_safetensors_header(const mp_tensor_info *infos, int64_t count, char **header,
                                size_t *length, int64_t *begin);

/* Writes a small file (token windows) in one step: data[i] is the row-major data of tensor i. */
mp_status mp_safetensors_write(const char *path, const mp_tensor_info *infos,
                               const void *const *data, int64_t count);

#endif
