/* Floors 5 and 6 against reference results: statistics, factors and solvers (tests/data/golden, and
 * stories260k where the reference material is there). */
#include "golden.h"
#include "worker.h"

#include "mpress/dlinalg.h"
#include "mpress/forward.h"
#include "mpress/hidden.h"
#include "mpress/linalg.h"
#include "mpress/memory.h"
#include "mpress/method.h"
#include "mpress/safetensors.h"
#include "mpress/fileio.h"
#include "mpress/token_weights.h"
#include "mpress/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* --- statistics ----------------------------------------------------------------------------------- */

/* The moment against the reference: |difference| <= 1e-5 sqrt(H_ii H_jj), each rank its own tiles. */
static mp_status compare_moment(const mp_moment *m, const double *h)
{
    const mp_dmat *d = m->matrix;

    for (int64_t j = 0; j < d->order; j++)
        for (int64_t i = j; i < d->order; i++) {
            int64_t a = d->order - 1 - i, b = d->order - 1 - j; /* channels */
            double mine;

            if (mp_grid_rank(&d->grid, i / d->nb, j / d->nb) != d->comm->rank) continue;
            mine = mp_dmat_tile(d, i / d->nb, j / d->nb)[j % d->nb * d->local_rows + i % d->nb];
            if (a >= m->n || b >= m->n) {
                MP_EXPECT(mine == (i == j ? 1.0 : 0.0));
                continue;
            }
            MP_EXPECT(fabs(mine - h[a * m->n + b]) <=
                      1e-5 * sqrt(h[a * m->n + a] * h[b * m->n + b]));
        }
    return MP_OK;
}

typedef struct pass {
    mp_arch arch;
    mp_source *source;
    mp_block *block;
    mp_forward *forward;
    mp_hidden *hidden;
    float *buffer[2];
    float *weights;
} pass;

static void pass_close(pass *p)
{
    mp_hidden_free(p->hidden);
    mp_forward_free(p->forward);
    mp_block_free(p->block);
    mp_source_close(&p->source);
    mp_free(p->buffer[0]);
    mp_free(p->buffer[1]);
    mp_free(p->weights);
}

/* The calibration windows of the reference, propagated to its block. */
static mp_status pass_open(const mp_comm *c, const golden *g, const mp_source *statistics, pass *p)
{
    int64_t index = mp_source_find(statistics, "calib_ids"), n, length;
    const mp_tensor_info *info = statistics->at(statistics->self, index);
    int32_t *tokens = NULL;

    n = info->shape[0];
    length = info->shape[1];
    MP_TRY(mp_arch_load(g->model, &p->arch));
    MP_TRY(mp_safetensors_open(g->model, &p->source));
    MP_TRY(mp_block_create(c, &p->arch, &p->block));
    MP_TRY(mp_forward_create(&p->arch, length, &p->forward));
    MP_TRY(mp_hidden_create(c, n, length, p->arch.d_model, &p->hidden));
    MP_TRY(MP_NEW(tokens, n * length, "tokens"));
    MP_TRY(statistics->read(statistics->self, index, 0, n * length * 4, tokens));
    MP_TRY(mp_hidden_embed(c, p->source, tokens, p->hidden));
    mp_free(tokens);
    for (int i = 0; i < 2; i++) MP_TRY(MP_NEW(p->buffer[i], length * p->arch.d_ff, "states"));
    MP_TRY(MP_NEW(p->weights, length, "token weights"));
    for (int64_t b = 0; b <= g->block; b++) {
        MP_TRY(mp_block_load(p->block, c, p->source, b));
        for (int64_t i = 0; i < p->hidden->local && b < g->block; i++)
            MP_TRY(
                mp_forward_block(p->forward, p->block, length, mp_hidden_sequence(p->hidden, i)));
        MP_TRY(mp_comm_agree(c, MP_OK));
    }
    return MP_OK;
}

/* All moments of the block with one length policy. */
static mp_status measure(const mp_comm *c, pass *p, const mp_length_policy *policy, int64_t tile,
                         mp_moment **moments)
{
    mp_moment_scratch *scratch = NULL;
    int64_t length = p->hidden->n_tokens, widths[MP_MAX_STATES];
    float *hidden = NULL;

    for (int s = 0; s < p->arch.n_states; s++) widths[s] = p->arch.states[s].width;
    MP_TRY(mp_moment_scratch_create(c, widths, p->arch.n_states, tile, length, &scratch));
    MP_TRY(MP_NEW(hidden, length * p->arch.d_model, "a residual stream"));
    for (int s = 0; s < p->arch.n_states; s++) {
        MP_TRY(mp_moment_create(c, widths[s], tile, &moments[s]));
        mp_token_weights(policy, &p->arch.states[s], length, p->weights);
        if (p->weights[length - 1] != p->weights[0]) MP_TRY(mp_moment_track_distance(moments[s]));
    }
    for (int64_t i = 0; i < p->hidden->rounds; i++) {
        int mine = i < p->hidden->local, active = mp_hidden_active(p->hidden, c, i);

        if (mine)
            memcpy(hidden, mp_hidden_sequence(p->hidden, i),
                   (size_t)(length * p->arch.d_model) * sizeof *hidden);
        for (int s = 0; s < p->arch.n_states; s++) {
            float *x = p->buffer[s % 2], *before = p->buffer[1 - s % 2];

            if (mine) MP_TRY(mp_forward_state(p->forward, p->block, s, length, hidden, before, x));
            mp_token_weights(policy, &p->arch.states[s], length, p->weights);
            MP_TRY(mp_moment_add(moments[s], scratch, active, x, length, p->weights));
        }
    }
    mp_free(hidden);
    mp_moment_scratch_free(scratch);
    return MP_OK;
}

/* What the summary of a moment says against the whole matrices: h, and the plain one. */
static mp_status compare_summary(const mp_moment *m, const double *h, const double *plain)
{
    double trace = 0.0, hh = 0.0, hp = 0.0, pp = 0.0, distance;
    mp_moment_summary s;

    MP_TRY(mp_moment_summarise(m, &s));
    for (int64_t i = 0; i < m->n; i++) trace += h[i * m->n + i];
    for (int64_t i = 0; i < m->n * m->n; i++) {
        hh += h[i] * h[i];
        hp += h[i] * plain[i];
        pp += plain[i] * plain[i];
    }
    MP_EXPECT(fabs(s.effective_rank / (trace * trace / hh) - 1.0) < 1e-5);
    distance = sqrt(fmax(1.0 - hp / hh * hp / pp, 0.0));
    if (m->probe == NULL) {
        MP_EXPECT(distance < 1e-6 && s.distance == 0.0 && s.distance_error == 0.0 && s.probes == 0);
        return MP_OK;
    }
    MP_EXPECT(s.probes == MP_PROBES && s.distance_error > 0.0);
    MP_EXPECT(s.distance_error < 0.2 * distance);
    MP_EXPECT(fabs(s.distance - distance) <= 3.0 * s.distance_error);
    return MP_OK;
}

/* References `prefix`.BLOCK.STATE of a file against what one policy measures. */
static mp_status check_statistics(const mp_comm *c, const golden *g, const char *file,
                                  const char *prefix, const mp_length_policy *policy, int64_t tile,
                                  int *compared)
{
    mp_moment *moments[MP_MAX_STATES] = {NULL};
    mp_source *statistics = NULL, *references = NULL;
    pass p = {0};

    MP_TRY(golden_open(g, "statistics.safetensors", &statistics));
    MP_TRY(golden_open(g, file, &references));
    MP_TRY(pass_open(c, g, statistics, &p));
    MP_TRY(measure(c, &p, policy, tile, moments));
    for (int s = 0; s < p.arch.n_states; s++) {
        char name[64];
        double *h, *plain;
        int64_t shape[2];

        snprintf(name, sizeof name, "H.%lld.%s", (long long)g->block, p.arch.states[s].name);
        MP_TRY(golden_load(statistics, name, &plain, shape));
        snprintf(name, sizeof name, "%s.%lld.%s", prefix, (long long)g->block,
                 p.arch.states[s].name);
        MP_TRY(golden_load(references, name, &h, shape));
        MP_TRY(mp_moment_finish(moments[s], (mp_grid){s % c->size, 1, 1}));
        MP_EXPECT(moments[s]->tokens ==
                  (int64_t)((double)p.hidden->n_tokens *
                            (p.arch.states[s].normalised ? policy->state_ratio : 1.0)) *
                      p.hidden->n_sequences);
        if (h != NULL) {
            MP_TRY(compare_moment(moments[s], h));
            MP_TRY(compare_summary(moments[s], h, plain));
            ++*compared;
        }
        mp_free(h);
        mp_free(plain);
        mp_moment_free(moments[s]);
    }
    pass_close(&p);
    mp_source_close(&statistics);
    mp_source_close(&references);
    return MP_OK;
}

static mp_status statistics_equal_the_reference(const mp_comm *c)
{
    static const char all[] = "statistics.safetensors";
    mp_length_policy plain = {.state_ratio = 1.0}, quarter = {.state_ratio = 0.25};
    mp_length_policy nested = {.state_ratio = 1.0, .normalise = 1};

    for (int i = 0; i < GOLDENS; i++) {
        int compared = 0;

        if (!mp_path_exists(goldens[i].dir)) {
            MP_TRY(mp_case_skip("no reference results of stories260k"));
            continue;
        }
        MP_TRY(mp_lengths_parse(goldens[i].lengths, &nested));
        MP_TRY(check_statistics(c, &goldens[i], all, "H", &plain, 128, &compared));
        MP_TRY(check_statistics(c, &goldens[i], all, "H_state_aware", &quarter, 64, &compared));
        MP_EXPECT(compared >= 6);
        MP_TRY(check_statistics(c, &goldens[i], goldens[i].maca, "H_maca", &nested, 64, &compared));
        MP_EXPECT(compared >= 8);
    }
    return MP_OK;
}

/* --- solvers -------------------------------------------------------------------------------------- */

/* 99.9% of the mask equal, the loss within 0.1%, and the error as the program reports it the same. */
static mp_status compare_solution(const mp_comm *c, mp_problem *p, const double *h,
                                  const double *weight, const double *reference, double energy)
{
    const mp_part *part = &p->part[0];
    double sums[5] = {0.0}, loss, *mine = NULL, *zeros = NULL;

    MP_TRY(MP_NEW(mine, part->d_out * p->n, "a solution"));
    MP_TRY(MP_NEW(zeros, part->d_out * p->n, "nothing"));
    for (int64_t r = 0; r < part->rows; r++)
        for (int64_t j = 0; j < p->n; j++) {
            int64_t i = (part->first_row + r) * p->n + j, at = j * MP_STRIP + r % MP_STRIP;

            mine[i] = (double)mp_problem_strip(p, p->weight, 0, r)[at];
            mp_problem_strip(p, p->difference, 0, r)[at] = (float)(weight[i] - mine[i]);
            sums[0] += (mine[i] == 0.0) != (reference[i] == 0.0);
            sums[1] += (double)(signbit(mine[i]) && mine[i] == 0.0); /* zeros must be +0 */
        }
    sums[2] = golden_loss(h, weight, mine, p->n, part->first_row, part->rows);
    sums[3] = golden_loss(h, weight, reference, p->n, part->first_row, part->rows);
    sums[4] = golden_loss(h, weight, zeros, p->n, part->first_row, part->rows);
    MP_TRY(mp_comm_sum(c, sums, 5));
    MP_EXPECT(sums[0] <= 0.001 * (double)(part->d_out * p->n));
    MP_EXPECT(sums[1] == 0.0);
    MP_EXPECT(fabs(sums[2] / sums[3] - 1.0) <= 1e-3);
    MP_TRY(mp_layer_energy(p, p->difference, &loss));
    MP_EXPECT(fabs(loss / sums[2] - 1.0) <= 1e-4);
    if (p->loss_is_known) MP_TRY(mp_sum_strips(p, p->loss, &loss));
    MP_EXPECT(fabs(loss / sums[2] - 1.0) <= 1e-4);
    MP_EXPECT(fabs(energy / sums[4] - 1.0) <= 1e-4);
    mp_free(mine);
    mp_free(zeros);
    return MP_OK;
}

/* U = R^-1 of the factorised moment against the reference's, 1e-5 in the Frobenius norm. */
static mp_status compare_factor(const mp_comm *c, const mp_moment *m, const double *u)
{
    int64_t n = m->n, order = m->order, length;
    double *r = NULL, wrong = 0.0, all = 0.0;
    mp_stream *stream = NULL;
    float *column;

    MP_TRY(MP_NEW(r, n * n, "a factor"));
    MP_TRY(mp_stream_create(m->matrix, MP_LOWER_HALF, m->matrix->tiles - 1, -1, &stream));
    for (int64_t begin = 0; begin < order; begin += m->matrix->nb) {
        MP_TRY(mp_stream_next(stream, &column, &length));
        for (int64_t j = 0; j < m->matrix->nb && begin + j < n; j++)
            for (int64_t i = 0; i <= begin + j; i++)
                r[i * n + begin + j] = (double)column[j * length + i];
    }
    mp_stream_free(stream);
    MP_TRY(mp_dtrtri_upper(n, r, n));
    for (int64_t i = 0; i < n * n; i++) {
        wrong += (r[i] - u[i]) * (r[i] - u[i]);
        all += u[i] * u[i];
    }
    MP_EXPECT(sqrt(wrong / all) <= 1e-5);
    mp_free(r);
    return mp_comm_agree(c, MP_OK);
}

typedef struct solver {
    const char *method, *pattern, *label; /* label: of the reference's tensor */
} solver;

static const solver solvers[] = {
    {"sparsegpt", "2:4", "sparsegpt.2:4"}, {"sparsegpt", "4:8", "sparsegpt.4:8"},
    {"sparsegpt", "0.5", "sparsegpt.50%"}, {"wanda", "2:4", "wanda.2:4"},
    {"wanda", "4:8", "wanda.4:8"},         {"wanda", "0.5", "wanda.50%"},
};

/* One linear map with every solver; returns how many references there were. */
static mp_status check_linear(const mp_comm *c, const golden *g, const mp_source *solve,
                              const char *linear, const double *h, mp_grid grid, int *compared)
{
    int64_t shape[2], of[2];
    double *weight = NULL, *reference = NULL;
    char name[128];

    MP_TRY(golden_weight(g, linear, &weight, shape));
    for (size_t i = 0; i < sizeof solvers / sizeof solvers[0]; i++) {
        const mp_method *method = mp_method_find(solvers[i].method);
        mp_method_options options = {.damp = 0.01, .blocksize = 128};
        mp_outcome outcome = {0};
        mp_moment *m = NULL;
        mp_problem p;
        double energy;

        snprintf(name, sizeof name, "%s.%s", linear, solvers[i].label);
        MP_TRY(golden_load(solve, name, &reference, of));
        if (reference == NULL) continue;
        MP_TRY(mp_pattern_parse(solvers[i].pattern, &options.pattern));
        MP_TRY(golden_moment(c, h, shape[1], 128, grid, &m));
        MP_TRY(method->prepare(&options, m, &outcome));
        MP_TRY(mp_comm_agree(c, MP_OK));
        MP_TRY(golden_problem(c, m, weight, shape, g->dtype, 0, &p));
        MP_TRY(mp_layer_energy(&p, p.weight, &energy));
        MP_TRY(method->compress(&options, &outcome, &p));
        MP_TRY(compare_solution(c, &p, h, weight, reference, energy));
        mp_free(reference);
        snprintf(name, sizeof name, "%s.U", linear);
        MP_TRY(golden_load(solve, name, &reference, of));
        if (strcmp(method->name, "sparsegpt") == 0) MP_TRY(compare_factor(c, m, reference));
        mp_free(reference);
        mp_problem_close(&p);
        mp_moment_free(m);
        ++*compared;
    }
    mp_free(weight);
    return MP_OK;
}

static mp_status check_solvers(const mp_comm *c, const golden *g, mp_grid grid, int *compared)
{
    static const char *const of[][2] = {
        {"self_attn.q_proj", "attn_in"}, {"mlp.gate_proj", "ffn_in"}, {"mlp.down_proj", "ffn_mid"}};
    mp_source *statistics = NULL, *solve = NULL;

    MP_TRY(golden_open(g, "statistics.safetensors", &statistics));
    MP_TRY(golden_open(g, "solve.safetensors", &solve));
    for (int i = 0; i < 3; i++) {
        char name[64];
        double *h = NULL;
        int64_t shape[2];

        snprintf(name, sizeof name, "H.%lld.%s", (long long)g->block, of[i][1]);
        MP_TRY(golden_load(statistics, name, &h, shape));
        snprintf(name, sizeof name, "%lld.%s", (long long)g->block, of[i][0]);
        MP_TRY(check_linear(c, g, solve, name, h, grid, compared));
        mp_free(h);
    }
    mp_source_close(&statistics);
    mp_source_close(&solve);
    return MP_OK;
}

static mp_status solvers_equal_the_reference(const mp_comm *c)
{
    for (int i = 0; i < GOLDENS; i++) {
        int compared = 0;

        if (!mp_path_exists(goldens[i].dir)) {
            MP_TRY(mp_case_skip("no reference results of stories260k"));
            continue;
        }
        MP_TRY(check_solvers(c, &goldens[i], (mp_grid){c->size - 1, 1, 1}, &compared));
        MP_EXPECT(compared >= 12);
    }
    return MP_OK;
}

/* The same on ScaLAPACK, whose grid here takes all ranks. */
static mp_status solvers_equal_the_reference_on_a_grid(const mp_comm *c)
{
    int compared = 0;

    return check_solvers(c, &goldens[0], mp_grid_of(0, c->size), &compared);
}

const mp_case cases_method[] = {
    {"statistics_equal_the_reference", statistics_equal_the_reference},
    {"solvers_equal_the_reference", solvers_equal_the_reference},
    {"solvers_equal_the_reference_on_a_grid", solvers_equal_the_reference_on_a_grid},
    {NULL, NULL},
};
