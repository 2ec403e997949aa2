/* The rows of one state's linear maps on this rank, cut into strips (method.h). */
#include "mpress/method.h"

#include "mpress/memory.h"

mp_status mp_problem_open(mp_problem *p)
{
    p->strips = 0;
    for (int i = 0; i < p->parts; i++) {
        mp_part *part = &p->part[i];
        int64_t end;

        mp_share(part->d_out, MP_STRIP, p->comm->rank, p->comm->size, &part->first_row, &end);
        part->rows = end - part->first_row;
        part->first_strip = p->strips;
        p->strips += (part->rows + MP_STRIP - 1) / MP_STRIP;
    }
    MP_TRY(MP_NEW(p->weight, p->strips * p->order * MP_STRIP, "strips of weights"));
    MP_TRY(MP_NEW(p->loss, p->strips, "losses of strips"));
    MP_TRY(MP_NEW(p->scale, p->strips * p->groups * MP_STRIP, "scales of strips"));
    MP_TRY(MP_NEW(p->zero, p->strips * p->groups * MP_STRIP, "zero points of strips"));
    return MP_NEW(p->difference, p->strips * p->order * MP_STRIP, "strips of differences");
}

void mp_problem_close(mp_problem *problem)
{
    mp_free(problem->weight);
    mp_free(problem->difference);
    mp_free(problem->loss);
    mp_free(problem->scale);
    mp_free(problem->zero);
    problem->weight = problem->difference = problem->scale = problem->zero = NULL;
    problem->loss = NULL;
}

float *mp_problem_strip(const mp_problem *problem, float *array, int part, int64_t row)
{
    return array + (problem->part[part].first_strip + row / MP_STRIP) * problem->order * MP_STRIP;
}

int mp_problem_part(const mp_problem *problem, int64_t strip)
{
    int p = 0;

    while (p + 1 < problem->parts && strip >= problem->part[p + 1].first_strip) p++;
    return p;
}

/* Each rank fills in its own strips among those of all, and zeros meet numbers in the sum over ranks. */
mp_status mp_sum_strips(const mp_problem *p, const double *strip, double *sum)
{
    double *all = NULL;
    int64_t count = 0, at = 0;
    mp_status st;

    for (int i = 0; i < p->parts; i++) count += (p->part[i].d_out + MP_STRIP - 1) / MP_STRIP;
    st = MP_NEW(all, count, "sums of all strips");
    MP_GO(mp_comm_agree(p->comm, st));
    for (int i = 0; i < p->parts; i++) {
        const mp_part *part = &p->part[i];

        for (int64_t row = 0; row < part->rows; row += MP_STRIP)
            all[at + (part->first_row + row) / MP_STRIP] =
                strip[part->first_strip + row / MP_STRIP];
        at += (part->d_out + MP_STRIP - 1) / MP_STRIP;
    }
    MP_GO(mp_comm_sum(p->comm, all, (int)count));
    at = 0;
    for (int i = 0; i < p->parts; i++) {
        sum[i] = 0.0;
        for (int64_t k = 0; k < (p->part[i].d_out + MP_STRIP - 1) / MP_STRIP; k++)
            sum[i] += all[at++];
    }
out:
    mp_free(all);
    return st;
}

int64_t mp_strip_rows(const mp_part *part, int64_t row)
{
    return part->rows - row < MP_STRIP ? part->rows - row : MP_STRIP;
}

enum { SQUARE = 16 }; /* columns at a time, so that both sides of a copy stay in the cache */

void mp_strip_from_rows(const float *rows, int64_t count, int64_t n, float *strip)
{
    for (int64_t j0 = 0; j0 < n; j0 += SQUARE)
        for (int64_t r = 0; r < count; r++)
            for (int64_t j = j0; j < j0 + SQUARE && j < n; j++)
                strip[j * MP_STRIP + r] = rows[r * n + j];
}

void mp_strip_to_rows(const float *strip, int64_t count, int64_t n, float *rows)
{
    for (int64_t j0 = 0; j0 < n; j0 += SQUARE)
        for (int64_t r = 0; r < count; r++)
            for (int64_t j = j0; j < j0 + SQUARE && j < n; j++)
                rows[r * n + j] = strip[j * MP_STRIP + r];
}
