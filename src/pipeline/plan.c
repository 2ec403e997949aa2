#include "mpress/plan.h"

#include "mpress/block_run.h"
#include "mpress/dlinalg.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Of the hardware the model was fitted on; only their ratios decide. */
static const double rate = 5e10;      /* flop/s of one rank in double precision */
static const double word_time = 2e-9; /* s per double over the network */
static const double latency = 5e-6;   /* s per message */

mp_plan_task mp_plan_cholesky(int64_t n)
{
    double order = (double)n;

    return (mp_plan_task){.order = n,
                          .work = order * order * order / 3.0,
                          .messages = 4.0 * order / 128.0,
                          .exact = 1};
}

void mp_plan_add_lowrank(mp_plan_task *task, int64_t d_out, int64_t d_in, int64_t rank)
{
    double m = (double)d_out, n = (double)d_in, small = m < n ? m : n;
    double products = 2.0 * small * n * n + small * small * n + 2.0 * (double)rank * m * n;

    if (d_out > d_in) products += 2.0 * m * n * n; /* QR */
    task->work += products + (2.0 * 4.0 / 3.0 + 4.0 / 3.0) * small * small * small +
                  2.0 * small * small * (double)rank;
    task->messages += 6.0 * small; /* every column of the reduction is a step of its own */
    task->exact = 0;
}

mp_plan_task mp_plan_state(const mp_arch *arch, int state, const int *skip, const int64_t *ranks)
{
    const mp_state *s = &arch->states[state];
    mp_plan_task task = mp_plan_cholesky(s->width);

    if (ranks == NULL) return task;
    task.work = task.messages = 0.0;
    for (int i = s->first_linear; i < s->first_linear + s->linear_count; i++)
        if (!skip[i])
            mp_plan_add_lowrank(&task, arch->linears[i].d_out, arch->linears[i].d_in, ranks[i]);
    return task;
}

double mp_plan_seconds(const mp_plan_task *task, const mp_grid *grid)
{
    double order = (double)task->order, ranks = (double)grid->rows * grid->cols;
    double steps = log2(ranks), rows = (double)grid->rows;

    return task->work / (rate * ranks) + order * order / 2.0 * steps / rows * word_time +
           task->messages * steps * latency;
}

/* The fastest grid of at most `ranks` ranks from `first` on, by the model.  Grids whose waits alone take
 * longer than the best are not tried: the number tried does not grow with that of the ranks. */
static mp_grid best_grid(const mp_plan_task *task, int first, int ranks)
{
    mp_grid best = {first, 1, 1};
    double least = mp_plan_seconds(task, &best);

    if (task->order > MP_EXACT_ORDER) return mp_grid_of(first, ranks);
    for (int size = 2; size <= ranks; size++) {
        mp_grid grid = task->exact ? (mp_grid){first, 1, size} : mp_grid_of(first, size);
        double seconds = mp_plan_seconds(task, &grid);

        if (seconds < least) {
            least = seconds;
            best = grid;
        }
        if (task->messages * log2((double)grid.rows * grid.cols) * latency > least) break;
    }
    return best;
}

/* One state after another, each on all ranks that help it. */
static double schedule_in_turn(const mp_plan_task *tasks, int count, int ranks, mp_grid *grids,
                               double *busy)
{
    double seconds = 0.0;

    (void)busy;
    for (int i = 0; i < count; i++) {
        grids[i] = best_grid(&tasks[i], 0, ranks);
        seconds += mp_plan_seconds(&tasks[i], &grids[i]);
    }
    return seconds;
}

/* One rank each, the longest first, each to the rank that is free first: of `count` ranks at most. */
static double schedule_on_single_ranks(const mp_plan_task *tasks, int count, int ranks,
                                       mp_grid *grids, double *busy)
{
    double longest = 0.0;

    if (ranks > count) ranks = count;
    memset(busy, 0, (size_t)ranks * sizeof *busy);
    for (int i = 0; i < count; i++) grids[i].rows = 0; /* not placed yet */
    for (int k = 0; k < count; k++) {
        int next = -1, free = 0;

        for (int i = 0; i < count; i++)
            if (grids[i].rows == 0 && (next < 0 || tasks[i].work > tasks[next].work)) next = i;
        for (int r = 1; r < ranks; r++)
            if (busy[r] < busy[free]) free = r;
        grids[next] = (mp_grid){free, 1, 1};
        busy[free] += mp_plan_seconds(&tasks[next], &grids[next]);
        if (busy[free] > longest) longest = busy[free];
    }
    return longest;
}

/* Ranks shared out by the work, in groups side by side. */
static double schedule_side_by_side(const mp_plan_task *tasks, int count, int ranks, mp_grid *grids,
                                    double *busy)
{
    double work = 0.0, longest = 0.0;
    int first = 0;

    (void)busy;
    if (ranks < count) return INFINITY;
    for (int i = 0; i < count; i++) work += tasks[i].work;
    for (int i = 0; i < count; i++) {
        int share = (int)(tasks[i].work / work * (ranks - count)) + 1;
        double seconds;

        grids[i] = best_grid(&tasks[i], first, share);
        first += share;
        seconds = mp_plan_seconds(&tasks[i], &grids[i]);
        if (seconds > longest) longest = seconds;
    }
    return longest;
}

mp_status mp_plan_grids(const mp_plan_task *tasks, int count, int ranks, mp_grid *grids)
{
    static double (*const schedules[])(const mp_plan_task *, int, int, mp_grid *, double *) = {
        schedule_in_turn, schedule_on_single_ranks, schedule_side_by_side};
    double best = INFINITY, *busy = NULL;
    mp_grid *tried = NULL;
    mp_status st;

    MP_GO(MP_NEW(busy, count, "a plan"));
    MP_GO(MP_NEW(tried, count, "a plan"));
    for (int s = 0; s < 3; s++) {
        double seconds = schedules[s](tasks, count, ranks, tried, busy);

        if (seconds >= best) continue;
        best = seconds;
        memcpy(grids, tried, (size_t)count * sizeof *grids);
    }
out:
    mp_free(busy);
    mp_free(tried);
    return st;
}

int mp_plan_batch_of(const mp_arch *arch, const mp_plan_host *host, int64_t most)
{
    double host_share = (double)host->ranks / host->size, fits;
    double copies = (double)host->ranks / host->sharing;
    double weights = 4.0 * (double)mp_arch_block_parameters(arch), block;
    int64_t wanted = (4 * host->size + arch->n_states - 1) / arch->n_states; /* four tasks a rank */

    /* the factors stand in double until all are found */
    block = copies * weights + 2.0 * weights * host_share;
    for (int s = 0; s < arch->n_states; s++)
        block += 8.0 * (double)arch->states[s].width * (double)arch->states[s].width * host_share;
    fits = floor(fmin(0.5 * host->memory / block, host->room / weights));
    if (wanted > most) wanted = most;
    if (wanted > MP_MAX_BATCH) wanted = MP_MAX_BATCH;
    if ((double)wanted > fits) wanted = (int64_t)fits;
    return wanted > 1 ? (int)wanted : 1;
}

mp_status mp_plan_batch(const mp_comm *comm, const mp_arch *arch, int64_t most, int *batch)
{
    const mp_plan_host host = {.size = comm->size,
                               .ranks = comm->host_size,
                               .sharing = comm->node_size,
                               .memory = mp_memory_available(),
                               .room = mp_shared_room(comm)};
    double least = mp_plan_batch_of(arch, &host, most);

    MP_TRY(mp_comm_min(comm, &least, 1));
    *batch = (int)least;
    return MP_OK;
}
