#include "share.h"

#include "mpress/fileio.h"
#include "mpress/json.h"
#include "mpress/memory.h"
#include "mpress/remote.h"

#include <string.h>

mp_status mp_share_json(const mp_comm *comm, json_t **value)
{
    json_t *wrapped = NULL;
    char *text = NULL;
    size_t length = 0;
    mp_status st = MP_OK;

    if (comm->rank == 0) {
        wrapped = json_pack("{s:O}", "value", *value);
        st = mp_json_dump(wrapped, 1, &text);
        length = text != NULL ? strlen(text) : 0;
        json_decref(wrapped);
        wrapped = NULL;
    }
    MP_GO(mp_remote_bytes(comm, st, &text, &length));
    MP_GO(mp_comm_agree(comm, mp_json_parse(text, length, "a value for all ranks", &wrapped)));
    json_decref(*value);
    *value = json_incref(json_object_get(wrapped, "value"));
out:
    json_decref(wrapped);
    mp_free(text);
    return st;
}

mp_status mp_journal_share(const mp_comm *comm, const char *dir, mp_journal *journal)
{
    char *path = NULL, *text = NULL;
    size_t length = 0;
    mp_status st;

    *journal = (mp_journal){.hidden = -1};
    MP_GO(mp_comm_agree(comm, mp_journal_path(dir, &path)));
    st = comm->rank == 0 ? mp_file_read(path, MP_JOURNAL_LIMIT, &text, &length) : MP_OK;
    MP_GO(mp_remote_bytes(comm, st, &text, &length));
    MP_GO(mp_comm_agree(comm, mp_journal_parse(path, text, length, journal)));
out:
    mp_free(text);
    mp_free(path);
    return st;
}
