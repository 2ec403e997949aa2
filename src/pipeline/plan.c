#include "mpress/plan.h"

#include "mpress/dlinalg.h"

#include <math.h>

/* Of the hardware the model was fitted on; only their ratios decide. */
static const double rate = 5e10;      /* flop/s of one rank in double precision */
static const double word_time = 2e-9; /* s per double over the network */
static const double latency = 5e-6;   /* s per message */

double mp_plan_factor_seconds(int64_t n, const mp_grid *grid)
{
    double order = (double)n, ranks = (double)grid->rows * grid->cols, panels = order / 128.0;
    double steps = log2(ranks), rows = (double)grid->rows;

    return order * order * order / 3.0 / (rate * ranks) + order * order / 2.0 * steps / rows * word_time +
           panels * steps * 4.0 * latency;
}

/* The fastest grid of at most `ranks` ranks from `first` on, by the model. */
static mp_grid best_grid(int64_t n, int first, int ranks)
{
    mp_grid best = {first, 1, 1};

    if (n > MP_EXACT_ORDER) return mp_grid_of(first, ranks);
    for (int cols = 2; cols <= ranks; cols++) {
        mp_grid grid = {first, 1, cols};

        if (mp_plan_factor_seconds(n, &grid) < mp_plan_factor_seconds(n, &best)) best = grid;
    }
    return best;
}

/* One state after another, each on all ranks that help it. */
static double schedule_in_turn(const int64_t *widths, int count, int ranks, mp_grid *grids)
{
    double seconds = 0.0;

    for (int i = 0; i < count; i++) {
        grids[i] = best_grid(widths[i], 0, ranks);
        seconds += mp_plan_factor_seconds(widths[i], &grids[i]);
    }
    return seconds;
}

/* One rank each, the widest first, each to the rank that is free first. */
static double schedule_on_single_ranks(const int64_t *widths, int count, int ranks, mp_grid *grids)
{
    double busy[16] = {0.0}, longest = 0.0;
    int used = ranks < 16 ? ranks : 16, done[16] = {0};

    for (int k = 0; k < count; k++) {
        int widest = -1, free = 0;

        for (int i = 0; i < count; i++)
            if (!done[i] && (widest < 0 || widths[i] > widths[widest])) widest = i;
        for (int r = 1; r < used; r++)
            if (busy[r] < busy[free]) free = r;
        done[widest] = 1;
        grids[widest] = (mp_grid){free, 1, 1};
        busy[free] += mp_plan_factor_seconds(widths[widest], &grids[widest]);
        if (busy[free] > longest) longest = busy[free];
    }
    return longest;
}

/* Ranks shared out by the work, in groups side by side. */
static double schedule_side_by_side(const int64_t *widths, int count, int ranks, mp_grid *grids)
{
    double work = 0.0, longest = 0.0;
    int first = 0;

    if (ranks < count) return INFINITY;
    for (int i = 0; i < count; i++) work += pow((double)widths[i], 3.0);
    for (int i = 0; i < count; i++) {
        int share = (int)(pow((double)widths[i], 3.0) / work * (ranks - count)) + 1;
        double seconds;

        grids[i] = best_grid(widths[i], first, share);
        first += share;
        seconds = mp_plan_factor_seconds(widths[i], &grids[i]);
        if (seconds > longest) longest = seconds;
    }
    return longest;
}

void mp_plan_grids(const int64_t *widths, int count, int ranks, mp_grid *grids)
{
    static double (*const schedules[])(const int64_t *, int, int, mp_grid *) = {
        schedule_in_turn, schedule_on_single_ranks, schedule_side_by_side};
    double best = INFINITY;

    for (int s = 0; s < 3; s++) {
        mp_grid tried[16];
        double seconds = schedules[s](widths, count, ranks, tried);

        if (seconds >= best) continue;
        best = seconds;
        for (int i = 0; i < count; i++) grids[i] = tried[i];
    }
}
