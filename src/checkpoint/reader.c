/* A checkpoint as a source of tensors.
 *
 * HDF5 is asked once, at opening, what each file holds and where; the data sets are contiguous, so
 * the tensors are then read by their offsets, without the library: any range, from any number of
 * ranks. */
#include "mpress/checkpoint.h"

#include "journal.h"
#include "model_file.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "reader.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void mp_reader_close(void *self)
{
    mp_reader *r = self;

    if (r == NULL) return;
    for (int64_t f = 0; r->files != NULL && f < r->n_files; f++) {
        if (r->files[f].fd >= 0) close(r->files[f].fd);
        mp_free(r->files[f].path);
    }
    mp_free(r->files);
    for (int64_t i = 0; i < r->count; i++) mp_free((char *)r->tensors[i].info.name);
    mp_free(r->tensors);
    mp_free(r->dir);
    mp_free(r);
}

static const mp_tensor_info *reader_at(void *self, int64_t index)
{
    const mp_reader *r = self;

    return &r->tensors[index].info;
}

static mp_status reader_read(void *self, int64_t index, int64_t begin, int64_t length, void *to)
{
    const mp_reader *r = self;
    const mp_stored_tensor *t = &r->tensors[index];
    mp_stored_file *file = &r->files[t->file];
    int64_t bytes = mp_tensor_bytes(&t->info);

    if (begin < 0 || length < 0 || length > bytes || begin > bytes - length)
        return mp_fail(MP_ERR_INTERNAL, "%s: tensor \"%s\": %lld bytes at %lld, but it has %lld",
                       file->path, t->info.name, (long long)length, (long long)begin,
                       (long long)bytes);
    if (file->fd < 0) MP_TRY(mp_file_open(file->path, O_RDONLY, &file->fd));
    return mp_file_pread(file->fd, file->path, to, (size_t)length, (uint64_t)(t->offset + begin));
}

static void reader_prefetch(void *self, int64_t index)
{
    const mp_reader *r = self;
    const mp_stored_tensor *t = &r->tensors[index];
    mp_stored_file *file = &r->files[t->file];

    if (file->fd < 0 && mp_file_open(file->path, O_RDONLY, &file->fd) != MP_OK) return;
    (void)posix_fadvise(file->fd, t->offset, mp_tensor_bytes(&t->info), POSIX_FADV_WILLNEED);
}

/* Room for one more. */
static mp_status grow(mp_reader *r)
{
    int64_t room = r->room > 0 ? 2 * r->room : 256;
    mp_stored_tensor *larger = NULL;

    if (r->count < r->room) return MP_OK;
    MP_TRY(MP_NEW(larger, room, "the list of tensors"));
    if (r->count > 0) memcpy(larger, r->tensors, (size_t)r->count * sizeof *larger);
    mp_free(r->tensors);
    r->tensors = larger;
    r->room = room;
    return MP_OK;
}

/* Where the walk through a file is. */
typedef struct walk {
    mp_reader *r;
    int64_t file;
    const char *prefix; /* "model.layers.3." or "" */
    int is_block;
} walk;

static int ends_in(const char *name, const char *ending)
{
    size_t length = strlen(name), n = strlen(ending);

    return length > n && strcmp(name + length - n, ending) == 0;
}

/* Whether a data set of a block is asked for: masks belong to nobody. */
static int is_wanted(const mp_reader *r, const char *name)
{
    if (ends_in(name, ".mask")) return 0;
    return ends_in(name, ".in_sum2") == (r->what == MP_STATES);
}

/* What is kept with the linear map that packed codes belong to. */
static mp_status read_packing(hid_t group, const char *path, const char *name, mp_tensor_info *info)
{
    int64_t bits = 0;

    MP_TRY(mp_h5_get_int(group, path, "bits", &bits));
    MP_TRY(mp_h5_get_int(group, path, "group", &info->group));
    MP_TRY(mp_h5_get_int(group, path, "d_in", &info->columns));
    if (bits < 2 || bits > 8 || info->group < 0 || info->columns < 1 || info->columns > INT32_MAX ||
        (info->group > 0 && info->columns % info->group != 0))
        return mp_fail(MP_ERR_FORMAT,
                       "%s: \"%s\": %lld bits in groups of %lld of %lld columns, expected 2 to 8 "
                       "bits and a group that divides the columns",
                       path, name, (long long)bits, (long long)info->group,
                       (long long)info->columns);
    info->bits = (int)bits;
    return MP_OK;
}

/* Takes data set `name` ("self_attn.q_proj.weight") of a group into the list. */
static mp_status add_set(const walk *w, hid_t group, hid_t set, const char *name)
{
    mp_reader *r = w->r;
    const mp_stored_file *file = &r->files[w->file];
    mp_stored_tensor t = {.file = w->file};
    size_t length = strlen(name);
    char *full = NULL;
    int64_t bytes;

    if (w->is_block && !is_wanted(r, name)) return MP_OK;
    MP_TRY(mp_h5_describe(set, file->path, name, &t.info, &t.offset));
    if (w->is_block && ends_in(name, ".packed"))
        MP_TRY(read_packing(group, file->path, name, &t.info));
    bytes = mp_tensor_bytes(&t.info);
    if (t.offset > file->size - bytes)
        return mp_fail(MP_ERR_FORMAT,
                       "%s: tensor \"%s\": %lld bytes at %lld, but the file has %lld", file->path,
                       name, (long long)bytes, (long long)t.offset, (long long)file->size);
    MP_TRY(grow(r));
    MP_TRY(mp_alloc((void **)&full, (int64_t)(strlen(w->prefix) + length + 1), 1, 0, "a name"));
    sprintf(full, "%s%s", w->prefix, name);
    t.info.name = full;
    r->tensors[r->count++] = t;
    return MP_OK;
}

static mp_status walk_group(const walk *w, hid_t group, const char *group_name);

/* Member `member` of a group: a data set, or (at the top) a group of data sets. */
static mp_status add_member(const walk *w, hid_t group, const char *group_name, const char *member)
{
    const char *path = w->r->files[w->file].path;
    hid_t object = H5Oopen(group, member, H5P_DEFAULT);
    H5I_type_t type;
    char *name = NULL;
    mp_status st;

    if (object < 0) return mp_h5_fail(MP_ERR_FORMAT, path, "opening a member");
    type = H5Iget_type(object);
    MP_GO(mp_alloc((void **)&name, (int64_t)(strlen(group_name) + strlen(member) + 2), 1, 0,
                   "a name"));
    sprintf(name, "%s%s%s", group_name, group_name[0] != '\0' ? "." : "", member);
    if (type == H5I_DATASET)
        st = add_set(w, group, object, name);
    else if (type == H5I_GROUP && group_name[0] == '\0')
        st = walk_group(w, object, name);
    else
        st = mp_fail(MP_ERR_FORMAT, "%s: \"%s\" is no data set", path, name);
out:
    H5Oclose(object);
    mp_free(name);
    return st;
}

static mp_status walk_group(const walk *w, hid_t group, const char *group_name)
{
    const char *path = w->r->files[w->file].path;
    H5G_info_t info;

    if (H5Gget_info(group, &info) < 0) return mp_h5_fail(MP_ERR_FORMAT, path, "reading a group");
    for (hsize_t i = 0; i < info.nlinks; i++) {
        char member[1024];
        ssize_t length = H5Lget_name_by_idx(group, ".", H5_INDEX_NAME, H5_ITER_INC, i, member,
                                            sizeof member, H5P_DEFAULT);

        if (length < 0 || (size_t)length >= sizeof member)
            return mp_h5_fail(MP_ERR_FORMAT, path, "reading a name");
        MP_TRY(add_member(w, group, group_name, member));
    }
    return MP_OK;
}

static mp_status open_plain(mp_stored_file *file, int64_t bytes)
{
    struct stat info;

    MP_TRY(mp_file_open(file->path, O_RDONLY, &file->fd));
    if (fstat(file->fd, &info) != 0)
        return mp_fail(MP_ERR_IO, "%s: opening failed: %s", file->path, strerror(errno));
    file->size = info.st_size;
    if (file->size == bytes) return MP_OK;
    return mp_fail(MP_ERR_FORMAT, "%s: %lld bytes, expected the %lld of the journal", file->path,
                   (long long)file->size, (long long)bytes);
}

/* The tensors of one file, of `bytes` by the journal. */
static mp_status read_file(const walk *w, int64_t bytes)
{
    mp_stored_file *file = &w->r->files[w->file];
    hid_t h5 = -1;
    mp_status st;

    MP_TRY(open_plain(file, bytes));
    MP_TRY(mp_h5_open(file->path, &h5));
    st = mp_format_check(h5, file->path);
    if (st == MP_OK) st = walk_group(w, h5, "");
    return mp_h5_close(file->path, &h5, st);
}

static mp_status read_block(mp_reader *r, int64_t block, int64_t bytes)
{
    char prefix[256];
    const walk w = {.r = r, .file = block, .prefix = prefix, .is_block = 1};

    mp_arch_tensor_name(block, "", prefix);
    MP_TRY(mp_block_path(r->dir, block, &r->files[block].path));
    return read_file(&w, bytes);
}

static mp_status read_rest(mp_reader *r, const mp_journal *journal)
{
    const walk w = {.r = r, .file = r->n_files - 1, .prefix = ""};

    MP_TRY(mp_rest_path(r->dir, &r->files[w.file].path));
    return read_file(&w, mp_journal_bytes(journal, MP_REST_FILE));
}

static int by_name(const void *left, const void *right)
{
    return strcmp(((const mp_stored_tensor *)left)->info.name,
                  ((const mp_stored_tensor *)right)->info.name);
}

static mp_status sort_tensors(mp_reader *r)
{
    if (r->count == 0)
        return mp_fail(MP_ERR_FORMAT,
                       r->what == MP_STATES
                           ? "%s: the run has measured nothing: it was made without "
                             "--calib, or by an earlier version"
                           : "%s: no tensor in the checkpoint",
                       r->dir);
    qsort(r->tensors, (size_t)r->count, sizeof *r->tensors, by_name);
    for (int64_t i = 1; i < r->count; i++)
        if (by_name(&r->tensors[i - 1], &r->tensors[i]) == 0)
            return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%s\" is there twice, in %s and %s", r->dir,
                           r->tensors[i].info.name, r->files[r->tensors[i - 1].file].path,
                           r->files[r->tensors[i].file].path);
    return MP_OK;
}

static mp_status check_complete(const char *dir, int64_t n_blocks, const mp_journal *journal)
{
    int64_t first = -1, done = 0;

    for (int64_t b = 0; b < n_blocks; b++) {
        done += mp_journal_block(journal, b) >= 0;
        if (mp_journal_block(journal, b) < 0 && first < 0) first = b;
    }
    if (first >= 0)
        return mp_fail(
            MP_ERR_FORMAT,
            "%s: the run is not finished: %lld of %lld blocks are there, blocks/%05lld.h5 "
            "is missing",
            dir, (long long)done, (long long)n_blocks, (long long)first);
    if (mp_journal_bytes(journal, MP_REST_FILE) < 0)
        return mp_fail(MP_ERR_FORMAT, "%s: the journal does not name %s", dir, MP_REST_FILE);
    return MP_OK;
}

static mp_status read_all(mp_reader *r)
{
    mp_journal journal;
    int64_t n_blocks = 0;
    mp_status st;

    MP_TRY(mp_model_file_read(r->dir, &n_blocks, NULL));
    MP_TRY(mp_journal_read(r->dir, &journal));
    if (r->what != MP_BLOCKS) MP_GO(check_complete(r->dir, n_blocks, &journal));
    MP_GO(MP_NEW(r->files, n_blocks + 1, "the files of a checkpoint"));
    r->n_files = n_blocks + 1;
    for (int64_t f = 0; f < r->n_files; f++) r->files[f].fd = -1;
    for (int64_t b = 0; b < n_blocks; b++)
        if (mp_journal_block(&journal, b) >= 0)
            MP_GO(read_block(r, b, mp_journal_block(&journal, b)));
    if (r->what == MP_MODEL) MP_GO(read_rest(r, &journal));
    MP_GO(sort_tensors(r));
out:
    mp_journal_free(&journal);
    return st;
}

mp_status mp_reader_source(mp_reader *reader, mp_source **source)
{
    mp_source *made = NULL;

    MP_TRY(MP_NEW(made, 1, "a source of tensors"));
    *made = (mp_source){.self = reader,
                        .path = reader->dir,
                        .count = reader->count,
                        .at = reader_at,
                        .read = reader_read,
                        .prefetch = reader_prefetch,
                        .close = mp_reader_close};
    *source = made;
    return MP_OK;
}

mp_status mp_reader_open(const char *dir, mp_content what, mp_reader **reader)
{
    mp_reader *r = NULL;
    mp_status st;

    MP_GO(MP_NEW(r, 1, "a source of tensors"));
    MP_GO(mp_strdup(dir, &r->dir));
    r->what = what;
    MP_GO(read_all(r));
    *reader = r;
    r = NULL;
out:
    mp_reader_close(r);
    return st;
}

static mp_status open_source(const char *dir, mp_content what, mp_source **source)
{
    mp_reader *r = NULL;
    mp_status st;

    MP_TRY(mp_reader_open(dir, what, &r));
    st = mp_reader_source(r, source);
    if (st != MP_OK) mp_reader_close(r);
    return st;
}

mp_status mp_checkpoint_open(const char *dir, mp_source **source)
{
    return open_source(dir, MP_MODEL, source);
}

mp_status mp_checkpoint_open_blocks(const char *dir, mp_source **source)
{
    return open_source(dir, MP_BLOCKS, source);
}

mp_status mp_checkpoint_open_states(const char *dir, mp_source **source)
{
    return open_source(dir, MP_STATES, source);
}
