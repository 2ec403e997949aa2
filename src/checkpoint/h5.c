/* Files, types and errors of HDF5. */
#include "h5.h"

#include "mpress/fault.h"

#include <stdio.h>
#include <string.h>

enum {
    ALIGNMENT = 1 << 20,     /* large data sets begin at a stripe of a parallel file system */
    METADATA_BLOCK = 1 << 16 /* what describes the tensors of a block stays together */
};

/* The two innermost entries of the error stack. */
typedef struct reasons {
    char text[2][256];
} reasons;

static herr_t note_reason(unsigned depth, const H5E_error2_t *entry, void *data)
{
    reasons *found = data;

    if (depth < 2 && entry->desc != NULL)
        snprintf(found->text[depth], sizeof found->text[depth], "%s", entry->desc);
    return 0;
}

mp_status mp_h5_fail(mp_status code, const char *path, const char *doing)
{
    reasons found = {{"no reason given", ""}};

    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, note_reason, &found);
    H5Eclear2(H5E_DEFAULT);
    return mp_fail(code, "%s: %s failed: HDF5: %s%s%s", path, doing, found.text[0],
                   found.text[1][0] != '\0' ? ", " : "", found.text[1]);
}

/* The messages go into ours; by default the library prints forty lines per rank. */
static void be_quiet(void)
{
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

/* How a file is accessed, by the ranks of `comm` or (MPI_COMM_NULL) by this process alone; -1 on error. */
static hid_t access_list(MPI_Comm comm)
{
    hid_t list = H5Pcreate(H5P_FILE_ACCESS);
    int failed;

    if (list < 0) return list;
    failed = H5Pset_libver_bounds(list, H5F_LIBVER_V110, H5F_LIBVER_V110) < 0 ||
             H5Pset_alignment(list, ALIGNMENT, ALIGNMENT) < 0 ||
             H5Pset_meta_block_size(list, METADATA_BLOCK) < 0;
    if (comm != MPI_COMM_NULL)
        failed = failed || H5Pset_fapl_mpio(list, comm, MPI_INFO_NULL) < 0 ||
                 H5Pset_all_coll_metadata_ops(list, 1) < 0 ||
                 H5Pset_coll_metadata_write(list, 1) < 0;
    if (!failed) return list;
    H5Pclose(list);
    return -1;
}

/* A call of the library, closing included, empties the error stack: the reason is taken first. */
mp_status mp_h5_create(const char *path, hid_t *file)
{
    hid_t access, creation;
    mp_status st = MP_OK;

    be_quiet();
    access = access_list(MPI_COMM_NULL);
    creation = H5Pcreate(H5P_FILE_CREATE);
    *file = -1;
    if (access >= 0 && creation >= 0 && H5Pset_obj_track_times(creation, 0) >= 0 &&
        !mp_fault(MP_FAULT_H5_CREATE))
        *file = H5Fcreate(path, H5F_ACC_TRUNC, creation, access);
    if (*file < 0) st = mp_h5_fail(MP_ERR_IO, path, "creating");
    if (creation >= 0) H5Pclose(creation);
    if (access >= 0) H5Pclose(access);
    return st;
}

int64_t mp_h5_room(const mp_tensor_info *info)
{
    enum { DESCRIPTION = 1 << 13 }; /* headers of group and data set, links, attributes: 2 KiB */
    int64_t bytes = mp_tensor_bytes(info);

    return bytes + DESCRIPTION + (bytes >= ALIGNMENT ? ALIGNMENT : 0);
}

mp_status mp_h5_open(const char *path, hid_t *file)
{
    hid_t access;
    mp_status st = MP_OK;

    be_quiet();
    access = access_list(MPI_COMM_NULL);
    *file = access >= 0 && !mp_fault(MP_FAULT_H5_OPEN) ? H5Fopen(path, H5F_ACC_RDONLY, access) : -1;
    if (*file < 0) st = mp_h5_fail(MP_ERR_IO, path, "opening");
    if (access >= 0) H5Pclose(access);
    return st;
}

static mp_status agree(MPI_Comm comm, mp_status st)
{
    int rank, size;

    MPI_Comm_rank(comm, &rank);
    MPI_Comm_size(comm, &size);
    return mp_agree_over(comm, rank, size, st);
}

/* Closing is collective too: a file that some ranks have and others have not stays open. */
static mp_status close_if_all_have(MPI_Comm comm, const char *path, hid_t *file, mp_status st)
{
    int have = *file >= 0;

    MP_TRY(mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, &have, 1, MPI_INT, MPI_MIN, comm), path));
    return have ? mp_h5_close(path, file, st) : st;
}

mp_status mp_h5_open_shared(MPI_Comm comm, const char *path, hid_t *file)
{
    hid_t access;
    mp_status st = MP_OK;

    be_quiet();
    *file = -1;
    access = access_list(comm);
    if (access < 0) st = mp_h5_fail(MP_ERR_IO, path, "opening");
    st = agree(comm, st); /* a rank that does not open leaves the others waiting */
    if (st == MP_OK) {
        *file = H5Fopen(path, H5F_ACC_RDWR, access);
        if (*file < 0 || mp_fault(MP_FAULT_H5_OPEN)) st = mp_h5_fail(MP_ERR_IO, path, "opening");
        st = agree(comm, st);
        if (st != MP_OK) st = close_if_all_have(comm, path, file, st);
    }
    if (access >= 0) H5Pclose(access);
    return st;
}

mp_status mp_h5_close(const char *path, hid_t *file, mp_status st)
{
    hid_t closing = *file;

    *file = -1;
    if (closing < 0) return st;
    if (H5Fclose(closing) >= 0 && !mp_fault(MP_FAULT_H5_CLOSE)) return st;
    return st != MP_OK ? st : mp_h5_fail(MP_ERR_IO, path, "closing");
}

/* A float of 16 bits: sign, `exponent` bits with a bias of half their range, `mantissa` bits. */
static hid_t half_type(size_t exponent, size_t mantissa)
{
    hid_t type = H5Tcopy(H5T_IEEE_F32LE);
    size_t bias = ((size_t)1 << (exponent - 1)) - 1;

    if (type < 0) return type;
    if (H5Tset_fields(type, 15, mantissa, exponent, 0, mantissa) >= 0 &&
        H5Tset_size(type, 2) >= 0 && H5Tset_ebias(type, bias) >= 0)
        return type;
    H5Tclose(type);
    return -1;
}

static hid_t type_of(mp_dtype dtype)
{
    switch (dtype) {
    case MP_F64:
        return H5Tcopy(H5T_IEEE_F64LE);
    case MP_F32:
        return H5Tcopy(H5T_IEEE_F32LE);
    case MP_F16:
        return half_type(5, 10);
    case MP_BF16:
        return half_type(8, 7);
    case MP_I64:
        return H5Tcopy(H5T_STD_I64LE);
    case MP_I32:
        return H5Tcopy(H5T_STD_I32LE);
    case MP_I16:
        return H5Tcopy(H5T_STD_I16LE);
    case MP_I8:
        return H5Tcopy(H5T_STD_I8LE);
    case MP_U64:
        return H5Tcopy(H5T_STD_U64LE);
    case MP_U32:
        return H5Tcopy(H5T_STD_U32LE);
    case MP_U16:
        return H5Tcopy(H5T_STD_U16LE);
    case MP_U8:
        return H5Tcopy(H5T_STD_U8LE);
    default:
        return H5Tcreate(H5T_OPAQUE, mp_dtype_size(dtype)); /* a tag would stop h5py */
    }
}

mp_status mp_h5_type(mp_dtype dtype, hid_t *type)
{
    *type = type_of(dtype);
    return *type >= 0 ? MP_OK
                      : mp_h5_fail(MP_ERR_INTERNAL, mp_dtype_name(dtype), "making its type");
}
