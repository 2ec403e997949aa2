/* config.json: whatever it says, it is refused in one line, or gives sizes that fit together. */
#include "fuzz.h"

#include "mpress/arch.h"
#include "mpress/json.h"

#include <math.h>

static void check_arch(const mp_arch *a)
{
    fuzz_expect(a->family != NULL && a->n_blocks > 0 && a->vocabulary > 0, "sizes are positive");
    fuzz_expect(a->n_heads % a->n_kv_heads == 0, "heads are shared evenly");
    fuzz_expect(a->head_dim > 0 && a->head_dim % 2 == 0, "channels of a head come in pairs");
    fuzz_expect(a->n_states == MP_MAX_STATES && a->n_linears == MP_MAX_LINEARS, "a block is whole");
    for (int i = 0; i < a->n_linears; i++) {
        const mp_linear_row *row = &a->linears[i];

        fuzz_expect(row->d_in == a->states[row->state].width, "a linear map fits its state");
        fuzz_expect(row->d_out > 0 && row->d_out <= INT64_MAX / 64 / row->d_in, "no overflow");
    }
    fuzz_expect(a->linears[MP_Q].d_out == a->linears[MP_O].d_in, "q and o fit");
    fuzz_expect(mp_arch_block_parameters(a) > mp_arch_linear_parameters(a), "there are norms");
    fuzz_expect(isfinite(a->rope.theta) && a->rope.theta >= 1.0, "angles are finite");
    fuzz_expect(a->window >= 0 && mp_dtype_is_weight(a->dtype), "window and dtype are possible");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    json_t *config = NULL;
    mp_arch arch;
    mp_status st = mp_json_parse((const char *)data, size, "config.json", &config);

    fuzz_expect_message(st);
    if (st != MP_OK) return 0;
    st = mp_arch_parse(config, "config.json", &arch);
    fuzz_expect_message(st);
    if (st == MP_OK) check_arch(&arch);
    json_decref(config);
    fuzz_expect(mp_memory_balance() == 0, "nothing leaks");
    return 0;
}
