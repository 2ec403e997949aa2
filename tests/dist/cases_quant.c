/* Integer grids against reference results (tests/data/golden, and stories260k where the reference material
 * is there), and what must hold of any of them. */
#include "golden.h"
#include "worker.h"

#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "mpress/rng.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* A problem of one linear map with what is needed to solve it. */
typedef struct layer {
    mp_moment *moment;
    mp_outcome outcome;
    mp_problem problem;
} layer;

static void layer_close(layer *l)
{
    mp_problem_close(&l->problem);
    mp_moment_free(l->moment);
}

static mp_status layer_solve(const mp_comm *c, const mp_method *method,
                             const mp_method_options *options, const double *h, mp_grid grid,
                             const double *weight, const int64_t shape[2], mp_dtype dtype, layer *l)
{
    *l = (layer){.outcome = {.damping = NAN}};
    MP_TRY(golden_moment(c, h, shape[1], options->blocksize, grid, &l->moment));
    if (method->prepare != NULL) MP_TRY(method->prepare(options, l->moment, &l->outcome));
    MP_TRY(mp_comm_agree(c, MP_OK));
    if (method->prepare != NULL)
        MP_TRY(mp_mpi_check(
            MPI_Bcast(&l->outcome, (int)sizeof l->outcome, MPI_BYTE, grid.first, c->mpi), "told"));
    MP_TRY(golden_problem(c, l->moment, weight, shape, dtype,
                          mp_quant_groups(&options->quant, shape[1]), &l->problem));
    return method->compress(options, &l->outcome, &l->problem);
}

/* Where row r, column j of this rank stands in the strips, and its scale in those of the scales. */
static int64_t weight_at(const mp_problem *p, int64_t r, int64_t j)
{
    return (r / MP_STRIP * p->order + j) * MP_STRIP + r % MP_STRIP;
}

static int64_t scale_at(const mp_problem *p, int64_t r, int64_t j)
{
    return (r / MP_STRIP * p->groups + j * p->groups / p->n) * MP_STRIP + r % MP_STRIP;
}

/* A weight, its scale and its zero point belong together; `code` out. */
static mp_status code_of(const mp_problem *p, const mp_quant *quant, int64_t r, int64_t j,
                         float *code)
{
    float w = p->weight[weight_at(p, r, j)], s = p->scale[scale_at(p, r, j)],
          z = p->zero[scale_at(p, r, j)];

    *code = rintf(w / s) + z;
    MP_EXPECT(s > 0.0f && z >= 0.0f && z <= (float)((1 << quant->bits) - 1));
    MP_EXPECT(*code >= 0.0f && *code <= (float)((1 << quant->bits) - 1));
    MP_EXPECT((*code - z) * s == w && !(w == 0.0f && signbit(w)));
    return MP_OK;
}

/* Of a method that rounds to nearest all weights are equal, to the last bit; of others 99.9% of the codes,
 * and the loss within 0.1%.  A loss that the method says it knows is the true one. */
static mp_status compare(const mp_comm *c, layer *l, const mp_method_options *options,
                         const double *h, const double *weight, const double *reference,
                         int is_exact)
{
    const mp_problem *p = &l->problem;
    const mp_part *part = &p->part[0];
    double sums[3] = {0.0}, known, *mine = NULL;

    MP_TRY(MP_NEW(mine, part->d_out * p->n, "a solution"));
    for (int64_t r = 0; r < part->rows; r++)
        for (int64_t j = 0; j < p->n; j++) {
            int64_t i = (part->first_row + r) * p->n + j;
            float s = p->scale[scale_at(p, r, j)], z = p->zero[scale_at(p, r, j)], code;

            MP_TRY(code_of(p, &options->quant, r, j, &code));
            mine[i] = (double)p->weight[weight_at(p, r, j)];
            if (is_exact) MP_EXPECT(mine[i] == reference[i]);
            sums[0] += code != rintf((float)reference[i] / s) + z;
        }
    sums[1] = golden_loss(h, weight, mine, p->n, part->first_row, part->rows);
    sums[2] = golden_loss(h, weight, reference, p->n, part->first_row, part->rows);
    MP_TRY(mp_comm_sum(c, sums, 3));
    MP_EXPECT(sums[0] <= 0.001 * (double)(part->d_out * p->n));
    MP_EXPECT(fabs(sums[1] / sums[2] - 1.0) <= 1e-3);
    MP_TRY(
        mp_sum_strips(p, p->loss, &known)); /* of the sweep: before weights are rounded to bf16 */
    if (!is_exact) MP_EXPECT(fabs(known / sums[1] - 1.0) <= 1e-3);
    MP_EXPECT(p->loss_is_known == (!is_exact && part->dtype == MP_F32));
    mp_free(mine);
    return MP_OK;
}

static const struct {
    const char *linear, *state;
    const char *label[2]; /* of the references of gptq and rtn */
    int64_t group;
} references[] = {
    {"self_attn.q_proj", "attn_in", {"gptq.w4g128", "rtn.w4g128"}, 128},
    {"self_attn.q_proj", "attn_in", {"gptq.w4g32", "rtn.w4g32"}, 32},
    {"mlp.gate_proj", "ffn_in", {"gptq.w4g32", "rtn.w4g32"}, 32},
    {"mlp.down_proj", "ffn_mid", {"gptq.w4g32", "rtn.w4g32"}, 32},
};

static mp_status check_reference(const mp_comm *c, const golden *g, const mp_source *integers,
                                 const double *h, size_t which, int method_of, mp_grid grid,
                                 int *compared)
{
    static const char *const methods[] = {"gptq", "rtn"};
    const mp_method_options options = {
        .damp = 0.01,
        .blocksize = 128,
        .quant = {.bits = 4, .group = references[which].group, .symmetric = 1}};
    double *weight = NULL, *reference = NULL;
    int64_t shape[2], of[2];
    char name[128];
    layer l;

    snprintf(name, sizeof name, "%lld.%s.%s", (long long)g->block, references[which].linear,
             references[which].label[method_of]);
    MP_TRY(golden_load(integers, name, &reference, of));
    if (reference == NULL) return MP_OK;
    snprintf(name, sizeof name, "%lld.%s", (long long)g->block, references[which].linear);
    MP_TRY(golden_weight(g, name, &weight, shape));
    MP_TRY(layer_solve(c, mp_method_find(methods[method_of]), &options, h, grid, weight, shape,
                       g->dtype, &l));
    MP_TRY(compare(c, &l, &options, h, weight, reference, method_of == 1));
    layer_close(&l);
    mp_free(weight);
    mp_free(reference);
    ++*compared;
    return MP_OK;
}

static mp_status check_references(const mp_comm *c, const golden *g, mp_grid grid, int *compared)
{
    mp_source *statistics = NULL, *integers = NULL;

    MP_TRY(golden_open(g, "statistics.safetensors", &statistics));
    MP_TRY(golden_open(g, g->integers, &integers));
    for (size_t i = 0; i < sizeof references / sizeof references[0]; i++) {
        char name[64];
        double *h = NULL;
        int64_t shape[2];

        snprintf(name, sizeof name, "H.%lld.%s", (long long)g->block, references[i].state);
        MP_TRY(golden_load(statistics, name, &h, shape));
        for (int method = 0; method < 2; method++)
            MP_TRY(check_reference(c, g, integers, h, i, method, grid, compared));
        mp_free(h);
    }
    mp_source_close(&statistics);
    mp_source_close(&integers);
    return MP_OK;
}

static mp_status integers_equal_the_reference(const mp_comm *c)
{
    for (int i = 0; i < GOLDENS; i++) {
        int compared = 0;

        if (!mp_path_exists(goldens[i].dir)) {
            MP_TRY(mp_case_skip("no reference results of stories260k"));
            continue;
        }
        MP_TRY(check_references(c, &goldens[i], mp_grid_of(0, c->size), &compared));
        MP_EXPECT(compared == 4);
    }
    return MP_OK;
}

/* --- any layer ------------------------------------------------------------------------------------ */

enum { D_OUT = 200, D_IN = 96, TILE = 16, DEAD = 13 };

/* H of random states whose channels differ in strength, in no order, one of them dead, and random weights. */
static mp_status random_layer(double **h, double **weight)
{
    enum { TOKENS = 2 * D_IN };
    float *x = NULL, *w = NULL;

    MP_TRY(MP_NEW(x, TOKENS * D_IN, "states"));
    MP_TRY(MP_NEW(w, D_OUT * D_IN, "weights"));
    MP_TRY(MP_NEW(*h, D_IN * D_IN, "a Hessian"));
    MP_TRY(MP_NEW(*weight, D_OUT * D_IN, "weights"));
    mp_philox_normal(5, 0, 0, TOKENS * D_IN, x);
    mp_philox_normal(6, 0, 0, D_OUT * D_IN, w);
    for (int t = 0; t < TOKENS; t++)
        for (int i = 1; i < D_IN; i++) x[t * D_IN + i] += 0.7f * x[t * D_IN + i - 1];
    for (int t = 0; t < TOKENS; t++) x[t * D_IN + DEAD] = 0.0f;
    for (int t = 0; t < TOKENS; t++)
        for (int i = 0; i < D_IN; i++)
            for (int j = 0; j < D_IN; j++)
                (*h)[i * D_IN + j] += (1.0 + i * 37 % 11) * (double)x[t * D_IN + i] *
                                      (1.0 + j * 37 % 11) * (double)x[t * D_IN + j];
    for (int i = 0; i < D_OUT * D_IN; i++) (*weight)[i] = (double)w[i];
    mp_free(x);
    mp_free(w);
    return MP_OK;
}

/* Taking the channels in the order of their energy is the same as having them in that order: with one
 * group per row, to the last bit. */
static mp_status an_order_of_columns_is_a_permutation(const mp_comm *c)
{
    mp_method_options options = {
        .damp = 0.01, .blocksize = TILE, .quant = {.bits = 3, .symmetric = 1}};
    const mp_method *gptq = mp_method_find("gptq");
    const int64_t shape[2] = {D_OUT, D_IN};
    double *h, *weight, *h2, *weight2;
    int64_t channel[D_IN];
    layer plain, ordered;

    MP_TRY(random_layer(&h, &weight));
    MP_TRY(MP_NEW(h2, D_IN * D_IN, "a Hessian"));
    MP_TRY(MP_NEW(weight2, D_OUT * D_IN, "weights"));
    options.act_order = 1;
    MP_TRY(
        layer_solve(c, gptq, &options, h, mp_grid_of(0, c->size), weight, shape, MP_F32, &ordered));
    MP_TRY(mp_moment_order(ordered.moment, channel));
    MP_EXPECT((channel[0] != 0 || channel[1] != 1) && channel[D_IN - 1] == DEAD);
    for (int i = 0; i < D_IN; i++)
        for (int j = 0; j < D_IN; j++) h2[i * D_IN + j] = h[channel[i] * D_IN + channel[j]];
    for (int r = 0; r < D_OUT; r++)
        for (int j = 0; j < D_IN; j++) weight2[r * D_IN + j] = weight[r * D_IN + channel[j]];
    options.act_order = 0;
    MP_TRY(
        layer_solve(c, gptq, &options, h2, mp_grid_of(0, c->size), weight2, shape, MP_F32, &plain));
    for (int64_t r = 0; r < plain.problem.part[0].rows; r++)
        for (int64_t j = 0; j < D_IN; j++)
            MP_EXPECT(plain.problem.weight[weight_at(&plain.problem, r, j)] ==
                      ordered.problem.weight[weight_at(&ordered.problem, r, channel[j])]);
    layer_close(&plain);
    layer_close(&ordered);
    mp_free(h);
    mp_free(h2);
    mp_free(weight);
    mp_free(weight2);
    return mp_comm_agree(c, MP_OK);
}

/* Grids are those of the dense weights, in the order of the channels, whatever a sweep does to them: those of
 * rounding to nearest. */
static mp_status compare_grids(const mp_comm *c, mp_method_options options, const double *h,
                               const double *weight, const mp_problem *p)
{
    const int64_t shape[2] = {D_OUT, D_IN};
    const size_t bytes = (size_t)(p->strips * p->groups * MP_STRIP) * sizeof(float);
    layer nearest;

    options.act_order = 0;
    MP_TRY(layer_solve(c, mp_method_find("rtn"), &options, h, mp_grid_of(0, c->size), weight, shape,
                       MP_F32, &nearest));
    MP_EXPECT(memcmp(p->scale, nearest.problem.scale, bytes) == 0);
    MP_EXPECT(memcmp(p->zero, nearest.problem.zero, bytes) == 0);
    layer_close(&nearest);
    return MP_OK;
}

/* Codes, zero points and known losses of one method with everything that can be asked of it. */
static mp_status check_grids(const mp_comm *c, const char *method, const char *pattern,
                             mp_method_options options, const double *h, const double *weight)
{
    const int64_t shape[2] = {D_OUT, D_IN};
    double *mine = NULL, sums[2] = {0.0}, known;
    layer l;

    if (pattern != NULL) MP_TRY(mp_pattern_parse(pattern, &options.pattern));
    MP_TRY(layer_solve(c, mp_method_find(method), &options, h, mp_grid_of(0, c->size), weight,
                       shape, MP_F32, &l));
    MP_TRY(MP_NEW(mine, D_OUT * D_IN, "a solution"));
    for (int64_t r = 0; r < l.problem.part[0].rows; r++)
        for (int64_t j = 0; j < D_IN; j++) {
            float w = l.problem.weight[weight_at(&l.problem, r, j)], code;

            MP_TRY(code_of(&l.problem, &options.quant, r, j, &code));
            MP_EXPECT(j != DEAD || w == 0.0f);
            sums[1] += w == 0.0f;
            mine[(l.problem.part[0].first_row + r) * D_IN + j] = (double)w;
        }
    sums[0] =
        golden_loss(h, weight, mine, D_IN, l.problem.part[0].first_row, l.problem.part[0].rows);
    MP_TRY(mp_comm_sum(c, sums, 2));
    MP_EXPECT(l.problem.loss_is_known);
    MP_TRY(mp_sum_strips(&l.problem, l.problem.loss, &known));
    MP_EXPECT(fabs(known / sums[0] - 1.0) <= 1e-3);
    if (pattern != NULL) MP_EXPECT(sums[1] >= 0.5 * D_OUT * D_IN);
    MP_TRY(compare_grids(c, options, h, weight, &l.problem));
    mp_free(mine);
    layer_close(&l);
    return mp_comm_agree(c, MP_OK);
}

static mp_status weights_lie_on_their_grids_and_losses_are_known(const mp_comm *c)
{
    double *h, *weight;

    MP_TRY(random_layer(&h, &weight));
    for (int i = 0; i < 16; i++) {
        mp_method_options options = {.damp = 0.01,
                                     .blocksize = TILE,
                                     .quant = {.bits = i % 2 == 0 ? 3 : 8,
                                               .group = i & 2 ? 24 : 0,
                                               .symmetric = (i & 4) != 0},
                                     .scale_by_search = (i & 8) != 0};

        MP_TRY(check_grids(c, "gptq", NULL, options, h, weight));
        MP_TRY(check_grids(c, "sparsegpt", "2:4", options, h, weight));
        MP_TRY(check_grids(c, "sparsegpt", "0.5", options, h, weight));
        options.act_order = 1;
        MP_TRY(check_grids(c, "gptq", NULL, options, h, weight));
    }
    mp_free(h);
    mp_free(weight);
    return MP_OK;
}

const mp_case cases_quant[] = {
    {"integers_equal_the_reference", integers_equal_the_reference},
    {"an_order_of_columns_is_a_permutation", an_order_of_columns_is_a_permutation},
    {"weights_lie_on_their_grids_and_losses_are_known",
     weights_lie_on_their_grids_and_losses_are_known},
    {NULL, NULL},
};
