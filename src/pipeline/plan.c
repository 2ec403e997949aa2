#include "mpress/plan.h"

#include <math.h>

/* Of the hardware the model was fitted on; only their ratios decide. */
static const double rate = 6e10;      /* flop/s of one rank in double precision */
static const double word_time = 2e-9; /* s per double over the network */
static const double latency = 5e-6;   /* s per message */

double mp_plan_factor_seconds(int64_t n, const mp_grid *grid)
{
    double order = (double)n, ranks = (double)grid->rows * grid->cols, panels = order / 128.0;
    double steps = log2(ranks);

    return order * order * order / 3.0 / (rate * ranks) +
           order * order * steps / sqrt(ranks) * word_time + panels * steps * 4.0 * latency;
}

/* One state after another, each on all ranks that help it; small ones on a rank of their own. */
static double schedule_in_turn(const int64_t *widths, int count, int ranks, mp_grid *grids)
{
    double large = 0.0, small = 0.0;
    int next = 0;

    for (int i = 0; i < count; i++) {
        if (widths[i] > MP_ONE_RANK_ORDER) {
            grids[i] = mp_grid_of(0, ranks);
            large += mp_plan_factor_seconds(widths[i], &grids[i]);
        } else {
            grids[i] = (mp_grid){next++ % ranks, 1, 1};
            small += mp_plan_factor_seconds(widths[i], &grids[i]) / (count < ranks ? count : ranks);
        }
    }
    return large + small;
}

/* Ranks shared out by the work: each state has a group of its own. */
static double schedule_side_by_side(const int64_t *widths, int count, int ranks, mp_grid *grids)
{
    double work = 0.0, longest = 0.0;
    int first = 0, small = 0;

    if (ranks < count) return INFINITY;
    for (int i = 0; i < count; i++) {
        small += widths[i] <= MP_ONE_RANK_ORDER;
        work += widths[i] <= MP_ONE_RANK_ORDER ? 0.0 : pow((double)widths[i], 3.0);
    }
    for (int i = 0; i < count; i++) {
        int large = widths[i] > MP_ONE_RANK_ORDER;
        double share = large ? pow((double)widths[i], 3.0) / work * (ranks - small) : 1.0;
        double seconds;

        grids[i] = mp_grid_of(first, share < 1.0 ? 1 : (int)share);
        first += share < 1.0 ? 1 : (int)share;
        seconds = mp_plan_factor_seconds(widths[i], &grids[i]);
        if (seconds > longest) longest = seconds;
    }
    return first <= ranks ? longest : INFINITY;
}

void mp_plan_grids(const int64_t *widths, int count, int ranks, mp_grid *grids)
{
    mp_grid beside[16];

    if (count > (int)(sizeof beside / sizeof beside[0]) ||
        schedule_side_by_side(widths, count, ranks, beside) >=
            schedule_in_turn(widths, count, ranks, grids))
        return;
    for (int i = 0; i < count; i++) grids[i] = beside[i];
}
