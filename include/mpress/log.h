/* What the user sees: lines on stderr from rank 0, and a progress line where stderr is a terminal.
 * Floor 0: base. */
#ifndef MPRESS_LOG_H
#define MPRESS_LOG_H

#include <stdint.h>

/* error: never in a clean run.  warning: something the user should act on or know of (a damping
 * retry, MPI over TCP).  info: a few lines per block.  debug: proportional to objects. */
typedef enum mp_log_level { MP_LOG_ERROR, MP_LOG_WARNING, MP_LOG_INFO, MP_LOG_DEBUG } mp_log_level;

/* Lines above `level` are dropped; a rank other than 0 prints nothing at all. */
void mp_log_setup(mp_log_level level, int rank);

void mp_log(mp_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* One line that overwrites itself: `done` of `total` work units, and the estimated time to go from
 * the rate so far.  Printed on rank 0, only if stderr is a terminal, at most ten times a second. */
void mp_progress(double done, double total, const char *what);

/* Whether mp_progress would print: then the per-block lines are not needed. */
int mp_progress_is_shown(void);

/* Ends the progress line, so that what is printed next starts on its own. */
void mp_progress_end(void);

/* Monotonic seconds. */
double mp_seconds(void);

/* Adds the seconds since *mark to *seconds and moves *mark to now. */
void mp_lap(double *mark, double *seconds);

/* "1h02m", "3m20s", "12.3s": for people. */
const char *mp_duration(double seconds, char buffer[32]);

/* "2.23 GiB": memory; "2.40 GB": disk and network, whose rates are in powers of ten.  For people. */
const char *mp_memory_text(int64_t bytes, char buffer[32]);
const char *mp_traffic_text(int64_t bytes, char buffer[32]);

#endif
