#include "mpress/masks.h"

#include "mpress/memory.h"
#include "mpress/options.h"
#include "mpress/simd.h"

#include <string.h>

enum { LARGEST_GROUP = 128 };

static mp_status parse_n_of_m(const char *text, const char *colon, mp_pattern *pattern)
{
    char first[32];
    size_t length = (size_t)(colon - text);

    if (length >= sizeof first) length = sizeof first - 1;
    memcpy(first, text, length);
    first[length] = '\0';
    if (mp_parse_int(first, &pattern->n) != 0 || mp_parse_int(colon + 1, &pattern->m) != 0 ||
        pattern->n < 1 || pattern->m > LARGEST_GROUP || 2 * pattern->n != pattern->m)
        return mp_fail(MP_ERR_ARG,
                       "sparsity %s: expected N:M with N = M/2 (2:4, 4:8, ...) and M at most %d: "
                       "N of every M weights are removed, and only at one half do \"N kept\" and "
                       "\"N removed\" mean the same",
                       text, LARGEST_GROUP);
    pattern->sparsity = 0.5;
    return MP_OK;
}

mp_status mp_pattern_parse(const char *text, mp_pattern *pattern)
{
    const char *colon;

    *pattern = (mp_pattern){0};
    if (text == NULL)
        return mp_fail(MP_ERR_ARG, "sparsity: expected a share in (0, 1) such as 0.5, or N:M such "
                                   "as 2:4");
    colon = strchr(text, ':');
    if (colon != NULL) return parse_n_of_m(text, colon, pattern);
    if (mp_parse_double(text, &pattern->sparsity) != 0 || pattern->sparsity <= 0.0 ||
        pattern->sparsity >= 1.0)
        return mp_fail(MP_ERR_ARG,
                       "sparsity %s: expected a share in (0, 1) such as 0.5, or N:M "
                       "such as 2:4",
                       text);
    return MP_OK;
}

mp_status mp_pattern_fits(const mp_pattern *pattern, const char *name, int64_t d_in,
                          int64_t blocksize)
{
    if (pattern->m == 0) return MP_OK;
    if (blocksize % pattern->m != 0)
        return mp_fail(MP_ERR_ARG, "sparsity %lld:%lld: %lld does not divide the block size %lld",
                       (long long)pattern->n, (long long)pattern->m, (long long)pattern->m,
                       (long long)blocksize);
    if (d_in % pattern->m != 0)
        return mp_fail(MP_ERR_ARG,
                       "sparsity %lld:%lld: %lld does not divide the %lld input channels of %s "
                       "(leave it dense with --skip, or choose another pattern)",
                       (long long)pattern->n, (long long)pattern->m, (long long)pattern->m,
                       (long long)d_in, name);
    return MP_OK;
}

/* The three digits of a 31-bit key (the sign is always 0): 10, 11 and 10 bits from the top. */
static const struct {
    int shift, bits;
} digits[3] = {{21, 10}, {10, 11}, {0, 10}};

enum { BUCKETS = 1 << 11 };

static uint32_t key_of(float value)
{
    uint32_t bits;

    memcpy(&bits, &value, sizeof bits);
    return bits & 0x7fffffffu; /* -0 counts as 0 */
}

/* Counts the digit of the keys that share the digits found before. */
static void count_digit(const float *score, int64_t columns, int64_t stride, const mp_part *part,
                        int digit, uint32_t prefix, int64_t *buckets)
{
    int shift = digits[digit].shift, above = shift + digits[digit].bits;
    uint32_t mask = (1u << digits[digit].bits) - 1;

    for (int64_t row = 0; row < part->rows; row += MP_STRIP) {
        const float *strip = score + (part->first_strip + row / MP_STRIP) * stride * MP_STRIP;
        int64_t rows = part->rows - row < MP_STRIP ? part->rows - row : MP_STRIP;

        for (int64_t c = 0; c < columns; c++)
            for (int64_t r = 0; r < rows; r++) {
                uint32_t key = key_of(strip[c * MP_STRIP + r]);

                if (above >= 31 || key >> above == prefix) buckets[key >> shift & mask]++;
            }
    }
}

mp_status mp_select_kth(const mp_comm *comm, const float *score, int64_t columns, int64_t stride,
                        const mp_part *part, int parts, const int64_t *k, float *value,
                        int64_t *smaller)
{
    int64_t *buckets = NULL;
    uint32_t *prefix = NULL;
    mp_status st;

    st = MP_NEW(buckets, (int64_t)parts * BUCKETS, "histograms");
    if (st == MP_OK) st = MP_NEW(prefix, parts, "thresholds");
    MP_GO(mp_comm_agree(comm, st));
    for (int p = 0; p < parts; p++) smaller[p] = 0;
    for (int digit = 0; digit < 3; digit++) {
        memset(buckets, 0, (size_t)parts * BUCKETS * sizeof *buckets);
        for (int p = 0; p < parts; p++)
            count_digit(score, columns, stride, &part[p], digit, prefix[p], buckets + p * BUCKETS);
        MP_GO(mp_comm_sum_int(comm, buckets, parts * BUCKETS));
        for (int p = 0; p < parts; p++) {
            const int64_t *count = buckets + p * BUCKETS;
            uint32_t found = 0;

            while (found < BUCKETS - 1 && smaller[p] + count[found] <= k[p])
                smaller[p] += count[found++];
            prefix[p] = prefix[p] << digits[digit].bits | found;
        }
    }
    for (int p = 0; p < parts; p++) memcpy(&value[p], &prefix[p], sizeof value[p]);
out:
    mp_free(buckets);
    mp_free(prefix);
    return st;
}

/* How many of the group come before column c, row by row: strictly smaller, or equal with a lower
 * index.  Rows side by side, so that the compiler compares a vector at a time. */
MP_SIMD_CLONES
static void select_column(const float *score, int64_t n, int64_t m, int64_t c, unsigned char *prune)
{
    const float *mine = score + c * MP_STRIP;
    int before[MP_STRIP] = {0};

    for (int64_t o = 0; o < m; o++) {
        const float *other = score + o * MP_STRIP;

        if (o < c)
            for (int r = 0; r < MP_STRIP; r++) before[r] += other[r] <= mine[r];
        else if (o > c)
            for (int r = 0; r < MP_STRIP; r++) before[r] += other[r] < mine[r];
    }
    for (int r = 0; r < MP_STRIP; r++) prune[r] = before[r] < n;
}

void mp_select_n_of_m(const float *score, int64_t n, int64_t m, unsigned char *prune)
{
    for (int64_t c = 0; c < m; c++) select_column(score, n, m, c, prune + c * MP_STRIP);
}
