/* What the report and the log say of the states that were measured. */
#include "run.h"

static json_t *state_json(const run *r, int64_t block, int state)
{
    const mp_state_result *result = &r->states[block * r->arch.n_states + state];
    const mp_moment_summary *s = &result->summary;

    return json_pack("{s:I, s:s, s:I, s:f, s:f, s:f, s:f, s:I}", "block", (json_int_t)block, "name",
                     r->arch.states[state].name, "tokens", (json_int_t)result->tokens, "weight",
                     result->weight, "effective_rank", s->effective_rank, "distance", s->distance,
                     "distance_error", s->distance_error, "probes", (json_int_t)s->probes);
}

json_t *report_states(const run *r, int64_t first, int64_t count)
{
    json_t *all = json_array();

    for (int64_t b = first; b < first + count; b++)
        for (int s = 0; s < r->arch.n_states; s++)
            if (r->states[b * r->arch.n_states + s].tokens > 0)
                json_array_append_new(all, state_json(r, b, s));
    return all;
}
