#include "mpress/budget.h"

#include "mpress/linear.h"
#include "mpress/memory.h"

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

mp_status mp_rank_uniform(const char *name, int64_t d_out, int64_t d_in, double ratio, int64_t *rank)
{
    int64_t room = (int64_t)((double)d_out * (double)d_in * ratio);
    int64_t k = room / (d_out + d_in);

    *rank = 0;
    if (ratio == 1.0 || k > largest_rank(d_out, d_in)) return MP_OK;
    if (k < 1)
        return mp_fail(MP_ERR_ARG,
                       "%s: ratio %g of %lld x %lld is %lld parameters, but rank 1 takes %lld", name, ratio,
                       (long long)d_out, (long long)d_in, (long long)room, (long long)(d_out + d_in));
    *rank = k;
    return MP_OK;
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

    for (int64_t i = 0; i < item->values; i++) sum += item->spectrum[i] > 0.0 ? item->spectrum[i] : 0.0;
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
static void spend(mp_budget_item *items, const double *all, step *heap, int64_t count, int64_t budget)
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
        return mp_fail(MP_ERR_ARG, "--rank-policy spectrum: %lld linear map to factor, expected two or more "
                       "to choose between (uniform does for one)", (long long)count);
    for (int64_t i = 0; i < count; i++) items[i].rank = 1;
    mp_budget_totals(items, count, &stored, &dense);
    budget = (int64_t)((double)dense * ratio) - stored;
    if (budget < 0)
        return mp_fail(MP_ERR_ARG, "--ratio %g: rank 1 everywhere takes %lld parameters of %lld", ratio,
                       (long long)stored, (long long)dense);
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
