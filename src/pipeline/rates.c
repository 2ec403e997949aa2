/* What one rank gets done per second (forecast.h): measured by a small block, or typical shares of a rate
 * that the user gives. */
#include "mpress/forecast.h"

#include "mpress/fileio.h"
#include "mpress/linalg.h"
#include "mpress/log.h"
#include "mpress/memory.h"
#include "mpress/tensor.h"

#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Flop of the trial that a rank should have: a few seconds. */
static const double trial_flop = 2e11;

/* Where nothing is measured: parts of the GEMM rate that the phases reach on two cores of an EPYC (README,
 * "Performance"), and bytes per flop of the phases that move memory. */
static const struct {
    mp_phase phase;
    double share;
} typical[] = {{MP_PHASE_FORWARD, 0.87},  {MP_PHASE_MOMENT, 0.84}, {MP_PHASE_FACTOR, 0.25},
               {MP_PHASE_SWEEP, 0.65},    {MP_PHASE_ERROR, 0.85},  {MP_PHASE_MERGE, 0.02},
               {MP_PHASE_COLLECT, 0.008}, {MP_PHASE_PUBLISH, 0.03}};

enum { TYPICAL = sizeof typical / sizeof typical[0] };

/* Half of the heads and half as wide; 0 where something does not halve. */
static int halve(mp_arch *arch)
{
    if (arch->n_kv_heads % 2 != 0 || arch->n_heads % 2 != 0 || arch->d_ff % 2 != 0) return 0;
    arch->d_model /= 2;
    arch->n_heads /= 2;
    arch->n_kv_heads /= 2;
    arch->d_ff /= 2;
    for (int s = 0; s < arch->n_states; s++) arch->states[s].width /= 2;
    for (int i = 0; i < arch->n_linears; i++) {
        arch->linears[i].d_out /= 2;
        arch->linears[i].d_in /= 2;
    }
    for (int i = 0; i < arch->n_vectors; i++)
        if (arch->vectors[i].size != arch->head_dim) arch->vectors[i].size /= 2;
    return 1;
}

/* The job at half the width; 0 where that cannot be, or is not for the method. */
static int make_smaller(mp_forecast_job *job, mp_arch *arch)
{
    const mp_arch before = *arch;
    int fits = halve(arch);

    for (int i = 0; i < arch->n_linears && fits; i++)
        fits =
            job->method->fits(job->options, arch->linears[i].name, arch->linears[i].d_in) == MP_OK;
    if (!fits) *arch = before;
    for (int i = 0; i < arch->n_linears && fits; i++) job->ranks[i] /= 2;
    return fits;
}

static mp_status work_of(const mp_forecast_job *job, double *flop)
{
    mp_forecast f;

    MP_TRY(mp_forecast_run(job, &f));
    *flop = 0.0;
    for (int i = 0; i < TYPICAL; i++) *flop += f.work[typical[i].phase];
    return MP_OK;
}

/* One block of the job's kind that takes seconds: one round of windows, more where they are short. */
static mp_status small_job(const mp_forecast_job *job, const mp_comm *comm, mp_arch *arch,
                           mp_forecast_job *small)
{
    double flop;

    *small = *job;
    *arch = *job->arch;
    arch->n_blocks = 1;
    small->arch = arch;
    small->size = comm->size;
    small->per_node = comm->host_size;
    small->batch = 1;
    small->exports = 0;
    small->windows = job->windows > 0 ? comm->size : 0;
    MP_TRY(work_of(small, &flop));
    while (flop > trial_flop && make_smaller(small, arch)) MP_TRY(work_of(small, &flop));
    while (small->windows > 0 && small->windows < job->windows && flop < 0.1 * trial_flop) {
        small->windows *= 2;
        MP_TRY(work_of(small, &flop));
    }
    return MP_OK;
}

/* Seconds of a phase of the forecast: the parts of a low-rank factorisation are one, and so is the wait for
 * other groups. */
static double phase_seconds(const mp_clock *clock, mp_phase phase)
{
    double sum = clock->seconds[phase];

    for (int i = MP_PHASE_FACTOR + 1; i <= MP_PHASE_IDLE && phase == MP_PHASE_FACTOR; i++)
        sum += clock->seconds[i];
    return sum;
}

/* Twice where that is a matter of moments: the first block pays for first touches. */
static mp_status run_trial(const mp_comm *comm, const mp_forecast_job *small, mp_rates *rates)
{
    mp_runner run = {.comm = comm,
                     .arch = small->arch,
                     .method = small->method,
                     .options = *small->options,
                     .lengths.state_ratio = 1.0,
                     .order = small->order,
                     .ranks = small->ranks};
    double seconds = 0.0;
    mp_forecast f;
    mp_status st;

    run.options.strict = 1; /* a second try would pass for a slow first one */
    MP_GO(mp_comm_agree(comm, mp_forecast_run(small, &f)));
    if (small->windows > 0)
        MP_GO(mp_hidden_create(comm, small->windows, small->seqlen, small->arch->d_model,
                               &run.hidden));
    MP_GO(mp_runner_open(&run));
    MP_GO(mp_trial_block(&run, 1, &seconds));
    if (seconds < 2.0) MP_GO(mp_trial_block(&run, 1, &seconds));
    for (int i = 0; i < TYPICAL; i++) {
        mp_phase p = typical[i].phase;
        double took = phase_seconds(&run.clock, p);

        MP_GO(mp_comm_max(comm, &took, 1));
        if (f.work[p] > 0.0 && took > 0.0) rates->rate[p] = f.work[p] / took;
    }
out:
    mp_runner_close(&run);
    mp_hidden_free(run.hidden);
    return st;
}

/* As a block goes to disk: converted, written, synced, read back with its checksum; by every rank at once. */
static mp_status write_and_read(const char *path, int64_t count, double *seconds)
{
    size_t length = (size_t)count * 2;
    float *values = NULL;
    void *bytes = NULL;
    double start;
    int fd = -1;
    mp_status st;

    MP_GO(MP_NEW(values, count, "numbers to write"));
    MP_GO(mp_alloc(&bytes, count, 2, 1, "numbers to write"));
    start = mp_seconds();
    MP_GO(mp_file_open(path, O_RDWR | O_CREAT | O_EXCL, &fd));
    mp_from_f32(MP_BF16, values, count, bytes);
    MP_GO(mp_file_pwrite(fd, path, bytes, length, 0));
    MP_GO(mp_file_sync(fd, path));
    MP_GO(mp_file_pread(fd, path, bytes, length, 0));
    mp_crc32c(0, bytes, length);
    *seconds = mp_seconds() - start;
out:
    if (fd >= 0) {
        close(fd);
        unlink(path);
    }
    mp_free(values);
    mp_free(bytes);
    return st;
}

static mp_status measure_disk(const char *dir, int rank, mp_rates *rates)
{
    enum { NUMBERS = 1 << 25 }; /* 64 MiB on disk */
    char name[64], *path = NULL;
    double large;
    mp_status st;

    snprintf(name, sizeof name, "mpress-plan.%ld.%d.tmp", (long)getpid(), rank);
    MP_GO(mp_path_join(dir, name, &path));
    MP_GO(write_and_read(path, 1, &rates->sync));
    if (rates->disk > 0.0) goto out;
    MP_GO(write_and_read(path, NUMBERS, &large));
    rates->disk = 2.0 * NUMBERS / fmax(large - rates->sync, 1e-6);
out:
    mp_free(path);
    return st;
}

/* Messages of 16 MiB from the first rank of one node to that of the next, there and back; one GB/s where
 * there is one node only. */
static mp_status measure_net(const mp_comm *comm, mp_rates *rates)
{
    enum { BYTES = 16 << 20, TIMES = 8 };
    int other = 0;
    char *buffer = NULL;
    double start;
    mp_status st;

    while (other < comm->size && comm->node_of[other] == 0) other++;
    if (rates->net > 0.0) return MP_OK;
    rates->net = 1e9;
    if (other == comm->size) return MP_OK;
    MP_GO(mp_comm_agree(comm, MP_NEW(buffer, BYTES, "a message")));
    start = mp_seconds();
    for (int i = 0; i < TIMES; i++) {
        if (comm->rank == 0) MP_GO(mp_comm_send(comm, buffer, BYTES, other));
        if (comm->rank == other) MP_GO(mp_comm_receive(comm, buffer, BYTES, 0));
        if (comm->rank == other) MP_GO(mp_comm_send(comm, buffer, BYTES, 0));
        if (comm->rank == 0) MP_GO(mp_comm_receive(comm, buffer, BYTES, other));
    }
    rates->net = 2.0 * BYTES * TIMES / (mp_seconds() - start);
    st = mp_comm_tell(comm, &rates->net, sizeof rates->net, 0);
out:
    mp_free(buffer);
    return st;
}

/* Phases that go to the disk, or through rank 0's memory. */
static void rates_of_disk(mp_rates *rates)
{
    rates->rate[MP_PHASE_START] = rates->rate[MP_PHASE_READ] = rates->rate[MP_PHASE_WRITE] =
        rates->rate[MP_PHASE_EXPORT] = rates->disk;
    rates->rate[MP_PHASE_EMBED] = 1e9;
}

/* What the process had at its worst in the trial, beside what is forecast for that: the program, and what
 * its libraries keep for messages and products. */
static mp_status find_base(const mp_comm *comm, const mp_forecast_job *small, mp_rates *rates)
{
    double most = 0.0;
    mp_forecast f;

    MP_TRY(mp_comm_agree(comm, mp_forecast_memory_of(small, 0, &f)));
    most = (double)(mp_memory_peak() - f.memory.rank - f.memory.weights);
    MP_TRY(mp_comm_max(comm, &most, 1));
    if (most > (double)rates->base) rates->base = (int64_t)most;
    return MP_OK;
}

/* The slowest rank's rates hold for all. */
static mp_status agree_on_rates(const mp_comm *comm, mp_rates *rates)
{
    double least[] = {rates->disk, -rates->sync, rates->gemm, -rates->start, -(double)rates->base};

    MP_TRY(mp_comm_min(comm, least, 5));
    rates->disk = least[0];
    rates->sync = -least[1];
    rates->gemm = least[2];
    rates->start = -least[3];
    rates->base = (int64_t)-least[4];
    return MP_OK;
}

/* The program with its libraries warmed up: what the GEMM rate is measured on is used again later. */
static mp_status measure_gemm(mp_rates *rates)
{
    double first, start = mp_seconds();

    MP_TRY(mp_gemm_rate(256, 1, &first));
    rates->base = mp_memory_peak();
    if (rates->gemm > 0.0) return MP_OK;
    MP_TRY(mp_gemm_rate(1536, 1, &rates->gemm));
    rates->start = mp_seconds() - start;
    return MP_OK;
}

mp_status mp_rates_measure(const mp_comm *comm, const mp_forecast_job *job, const char *dir,
                           mp_rates *rates)
{
    const int given = rates->gemm > 0.0;
    mp_forecast_job small;
    mp_arch arch;

    MP_TRY(mp_comm_agree(comm, measure_gemm(rates)));
    for (int i = 0; i < TYPICAL; i++)
        rates->rate[typical[i].phase] = typical[i].share * rates->gemm;
    if (!given) {
        MP_TRY(mp_comm_agree(comm, small_job(job, comm, &arch, &small)));
        MP_TRY(run_trial(comm, &small, rates));
        MP_TRY(find_base(comm, &small, rates));
    }
    rates->base += MP_FILE_LIBRARIES; /* the trial writes none */
    MP_TRY(mp_comm_agree(comm, measure_disk(dir, comm->rank, rates)));
    MP_TRY(measure_net(comm, rates));
    MP_TRY(agree_on_rates(comm, rates));
    rates_of_disk(rates);
    return MP_OK;
}
