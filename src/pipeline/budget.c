#include "mpress/budget.h"

#include "mpress/linear.h"
#include "mpress/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

mp_status mp_rank_policy_parse(const char *text, mp_rank_policy *policy)
{
    static const char *const names[] = {"uniform", "spectrum", "sensitivity"};

    for (int i = 0; i < 3; i++)
        if (strcmp(text, names[i]) == 0) {
            *policy = (mp_rank_policy)i;
            return MP_OK;
        }
    return mp_fail(MP_ERR_ARG, "--rank-policy %s: expected uniform, spectrum or sensitivity", text);
}

/* The largest rank whose factors are smaller than the weight. */
static int64_t largest_rank(int64_t d_out, int64_t d_in)
{
    return (d_out * d_in - 1) / (d_out + d_in);
}

/* Parameters that a ratio of the weight is worth. */
static int64_t room_of(int64_t d_out, int64_t d_in, double ratio)
{
    return (int64_t)((double)d_out * (double)d_in * ratio);
}

int64_t mp_rank_of_ratio(int64_t d_out, int64_t d_in, double ratio)
{
    int64_t k = room_of(d_out, d_in, ratio) / (d_out + d_in);

    return ratio < 1.0 && k <= largest_rank(d_out, d_in) ? k : 0;
}

mp_status mp_rank_uniform(const char *name, int64_t d_out, int64_t d_in, double ratio,
                          int64_t *rank)
{
    int64_t room = room_of(d_out, d_in, ratio);

    *rank = mp_rank_of_ratio(d_out, d_in, ratio);
    if (ratio == 1.0 || room >= d_out + d_in) return MP_OK;
    return mp_fail(
        MP_ERR_ARG, "%s: ratio %g of %lld x %lld is %lld parameters, but rank 1 takes %lld", name,
        ratio, (long long)d_out, (long long)d_in, (long long)room, (long long)(d_out + d_in));
}

void mp_budget_totals(const mp_budget_item *items, int64_t count, int64_t *stored, int64_t *dense)
{
    *stored = *dense = 0;
    for (int64_t i = 0; i < count; i++) {
        *stored += mp_linear_parameters(items[i].d_out, items[i].d_in, items[i].rank);
        *dense += items[i].d_out * items[i].d_in;
    }
}

/* What the next step of an item would gain per parameter, and take. */
typedef struct step {
    double gain;
    int64_t item, parameters;
} step;

static double total(const mp_budget_item *item)
{
    double sum = 0.0;

    for (int64_t i = 0; i < item->values; i++)
        sum += item->spectrum[i] > 0.0 ? item->spectrum[i] : 0.0;
    return sum;
}

/* From rank k to k + 1, or, where that would be no smaller than the weight, to the weight itself. */
static step next_step(const mp_budget_item *item, int64_t index, double all)
{
    int64_t size = item->d_out + item->d_in;
    step s = {.item = index, .parameters = size};
    double gain = 0.0;

    if (item->rank < largest_rank(item->d_out, item->d_in)) {
        gain = item->rank < item->values ? item->spectrum[item->rank] : 0.0;
    } else {
        s.parameters = item->d_out * item->d_in - item->rank * size;
        for (int64_t i = item->rank; i < item->values; i++) gain += item->spectrum[i];
    }
    s.gain = all > 0.0 && gain > 0.0 ? gain / all / (double)s.parameters : 0.0;
    return s;
}

static int before(const step *a, const step *b)
{
    return a->gain != b->gain ? a->gain > b->gain : a->item < b->item;
}

/* Sinks heap[i] to its place in a heap of `count`. */
static void sink(step *heap, int64_t count, int64_t i)
{
    for (;;) {
        int64_t best = i;

        for (int64_t child = 2 * i + 1; child <= 2 * i + 2 && child < count; child++)
            if (before(&heap[child], &heap[best])) best = child;
        if (best == i) return;
        step swap = heap[i];
        heap[i] = heap[best];
        heap[best] = swap;
        i = best;
    }
}

/* Takes the best step that fits, again and again; an item whose step does not fit is done. */
static void spend(mp_budget_item *items, const double *all, step *heap, int64_t count,
                  int64_t budget)
{
    int64_t left = count;

    for (int64_t i = left / 2 - 1; i >= 0; i--) sink(heap, left, i);
    while (left > 0) {
        mp_budget_item *item = &items[heap[0].item];
        int to_dense = item->rank >= largest_rank(item->d_out, item->d_in);

        if (heap[0].parameters > budget || to_dense) {
            if (heap[0].parameters <= budget) {
                budget -= heap[0].parameters;
                item->rank = 0;
            }
            heap[0] = heap[--left];
        } else {
            budget -= heap[0].parameters;
            item->rank++;
            heap[0] = next_step(item, heap[0].item, all[heap[0].item]);
        }
        sink(heap, left, 0);
    }
}

mp_status mp_budget_by_spectrum(mp_budget_item *items, int64_t count, double ratio)
{
    int64_t stored, dense, budget;
    double *all = NULL;
    step *heap = NULL;
    mp_status st;

    if (count < 2)
        return mp_fail(MP_ERR_ARG,
                       "--rank-policy spectrum: %lld linear map to factor, expected two or more "
                       "to choose between (uniform does for one)",
                       (long long)count);
    for (int64_t i = 0; i < count; i++) items[i].rank = 1;
    mp_budget_totals(items, count, &stored, &dense);
    budget = (int64_t)((double)dense * ratio) - stored;
    if (budget < 0)
        return mp_fail(MP_ERR_ARG, "--ratio %g: rank 1 everywhere takes %lld parameters of %lld",
                       ratio, (long long)stored, (long long)dense);
    MP_GO(MP_NEW(all, count, "energies"));
    MP_GO(MP_NEW(heap, count, "steps"));
    for (int64_t i = 0; i < count; i++) {
        all[i] = total(&items[i]);
        heap[i] = next_step(&items[i], i, all[i]);
    }
    spend(items, all, heap, count, budget);
out:
    mp_free(all);
    mp_free(heap);
    return st;
}

/* By falling nll, then rising item, then rising ratio. */
static int harms_more(const void *left, const void *right)
{
    const mp_budget_trial *a = *(const mp_budget_trial *const *)left;
    const mp_budget_trial *b = *(const mp_budget_trial *const *)right;

    if (a->nll != b->nll) return a->nll > b->nll ? -1 : 1;
    if (a->item != b->item) return a->item < b->item ? -1 : 1;
    return a->ratio < b->ratio ? -1 : a->ratio > b->ratio;
}

/* Accepts trials from the end of the order on, until the budget holds: the first cut that does is the
 * last one of all.  lowest [count] is the lowest accepted ratio of each item. */
static int64_t accept(mp_budget_item *items, const mp_budget_trial *const *order, int64_t n_trials,
                      int64_t stored, int64_t budget, double *lowest)
{
    for (int64_t c = n_trials - 1; c >= 0 && stored > budget; c--) {
        const mp_budget_trial *t = order[c];
        mp_budget_item *item = &items[t->item];

        if (t->ratio >= lowest[t->item]) continue;
        lowest[t->item] = t->ratio;
        stored -= mp_linear_parameters(item->d_out, item->d_in, item->rank);
        item->rank = t->rank;
        stored += mp_linear_parameters(item->d_out, item->d_in, item->rank);
    }
    return stored;
}

mp_status mp_budget_by_sensitivity(mp_budget_item *items, int64_t count,
                                   const mp_budget_trial *trials, int64_t n_trials, double ratio)
{
    const mp_budget_trial **order = NULL;
    int64_t stored, dense, budget;
    double *lowest = NULL;
    mp_status st;

    for (int64_t i = 0; i < n_trials; i++)
        if (!isfinite(trials[i].nll))
            return mp_fail(MP_ERR_NUMERIC,
                           "linear map %lld at ratio %g: a loss of %g, expected a finite one",
                           (long long)trials[i].item, trials[i].ratio, trials[i].nll);
    MP_GO(MP_NEW_RAW(order, n_trials, "the order of trials"));
    MP_GO(MP_NEW_RAW(lowest, count, "accepted ratios"));
    for (int64_t i = 0; i < n_trials; i++) order[i] = &trials[i];
    qsort(order, (size_t)n_trials, sizeof order[0], harms_more);
    for (int64_t i = 0; i < count; i++) {
        lowest[i] = INFINITY;
        items[i].rank = 0;
    }
    mp_budget_totals(items, count, &stored, &dense);
    budget = (int64_t)((double)dense * ratio);
    stored = accept(items, order, n_trials, stored, budget, lowest);
    if (stored > budget)
        st = mp_fail(MP_ERR_ARG,
                     "--ratio %g: the lowest ratio that a search by sensitivity can reach is "
                     "%.4f",
                     ratio, ceil(1e4 * (double)stored / (double)dense) * 1e-4);
out:
    mp_free(order);
    mp_free(lowest);
    return st;
}
