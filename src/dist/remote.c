#include "mpress/remote.h"

#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"

#include <string.h>

enum { JSON_LIMIT = 16 << 20 };

mp_status mp_remote_bytes(const mp_comm *comm, mp_status mine, char **bytes, size_t *length)
{
    mp_status st = MP_OK;

    MP_TRY(mp_comm_agree(comm, mine));
    MP_TRY(mp_comm_tell(comm, length, sizeof *length, 0));
    if (comm->rank != 0)
        st = mp_alloc((void **)bytes, (int64_t)*length + 1, 1, 1, "what rank 0 has read");
    MP_TRY(mp_comm_agree(comm, st));
    return mp_comm_tell(comm, *bytes, *length, 0);
}

mp_status mp_remote_json(const mp_comm *comm, const char *path, json_t **object)
{
    json_t *made = NULL;
    char *text = NULL;
    size_t length = 0;
    mp_status st = MP_OK;

    if (comm->rank == 0) st = mp_file_read(path, JSON_LIMIT, &text, &length);
    MP_GO(mp_remote_bytes(comm, st, &text, &length));
    MP_GO(mp_comm_agree(comm, mp_json_parse(text, length, path, &made)));
    *object = made;
    made = NULL;
out:
    json_decref(made);
    mp_free(text);
    return st;
}

/* The list of tensors of a source elsewhere: their descriptions, then the path and all names, one after
 * another in the same buffer. */
typedef struct list {
    int64_t count;
    mp_tensor_info *infos; /* owned, with the names behind it */
} list;

static void list_close(void *self)
{
    list *l = self;

    if (l == NULL) return;
    mp_free(l->infos);
    mp_free(l);
}

static const mp_tensor_info *list_at(void *self, int64_t index)
{
    const list *l = self;

    return &l->infos[index];
}

static mp_status list_read(void *self, int64_t index, int64_t begin, int64_t length, void *to)
{
    const list *l = self;

    (void)begin;
    (void)length;
    (void)to;
    return mp_fail(MP_ERR_INTERNAL, "tensor \"%s\": rank 0 alone can read it",
                   l->infos[index].name);
}

/* Where the names begin. */
static char *texts_of(mp_tensor_info *infos, int64_t count)
{
    return (char *)(infos + count);
}

/* Rank 0: the list as it is sent. */
static mp_status pack(const mp_source *source, char **bytes, size_t *length)
{
    mp_tensor_info *infos;
    char *text;

    *length = (size_t)source->count * sizeof *infos + strlen(source->path) + 1;
    for (int64_t i = 0; i < source->count; i++)
        *length += strlen(source->at(source->self, i)->name) + 1;
    MP_TRY(mp_alloc((void **)bytes, (int64_t)*length, 1, 0, "the list of tensors"));
    infos = (mp_tensor_info *)*bytes;
    text = stpcpy(texts_of(infos, source->count), source->path) + 1;
    for (int64_t i = 0; i < source->count; i++) {
        infos[i] = *source->at(source->self, i);
        text = stpcpy(text, infos[i].name) + 1;
    }
    return MP_OK;
}

/* The others: the names are where they are now. */
static mp_status unpack(mp_tensor_info *infos, int64_t count, mp_source **source)
{
    const char *path = texts_of(infos, count), *text = path + strlen(path) + 1;
    mp_source *made = NULL;
    list *l = NULL;
    mp_status st;

    MP_GO(MP_NEW(l, 1, "a list of tensors"));
    MP_GO(MP_NEW(made, 1, "a source of tensors"));
    for (int64_t i = 0; i < count; i++) {
        infos[i].name = text;
        text += strlen(text) + 1;
    }
    *l = (list){count, infos};
    *made = (mp_source){.self = l,
                        .path = path,
                        .count = count,
                        .readers = MP_READ_BY_ROOT,
                        .at = list_at,
                        .read = list_read,
                        .close = list_close};
    *source = made;
    return MP_OK;
out:
    mp_free(l);
    return st;
}

mp_status mp_remote_source(const mp_comm *comm, mp_source **source)
{
    mp_source *made = NULL;
    char *bytes = NULL;
    size_t length = 0;
    int64_t count = comm->rank == 0 ? (*source)->count : 0;
    mp_status st = comm->rank == 0 ? pack(*source, &bytes, &length) : MP_OK;

    MP_GO(mp_remote_bytes(comm, st, &bytes, &length));
    MP_GO(mp_comm_tell(comm, &count, sizeof count, 0));
    if (comm->rank != 0) {
        st = unpack((mp_tensor_info *)bytes, count, &made);
        if (st == MP_OK) bytes = NULL;
    }
    MP_GO(mp_comm_agree(comm, st));
    if (comm->rank == 0)
        (*source)->readers = MP_READ_BY_ROOT;
    else
        *source = made;
    made = NULL;
out:
    mp_source_close(&made);
    mp_free(bytes);
    return st;
}

void mp_remote_share(const mp_comm *comm, const mp_source *source, int64_t count, int64_t *begin,
                     int64_t *end)
{
    const int readers = source->readers == MP_READ_BY_ROOT ? 1 : comm->size;

    mp_share(count, 1, comm->rank, readers, begin, end); /* nothing from `readers` on */
}
