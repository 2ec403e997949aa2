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
    return MP_NEW(p->difference, p->strips * p->order * MP_STRIP, "strips of differences");
}

void mp_problem_close(mp_problem *problem)
{
    mp_free(problem->weight);
    mp_free(problem->difference);
    problem->weight = problem->difference = NULL;
}

float *mp_problem_strip(const mp_problem *problem, float *array, int part, int64_t row)
{
    return array + (problem->part[part].first_strip + row / MP_STRIP) * problem->order * MP_STRIP;
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
