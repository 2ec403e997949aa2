#include "mpress/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static struct {
    mp_log_level level;
    int rank;
    int line_open;       /* a progress line stands on the terminal without a newline */
    double started;      /* seconds when the first progress of this run was reported */
    double started_done; /* and how much was done then */
    double last_done;    /* how much was done at the last report */
    double last;         /* seconds of the last progress line */
} state = {.level = MP_LOG_INFO};

double mp_seconds(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

void mp_lap(double *mark, double *seconds)
{
    double now = mp_seconds();

    *seconds += now - *mark;
    *mark = now;
}

const char *mp_duration(double seconds, char buffer[32])
{
    long whole = (long)(seconds + 0.5);

    if (seconds < 59.95) /* what "%.1f" does not round to 60.0 */
        snprintf(buffer, 32, "%.1fs", seconds);
    else if (whole < 3600)
        snprintf(buffer, 32, "%ldm%02lds", whole / 60, whole % 60);
    else
        snprintf(buffer, 32, "%ldh%02ldm", whole / 3600, whole % 3600 / 60);
    return buffer;
}

static const char *in_units(double value, double step, const char *const units[5], char buffer[32])
{
    int u = 0;

    for (; u < 4 && value >= step - 0.005; u++) value /= step;
    snprintf(buffer, 32, u == 0 ? "%.0f %s" : "%.2f %s", value, units[u]);
    return buffer;
}

const char *mp_memory_text(int64_t bytes, char buffer[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};

    return in_units((double)bytes, 1024.0, units, buffer);
}

const char *mp_traffic_text(int64_t bytes, char buffer[32])
{
    static const char *const units[] = {"B", "kB", "MB", "GB", "TB"};

    return in_units((double)bytes, 1000.0, units, buffer);
}

void mp_log_setup(mp_log_level level, int rank)
{
    state.level = level;
    state.rank = rank;
}

void mp_log(mp_log_level level, const char *format, ...)
{
    static const char *const prefix[] = {
        "mpress: error: ", "mpress: warning: ", "mpress: ", "mpress: debug: "};
    va_list args;

    if (level > state.level || state.rank != 0) return;
    mp_progress_end();
    fputs(prefix[level], stderr);
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
}

int mp_progress_is_shown(void)
{
    return state.rank == 0 && state.level >= MP_LOG_INFO && isatty(STDERR_FILENO);
}

void mp_progress(double done, double total, const char *what)
{
    double now = mp_seconds();
    char left[32] = "?";

    if (!mp_progress_is_shown()) return;
    if (state.started == 0.0 || done < state.last_done) { /* less than before: another task */
        state.started = now;
        state.started_done = done;
    }
    state.last_done = done;
    if (now - state.last < 0.1 && done < total) return;
    state.last = now;
    if (done > state.started_done && now - state.started > 1.0) /* sooner it says nothing */
        mp_duration((now - state.started) / (done - state.started_done) * (total - done), left);
    fprintf(stderr, "\r\033[K%5.1f%%  %s  ETA %s", total > 0 ? 100.0 * done / total : 0.0, what,
            left);
    fflush(stderr);
    state.line_open = 1;
}

void mp_progress_end(void)
{
    if (!state.line_open) return;
    fputs("\r\033[K", stderr);
    fflush(stderr);
    state.line_open = 0;
}
