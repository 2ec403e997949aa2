/* Attributes of files, groups and data sets. */
#include "h5.h"

#include "mpress/fault.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>

/* Creates and writes a scalar attribute. */
static mp_status put(hid_t object, const char *path, const char *name, hid_t stored, hid_t given,
                     const void *value)
{
    hid_t space = H5Screate(H5S_SCALAR), attribute = -1;
    char doing[128];
    mp_status st = MP_OK;

    if (space >= 0 && !mp_fault(MP_FAULT_H5_CREATE))
        attribute = H5Acreate2(object, name, stored, space, H5P_DEFAULT, H5P_DEFAULT);
    if (attribute < 0 || H5Awrite(attribute, given, value) < 0) {
        snprintf(doing, sizeof doing, "writing attribute \"%.80s\"", name);
        st = mp_h5_fail(MP_ERR_IO, path, doing);
    }
    if (attribute >= 0) H5Aclose(attribute);
    if (space >= 0) H5Sclose(space);
    return st;
}

mp_status mp_h5_put_text(hid_t object, const char *path, const char *name, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1);
    mp_status st;

    if (type < 0 || H5Tset_size(type, strlen(text) + 1) < 0 || H5Tset_cset(type, H5T_CSET_UTF8) < 0)
        st = mp_h5_fail(MP_ERR_INTERNAL, path, "making the type of a text");
    else
        st = put(object, path, name, type, type, text);
    if (type >= 0) H5Tclose(type);
    return st;
}

mp_status mp_h5_put_int(hid_t object, const char *path, const char *name, int64_t value)
{
    return put(object, path, name, H5T_STD_I64LE, H5T_NATIVE_INT64, &value);
}

mp_status mp_h5_put_real(hid_t object, const char *path, const char *name, double value)
{
    return put(object, path, name, H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, &value);
}

static mp_status not_attribute(const char *path, const char *name, const char *expected)
{
    H5Eclear2(H5E_DEFAULT);
    return mp_fail(MP_ERR_FORMAT, "%s: attribute \"%s\" is missing or unreadable, expected %s",
                   path, name, expected);
}

/* Opens a scalar attribute of class `class`; -1 if it is not there or something else. */
static hid_t open_attribute(hid_t object, const char *name, H5T_class_t class)
{
    hid_t attribute, type, space;
    int fits;

    if (mp_fault(MP_FAULT_H5_READ) || H5Aexists(object, name) <= 0) return -1;
    attribute = H5Aopen(object, name, H5P_DEFAULT);
    if (attribute < 0) return -1;
    type = H5Aget_type(attribute);
    space = H5Aget_space(attribute);
    fits = type >= 0 && space >= 0 && H5Tget_class(type) == class &&
           H5Sget_simple_extent_npoints(space) == 1 && H5Tis_variable_str(type) <= 0;
    if (space >= 0) H5Sclose(space);
    if (type >= 0) H5Tclose(type);
    if (fits) return attribute;
    H5Aclose(attribute);
    return -1;
}

mp_status mp_h5_get_text(hid_t object, const char *path, const char *name, char **text)
{
    hid_t attribute = open_attribute(object, name, H5T_STRING), type = -1;
    char *made = NULL;
    mp_status st = MP_OK;

    if (attribute < 0) return not_attribute(path, name, "a text");
    type = H5Aget_type(attribute);
    if (type < 0) MP_GO(not_attribute(path, name, "a text"));
    MP_GO(MP_NEW(made, H5Tget_size(type) + 1, "an attribute"));
    if (H5Aread(attribute, type, made) < 0) MP_GO(not_attribute(path, name, "a text"));
    *text = made;
    made = NULL;
out:
    mp_free(made);
    if (type >= 0) H5Tclose(type);
    H5Aclose(attribute);
    return st;
}

mp_status mp_h5_get_int(hid_t object, const char *path, const char *name, int64_t *value)
{
    hid_t attribute = open_attribute(object, name, H5T_INTEGER);
    int64_t read = 0;
    int failed;

    if (attribute < 0) return not_attribute(path, name, "an integer");
    failed = H5Aread(attribute, H5T_NATIVE_INT64, &read) < 0;
    H5Aclose(attribute);
    if (failed) return not_attribute(path, name, "an integer");
    *value = read;
    return MP_OK;
}

mp_status mp_h5_get_real(hid_t object, const char *path, const char *name, double *value)
{
    hid_t attribute;
    double read = 0.0;
    int failed;

    if (H5Aexists(object, name) == 0) return MP_OK;
    attribute = open_attribute(object, name, H5T_FLOAT);
    if (attribute < 0) return not_attribute(path, name, "a number");
    failed = H5Aread(attribute, H5T_NATIVE_DOUBLE, &read) < 0;
    H5Aclose(attribute);
    if (failed) return not_attribute(path, name, "a number");
    *value = read;
    return MP_OK;
}
