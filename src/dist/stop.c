#include "mpress/stop.h"

#include "mpress/fileio.h"
#include "mpress/log.h"

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static volatile sig_atomic_t usr1_came, term_came;

static struct {
    mp_stop_rules rules;
    int is_ruled;
    double expected; /* end of the work under way */
    double asked;    /* when a request was first seen; 0: none yet */
    char by[128];    /* who asked */
} state = {.expected = INFINITY};

static void note_signal(int number)
{
    if (number == SIGTERM)
        term_came = 1;
    else
        usr1_came = 1;
}

static void list_signals(sigset_t *signals)
{
    sigemptyset(signals);
    sigaddset(signals, SIGUSR1);
    sigaddset(signals, SIGTERM);
}

/* No handler may run on a thread that computes: what the kernel puts on its stack for one overwrites what
 * products of oneDNN keep there (measured: 2.6.3, damaged heaps within seconds of frequent signals).  So this
 * thread, and those it starts from now on, let signals wait until they are looked for; the threads of
 * the MPI library may take them. */
void mp_stop_install(void)
{
    struct sigaction action = {.sa_handler = note_signal, .sa_flags = SA_RESTART};
    sigset_t signals;

    list_signals(&signals);
    pthread_sigmask(SIG_BLOCK, &signals, NULL);
    sigemptyset(&action.sa_mask);
    sigaction(SIGUSR1, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

/* Takes the signals that wait. */
static void take_signals(void)
{
    const struct timespec now = {0};
    sigset_t signals;
    int number;

    list_signals(&signals);
    while ((number = sigtimedwait(&signals, NULL, &now)) > 0) note_signal(number);
}

void mp_stop_rule(const mp_stop_rules *rules)
{
    state.is_ruled = rules != NULL;
    state.asked = 0.0;
    state.expected = INFINITY;
    if (rules != NULL) state.rules = *rules;
}

void mp_stop_expect(double when)
{
    state.expected = when;
}

/* What of the signals any rank has got. */
enum { SAW_USR1 = 1, SAW_TERM = 2, SAW_FILE = 4 };

/* Rank 0 keeps the time: it knows the requests of all. */
static void note_request(int seen)
{
    if (seen == 0 || state.asked > 0.0) return;
    state.asked = mp_seconds();
    snprintf(state.by, sizeof state.by, "%s",
             seen & SAW_TERM   ? "SIGTERM"
             : seen & SAW_USR1 ? "SIGUSR1"
                               : "the file 'stop' in OUT");
    mp_log(MP_LOG_INFO, "%s asks for a stop", state.by);
}

/* Seconds until the program must have ended, by requests and by the limit. */
static double left_of_request(int seen)
{
    if (state.asked == 0.0) return INFINITY;
    if (seen & SAW_TERM) return 0.0;
    return state.asked + state.rules.grace - mp_seconds();
}

static double left_of_limit(void)
{
    if (state.rules.max_seconds <= 0.0) return INFINITY;
    return state.rules.started + state.rules.max_seconds - mp_seconds();
}

/* Work that will not be done in what is left of the time is named: a longer limit would have done it. */
static void say_too_long(double needed, double left)
{
    char takes[32], remains[32];
    size_t used = strlen(state.by);

    if (isfinite(needed) && left > 0.0 && needed > left)
        snprintf(state.by + used, sizeof state.by - used,
                 " (the next step takes about %s, %s are left)", mp_duration(needed, takes),
                 mp_duration(left, remains));
}

/* Between commits any request stops; before one only what cannot be finished in time does. */
static int decide(int seen, int between, double needed)
{
    note_request(seen);
    if (state.asked > 0.0 && (between || needed > left_of_request(seen))) {
        if (!between) say_too_long(needed, left_of_request(seen));
        return 1;
    }
    if (needed <= left_of_limit()) return 0;
    if (isinf(needed) && left_of_limit() > state.rules.grace) return 0;
    if (state.asked == 0.0) snprintf(state.by, sizeof state.by, "--max-time");
    say_too_long(needed, left_of_limit());
    return 1;
}

static mp_status poll(const mp_comm *comm, int between, double needed)
{
    int seen, stop = 0;

    if (!state.is_ruled) return MP_OK;
    take_signals();
    seen = (usr1_came ? SAW_USR1 : 0) | (term_came ? SAW_TERM : 0);
    if (comm->rank == 0 && state.rules.file != NULL && mp_path_exists(state.rules.file))
        seen |= SAW_FILE;
    MP_TRY(mp_mpi_check(MPI_Allreduce(MPI_IN_PLACE, &seen, 1, MPI_INT, MPI_BOR, comm->mpi),
                        "looking for a request to stop"));
    if (comm->rank == 0) stop = decide(seen, between, needed);
    MP_TRY(mp_mpi_check(MPI_Bcast(&stop, 1, MPI_INT, 0, comm->mpi), "deciding to stop"));
    if (!stop) return MP_OK;
    return mp_comm_agree(comm, mp_fail(MP_ERR_STOPPED, "stopped by %s", state.by));
}

mp_status mp_stop_poll(const mp_comm *comm)
{
    return poll(comm, 0, fmax(state.expected - mp_seconds(), 0.0));
}

mp_status mp_stop_before(const mp_comm *comm, double seconds)
{
    return poll(comm, 1, seconds);
}
