#include "mpress/probe.h"

#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/rng.h"

#include <math.h>

struct mp_probe {
    const mp_comm *comm;
    int64_t n;
    int64_t begin, end; /* the vectors that this rank adds up */
    double *images;     /* [end - begin][2][n]: H z, then P z */
};

struct mp_probe_room {
    int64_t widest;
    float
        *signs; /* [MP_PROBES][widest] the vectors; those of fewer channels are their beginnings */
    float *projected; /* [max_tokens][MP_PROBES] x_t . z */
    float *factors;   /* [max_tokens][MP_PROBES][2] of x_t in H z and in P z */
    float *product;   /* [MP_PROBES][2][n] images of one sequence */
    float *receive;   /* this rank's vectors of all ranks' sequences (several ranks only) */
    mp_exchange *exchange;
};

/* Signs from the bits of a counter: 128 channels of a vector to each value of it. */
static void draw_signs(int vector, int64_t count, float *signs)
{
    static const uint32_t key[2] = {0x243f6a88, 0x85a308d3}; /* of pi: nothing up the sleeve */
    uint32_t words[4] = {0};

    for (int64_t i = 0; i < count; i++) {
        const uint32_t counter[4] = {(uint32_t)(i / 128), (uint32_t)vector, 0, 0};

        if (i % 128 == 0) mp_philox(key, counter, words);
        signs[i * MP_PROBES + vector] = words[i % 128 / 32] >> (i % 32) & 1 ? 1.0f : -1.0f;
    }
}

mp_status mp_probe_room_create(const mp_comm *comm, int64_t widest, int64_t max_tokens,
                               mp_probe_room **room)
{
    mp_probe_room *r = NULL;
    int64_t begin, end;
    mp_status st;

    mp_share(MP_PROBES, 1, comm->rank, comm->size, &begin, &end);
    MP_GO(MP_NEW(r, 1, "buffers of the probes"));
    MP_GO(MP_NEW_RAW(r->signs, MP_PROBES * widest, "vectors of signs"));
    MP_GO(MP_NEW_RAW(r->projected, max_tokens * MP_PROBES, "projected tokens"));
    MP_GO(MP_NEW_RAW(r->factors, max_tokens * MP_PROBES * 2, "projected tokens"));
    MP_GO(MP_NEW_RAW(r->product, MP_PROBES * 2 * widest, "images of one sequence"));
    if (comm->size > 1) {
        MP_GO(MP_NEW_RAW(r->receive, comm->size * (end - begin) * 2 * widest,
                         "images of several sequences"));
        MP_GO(mp_exchange_create(comm, &r->exchange));
    }
    for (int v = 0; v < MP_PROBES; v++) draw_signs(v, widest, r->signs);
    *room = r;
    return MP_OK;
out:
    mp_probe_room_free(r);
    return st;
}

void mp_probe_room_free(mp_probe_room *room)
{
    if (room == NULL) return;
    mp_free(room->signs);
    mp_free(room->projected);
    mp_free(room->factors);
    mp_free(room->product);
    mp_free(room->receive);
    mp_exchange_free(room->exchange);
    mp_free(room);
}

mp_status mp_probe_create(const mp_comm *comm, int64_t n, mp_probe **probe)
{
    mp_probe *p = NULL;
    mp_status st;

    MP_GO(MP_NEW(p, 1, "probes of a second moment"));
    p->comm = comm;
    p->n = n;
    mp_share(MP_PROBES, 1, comm->rank, comm->size, &p->begin, &p->end);
    MP_GO(MP_NEW(p->images, (p->end - p->begin) * 2 * n, "images of the probes"));
    *probe = p;
    return MP_OK;
out:
    mp_probe_free(p);
    return st;
}

void mp_probe_free(mp_probe *probe)
{
    if (probe == NULL) return;
    mp_free(probe->images);
    mp_free(probe);
}

/* H z and P z of one sequence alone, for all vectors. */
static mp_status project(const mp_probe *p, mp_probe_room *room, const float *x, int64_t n_tokens,
                         const float *weights)
{
    MP_TRY(mp_sgemm(0, 0, n_tokens, MP_PROBES, p->n, 1.0f, x, p->n, room->signs, MP_PROBES, 0.0f,
                    room->projected, MP_PROBES));
    for (int64_t i = 0; i < n_tokens * MP_PROBES; i++) {
        room->factors[2 * i] = weights[i / MP_PROBES] * room->projected[i];
        room->factors[2 * i + 1] = room->projected[i];
    }
    return mp_sgemm(1, 0, 2 * MP_PROBES, p->n, n_tokens, 1.0f, room->factors, 2 * MP_PROBES, x,
                    p->n, 0.0f, room->product, p->n);
}

static void add(mp_probe *p, const float *from)
{
    for (int64_t i = 0; i < (p->end - p->begin) * 2 * p->n; i++) p->images[i] += (double)from[i];
}

/* Every rank's images to the ranks that add them up, in the order of the sequences. */
static mp_status merge(mp_probe *p, mp_probe_room *room, int active)
{
    const mp_comm *comm = p->comm;
    mp_exchange *e = room->exchange;

    for (int r = 0; r < comm->size; r++) {
        int64_t begin, end;

        mp_share(MP_PROBES, 1, r, comm->size, &begin, &end);
        e->send_counts[r] = comm->rank < active ? (int)((end - begin) * 2 * p->n) : 0;
        e->receive_counts[r] = r < active ? (int)((p->end - p->begin) * 2 * p->n) : 0;
    }
    MP_TRY(mp_exchange_ready(comm, e));
    MP_TRY(mp_comm_exchange(comm, e, MPI_FLOAT, room->product, room->receive));
    for (int r = 0; r < active; r++) add(p, room->receive + e->receive_starts[r]);
    return MP_OK;
}

mp_status mp_probe_add(mp_probe *p, mp_probe_room *room, int active, const float *x,
                       int64_t n_tokens, const float *weights)
{
    if (p->comm->rank < active) MP_TRY(project(p, room, x, n_tokens, weights));
    if (p->comm->size > 1) return merge(p, room, active);
    add(p, room->product);
    return MP_OK;
}

/* |H z|^2, (H z) . (P z), |P z|^2 of one vector, or their sums. */
typedef struct products {
    double hh, hp, pp;
} products;

static double dot(int64_t n, const double *a, const double *b)
{
    double sum = 0.0;

    for (int64_t i = 0; i < n; i++) sum += a[i] * b[i];
    return sum;
}

/* The distance by all vectors but `left_out` (-1: by all). */
static double estimate(const products *of, int left_out)
{
    products sum = {0.0, 0.0, 0.0};
    double c;

    for (int v = 0; v < MP_PROBES; v++) {
        if (v == left_out) continue;
        sum.hh += of[v].hh;
        sum.hp += of[v].hp;
        sum.pp += of[v].pp;
    }
    if (!(sum.hh > 0.0 && sum.pp > 0.0)) return 0.0; /* nothing excites this state */
    c = sum.hp / sum.pp;
    return sqrt(fmax(sum.hh - c * sum.hp, 0.0) / sum.hh);
}

mp_status mp_probe_finish(const mp_probe *p, double *distance, double *error)
{
    products of[MP_PROBES] = {{0.0, 0.0, 0.0}};
    double without[MP_PROBES], mean = 0.0, spread = 0.0;

    for (int64_t v = p->begin; v < p->end; v++) {
        const double *h = p->images + (v - p->begin) * 2 * p->n, *plain = h + p->n;

        of[v] = (products){dot(p->n, h, h), dot(p->n, h, plain), dot(p->n, plain, plain)};
    }
    /* one rank has a number, the others have zeros: the order of the sum does not matter */
    MP_TRY(mp_comm_sum(p->comm, (double *)of, 3 * MP_PROBES));
    for (int v = 0; v < MP_PROBES; v++) mean += (without[v] = estimate(of, v)) / MP_PROBES;
    for (int v = 0; v < MP_PROBES; v++) spread += (without[v] - mean) * (without[v] - mean);
    *distance = estimate(of, -1);
    *error = sqrt(spread * (MP_PROBES - 1) / MP_PROBES);
    return MP_OK;
}
