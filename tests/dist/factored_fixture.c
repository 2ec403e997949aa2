#include "factored_fixture.h"

#include "memory_source.h"

#include "mpress/fileio.h"

#include <math.h>
#include <stdio.h>

const struct factored_linear factored[FACTORED] = {
    {"model.layers.0.self_attn.q_proj", 5, 48, 48}, /* has a bias */
    {"model.layers.0.mlp.up_proj", 17, 80, 48},
    {"model.layers.1.mlp.down_proj", 30, 48, 80},
    {"model.layers.2.self_attn.v_proj", 1, 24, 48}, /* has a bias */
};

mp_status factored_source(const fixture *f, mp_dtype dtype, mp_source **source)
{
    mp_source *made = NULL;
    mp_status st;

    MP_TRY(memory_source_create(&f->arch, dtype, 11, &made));
    for (int i = 0; i < FACTORED; i++)
        MP_GO(memory_source_factor(made, factored[i].name, factored[i].rank, 20 + (uint64_t)i));
    *source = made;
    made = NULL;
out:
    mp_source_close(&made);
    return st;
}

mp_status factored_with(const mp_comm *comm, mp_dtype dtype,
                        mp_status (*body)(const fixture *, mp_source *))
{
    mp_source *source = NULL;
    fixture f;
    mp_status st;

    MP_GO(fixture_create(comm, &f));
    MP_GO(mp_comm_agree(comm, factored_source(&f, dtype, &source)));
    st = mp_comm_agree(comm, body(&f, source));
out:
    mp_source_close(&source);
    fixture_free(&f);
    return st;
}

mp_status factored_read_file(const char *dir, const char *name, char **text, size_t *length)
{
    char path[256];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    return mp_file_read(path, 1 << 24, text, length);
}

mp_status factored_compare(const float *a, const float *b, const float *product, int64_t rank,
                           int64_t d_in, int64_t first, int64_t count, mp_dtype dtype)
{
    const double unit = dtype == MP_BF16 ? 0x1p-7 : dtype == MP_F16 ? 0x1p-10 : 0x1p-23;

    for (int64_t i = first; i < first + count; i++)
        for (int64_t j = 0; j < d_in; j++) {
            double sum = 0.0, size = 0.0;

            for (int64_t k = 0; k < rank; k++) {
                sum += (double)a[i * rank + k] * b[k * d_in + j];
                size += fabs((double)a[i * rank + k] * b[k * d_in + j]);
            }
            /* 3e-8: half of the smallest step of F16 */
            if (fabs(product[i * d_in + j] - sum) > 0.5 * unit * fabs(sum) + 1e-6 * size + 3e-8)
                return mp_fail(MP_ERR_NUMERIC, "row %lld, column %lld: %.9g, expected %.9g",
                               (long long)i, (long long)j, product[i * d_in + j], sum);
        }
    return MP_OK;
}
