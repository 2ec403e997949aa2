#include "model_file.h"

#include "journal.h"
#include "mpress/checkpoint.h"
#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"
#include "writer.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char MODEL_NAME[] = "model.h5";

enum { MOST_BLOCKS = 1 << 20 }; /* a number that only a damaged file exceeds */

/* A link `name` in `group` to `target` of another file. */
static mp_status link_to(hid_t group, const char *path, const char *name, const char *other,
                         const char *target)
{
    if (H5Lcreate_external(other, target, group, name, H5P_DEFAULT, H5P_DEFAULT) >= 0) return MP_OK;
    return mp_h5_fail(MP_ERR_IO, path, "making a link");
}

/* A link to a tensor of rest.h5.  Its group is made by hand, because HDF5 would give it a time.  A
 * tensor that hangs on a block ("model.layers.3.scale") cannot be a member of the group that is a
 * link to the block's file: it is linked at the top, under its full name. */
static mp_status link_tensor(hid_t file, const char *path, const char *name)
{
    char *place = NULL, *group_name = NULL, *slash;
    hid_t group = -1;
    mp_status st;

    MP_GO(mp_h5_place(name, &place));
    MP_GO(mp_strdup(place, &group_name));
    slash = strchr(group_name, '/');
    if (slash == NULL || strncmp(name, "model.layers.", 13) == 0) {
        MP_GO(link_to(file, path, name, "blocks/rest.h5", place));
    } else {
        *slash = '\0';
        MP_GO(mp_h5_group(file, path, group_name, &group));
        MP_GO(link_to(group, path, slash + 1, "blocks/rest.h5", place));
    }
out:
    if (group >= 0) H5Gclose(group);
    mp_free(group_name);
    mp_free(place);
    return st;
}

/* What the layout needs. */
typedef struct contents {
    int64_t n_blocks;
    const mp_source *source;
    const mp_rest *rest;
    const char *run;
} contents;

static mp_status link_all(hid_t file, const char *path, const contents *c)
{
    char place[64], other[64];

    for (int64_t b = 0; b < c->n_blocks; b++) {
        snprintf(place, sizeof place, "model.layers.%lld", (long long)b);
        snprintf(other, sizeof other, MP_BLOCK_FILE, (long long)b);
        MP_TRY(link_to(file, path, place, other, "/"));
    }
    for (int64_t i = 0; i < c->rest->count; i++)
        MP_TRY(link_tensor(file, path, c->source->at(c->source->self, c->rest->index[i])->name));
    return MP_OK;
}

static mp_status lay_out_model(hid_t file, const char *path, const void *context)
{
    const contents *c = context;

    MP_TRY(mp_h5_put_int(file, path, "format", MP_CHECKPOINT_FORMAT));
    MP_TRY(mp_h5_put_int(file, path, "blocks", c->n_blocks));
    MP_TRY(mp_h5_put_text(file, path, "run", c->run));
    return link_all(file, path, c);
}

static mp_status write_file(const mp_owner *owner, const char *path, const contents *c)
{
    enum { LINK_ROOM = 1 << 12 }; /* a link and the group it may need: under 1 KiB */
    int64_t room =
        MP_H5_EMPTY_ROOM + 2 * (int64_t)strlen(c->run) + (c->n_blocks + c->rest->count) * LINK_ROOM;
    char *temporary = NULL;
    mp_status st;

    MP_TRY(mp_alloc((void **)&temporary, (int64_t)strlen(path) + 5, 1, 0, "a path"));
    sprintf(temporary, "%s.tmp", path);
    st = mp_writer_lay_out(temporary, room, lay_out_model, c);
    if (st == MP_OK)
        st = mp_writer_rename(owner, temporary, path);
    else
        unlink(temporary);
    mp_free(temporary);
    return st;
}

mp_status mp_model_file_write(const mp_owner *owner, int64_t n_blocks, const mp_source *source,
                              const mp_rest *rest, const json_t *run)
{
    char *path = NULL, *text = NULL;
    mp_status st;

    MP_GO(mp_path_join(owner->dir, MODEL_NAME, &path));
    MP_GO(mp_json_dump(run, 1, &text));
    {
        const contents c = {n_blocks, source, rest, text};

        MP_GO(write_file(owner, path, &c));
    }
out:
    mp_free(text);
    mp_free(path);
    return st;
}

mp_status mp_format_check(hid_t file, const char *path)
{
    int64_t format = 0;

    MP_TRY(mp_h5_get_int(file, path, "format", &format));
    if (format == MP_CHECKPOINT_FORMAT) return MP_OK;
    return mp_fail(MP_ERR_FORMAT, "%s: checkpoint format %lld, expected %d", path,
                   (long long)format, MP_CHECKPOINT_FORMAT);
}

static mp_status read_attributes(hid_t file, const char *path, int64_t *n_blocks, json_t **run)
{
    char *text = NULL;
    mp_status st;

    MP_TRY(mp_format_check(file, path));
    MP_TRY(mp_h5_get_int(file, path, "blocks", n_blocks));
    if (*n_blocks < 1 || *n_blocks > MOST_BLOCKS)
        return mp_fail(MP_ERR_FORMAT, "%s: attribute \"blocks\" is %lld, expected 1 to %d", path,
                       (long long)*n_blocks, MOST_BLOCKS);
    if (run == NULL) return MP_OK;
    MP_TRY(mp_h5_get_text(file, path, "run", &text));
    st = mp_json_parse(text, strlen(text), path, run);
    mp_free(text);
    return st;
}

mp_status mp_model_file_read(const char *dir, int64_t *n_blocks, json_t **run)
{
    char *path = NULL;
    hid_t file = -1;
    mp_status st;

    MP_TRY(mp_path_join(dir, MODEL_NAME, &path));
    st = mp_h5_open(path, &file);
    if (st == MP_OK) st = read_attributes(file, path, n_blocks, run);
    st = mp_h5_close(path, &file, st);
    mp_free(path);
    return st;
}
