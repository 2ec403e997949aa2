/* How a budget becomes ranks: against the definitions, counted out on instances small enough for it. */
#include "worker.h"

#include "mpress/budget.h"
#include "mpress/linear.h"
#include "mpress/memory.h"
#include "mpress/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MOST_ITEMS = 5, RATIOS = 6, MOST_TRIALS = MOST_ITEMS * RATIOS, MOST_VALUES = 16 };

/* A call that must fail, and say so in these words. */
static mp_status refused(mp_status st, mp_status expected, const char *words)
{
    MP_EXPECT(st == expected);
    if (strstr(mp_error_message(), words) != NULL) return MP_OK;
    return mp_fail(MP_ERR_NUMERIC, "expected \"%s\" in \"%s\"", words, mp_error_message());
}

static int64_t draw(mp_mt19937 *rng, int64_t low, int64_t high)
{
    return mp_mt19937_randint(rng, low, high);
}

static double draw_share(mp_mt19937 *rng)
{
    return (double)draw(rng, 1, 999) / 1000.0;
}

static int64_t stored_by(const mp_budget_item *items, int64_t count)
{
    int64_t stored = 0;

    for (int64_t i = 0; i < count; i++)
        stored += items[i].rank == 0 ? items[i].d_out * items[i].d_in
                                     : items[i].rank * (items[i].d_out + items[i].d_in);
    return stored;
}

static int64_t dense_by(const mp_budget_item *items, int64_t count)
{
    int64_t dense = 0;

    for (int64_t i = 0; i < count; i++) dense += items[i].d_out * items[i].d_in;
    return dense;
}

static mp_status uniform_rank_is(int64_t d_out, int64_t d_in, double ratio, int64_t expected)
{
    int64_t rank = -1;

    MP_TRY(mp_rank_uniform("a", d_out, d_in, ratio, &rank));
    if (rank == expected) return MP_OK;
    return mp_fail(MP_ERR_NUMERIC, "%lld x %lld at %g: rank %lld, expected %lld", (long long)d_out,
                   (long long)d_in, ratio, (long long)rank, (long long)expected);
}

static mp_status uniform_ranks_of_known_models(const mp_comm *comm)
{
    (void)comm;
    MP_TRY(uniform_rank_is(4096, 4096, 0.8, 1638));
    MP_TRY(uniform_rank_is(1024, 4096, 0.8, 655));
    MP_TRY(uniform_rank_is(4096, 11008, 0.8, 2388));
    MP_TRY(uniform_rank_is(14336, 4096, 0.8, 2548));
    return uniform_rank_is(4096, 4096, 1.0, 0);
}

/* The largest rank that the ratio pays for, as long as factors are smaller than the weight. */
static mp_status check_uniform(int64_t d_out, int64_t d_in, double ratio)
{
    int64_t room = (int64_t)((double)(d_out * d_in) * ratio), k = 0, rank = -1;

    while ((k + 1) * (d_out + d_in) <= room) k++;
    if (ratio < 1.0 && k == 0) {
        MP_EXPECT(mp_rank_of_ratio(d_out, d_in, ratio) == 0);
        return refused(mp_rank_uniform("mlp.x", d_out, d_in, ratio, &rank), MP_ERR_ARG,
                       "mlp.x: ratio");
    }
    if (ratio == 1.0 || k * (d_out + d_in) >= d_out * d_in) k = 0;
    MP_EXPECT(mp_rank_of_ratio(d_out, d_in, ratio) == k);
    return uniform_rank_is(d_out, d_in, ratio, k);
}

static mp_status uniform_ranks_are_the_largest_that_fit(const mp_comm *comm)
{
    const double ratios[] = {0.1, 0.4, 0.5, 0.8, 0.9, 0.99, 1.0};

    (void)comm;
    for (int64_t d_out = 1; d_out <= 24; d_out++)
        for (int64_t d_in = 1; d_in <= 24; d_in++) {
            for (size_t i = 0; i < sizeof ratios / sizeof ratios[0]; i++)
                MP_TRY(check_uniform(d_out, d_in, ratios[i]));
            MP_TRY(check_uniform(d_out, d_in,
                                 nextafter(1.0, 0.0))); /* int(d_out d_in ratio) may be all */
        }
    return MP_OK;
}

/* A few linear maps with spectra. */
typedef struct instance {
    mp_budget_item items[MOST_ITEMS];
    double spectra[MOST_ITEMS][MOST_VALUES];
    int64_t count;
} instance;

/* What the ranks of the items lose of their energy, each as a share of its own. */
static double lost(const instance *in)
{
    double sum = 0.0;

    for (int64_t i = 0; i < in->count; i++) {
        const mp_budget_item *item = &in->items[i];
        double all = 0.0, tail = 0.0;

        for (int64_t k = 0; k < item->values; k++) {
            all += item->spectrum[k];
            if (item->rank > 0 && k >= item->rank) tail += item->spectrum[k];
        }
        sum += tail / all;
    }
    return sum;
}

/* Equal steps, each worth at most half of the one before: then the greedy choice is the best one, the step
 * from rank 5 to the dense weight included (12 x 12 is worth exactly six ranks). */
static void draw_geometric(mp_mt19937 *rng, instance *in)
{
    in->count = 3;
    for (int64_t i = 0; i < in->count; i++) {
        double falls = 0.5 * draw_share(rng), value = 1.0 + draw_share(rng);

        for (int k = 0; k < 12; k++, value *= falls) in->spectra[i][k] = value;
        in->items[i] =
            (mp_budget_item){.d_out = 12, .d_in = 12, .spectrum = in->spectra[i], .values = 12};
    }
}

/* The least loss of all ranks 1 .. 5 and dense that fit. */
static double least_loss(const instance *in, double ratio)
{
    instance trial = *in;
    double best = INFINITY;

    for (int code = 0; code < 6 * 6 * 6; code++) {
        trial.items[0].rank = code % 6;
        trial.items[1].rank = code / 6 % 6;
        trial.items[2].rank = code / 36;
        if ((double)stored_by(trial.items, 3) > ratio * (double)dense_by(trial.items, 3)) continue;
        if (lost(&trial) < best) best = lost(&trial);
    }
    return best;
}

static mp_status spectrum_is_the_best_of_all_choices(const mp_comm *comm)
{
    mp_mt19937 rng;
    instance in;

    (void)comm;
    mp_mt19937_seed(&rng, 1);
    for (int i = 0; i < 100; i++) {
        double ratio = 0.17 + 0.83 * draw_share(&rng);

        draw_geometric(&rng, &in);
        MP_TRY(mp_budget_by_spectrum(in.items, in.count, ratio));
        MP_EXPECT((double)stored_by(in.items, 3) <= ratio * (double)dense_by(in.items, 3));
        MP_EXPECT(fabs(lost(&in) - least_loss(&in, ratio)) < 1e-12);
    }
    return MP_OK;
}

/* Any shapes; spectra fall, with ties and zeros among them. */
static void draw_any(mp_mt19937 *rng, instance *in)
{
    in->count = draw(rng, 2, MOST_ITEMS);
    for (int64_t i = 0; i < in->count; i++) {
        mp_budget_item *item = &in->items[i];
        double value = (double)draw(rng, 0, 40);

        *item =
            (mp_budget_item){.d_out = draw(rng, 3, MOST_VALUES), .d_in = draw(rng, 3, MOST_VALUES)};
        item->values = item->d_out < item->d_in ? item->d_out : item->d_in;
        item->spectrum = in->spectra[i];
        for (int64_t k = 0; k < item->values; k++) {
            in->spectra[i][k] = value;
            value = value > 3.0 ? value - (double)draw(rng, 0, 3) : 0.0;
        }
    }
}

static mp_status spectrum_never_exceeds_the_target(const mp_comm *comm)
{
    int64_t stored, dense, fits = 0;
    mp_mt19937 rng;
    instance in;

    (void)comm;
    mp_mt19937_seed(&rng, 2);
    for (int i = 0; i < 2000; i++) {
        double ratio = draw_share(&rng);
        mp_status st;

        draw_any(&rng, &in);
        for (int64_t k = 0; k < in.count; k++) in.items[k].rank = 1;
        stored = stored_by(in.items, in.count);
        dense = dense_by(in.items, in.count);
        st = mp_budget_by_spectrum(in.items, in.count, ratio);
        if ((double)stored > ratio * (double)dense) {
            MP_TRY(refused(st, MP_ERR_ARG, "rank 1 everywhere takes"));
            continue;
        }
        MP_TRY(st);
        fits++;
        MP_EXPECT((double)stored_by(in.items, in.count) <= ratio * (double)dense);
        mp_budget_totals(in.items, in.count, &stored, &dense);
        MP_EXPECT(stored == stored_by(in.items, in.count) && dense == dense_by(in.items, in.count));
        for (int64_t k = 0; k < in.count; k++) /* 0, or factors that are smaller than the weight */
            MP_EXPECT(in.items[k].rank >= 0 &&
                      in.items[k].rank * (in.items[k].d_out + in.items[k].d_in) <
                          in.items[k].d_out * in.items[k].d_in);
    }
    MP_EXPECT(fits > 500);
    draw_any(&rng, &in);
    return refused(mp_budget_by_spectrum(in.items, 1, 0.8), MP_ERR_ARG, "expected two or more");
}

/* One linear map of 10 x 10, where a ratio is worth half its tenths in ranks, and one of 10 x 30. */
static mp_status sensitivity_cuts_a_known_order(const mp_comm *comm)
{
    mp_budget_item items[2] = {{.d_out = 10, .d_in = 10}, {.d_out = 10, .d_in = 30}};
    const mp_budget_trial trials[] = {
        {0, 0.4, 2, 3.0},
        {0, 0.8, 4, 1.0},
        {1, 0.4, 3, 2.0},
        {1, 0.8, 6, 2.0},
    };

    (void)comm;
    /* the order is (0, 0.4), (1, 0.4), (1, 0.8), (0, 0.8): dense 400; 380 with the last accepted; 320 with
     * the last two; 200 with the last three; 160 with all */
    MP_TRY(mp_budget_by_sensitivity(items, 2, trials, 4, 1.0));
    MP_EXPECT(items[0].rank == 0 && items[1].rank == 0);
    MP_TRY(mp_budget_by_sensitivity(items, 2, trials, 4, 0.95));
    MP_EXPECT(items[0].rank == 4 && items[1].rank == 0);
    MP_TRY(mp_budget_by_sensitivity(items, 2, trials, 4, 0.949));
    MP_EXPECT(items[0].rank == 4 && items[1].rank == 6);
    MP_TRY(mp_budget_by_sensitivity(items, 2, trials, 4, 0.79));
    MP_EXPECT(items[0].rank == 4 && items[1].rank == 3);
    MP_TRY(mp_budget_by_sensitivity(items, 2, trials, 4, 0.4));
    MP_EXPECT(items[0].rank == 2 && items[1].rank == 3);
    return refused(
        mp_budget_by_sensitivity(items, 2, trials, 4, 0.39), MP_ERR_ARG,
        "--ratio 0.39: the lowest ratio that a search by sensitivity can reach is 0.4000");
}

/* Whether `a` stands before `b` in the order of the cut. */
static int stands_before(const mp_budget_trial *a, const mp_budget_trial *b)
{
    if (a->nll > b->nll) return 1;
    if (a->nll < b->nll) return 0;
    if (a->item != b->item) return a->item < b->item;
    return a->ratio < b->ratio;
}

/* The ranks of a cut by its definition: a trial is accepted where at least `cut` others stand before it. */
static void apply_cut(mp_budget_item *items, int64_t count, const mp_budget_trial *trials,
                      int64_t n, int64_t cut)
{
    double lowest[MOST_ITEMS];

    for (int64_t i = 0; i < count; i++) {
        items[i].rank = 0;
        lowest[i] = 1.0;
    }
    for (int64_t i = 0; i < n; i++) {
        const mp_budget_trial *t = &trials[i];
        int64_t before = 0;

        for (int64_t j = 0; j < n; j++) before += j != i && stands_before(&trials[j], t);
        if (before < cut || t->ratio >= lowest[t->item]) continue;
        lowest[t->item] = t->ratio;
        items[t->item].rank = t->rank;
    }
}

/* Losses that need not rise as the ratio falls, with ties. */
static int64_t draw_trials(mp_mt19937 *rng, instance *in, mp_budget_trial *trials)
{
    int64_t n = 0;

    in->count = draw(rng, 1, MOST_ITEMS);
    for (int64_t i = 0; i < in->count; i++) {
        in->items[i] = (mp_budget_item){.d_out = draw(rng, 4, 40), .d_in = draw(rng, 4, 40)};
        for (int k = 0; k < RATIOS; k++) {
            double ratio = 0.1 * (4 + k);
            int64_t rank = mp_rank_of_ratio(in->items[i].d_out, in->items[i].d_in, ratio);

            if (rank > 0) trials[n++] = (mp_budget_trial){i, ratio, rank, (double)draw(rng, 0, 12)};
        }
    }
    return n;
}

static mp_status check_cut(instance *in, const mp_budget_trial *trials, int64_t n, double ratio)
{
    mp_budget_item expected[MOST_ITEMS];
    double target = ratio * (double)dense_by(in->items, in->count);
    int64_t cut = n;

    memcpy(expected, in->items, sizeof expected);
    apply_cut(expected, in->count, trials, n, cut);
    while (cut >= 0 && (double)stored_by(expected, in->count) > target)
        apply_cut(expected, in->count, trials, n, --cut);
    if (cut < 0)
        return refused(mp_budget_by_sensitivity(in->items, in->count, trials, n, ratio), MP_ERR_ARG,
                       "can reach is");
    MP_TRY(mp_budget_by_sensitivity(in->items, in->count, trials, n, ratio));
    for (int64_t i = 0; i < in->count; i++) MP_EXPECT(in->items[i].rank == expected[i].rank);
    MP_EXPECT((double)stored_by(in->items, in->count) <= target);
    return MP_OK;
}

static mp_status sensitivity_takes_the_last_cut_within_the_target(const mp_comm *comm)
{
    mp_budget_trial trials[MOST_TRIALS];
    mp_mt19937 rng;
    instance in;

    (void)comm;
    mp_mt19937_seed(&rng, 3);
    for (int i = 0; i < 1000; i++) {
        int64_t n = draw_trials(&rng, &in, trials);

        MP_TRY(check_cut(&in, trials, n, 0.3 + 0.7 * draw_share(&rng)));
    }
    return MP_OK;
}

static mp_status a_loss_that_is_no_number_is_refused(const mp_comm *comm)
{
    mp_budget_item items[1] = {{.d_out = 10, .d_in = 10}};
    mp_budget_trial trials[2] = {{0, 0.4, 2, 3.0}, {0, 0.5, 2, NAN}};

    (void)comm;
    MP_TRY(refused(mp_budget_by_sensitivity(items, 1, trials, 2, 0.8), MP_ERR_NUMERIC,
                   "linear map 0 at ratio 0.5: a loss of"));
    trials[1].nll = INFINITY;
    return refused(mp_budget_by_sensitivity(items, 1, trials, 2, 0.8), MP_ERR_NUMERIC, "inf");
}

const mp_case cases_budget[] = {
    {"uniform_ranks_of_known_models", uniform_ranks_of_known_models},
    {"uniform_ranks_are_the_largest_that_fit", uniform_ranks_are_the_largest_that_fit},
    {"spectrum_is_the_best_of_all_choices", spectrum_is_the_best_of_all_choices},
    {"spectrum_never_exceeds_the_target", spectrum_never_exceeds_the_target},
    {"sensitivity_cuts_a_known_order", sensitivity_cuts_a_known_order},
    {"sensitivity_takes_the_last_cut_within_the_target",
     sensitivity_takes_the_last_cut_within_the_target},
    {"a_loss_that_is_no_number_is_refused", a_loss_that_is_no_number_is_refused},
    {NULL, NULL},
};
