/* Tensors as data sets of HDF5, and attributes read back. */
#include "h5.h"

#include "mpress/fault.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>

enum {
    TRANSFER_BYTES = 1 << 30, /* more fails in HDF5 1.10 (it counts with int) */
    MOST_ATTRIBUTES = 64      /* of a group, kept in its header: the default of 8 is too few */
};

mp_status mp_h5_place(const char *name, char **place)
{
    const char *dot = strrchr(name, '.');
    size_t length = strlen(name);

    if (length == 0 || name[0] == '.' || name[length - 1] == '.' || strchr(name, '/') != NULL)
        return mp_fail(
            MP_ERR_FORMAT,
            "tensor \"%.200s\": a checkpoint cannot keep this name (expected words joined "
            "by dots, without a slash)",
            name);
    MP_TRY(mp_strdup(name, place));
    if (dot != NULL) (*place)[dot - name] = '/';
    return MP_OK;
}

mp_status mp_h5_group(hid_t file, const char *path, const char *name, hid_t *group)
{
    htri_t there = H5Lexists(file, name, H5P_DEFAULT);
    mp_status st = MP_OK;
    hid_t list;

    if (there > 0) {
        *group = H5Gopen2(file, name, H5P_DEFAULT);
        return *group >= 0 ? MP_OK : mp_h5_fail(MP_ERR_IO, path, "opening a group");
    }
    list = H5Pcreate(H5P_GROUP_CREATE);
    *group = -1;
    if (list >= 0 && !mp_fault(MP_FAULT_H5_CREATE) && H5Pset_obj_track_times(list, 0) >= 0 &&
        H5Pset_attr_phase_change(list, MOST_ATTRIBUTES, MOST_ATTRIBUTES - 1) >= 0)
        *group = H5Gcreate2(file, name, H5P_DEFAULT, list, H5P_DEFAULT);
    if (*group < 0) st = mp_h5_fail(MP_ERR_IO, path, "making a group");
    if (list >= 0) H5Pclose(list);
    return st;
}

/* Contiguous, its place in the file given at once, and never filled: every byte is written
 * anyway. */
static hid_t creation_list(void)
{
    hid_t list = H5Pcreate(H5P_DATASET_CREATE);

    if (list < 0) return list;
    if (H5Pset_layout(list, H5D_CONTIGUOUS) >= 0 &&
        H5Pset_alloc_time(list, H5D_ALLOC_TIME_EARLY) >= 0 &&
        H5Pset_fill_time(list, H5D_FILL_TIME_NEVER) >= 0 && H5Pset_obj_track_times(list, 0) >= 0)
        return list;
    H5Pclose(list);
    return -1;
}

static hid_t space_of(int ndim, const int64_t *shape)
{
    hsize_t dims[MP_MAX_DIMS];

    for (int i = 0; i < ndim; i++) dims[i] = (hsize_t)shape[i];
    return ndim == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(ndim, dims, NULL);
}

static mp_status failed_at(mp_status code, const char *path, const char *doing, const char *name)
{
    char text[256];

    snprintf(text, sizeof text, "%s tensor \"%.200s\"", doing, name);
    return mp_h5_fail(code, path, text);
}

/* Makes the data set `place` below `group`. */
static mp_status add_set(hid_t group, const char *path, const char *place,
                         const mp_tensor_info *info)
{
    hid_t type = -1, space = -1, list = -1, set = -1;
    mp_status st;

    MP_GO(mp_h5_type(info->dtype, &type));
    space = space_of(info->ndim, info->shape);
    list = creation_list();
    if (space >= 0 && list >= 0 && !mp_fault(MP_FAULT_H5_CREATE))
        set = H5Dcreate2(group, place, type, space, H5P_DEFAULT, list, H5P_DEFAULT);
    if (set < 0) MP_GO(failed_at(MP_ERR_IO, path, "making", info->name));
    MP_GO(mp_h5_put_text(set, path, "dtype", mp_dtype_name(info->dtype)));
out:
    if (set >= 0) H5Dclose(set);
    if (list >= 0) H5Pclose(list);
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    return st;
}

mp_status mp_h5_add_tensor(hid_t file, const char *path, const mp_tensor_info *info)
{
    char *place = NULL, *slash;
    hid_t group = -1;
    mp_status st;

    MP_TRY(mp_h5_place(info->name, &place));
    slash = strchr(place, '/');
    if (slash != NULL) {
        *slash = '\0';
        MP_GO(mp_h5_group(file, path, place, &group));
    }
    MP_GO(add_set(slash != NULL ? group : file, path, slash != NULL ? slash + 1 : place, info));
out:
    if (group >= 0) H5Gclose(group);
    mp_free(place);
    return st;
}

mp_status mp_h5_open_tensor(hid_t file, const char *path, const char *place, hid_t *set)
{
    *set = H5Dopen2(file, place, H5P_DEFAULT);
    return *set < 0 || mp_fault(MP_FAULT_H5_OPEN) ? failed_at(MP_ERR_IO, path, "opening", place)
                                                  : MP_OK;
}

/* Independent transfers, on purpose.  Every rank writes whole contiguous ranges, so that collective
 * buffering has nothing to gather, and its failures are not to be had: on three and more ranks
 * OMPIO (Open MPI 4.1.4) forgets a write error of its collective buffers and HDF5 reports success;
 * ROMIO, and OMPIO on a full disk, leave the other ranks waiting for the one that failed.  Both
 * were seen, as was that independent ones report the error on the rank that has it, and nobody
 * hangs. */
static hid_t transfer_list(void)
{
    hid_t list = H5Pcreate(H5P_DATASET_XFER);

    if (list < 0) return list;
    if (H5Pset_dxpl_mpio(list, H5FD_MPIO_INDEPENDENT) >= 0) return list;
    H5Pclose(list);
    return -1;
}

static mp_status write_box(hid_t set, const char *path, hid_t type, int ndim, const hsize_t *first,
                           const hsize_t *count, const void *data)
{
    hid_t list = transfer_list(), space = H5Dget_space(set);
    hid_t memory = ndim == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(ndim, count, NULL);
    int failed = list < 0 || space < 0 || memory < 0;
    mp_status st = MP_OK;

    if (ndim > 0)
        failed = failed || H5Sselect_hyperslab(space, H5S_SELECT_SET, first, NULL, count, NULL) < 0;
    failed =
        failed || mp_fault(MP_FAULT_H5_WRITE) || H5Dwrite(set, type, memory, space, list, data) < 0;
    if (failed) st = mp_h5_fail(MP_ERR_IO, path, "writing");
    if (memory >= 0) H5Sclose(memory);
    if (space >= 0) H5Sclose(space);
    if (list >= 0) H5Pclose(list);
    return st;
}

mp_status mp_h5_write(hid_t set, const char *path, mp_dtype dtype, int ndim, const int64_t *first,
                      const int64_t *count, const void *data)
{
    hsize_t from[MP_MAX_DIMS] = {0}, box[MP_MAX_DIMS] = {1};
    int64_t row = (int64_t)mp_dtype_size(dtype), rows = ndim > 0 ? count[0] : 1, step;
    const char *bytes = data;
    hid_t type;
    mp_status st = MP_OK;

    for (int i = 0; i < ndim; i++) {
        from[i] = (hsize_t)first[i];
        box[i] = (hsize_t)count[i];
        if (i > 0) row *= count[i];
    }
    if (row == 0) return MP_OK;
    step = row < TRANSFER_BYTES ? TRANSFER_BYTES / row : 1;
    MP_TRY(mp_h5_type(dtype, &type));
    for (int64_t at = 0; at < rows && st == MP_OK; at += step) {
        box[0] = (hsize_t)(rows - at < step ? rows - at : step);
        st = write_box(set, path, type, ndim, from, box, bytes + at * row);
        from[0] += box[0];
    }
    H5Tclose(type);
    return st;
}

/* The shape of a data set; 0 unless a source of tensors can hold it. */
static int shape_of(hid_t set, mp_tensor_info *info)
{
    hid_t space = H5Dget_space(set);
    hsize_t dims[H5S_MAX_RANK];
    int64_t bytes = (int64_t)mp_dtype_size(info->dtype);
    int ndim = space >= 0 ? H5Sget_simple_extent_dims(space, dims, NULL) : -1;
    int fits = ndim >= 0 && ndim <= MP_MAX_DIMS;

    if (space >= 0) H5Sclose(space);
    info->ndim = ndim;
    for (int i = 0; fits && i < ndim; i++) {
        fits = dims[i] <= (hsize_t)INT64_MAX;
        info->shape[i] = fits ? (int64_t)dims[i] : 0;
        fits = fits && !__builtin_mul_overflow(bytes, info->shape[i], &bytes);
    }
    return fits;
}

/* Whether the bytes lie in one piece in this file, as elements of info->dtype. */
static int is_plain(hid_t set, const mp_tensor_info *info)
{
    hid_t list = H5Dget_create_plist(set), stored = H5Dget_type(set), expected = -1;
    int plain = mp_h5_type(info->dtype, &expected) == MP_OK && list >= 0 && stored >= 0 &&
                H5Pget_layout(list) == H5D_CONTIGUOUS && H5Pget_external_count(list) == 0 &&
                H5Tequal(stored, expected) > 0;

    if (expected >= 0) H5Tclose(expected);
    if (stored >= 0) H5Tclose(stored);
    if (list >= 0) H5Pclose(list);
    return plain;
}

mp_status mp_h5_describe(hid_t set, const char *path, const char *name, mp_tensor_info *info,
                         int64_t *offset)
{
    char *dtype = NULL;
    haddr_t place;

    MP_TRY(mp_h5_get_text(set, path, "dtype", &dtype));
    info->dtype = mp_dtype_from_name(dtype);
    mp_free(dtype);
    if (info->dtype == MP_DTYPE_COUNT)
        return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\": its dtype is not known here", path, name);
    if (!shape_of(set, info) || !is_plain(set, info))
        return mp_fail(MP_ERR_FORMAT,
                       "%s: tensor \"%s\": expected a contiguous data set of %s of at most %d "
                       "dimensions",
                       path, name, mp_dtype_name(info->dtype), MP_MAX_DIMS);
    place = H5Dget_offset(set);
    H5Eclear2(H5E_DEFAULT); /* an empty data set has no place, which the library calls an error */
    if (mp_tensor_bytes(info) > 0 && place == HADDR_UNDEF)
        return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\": its data was never written", path, name);
    *offset = place == HADDR_UNDEF ? 0 : (int64_t)place;
    return MP_OK;
}
