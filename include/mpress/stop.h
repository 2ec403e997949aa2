/* Requests to stop: SIGUSR1, SIGTERM, a file, a time limit.
 * Floor 3: dist.
 *
 * A signal only sets a flag; the ranks look at it together where they can leave together.  Work between
 * two commits is finished if it fits the grace, and dropped otherwise. */
#ifndef MPRESS_STOP_H
#define MPRESS_STOP_H

#include "mpress/comm.h"

typedef struct mp_stop_rules {
    const char
        *file;    /* asks for a stop by being there, looked at by rank 0; borrowed; NULL: none */
    double grace; /* seconds from a request to the end of the program */
    double max_seconds; /* of the whole run, from `started`; 0: no limit */
    double started;     /* as mp_seconds() tells */
} mp_stop_rules;

/* Takes SIGUSR1 (a request) and SIGTERM (a request without grace: what sends it will soon kill). */
void mp_stop_install(void);

/* What holds from now on; NULL: nobody can stop the run.  The same on all ranks but for `file`. */
void mp_stop_rule(const mp_stop_rules *rules);

/* When the work under way will be committed, as mp_seconds() tells; infinite where that is not known. */
void mp_stop_expect(double when);

/* MP_ERR_STOPPED where a stop is asked for and what mp_stop_expect said comes too late.  Collective;
 * agreed; one small broadcast and allreduce. */
mp_status mp_stop_poll(const mp_comm *comm);

/* Between two commits, before something that takes `seconds`: MP_ERR_STOPPED where a stop is asked for at
 * all, or where the limit would come first. */
mp_status mp_stop_before(const mp_comm *comm, double seconds);

#endif
