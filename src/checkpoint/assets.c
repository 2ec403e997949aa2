/* The files of a model directory that are not weights. */
#include "mpress/export.h"

#include "hf.h"
#include "mpress/fault.h"
#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>
#include <sys/stat.h>

static int ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), m = strlen(end);

    return n >= m && strcmp(name + n - m, end) == 0;
}

/* Weights in any format, and the indexes of their shards. */
static int is_weights(const char *name)
{
    static const char *const ends[] = {
        ".safetensors",
        ".bin",
        ".pth",
        ".pt",
        ".gguf",
        ".h5",
        ".msgpack",
        ".ckpt",
        ".onnx",
        ".safetensors.index.json",
        ".bin.index.json",
        ".h5.index.json",
        ".msgpack.index.json",
    };

    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++)
        if (ends_with(name, ends[i])) return 1;
    return 0;
}

/* Copies `name` if it is a regular file (a link to one counts: a hub cache is made of links). */
static mp_status copy_one(const char *from, const char *to, const char *name)
{
    char *source = NULL, *target = NULL;
    struct stat info;
    mp_status st;

    MP_GO(mp_path_join(from, name, &source));
    MP_GO(mp_path_join(to, name, &target));
    if (stat(source, &info) != 0)
        MP_GO(mp_fail(MP_ERR_IO, "%s: stat failed: %s", source, strerror(errno)));
    if (S_ISREG(info.st_mode)) MP_GO(mp_file_copy(source, target));
out:
    mp_free(source);
    mp_free(target);
    return st;
}

mp_status mp_assets_copy(const char *from, const char *to)
{
    const struct dirent *entry;
    mp_status st = MP_OK;
    DIR *dir = mp_fault(MP_FAULT_OPEN) ? NULL : opendir(from);

    if (dir == NULL) return mp_fail(MP_ERR_IO, "%s: opening failed: %s", from, strerror(errno));
    while (st == MP_OK && (entry = readdir(dir)) != NULL)
        if (entry->d_name[0] != '.' && !is_weights(entry->d_name))
            st = copy_one(from, to, entry->d_name);
    closedir(dir);
    return st;
}

mp_status mp_config_write(const char *dir, const json_t *config)
{
    char *text = NULL, *path = NULL;
    mp_status st;

    MP_GO(mp_json_dump(config, 0, &text));
    MP_GO(mp_path_join(dir, "config.json", &path));
    MP_GO(mp_file_write(path, text, strlen(text)));
out:
    mp_free(text);
    mp_free(path);
    return st;
}
