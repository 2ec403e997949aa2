/* The linear maps of one state as integers: from the grids that a method has rounded to, to every node
 * (block_run.h). */
#include "solve.h"

#include <string.h>

/* Scales and zero points of this rank's rows to the memory of the node. */
static void place_grids(const mp_problem *p, int part, const mp_packed *to)
{
    const mp_part *rows = &p->part[part];

    for (int64_t row = 0; row < rows->rows; row++) {
        int64_t strip = rows->first_strip + row / MP_STRIP, lane = row % MP_STRIP;

        for (int64_t g = 0; g < p->groups; g++) {
            int64_t from = (strip * p->groups + g) * MP_STRIP + lane;
            int64_t at = (rows->first_row + row) * p->groups + g;

            to->scale[at] = p->scale[from];
            if (to->zero != NULL) to->zero[at] = (uint8_t)p->zero[from];
        }
    }
}

/* The codes of one strip; the differences' strip takes the weights as rows.  Returns 0 where a weight is on
 * no grid. */
static int place_strip(const mp_problem *p, int part, int64_t row, const mp_packed *to)
{
    const mp_part *rows = &p->part[part];
    float *weights = mp_problem_strip(p, p->difference, part, row);
    int64_t count = mp_strip_rows(rows, row);
    int on_grid = 1;

    mp_strip_to_rows(mp_problem_strip(p, p->weight, part, row), count, p->n, weights);
    for (int64_t i = 0; i < count; i++)
        on_grid &= mp_packed_put(to, rows->first_row + row + i, weights + i * p->n) < 0;
    return on_grid;
}

static mp_status place(const mp_problem *p, int part, const mp_packed *to)
{
    int on_grid = 1;

    place_grids(p, part, to);
#pragma omp parallel for reduction(& : on_grid)
    for (int64_t row = 0; row < p->part[part].rows; row += MP_STRIP)
        on_grid &= place_strip(p, part, row, to);
    if (on_grid) return MP_OK;
    return mp_fail(MP_ERR_INTERNAL, "%s: a weight that is no number of its grid",
                   p->part[part].name);
}

/* Rows [begin, end) of a linear map from the first rank of their node to those of the others. */
static mp_status send_rows(const mp_comm *comm, const mp_packed *p, int64_t begin, int64_t end,
                           int node)
{
    int64_t words = mp_packed_words(p->quant.bits, p->columns);
    int64_t groups = mp_quant_groups(&p->quant, p->columns);
    size_t rows = (size_t)(end - begin);
    int is_dry = mp_comm_is_dry(comm);

    MP_TRY(mp_comm_bcast_nodes(comm, is_dry ? NULL : p->words + begin * words,
                               rows * (size_t)words * sizeof *p->words, node));
    MP_TRY(mp_comm_bcast_nodes(comm, is_dry ? NULL : p->scale + begin * groups,
                               rows * (size_t)groups * sizeof *p->scale, node));
    if (p->quant.symmetric) return MP_OK;
    return mp_comm_bcast_nodes(comm, is_dry ? NULL : p->zero + begin * groups,
                               rows * (size_t)groups, node);
}

mp_status packing_share_rows(const mp_comm *comm, int64_t d_out, const mp_packed *p)
{
    if (comm->node_rank != 0 || comm->node_count == 1) return MP_OK;
    for (int r = 0, next; r < comm->size; r = next) {
        int64_t begin, end;

        next = mp_share_of_node(comm, d_out, MP_STRIP, r, &begin, &end);
        MP_TRY(send_rows(comm, p, begin, end, comm->node_of[r]));
    }
    return MP_OK;
}

mp_status packing_publish(mp_runner *run, const int *linear, const mp_problem *p)
{
    const mp_comm *comm = run->comm;
    mp_status st = MP_OK;

    /* the integers lie where the dense weights are, which nobody reads any more */
    MP_TRY(mp_shared_fence(comm, run->block->memory));
    for (int i = 0; i < p->parts && st == MP_OK; i++) {
        mp_linear *l = &run->block->linears[linear[i]];

        st = mp_linear_set_packed(l, &run->options.quant);
        if (st == MP_OK) st = place(p, i, &l->packed);
    }
    MP_TRY(mp_comm_agree(comm, st));
    MP_TRY(mp_shared_fence(comm, run->block->memory));
    for (int i = 0; i < p->parts; i++)
        MP_TRY(packing_share_rows(comm, p->part[i].d_out, &run->block->linears[linear[i]].packed));
    return mp_shared_fence(comm, run->block->memory);
}
