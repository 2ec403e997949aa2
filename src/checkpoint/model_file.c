#include "model_file.h"

#include "journal.h"
#include "mpress/checkpoint.h"
#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char MODEL_NAME[] = "model.h5";

enum { MOST_BLOCKS = 1 << 20 }; /* a number that only a damaged file exceeds */

/* A link at `place` (below the groups it names, which are made) to `target` of another file. */
static mp_status link_to(hid_t file, const char *path, const char *place, const char *other,
                         const char *target)
{
    hid_t list = H5Pcreate(H5P_LINK_CREATE);
    int failed = list < 0 || H5Pset_create_intermediate_group(list, 1) < 0 ||
                 H5Lcreate_external(other, target, file, place, list, H5P_DEFAULT) < 0;

    if (list >= 0) H5Pclose(list);
    return failed ? mp_h5_fail(MP_ERR_IO, path, "making a link") : MP_OK;
}

/* A tensor that hangs on a block itself ("model.layers.3.scale") cannot be a member of the group that
 * is a link to the block's file: it is linked at the top, under its full name. */
static mp_status link_tensor(hid_t file, const char *path, const char *name)
{
    char *place = NULL;
    mp_status st;

    MP_TRY(mp_h5_place(name, &place));
    st = link_to(file, path, strncmp(name, "model.layers.", 13) == 0 ? name : place, "blocks/rest.h5",
                 place);
    mp_free(place);
    return st;
}

static mp_status link_all(hid_t file, const char *path, int64_t n_blocks, const mp_source *source,
                          const mp_rest *rest)
{
    char place[64], other[64];

    for (int64_t b = 0; b < n_blocks; b++) {
        snprintf(place, sizeof place, "model.layers.%lld", (long long)b);
        snprintf(other, sizeof other, MP_BLOCK_FILE, (long long)b);
        MP_TRY(link_to(file, path, place, other, "/"));
    }
    for (int64_t i = 0; i < rest->count; i++)
        MP_TRY(link_tensor(file, path, source->at(source->self, rest->index[i])->name));
    return MP_OK;
}

static mp_status put_attributes(hid_t file, const char *path, int64_t n_blocks, const json_t *run)
{
    char *text = NULL;
    mp_status st;

    MP_TRY(mp_json_dump(run, 1, &text));
    MP_GO(mp_h5_put_int(file, path, "format", MP_CHECKPOINT_FORMAT));
    MP_GO(mp_h5_put_int(file, path, "blocks", n_blocks));
    MP_GO(mp_h5_put_text(file, path, "run", text));
out:
    mp_free(text);
    return st;
}

mp_status mp_model_file_write(const char *dir, int64_t n_blocks, const mp_source *source,
                              const mp_rest *rest, const json_t *run)
{
    char *path = NULL, *temporary = NULL;
    hid_t file = -1;
    mp_status st;

    MP_GO(mp_path_join(dir, MODEL_NAME, &path));
    MP_GO(mp_path_join(dir, "model.h5.tmp", &temporary));
    MP_GO(mp_h5_create(temporary, &file));
    MP_GO(put_attributes(file, temporary, n_blocks, run));
    MP_GO(link_all(file, temporary, n_blocks, source, rest));
    MP_GO(mp_h5_close(temporary, &file, MP_OK));
    MP_GO(mp_file_commit(temporary, path));
out:
    if (file >= 0) (void)mp_h5_close(temporary, &file, st);
    if (st != MP_OK && temporary != NULL) unlink(temporary);
    mp_free(path);
    mp_free(temporary);
    return st;
}

mp_status mp_format_check(hid_t file, const char *path)
{
    int64_t format = 0;

    MP_TRY(mp_h5_get_int(file, path, "format", &format));
    if (format == MP_CHECKPOINT_FORMAT) return MP_OK;
    return mp_fail(MP_ERR_FORMAT, "%s: checkpoint format %lld, expected %d", path, (long long)format,
                   MP_CHECKPOINT_FORMAT);
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
