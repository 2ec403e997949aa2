#include "mpress/hidden.h"

#include "mpress/memory.h"
#include "mpress/weights.h"

mp_status mp_hidden_create(const mp_comm *comm, int64_t n_sequences, int64_t n_tokens,
                           int64_t width, mp_hidden **hidden)
{
    mp_hidden *h = NULL;
    mp_status st;

    MP_GO(MP_NEW(h, 1, "hidden states"));
    h->n_sequences = n_sequences;
    h->n_tokens = n_tokens;
    h->width = width;
    h->local = (n_sequences - comm->rank + comm->size - 1) / comm->size;
    h->rounds = (n_sequences + comm->size - 1) / comm->size;
    MP_GO(MP_NEW(h->states, h->local * n_tokens * width, "hidden states"));
out:
    st = mp_comm_agree(comm, st);
    if (st != MP_OK) {
        mp_hidden_free(h);
        return st;
    }
    *hidden = h;
    return MP_OK;
}

void mp_hidden_free(mp_hidden *hidden)
{
    if (hidden == NULL) return;
    mp_free(hidden->states);
    mp_free(hidden);
}

float *mp_hidden_sequence(const mp_hidden *hidden, int64_t local)
{
    return hidden->states + local * hidden->n_tokens * hidden->width;
}

int mp_hidden_active(const mp_hidden *hidden, const mp_comm *comm, int64_t round)
{
    int64_t left = hidden->n_sequences - round * comm->size;

    return left < comm->size ? (int)left : comm->size;
}

static int owner_of(const mp_comm *comm, int64_t sequence)
{
    return (int)(sequence % comm->size);
}

static size_t sequence_bytes(int64_t n_tokens, int64_t width)
{
    return (size_t)(n_tokens * width) * sizeof(float);
}

mp_status mp_hidden_embed_dry(const mp_comm *comm, int64_t n_sequences, int64_t n_tokens,
                              int64_t width)
{
    for (int64_t s = 0; s < n_sequences && comm->rank == 0; s++)
        if (owner_of(comm, s) != 0)
            MP_TRY(mp_comm_send(comm, NULL, sequence_bytes(n_tokens, width), owner_of(comm, s)));
    return MP_OK;
}

/* A window that cannot be embedded is sent all the same: the others are waiting for it, and learn of
 * the failure when all agree at the end. */
static mp_status embed_and_send(const mp_comm *comm, const mp_source *source, const int32_t *tokens,
                                mp_hidden *h)
{
    int64_t size = h->n_tokens * h->width;
    float *window = NULL;
    mp_status st, sent;

    st = MP_NEW(window, size, "embedding of one window");
    for (int64_t s = 0; s < h->n_sequences; s++) {
        int owner = owner_of(comm, s);
        float *to = owner == 0 ? mp_hidden_sequence(h, s / comm->size) : window;

        if (st == MP_OK)
            st =
                mp_weights_gather(source, MP_EMBED_NAME, tokens + s * h->n_tokens, h->n_tokens, to);
        if (owner == 0) continue;
        sent = mp_comm_send(comm, window != NULL ? window : h->states,
                            sequence_bytes(h->n_tokens, h->width), owner);
        if (sent != MP_OK) st = sent;
    }
    mp_free(window);
    return st;
}

mp_status mp_hidden_embed(const mp_comm *comm, const mp_source *source, const int32_t *tokens,
                          mp_hidden *hidden)
{
    size_t bytes = sequence_bytes(hidden->n_tokens, hidden->width);
    mp_status st = MP_OK;

    if (comm->rank == 0)
        st = embed_and_send(comm, source, tokens, hidden);
    else
        for (int64_t i = 0; i < hidden->local && st == MP_OK; i++)
            st = mp_comm_receive(comm, mp_hidden_sequence(hidden, i), bytes, 0);
    return mp_comm_agree(comm, st);
}
