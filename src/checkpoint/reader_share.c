/* One rank's list of a checkpoint's tensors, told to the others. */
#include "journal.h"
#include "mpress/memory.h"
#include "mpress/remote.h"
#include "reader.h"

#include <string.h>

/* What is sent: the sizes of the files, -1 for one that is not there; the tensors; their names, one after
 * another. */
typedef struct parcel {
    char *bytes; /* owned */
    size_t length;
    int64_t count[2]; /* of files and of tensors */
} parcel;

static mp_status pack(const mp_reader *r, parcel *p)
{
    int64_t *sizes;
    mp_stored_tensor *tensors;
    char *text;

    p->count[0] = r->n_files;
    p->count[1] = r->count;
    p->length = (size_t)r->n_files * sizeof *sizes + (size_t)r->count * sizeof *tensors;
    for (int64_t i = 0; i < r->count; i++) p->length += strlen(r->tensors[i].info.name) + 1;
    MP_TRY(mp_alloc((void **)&p->bytes, (int64_t)p->length, 1, 0, "the list of tensors"));
    sizes = (int64_t *)p->bytes;
    tensors = (mp_stored_tensor *)(sizes + r->n_files);
    text = (char *)(tensors + r->count);
    for (int64_t f = 0; f < r->n_files; f++)
        sizes[f] = r->files[f].path != NULL ? r->files[f].size : -1;
    for (int64_t i = 0; i < r->count; i++) {
        tensors[i] = r->tensors[i];
        text = stpcpy(text, r->tensors[i].info.name) + 1;
    }
    return MP_OK;
}

static mp_status unpack_files(const int64_t *sizes, mp_reader *r)
{
    for (int64_t f = 0; f < r->n_files; f++) {
        mp_stored_file *file = &r->files[f];

        file->size = sizes[f];
        if (file->size < 0) continue;
        MP_TRY(f + 1 < r->n_files ? mp_block_path(r->dir, f, &file->path)
                                  : mp_rest_path(r->dir, &file->path));
    }
    return MP_OK;
}

static mp_status unpack(const parcel *p, mp_reader *r)
{
    const int64_t n_files = p->count[0], count = p->count[1], *sizes = (int64_t *)p->bytes;
    const mp_stored_tensor *tensors = (const mp_stored_tensor *)(sizes + n_files);
    const char *text = (const char *)(tensors + count);

    MP_TRY(MP_NEW(r->files, n_files, "the files of a checkpoint"));
    r->n_files = n_files;
    for (int64_t f = 0; f < n_files; f++) r->files[f].fd = -1;
    MP_TRY(unpack_files(sizes, r));
    MP_TRY(MP_NEW(r->tensors, count, "the list of tensors"));
    for (r->room = count; r->count < count; r->count++) {
        char *name = NULL;

        MP_TRY(mp_strdup(text, &name));
        r->tensors[r->count] = tensors[r->count];
        r->tensors[r->count].info.name = name;
        text += strlen(text) + 1;
    }
    return MP_OK;
}

static mp_status take(const parcel *p, const char *dir, mp_content what, mp_reader **reader)
{
    mp_reader *r = NULL;
    mp_status st;

    MP_GO(MP_NEW(r, 1, "a source of tensors"));
    r->what = what;
    MP_GO(mp_strdup(dir, &r->dir));
    MP_GO(unpack(p, r));
    *reader = r;
    r = NULL;
out:
    mp_reader_close(r);
    return st;
}

mp_status mp_reader_share(const mp_comm *comm, const char *dir, mp_content what, mp_reader **reader)
{
    mp_reader *r = NULL;
    parcel p = {.bytes = NULL};
    mp_status st = MP_OK;

    if (comm->rank == 0) {
        st = mp_reader_open(dir, what, &r);
        if (st == MP_OK) st = pack(r, &p);
    }
    MP_GO(mp_remote_bytes(comm, st, &p.bytes, &p.length));
    MP_GO(mp_comm_tell(comm, p.count, sizeof p.count, 0));
    MP_GO(mp_comm_agree(comm, comm->rank != 0 ? take(&p, dir, what, &r) : MP_OK));
    *reader = r;
    r = NULL;
out:
    mp_reader_close(r);
    mp_free(p.bytes);
    return st;
}
