/* HDF5 behind a thin door: element types, attributes, tensors as data sets, errors as one message.
 * Floor 7: checkpoint; for the files of src/checkpoint only.
 *
 * The library is not thread-safe: main thread only.  Every function that fails has called mp_fail
 * with the file's path and the reason from HDF5's own stack (MP_ERR_IO, or MP_ERR_FORMAT where a
 * file is not what it should be). */
#ifndef MPRESS_H5_H
#define MPRESS_H5_H

#include "mpress/comm.h"
#include "mpress/source.h"

#include <hdf5.h>

/* Records `code` with "path: doing: innermost reason on HDF5's stack" and returns it. */
mp_status mp_h5_fail(mp_status code, const char *path, const char *doing);

/* A new, empty file of this process alone; an existing one is emptied.  Nothing that depends on the
 * time goes into it.  There must be room for it on the disk (mp_h5_room): a file that cannot be
 * closed for lack of it makes HDF5 1.10 crash at the end of the program. */
mp_status mp_h5_create(const char *path, hid_t *file);

/* Upper bound of the bytes that a tensor takes in a file, with what describes it; of a file without
 * tensors. */
int64_t mp_h5_room(const mp_tensor_info *info);
enum { MP_H5_EMPTY_ROOM = 1 << 18 };

/* An existing file: for reading by this process alone, or for writing by all ranks with MPI-IO
 * (collective; the status is agreed). */
mp_status mp_h5_open(const char *path, hid_t *file);
mp_status mp_h5_open_shared(MPI_Comm comm, const char *path, hid_t *file);

/* Closes *file and sets it to -1 (-1 is fine).  A status that is not MP_OK already wins over an
 * error in closing.  Collective for a shared file. */
mp_status mp_h5_close(const char *path, hid_t *file, mp_status st);

/* The HDF5 type of a dtype, little-endian, to be closed by H5Tclose: bf16 and f16 are floats of 16
 * bits, integers integers, what HDF5 has no word for (BOOL, F8) opaque. */
mp_status mp_h5_type(mp_dtype dtype, hid_t *type);

/* Attributes of a file or group. */
mp_status mp_h5_put_text(hid_t object, const char *path, const char *name, const char *text);
mp_status mp_h5_put_int(hid_t object, const char *path, const char *name, int64_t value);
mp_status mp_h5_put_real(hid_t object, const char *path, const char *name, double value);

/* MP_ERR_FORMAT where it is missing or of another kind; the text is owned by the caller. */
mp_status mp_h5_get_text(hid_t object, const char *path, const char *name, char **text);
mp_status mp_h5_get_int(hid_t object, const char *path, const char *name, int64_t *value);

/* As above, but a missing attribute leaves *value as it is. */
mp_status mp_h5_get_real(hid_t object, const char *path, const char *name, double *value);

/* "a.b.weight" lies at "a.b/weight": the last dot becomes a slash (owned by the caller).
 * MP_ERR_FORMAT for a name that no such path can carry: empty parts, a slash. */
mp_status mp_h5_place(const char *name, char **place);

/* Opens group `name` ("self_attn.q_proj") of the file, or makes it. */
mp_status mp_h5_group(hid_t file, const char *path, const char *name, hid_t *group);

/* Makes the data set of a tensor, contiguous and allocated at once, its dtype also as an
 * attribute. */
mp_status mp_h5_add_tensor(hid_t file, const char *path, const mp_tensor_info *info);

/* Opens the data set of a tensor of a shared file by its place.  Collective, not agreed: *set is -1, or
 * has to be closed whatever the status is. */
mp_status mp_h5_open_tensor(hid_t file, const char *path, const char *place, hid_t *set);

/* Writes a box of a data set from contiguous memory: `count` elements from `first` in each of
 * `ndim` dimensions (0 for a scalar).  At most 1 GiB is moved by one call of the library.  Not
 * collective: see transfer_list in h5_tensor.c for why. */
mp_status mp_h5_write(hid_t set, const char *path, mp_dtype dtype, int ndim, const int64_t *first,
                      const int64_t *count, const void *data);

/* What a data set is and where in the file its bytes are; MP_ERR_FORMAT unless it is contiguous,
 * whole and of the type its attribute says.  `name` is for messages.  info->name is not touched. */
mp_status mp_h5_describe(hid_t set, const char *path, const char *name, mp_tensor_info *info,
                         int64_t *offset);

#endif
