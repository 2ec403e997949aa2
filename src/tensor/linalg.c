#include "mpress/linalg.h"

#include "mpress/fault.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#ifdef MPRESS_ONEDNN
#include <oneapi/dnnl/dnnl.h>
#endif
#include <dlfcn.h>
#include <limits.h>
#include <omp.h>
#include <stdio.h>
#include <string.h>

/* The Fortran interface: the one that every BLAS has.  Column-major, so a row-major product is
 * computed as the product of the transposes in reversed order. */
void sgemm_(const char *, const char *, const int *, const int *, const int *, const float *,
            const float *, const int *, const float *, const int *, const float *, float *,
            const int *);
void dgemm_(const char *, const char *, const int *, const int *, const int *, const double *,
            const double *, const int *, const double *, const int *, const double *, double *,
            const int *);
void dpotrf_(const char *, const int *, double *, const int *, int *);
void dtrsm_(const char *, const char *, const char *, const char *, const int *, const int *,
            const double *, const double *, const int *, double *, const int *);
void dsyrk_(const char *, const char *, const int *, const int *, const double *, const double *,
            const int *, const double *, double *, const int *);
void dtrtri_(const char *, const char *, const int *, double *, const int *, int *);

mp_status mp_to_blas_int(int64_t n, const char *what, int *out)
{
    if (n < 0 || n > INT_MAX)
        return mp_fail(MP_ERR_NOFIT, "%s = %lld does not fit the 32-bit integers of BLAS", what,
                       (long long)n);
    *out = (int)n;
    return MP_OK;
}

typedef struct gemm_sizes {
    int m, n, k, lda, ldb, ldc;
} gemm_sizes;

static mp_status gemm_gate(int64_t m, int64_t n, int64_t k, int64_t lda, int64_t ldb, int64_t ldc,
                           gemm_sizes *s)
{
    MP_TRY(mp_to_blas_int(m, "rows of a product", &s->m));
    MP_TRY(mp_to_blas_int(n, "columns of a product", &s->n));
    MP_TRY(mp_to_blas_int(k, "inner size of a product", &s->k));
    MP_TRY(mp_to_blas_int(lda, "a leading dimension", &s->lda));
    MP_TRY(mp_to_blas_int(ldb, "a leading dimension", &s->ldb));
    return mp_to_blas_int(ldc, "a leading dimension", &s->ldc);
}

/* oneDNN, where it is built in, brings kernels for processors younger than the BLAS at hand, and on many
 * it is the faster of the two (README, "Performance").  It is row-major and counts in 64 bits. */
#ifdef MPRESS_ONEDNN
static mp_status sgemm(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                       const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                       float *c, int64_t ldc)
{
    dnnl_status_t status;

    if (m == 0 || n == 0) return MP_OK;
    for (int64_t i = 0; k == 0 && i < m; i++) /* which oneDNN leaves as it is */
        for (int64_t j = 0; j < n; j++)
            c[i * ldc + j] = beta == 0.0f ? 0.0f : beta * c[i * ldc + j];
    if (k == 0) return MP_OK;
    status = dnnl_sgemm(trans_a ? 'T' : 'N', trans_b ? 'T' : 'N', m, n, k, alpha, a, lda, b, ldb,
                        beta, c, ldc);
    if (status == dnnl_success) return MP_OK;
    return mp_fail(MP_ERR_INTERNAL, "oneDNN: a product of %lld x %lld x %lld failed (status %d)",
                   (long long)m, (long long)n, (long long)k, (int)status);
}
#else
static mp_status sgemm(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                       const float *a, int64_t lda, const float *b, int64_t ldb, float beta,
                       float *c, int64_t ldc)
{
    gemm_sizes s;

    if (m == 0 || n == 0) return MP_OK;
    MP_TRY(gemm_gate(m, n, k, lda, ldb, ldc, &s));
    sgemm_(trans_b ? "T" : "N", trans_a ? "T" : "N", &s.n, &s.m, &s.k, &alpha, b, &s.ldb, a, &s.lda,
           &beta, c, &s.ldc);
    return MP_OK;
}
#endif

/* A threaded product is cut by the number of threads, and where it is cut decides which of the
 * library's kernels computes an element: the last bits differ between 1 and 2 threads (measured:
 * OpenBLAS 0.3.21).  So the cuts are ours and follow from the shape alone, and BLAS runs on one thread
 * inside a parallel region.  Tiles of 1024 by 2048 keep 95% of the rate of one large product; where
 * they would be few they are narrower, for several threads. */
enum { TILE_ROWS = 1024, WIDEST = 2048, NARROWEST = 256, ENOUGH_TILES = 8, SQUARE = 512 };

static int64_t pieces(int64_t count, int64_t size)
{
    return (count + size - 1) / size;
}

mp_status mp_sgemm(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, float alpha,
                   const float *a, int64_t lda, const float *b, int64_t ldb, float beta, float *c,
                   int64_t ldc)
{
    int64_t tall = pieces(m, TILE_ROWS), width = WIDEST;
    int failed = 0;

    while (width > NARROWEST && tall * pieces(n, width) < ENOUGH_TILES) width /= 2;
#pragma omp parallel for schedule(dynamic) reduction(max : failed)
    for (int64_t tile = 0; tile < tall * pieces(n, width); tile++) {
        int64_t r = m * (tile % tall) / tall, rows = m * (tile % tall + 1) / tall - r;
        int64_t col = tile / tall * width, cols = n - col < width ? n - col : width;
        mp_status st =
            sgemm(trans_a, trans_b, rows, cols, k, alpha, a + (trans_a ? r : r * lda), lda,
                  b + (trans_b ? col * ldb : col), ldb, beta, c + r * ldc + col, ldc);

        if ((int)st > failed) failed = (int)st;
    }
    if (failed == MP_OK) return MP_OK;
    return mp_fail((mp_status)failed,
                   "a product of %lld x %lld x %lld does not fit the BLAS library", (long long)m,
                   (long long)n, (long long)k);
}

mp_status mp_dgemm(int trans_a, int trans_b, int64_t m, int64_t n, int64_t k, double alpha,
                   const double *a, int64_t lda, const double *b, int64_t ldb, double beta,
                   double *c, int64_t ldc)
{
    gemm_sizes s;

    if (m == 0 || n == 0) return MP_OK;
    MP_TRY(gemm_gate(m, n, k, lda, ldb, ldc, &s));
    dgemm_(trans_b ? "T" : "N", trans_a ? "T" : "N", &s.n, &s.m, &s.k, &alpha, b, &s.ldb, a, &s.lda,
           &beta, c, &s.ldc);
    return MP_OK;
}

/* A square on the diagonal, without its lower left quarter. */
static mp_status diagonal_square(int64_t n, int64_t k, const float *a, int64_t lda, float *c,
                                 int64_t ldc)
{
    int64_t h = n / 2;

    MP_TRY(sgemm(1, 0, h, n, k, 1.0f, a, lda, a, lda, 0.0f, c, ldc));
    return sgemm(1, 0, n - h, n - h, k, 1.0f, a + h, lda, a + h, lda, 0.0f, c + h * ldc + h, ldc);
}

/* SYRK in squares of the upper triangle, by the product that is tuned best; on the diagonal three
 * quarters of each are computed, so that at order 4096 one in sixteen of the work is not needed. */
mp_status mp_ssyrk(int64_t n, int64_t k, const float *a, int64_t lda, float *c, int64_t ldc)
{
    int64_t squares = pieces(n, SQUARE), tiles = squares * (squares + 1) / 2;
    int failed = 0;

#pragma omp parallel for schedule(dynamic) reduction(max : failed)
    for (int64_t tile = 0; tile < tiles; tile++) {
        int64_t i = 0, j = tile, r, rows, col, cols;
        mp_status st;

        while (j >= squares - i) j -= squares - i++; /* tile (i, i + j) of the upper triangle */
        r = n * i / squares;
        rows = n * (i + 1) / squares - r;
        col = n * (i + j) / squares;
        cols = n * (i + j + 1) / squares - col;
        st = j == 0 ? diagonal_square(rows, k, a + r, lda, c + r * ldc + r, ldc)
                    : sgemm(1, 0, rows, cols, k, 1.0f, a + r, lda, a + col, lda, 0.0f,
                            c + r * ldc + col, ldc);
        if ((int)st > failed) failed = (int)st;
    }
    if (failed == MP_OK) return MP_OK;
    return mp_fail((mp_status)failed,
                   "a product of %lld x %lld x %lld does not fit the BLAS library", (long long)n,
                   (long long)n, (long long)k);
}

mp_status mp_dpotrf(int64_t n, double *a, int64_t lda, int64_t *failed_at)
{
    int order, ld, info = 0;

    MP_TRY(mp_to_blas_int(n, "order of a matrix", &order));
    MP_TRY(mp_to_blas_int(lda, "a leading dimension", &ld));
    dpotrf_("L", &order, a, &ld, &info);
    if (info < 0) return mp_fail(MP_ERR_INTERNAL, "dpotrf: argument %d is not valid", -info);
    if (mp_fault(MP_FAULT_CHOLESKY)) info = 1;
    *failed_at = info;
    return MP_OK;
}

mp_status mp_dtrsm_below(int64_t m, int64_t n, const double *l, int64_t ldl, double *b, int64_t ldb)
{
    const double one = 1.0;
    gemm_sizes s;

    if (m == 0) return MP_OK;
    MP_TRY(gemm_gate(m, n, n, ldl, ldb, ldb, &s));
    dtrsm_("R", "L", "T", "N", &s.m, &s.n, &one, l, &s.lda, b, &s.ldb);
    return MP_OK;
}

mp_status mp_dupdate_column(int64_t m, int64_t n, int64_t k, const double *a, int64_t lda,
                            double *c, int64_t ldc)
{
    const double one = 1.0, minus = -1.0;
    gemm_sizes s;

    MP_TRY(gemm_gate(m - n, n, k, lda, lda, ldc, &s));
    dsyrk_("L", "N", &s.n, &s.k, &minus, a, &s.lda, &one, c, &s.ldc);
    if (m > n)
        dgemm_("N", "T", &s.m, &s.n, &s.k, &minus, a + n, &s.lda, a, &s.ldb, &one, c + n, &s.ldc);
    return MP_OK;
}

mp_status mp_dtrtri_upper(int64_t n, double *a, int64_t lda)
{
    int order, ld, info = 0;

    MP_TRY(mp_to_blas_int(n, "order of a matrix", &order));
    MP_TRY(mp_to_blas_int(lda, "a leading dimension", &ld));
    dtrtri_("L", "N", &order, a, &ld, &info); /* row-major upper = column-major lower */
    if (info != 0)
        return mp_fail(MP_ERR_NUMERIC, "triangular inverse: zero on the diagonal (%d)", info);
    return MP_OK;
}

static double product_rate_single(int64_t n, float *a)
{
    double start = mp_seconds();
    mp_status st = sgemm(0, 0, n, n, n, 1.0f, a, n, a + n * n, n, 0.0f, a + 2 * n * n, n);

    return st == MP_OK ? 2.0 * (double)n * (double)n * (double)n / (mp_seconds() - start) : 0.0;
}

static double product_rate_double(int64_t n, double *a)
{
    double start = mp_seconds();
    mp_status st = mp_dgemm(0, 0, n, n, n, 1.0, a, n, a + n * n, n, 0.0, a + 2 * n * n, n);

    return st == MP_OK ? 2.0 * (double)n * (double)n * (double)n / (mp_seconds() - start) : 0.0;
}

mp_status mp_gemm_rate(int64_t n, int single, double *flops)
{
    double *memory = NULL; /* three matrices, small integers: no denormals, no growth */
    double best = 0.0;

    MP_TRY(MP_NEW(memory, 3 * n * n, "matrices for the GEMM rate"));
    for (int64_t i = 0; i < 3 * n * n; i++) {
        if (single)
            ((float *)memory)[i] = (float)(i % 7) - 3.0f;
        else
            memory[i] = (double)(i % 7) - 3.0;
    }
    for (int i = 0; i < 3; i++) {
        double rate =
            single ? product_rate_single(n, (float *)memory) : product_rate_double(n, memory);

        if (rate > best) best = rate;
    }
    mp_free(memory);
    *flops = best;
    return MP_OK;
}

/* OpenBLAS built on pthreads does not listen to OpenMP; where the symbol is there, it is told. */
void mp_threads_set(int threads)
{
    void *symbol = dlsym(RTLD_DEFAULT, "openblas_set_num_threads");
    void (*set)(int);

    if (threads < 1) threads = 1;
    omp_set_num_threads(threads);
    if (symbol == NULL) return;
    memcpy(&set, &symbol, sizeof set);
    set(threads);
}

int mp_threads(void)
{
    return omp_get_max_threads();
}

/* What a function of OpenBLAS that returns text says; NULL where there is no such function. */
static const char *ask_openblas(const char *function)
{
    void *symbol = dlsym(RTLD_DEFAULT, function);
    const char *(*get)(void);

    if (symbol == NULL) return NULL;
    memcpy(&get, &symbol, sizeof get);
    return get();
}

const char *mp_blas_description(void)
{
    static char text[1024];
    void *address = dlsym(RTLD_DEFAULT, "sgemm_");
    const char *words = ask_openblas("openblas_get_config");
    Dl_info info;

    snprintf(text, sizeof text, "%s (%s)", words != NULL ? words : "unknown BLAS",
             address != NULL && dladdr(address, &info) != 0 && info.dli_fname != NULL
                 ? info.dli_fname
                 : "statically linked");
    return text;
}

const char *mp_sgemm_description(void)
{
#ifdef MPRESS_ONEDNN
    static char text[64];
    const dnnl_version_t *version = dnnl_version();

    snprintf(text, sizeof text, "oneDNN %d.%d.%d", version->major, version->minor, version->patch);
    return text;
#else
    return "BLAS";
#endif
}

/* Debian's reference library has a directory of its own; an optimised one has a name of its own. */
int mp_blas_is_reference(void)
{
    const char *text = mp_blas_description();

    return dlsym(RTLD_DEFAULT, "openblas_get_config") == NULL &&
           dlsym(RTLD_DEFAULT, "MKL_Get_Version") == NULL &&
           (strstr(text, "/blas/") != NULL || strstr(text, "libblas.so") != NULL);
}
