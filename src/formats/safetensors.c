#include "mpress/safetensors.h"

#include "safetensors_file.h"

#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

static const char INDEX_NAME[] = "model.safetensors.index.json";
static const char SINGLE_NAME[] = "model.safetensors";

typedef struct directory {
    char *path;
    mp_safetensors_file *shards; /* [shard_count] */
    int64_t shard_count;
    mp_stored_tensor *tensors; /* [count], in the order of names */
    int64_t count;
} directory;

static void directory_close(void *self)
{
    directory *dir = self;

    if (dir == NULL) return;
    for (int64_t i = 0; dir->shards != NULL && i < dir->shard_count; i++)
        mp_safetensors_file_close(&dir->shards[i]);
    mp_free(dir->shards);
    mp_stored_tensors_free(dir->tensors, dir->count);
    mp_free(dir->path);
    mp_free(dir);
}

static int by_name(const void *left, const void *right)
{
    const mp_stored_tensor *a = left, *b = right;
    int order = strcmp(a->info.name, b->info.name);

    return order != 0 ? order : (a->shard > b->shard) - (a->shard < b->shard);
}

/* Reads all headers, and moves their tensors into one list in the order of names. */
static mp_status read_shards(directory *dir)
{
    int64_t total = 0;

    for (int64_t i = 0; i < dir->shard_count; i++) {
        MP_TRY(mp_safetensors_file_open(&dir->shards[i]));
        total += dir->shards[i].count;
    }
    MP_TRY(MP_NEW(dir->tensors, total, "the list of tensors"));
    for (int64_t i = 0; i < dir->shard_count; i++) {
        mp_safetensors_file *file = &dir->shards[i];

        for (int64_t j = 0; j < file->count; j++) {
            dir->tensors[dir->count] = file->tensors[j];
            dir->tensors[dir->count++].shard = i;
        }
        mp_free(file->tensors); /* the names have moved */
        file->tensors = NULL;
        file->count = 0;
    }
    qsort(dir->tensors, (size_t)dir->count, sizeof *dir->tensors, by_name);
    return MP_OK;
}

static mp_status add_shard(directory *dir, const char *name)
{
    mp_safetensors_file *file = &dir->shards[dir->shard_count];

    file->fd = -1;
    dir->shard_count++;
    return name != NULL ? mp_path_join(dir->path, name, &file->path)
                        : mp_strdup(dir->path, &file->path);
}

/* The files of a weight map, each once; numbers[file name] = index of the shard. */
static mp_status list_shards(json_t *map, const char *index, directory *dir, json_t *numbers)
{
    const char *name;
    json_t *value;

    MP_TRY(MP_NEW(dir->shards, json_object_size(map), "the list of shards"));
    json_object_foreach (map, name, value) {
        const char *file = json_string_value(value);

        if (file == NULL || file[0] == '\0' || strlen(file) != json_string_length(value) ||
            strchr(file, '/') != NULL || strcmp(file, "..") == 0 || strcmp(file, ".") == 0)
            return mp_fail(
                MP_ERR_FORMAT,
                "%s: tensor \"%.200s\" is mapped to \"%.200s\", expected the name of a file "
                "in the same directory",
                index, name, file != NULL ? file : "(not a string)");
        if (json_object_get(numbers, file) != NULL) continue;
        if (json_object_set_new(numbers, file, json_integer(dir->shard_count)) != 0)
            return mp_fail(MP_ERR_NOMEM, "%s: the list of shards: out of memory", index);
        MP_TRY(add_shard(dir, file));
    }
    return MP_OK;
}

/* Keeps exactly the tensors that the index names, each in the shard it names. */
static mp_status apply_map(json_t *map, const char *index, const json_t *numbers, directory *dir)
{
    const char *name;
    json_t *value;
    int64_t kept = 0;

    json_object_foreach (map, name, value) {
        const json_t *number = json_object_get(numbers, json_string_value(value));
        mp_stored_tensor key = {.info.name = name, .shard = json_integer_value(number)};
        mp_stored_tensor *found =
            bsearch(&key, dir->tensors, (size_t)dir->count, sizeof *dir->tensors, by_name);

        if (found == NULL)
            return mp_fail(MP_ERR_FORMAT, "%s: tensor \"%.200s\" should be in %s, but is not there",
                           index, name, json_string_value(value));
        found->listed = 1;
    }
    for (int64_t i = 0; i < dir->count; i++) {
        if (dir->tensors[i].listed)
            dir->tensors[kept++] = dir->tensors[i];
        else
            mp_free((char *)dir->tensors[i].info.name);
    }
    dir->count = kept;
    return MP_OK;
}

static mp_status open_sharded(const char *index, directory *dir)
{
    mp_status st = MP_OK;
    json_t *object = NULL, *numbers = json_object(), *map;

    MP_GO(mp_json_load(index, &object));
    map = json_object_get(object, "weight_map");
    if (json_object_size(map) == 0)
        MP_GO(mp_fail(MP_ERR_FORMAT, "%s: \"weight_map\" names no tensors, expected {name: file}",
                      index));
    MP_GO(list_shards(map, index, dir, numbers));
    MP_GO(read_shards(dir));
    MP_GO(apply_map(map, index, numbers, dir));
out:
    json_decref(object);
    json_decref(numbers);
    return st;
}

static mp_status open_single(const char *name, directory *dir)
{
    MP_TRY(MP_NEW(dir->shards, 1, "the list of shards"));
    MP_TRY(add_shard(dir, name));
    return read_shards(dir);
}

static mp_status open_any(directory *dir)
{
    mp_status st = MP_OK;
    char *single = NULL, *index = NULL;

    if (!mp_path_is_directory(dir->path)) return open_single(NULL, dir);
    MP_GO(mp_path_join(dir->path, SINGLE_NAME, &single));
    MP_GO(mp_path_join(dir->path, INDEX_NAME, &index));
    if (mp_path_exists(single))
        MP_GO(open_single(SINGLE_NAME, dir));
    else if (mp_path_exists(index))
        MP_GO(open_sharded(index, dir));
    else
        MP_GO(mp_fail(MP_ERR_IO, "%s: neither %s nor %s is there", dir->path, SINGLE_NAME,
                      INDEX_NAME));
out:
    mp_free(single);
    mp_free(index);
    return st;
}

static const mp_tensor_info *directory_at(void *self, int64_t index)
{
    const directory *dir = self;

    return &dir->tensors[index].info;
}

static mp_status directory_read(void *self, int64_t index, int64_t begin, int64_t length, void *to)
{
    const directory *dir = self;
    const mp_stored_tensor *t;
    const mp_safetensors_file *file;

    if (index < 0 || index >= dir->count)
        return mp_fail(MP_ERR_INTERNAL, "%s: tensor %lld of %lld", dir->path, (long long)index,
                       (long long)dir->count);
    t = &dir->tensors[index];
    file = &dir->shards[t->shard];
    if (begin < 0 || length < 0 || begin > t->end - t->begin - length)
        return mp_fail(MP_ERR_INTERNAL, "%s: tensor \"%s\": %lld bytes at %lld, but it has %lld",
                       file->path, t->info.name, (long long)length, (long long)begin,
                       (long long)(t->end - t->begin));
    return mp_file_pread(file->fd, file->path, to, (size_t)length,
                         (uint64_t)(file->data + t->begin + begin));
}

static void directory_prefetch(void *self, int64_t index)
{
    const directory *dir = self;
    const mp_stored_tensor *t = &dir->tensors[index];
    const mp_safetensors_file *file = &dir->shards[t->shard];

    (void)posix_fadvise(file->fd, file->data + t->begin, t->end - t->begin, POSIX_FADV_WILLNEED);
}

mp_status mp_safetensors_open(const char *path, mp_source **source)
{
    mp_status st = MP_OK;
    directory *dir = NULL;
    mp_source *made = NULL;

    MP_GO(MP_NEW(made, 1, "a source of tensors"));
    MP_GO(MP_NEW(dir, 1, "a source of tensors"));
    MP_GO(mp_strdup(path, &dir->path));
    MP_GO(open_any(dir));
    *made = (mp_source){.self = dir,
                        .path = dir->path,
                        .count = dir->count,
                        .at = directory_at,
                        .read = directory_read,
                        .prefetch = directory_prefetch,
                        .close = directory_close};
    *source = made;
    made = NULL;
    dir = NULL;
out:
    mp_free(made);
    directory_close(dir);
    return st;
}
