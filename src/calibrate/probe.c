#include "mpress/probe.h"

#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/rng.h"

#include <math.h>

enum { PIECE = 1024 }; /* channels of an image that one rank adds up, for one vector */

/* The unit of work is a piece of the two images of a vector, [2][width]; units are counted piece by piece,
 * the vectors of a piece after one another, and shared out among all ranks. */
struct mp_probe {
    const mp_comm *comm;
    int64_t n;
    int64_t begin, end; /* the units that this rank adds up */
    double *images;     /* H z, then P z, of each unit */
};

struct mp_probe_room {
    int64_t widest;
    float
        *signs; /* [MP_PROBES][widest] the vectors; those of fewer channels are their beginnings */
    float *projected; /* [max_tokens][MP_PROBES] x_t . z */
    float *factors;   /* [max_tokens][MP_PROBES][2] of x_t in H z and in P z */
    float *product;   /* images of one sequence, all units */
    float *receive;   /* this rank's units of all ranks' sequences (several ranks only) */
    mp_exchange *exchange;
};

static int64_t pieces_of(int64_t n)
{
    return (n + PIECE - 1) / PIECE;
}

/* Floats before a unit, of states of n channels. */
static int64_t unit_start(int64_t n, int64_t unit)
{
    int64_t piece = unit / MP_PROBES * PIECE, first = piece < n ? piece : n;
    int64_t width = n - first < PIECE ? n - first : PIECE;

    return 2 * (first * MP_PROBES + unit % MP_PROBES * width);
}

/* Floats of a rank's units; *begin and *end are these. */
static int64_t share_units(const mp_comm *comm, int rank, int64_t n, int64_t *begin, int64_t *end)
{
    mp_share(pieces_of(n) * MP_PROBES, 1, rank, comm->size, begin, end);
    return unit_start(n, *end) - unit_start(n, *begin);
}

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

/* Floats of the images that this rank adds up of every other one. */
static int64_t receive_floats(int ranks, int64_t widest)
{
    int64_t units = (pieces_of(widest) * MP_PROBES + ranks - 1) / ranks;

    return ranks > 1 ? ranks * units * 2 * PIECE : 0;
}

int64_t mp_probe_room_bytes(int ranks, int64_t widest, int64_t max_tokens)
{
    int64_t floats = MP_PROBES * 3 * (widest + max_tokens) + receive_floats(ranks, widest);

    return (int64_t)sizeof(mp_probe_room) + floats * (int64_t)sizeof(float) +
           (ranks > 1 ? mp_exchange_bytes(ranks) : 0);
}

mp_status mp_probe_room_create(const mp_comm *comm, int64_t widest, int64_t max_tokens,
                               mp_probe_room **room)
{
    mp_probe_room *r = NULL;
    mp_status st;

    MP_GO(MP_NEW(r, 1, "buffers of the probes"));
    MP_GO(MP_NEW_RAW(r->signs, MP_PROBES * widest, "vectors of signs"));
    MP_GO(MP_NEW_RAW(r->projected, max_tokens * MP_PROBES, "projected tokens"));
    MP_GO(MP_NEW_RAW(r->factors, max_tokens * MP_PROBES * 2, "projected tokens"));
    MP_GO(MP_NEW_RAW(r->product, MP_PROBES * 2 * widest, "images of one sequence"));
    if (comm->size > 1) {
        MP_GO(MP_NEW_RAW(r->receive, receive_floats(comm->size, widest),
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
    int64_t floats;
    mp_status st;

    MP_GO(MP_NEW(p, 1, "probes of a second moment"));
    p->comm = comm;
    p->n = n;
    floats = share_units(comm, comm->rank, n, &p->begin, &p->end);
    MP_GO(MP_NEW(p->images, floats, "images of the probes"));
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
    for (int64_t c = 0; c < p->n; c += PIECE) {
        int64_t width = p->n - c < PIECE ? p->n - c : PIECE;

        MP_TRY(mp_sgemm(1, 0, 2 * MP_PROBES, width, n_tokens, 1.0f, room->factors, 2 * MP_PROBES,
                        x + c, p->n, 0.0f, room->product + 2 * MP_PROBES * c, width));
    }
    return MP_OK;
}

static void add(mp_probe *p, const float *from)
{
    int64_t floats = unit_start(p->n, p->end) - unit_start(p->n, p->begin);

    for (int64_t i = 0; i < floats; i++) p->images[i] += (double)from[i];
}

/* Every rank's images to the ranks that add them up, in the order of the sequences. */
static mp_status merge(mp_probe *p, mp_probe_room *room, int active)
{
    const mp_comm *comm = p->comm;
    mp_exchange *e = room->exchange;
    int64_t mine = unit_start(p->n, p->end) - unit_start(p->n, p->begin);

    for (int r = 0; r < comm->size; r++) {
        int64_t begin, end, theirs = share_units(comm, r, p->n, &begin, &end);

        e->send_counts[r] = comm->rank < active ? (int)theirs : 0;
        e->receive_counts[r] = r < active ? (int)mine : 0;
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

static void add_products(const products *from, products *sum)
{
    sum->hh += from->hh;
    sum->hp += from->hp;
    sum->pp += from->pp;
}

/* The distance by all vectors but `left_out` (-1: by all). */
static double estimate(const products *of, int left_out)
{
    products sum = {0.0, 0.0, 0.0};
    double c;

    for (int v = 0; v < MP_PROBES; v++) {
        if (v == left_out) continue;
        add_products(&of[v], &sum);
    }
    if (!(sum.hh > 0.0 && sum.pp > 0.0)) return 0.0; /* nothing excites this state */
    c = sum.hp / sum.pp;
    return sqrt(fmax(sum.hh - c * sum.hp, 0.0) / sum.hh);
}

/* The products of this rank's units to their places among all. */
static void multiply(const mp_probe *p, products *units)
{
    for (int64_t u = p->begin; u < p->end; u++) {
        int64_t start = unit_start(p->n, u), width = (unit_start(p->n, u + 1) - start) / 2;
        const double *h = p->images + start - unit_start(p->n, p->begin), *plain = h + width;

        units[u] = (products){dot(width, h, h), dot(width, h, plain), dot(width, plain, plain)};
    }
}

mp_status mp_probe_finish(const mp_probe *p, double *distance, double *error)
{
    const int64_t count = pieces_of(p->n) * MP_PROBES;
    products of[MP_PROBES] = {{0.0, 0.0, 0.0}}, *units = NULL;
    double without[MP_PROBES], mean = 0.0, spread = 0.0;
    mp_status st = MP_NEW(units, count, "products of the probes");

    if (st == MP_OK) multiply(p, units);
    MP_GO(mp_comm_agree(p->comm, st));
    /* one rank has a number, the others have zeros: the order of the sum does not matter */
    MP_GO(mp_comm_sum(p->comm, (double *)units, 3 * count));
    for (int64_t u = 0; u < count; u++) add_products(&units[u], &of[u % MP_PROBES]);
    for (int v = 0; v < MP_PROBES; v++) mean += (without[v] = estimate(of, v)) / MP_PROBES;
    for (int v = 0; v < MP_PROBES; v++) spread += (without[v] - mean) * (without[v] - mean);
    *distance = estimate(of, -1);
    *error = sqrt(spread * (MP_PROBES - 1) / MP_PROBES);
out:
    mp_free(units);
    return st;
}
