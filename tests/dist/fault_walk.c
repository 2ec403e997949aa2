/* mpirun -n K fault_walk [quick | places | calls] [TASK [SITE:rank=R:nth=K]]
 *
 * Runs tasks in one process each, again and again, every time with another call told to fail, and
 * looks at what must hold after it: all ranks return the same status, of the kind that such a failure
 * has, nothing stays allocated or open, and the same task run once more, from what the failed run has
 * left, gives what it gives without a fault.  A run that hangs ends the job after HANG_SECONDS with the
 * stack of every rank.
 *
 * calls: every call of every rank.  places: of every task, rank and site the first call from each
 * place in the program, which is the whole stack of calls that leads there.  quick: of all tasks and
 * ranks the first call from each function, and of pairs of a function and its caller a third, another
 * one on 1, 2 and 3 ranks; the ranks take turns. */
#include "fault_balance.h"
#include "fault_tasks.h"

#include "mpress/fault.h"
#include "mpress/fileio.h"
#include "mpress/log.h"
#include "mpress/memory.h"

#include <execinfo.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { HANG_SECONDS = 60, MOST_FRAMES = 64, MOST_CALLS = 1 << 16, MOST_PLACES = 1 << 14 };

/* Frames of the injector and of the function that asks it, in front of those of a place. */
enum { FIRST_FRAME = 3, SHARE = 3 };

typedef enum walk_mode { QUICK, PLACES, CALLS } walk_mode;

/* A call that can be told to fail. */
typedef struct call {
    int32_t site;
    uint32_t place;    /* hash of the stack */
    uint32_t pair;     /* of the function and its caller */
    uint32_t function; /* of the function */
    int64_t nth;
} call;

static struct {
    walk_mode mode;
    call calls[MOST_CALLS]; /* of this rank, of one run */
    int count;
    uint32_t places[MOST_PLACES]; /* walked so far; the same on all ranks */
    int n_places;
    char at[128]; /* what is under way */
    int64_t walked, survived, wrong, leaks;
} walk;

/* Relative to this program: every rank has its own addresses. */
static uint32_t hash_frames(mp_fault_site site, void *const *frames, int depth)
{
    uint32_t hash = 2166136261u ^ (uint32_t)site;

    for (int i = 0; i < depth; i++) {
        uintptr_t at = (uintptr_t)frames[i] - (uintptr_t)hash_frames;

        hash = (hash ^ (uint32_t)at) * 16777619u;
    }
    return hash;
}

static void note_call(mp_fault_site site, int64_t nth)
{
    void *frames[MOST_FRAMES];
    int depth = backtrace(frames, MOST_FRAMES);

    if (walk.count < MOST_CALLS)
        walk.calls[walk.count++] = (call){(int32_t)site, hash_frames(site, frames, depth),
                                          hash_frames(site, frames, FIRST_FRAME + 2),
                                          hash_frames(site, frames, FIRST_FRAME + 1), nth};
}

static void give_up(int signal_number)
{
    static const char words[] = " hangs here:\n";
    void *frames[MOST_FRAMES];
    int depth = backtrace(frames, MOST_FRAMES);

    (void)signal_number;
    if (write(STDERR_FILENO, walk.at, strlen(walk.at)) < 0 ||
        write(STDERR_FILENO, words, sizeof words - 1) < 0)
        _exit(4);
    backtrace_symbols_fd(frames, depth, STDERR_FILENO);
    sleep(2); /* the other ranks say where they are */
    _exit(3);
}

static int is_new(uint32_t place)
{
    for (int i = 0; i < walk.n_places; i++)
        if (walk.places[i] == place) return 0;
    if (walk.n_places < MOST_PLACES) walk.places[walk.n_places++] = place;
    return 1;
}

/* The same on all ranks. */
static int is_to_be_walked(const mp_comm *comm, const call *c)
{
    int new_pair;

    if (walk.mode == CALLS) return 1;
    if (walk.mode == PLACES) return is_new(c->place);
    new_pair = is_new(c->pair) && (int)(c->pair % SHARE) == comm->size % SHARE;
    return is_new(c->function) || new_pair;
}

static void complain(const mp_comm *comm, int64_t *counter, const char *what, const char *detail)
{
    ++*counter;
    fprintf(stderr, "%s: rank %d: %s%s\n", walk.at, comm->rank, what, detail);
}

static mp_status run_task(const mp_comm *comm, const task *t, const mp_fault_plan *plan,
                          task_result *result)
{
    mp_status st;

    alarm(HANG_SECONDS);
    mp_fault_arm(plan, comm->rank);
    st = task_run(comm, t, result);
    mp_fault_arm(NULL, comm->rank);
    return st == MP_OK ? task_look(comm, t, result) : st;
}

/* What a failure at a site is reported as.  A file of a checkpoint that cannot be read is damaged. */
static int is_expected(mp_fault_site site, mp_status st)
{
    if (st == MP_ERR_FORMAT && strstr(mp_error_message(), "damaged") != NULL)
        return site == MP_FAULT_OPEN || site == MP_FAULT_READ || site == MP_FAULT_AGREE;
    switch (site) {
    case MP_FAULT_ALLOC:
        return st == MP_ERR_NOMEM;
    case MP_FAULT_SHARED:
        return st == MP_ERR_NOFIT;
    case MP_FAULT_H5_READ: /* an attribute that cannot be read is one that is not there */
        return st == MP_ERR_FORMAT;
    case MP_FAULT_CHOLESKY:
    case MP_FAULT_EIGEN:
    case MP_FAULT_SVD:
        return st == MP_ERR_NUMERIC;
    default:
        return st == MP_ERR_IO;
    }
}

/* Returns whether all ranks have succeeded. */
static int check_status(const mp_comm *comm, const mp_fault_plan *plan, mp_status st)
{
    char text[1200];
    int ends[2] = {(int)st, -(int)st};

    MPI_Allreduce(MPI_IN_PLACE, ends, 2, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    snprintf(text, sizeof text, "%s: %s", mp_status_text(st), mp_error_message());
    if (ends[0] != -ends[1]) complain(comm, &walk.wrong, "the ranks disagree, here: ", text);
    if (st != MP_OK && !is_expected(plan->site, st))
        complain(comm, &walk.wrong, "another kind of failure: ", text);
    return ends[0] == MP_OK;
}

/* A run that went on after a failed factorisation says so. */
static void check_success(const mp_comm *comm, const task *t, const mp_fault_plan *plan,
                          const task_result *expected, const task_result *result)
{
    int falls_back = plan->site == MP_FAULT_CHOLESKY || plan->site == MP_FAULT_EIGEN;

    walk.survived++;
    if (falls_back && (t->is_strict || result->retries == expected->retries))
        complain(comm, &walk.wrong, "a second try that nobody tells of", "");
    if (!falls_back && result->crc != expected->crc)
        complain(comm, &walk.wrong, "another result, and no error", "");
    if (!falls_back && getenv("WALK_SURVIVORS") != NULL && comm->rank == 0)
        fprintf(stderr, "%s: survived\n", walk.at);
}

static void walk_call(const mp_comm *comm, const task *t, const mp_fault_plan *plan,
                      const task_result *expected)
{
    balance before, after;
    task_result result;
    char text[256];
    mp_status st;

    snprintf(walk.at, sizeof walk.at, "%s on %d, %s:rank=%d:nth=%lld", t->name, comm->size,
             mp_fault_name(plan->site), plan->rank, (long long)plan->nth);
    walk.walked++;
    st = task_reset(comm, t);
    if (st != MP_OK) complain(comm, &walk.wrong, "cannot be begun: ", mp_error_message());
    before = balance_take();
    st = run_task(comm, t, plan, &result);
    after = balance_take();
    if (balance_leaks(&before, &after, text) != NULL) complain(comm, &walk.leaks, "leaks ", text);
    if (comm->rank == plan->rank && mp_fault_calls(plan->site) < plan->nth)
        complain(comm, &walk.wrong, "the call was not made", "");
    if (check_status(comm, plan, st)) {
        check_success(comm, t, plan, expected, &result);
        return;
    }
    st = run_task(comm, t, NULL, &result);
    if (st != MP_OK || result.crc != expected->crc)
        complain(comm, &walk.wrong,
                 "cannot be run again: ", st != MP_OK ? mp_error_message() : "another result");
}

/* The calls of rank r whose places have not been walked; with `turns` only those of its turn. */
static void walk_rank(const mp_comm *comm, const task *t, int r, int turns,
                      const task_result *expected)
{
    int count = walk.count;

    MPI_Bcast(&count, 1, MPI_INT, r, MPI_COMM_WORLD);
    for (int i = 0; i < count; i++) {
        call c = walk.calls[i];
        mp_fault_plan plan;

        MPI_Bcast(&c, (int)sizeof c, MPI_BYTE, r, MPI_COMM_WORLD);
        if (turns && (int)(c.pair % (unsigned)comm->size) != r) continue;
        if (!is_to_be_walked(comm, &c)) continue;
        plan = (mp_fault_plan){(mp_fault_site)c.site, r, c.nth};
        walk_call(comm, t, &plan, expected);
    }
}

static void walk_ranks(const mp_comm *comm, const task *t, const task_result *expected)
{
    for (int r = 0; r < comm->size && walk.mode == QUICK; r++) walk_rank(comm, t, r, 1, expected);
    for (int r = 0; r < comm->size; r++) {
        if (walk.mode != QUICK) walk.n_places = 0;
        walk_rank(comm, t, r, 0, expected);
    }
}

/* Without a fault, and counting: what to expect, and which calls there are. */
static mp_status measure(const mp_comm *comm, const task *t, task_result *expected)
{
    const mp_fault_plan nothing = {.nth = 0};
    task_result again;

    snprintf(walk.at, sizeof walk.at, "%s on %d", t->name, comm->size);
    MP_TRY(task_prepare(comm, t));
    MP_TRY(task_reset(comm, t));
    MP_TRY(run_task(comm, t, NULL, expected));
    MP_TRY(task_reset(comm, t));
    walk.count = 0;
    mp_fault_observe(note_call);
    MP_TRY(run_task(comm, t, &nothing, &again));
    mp_fault_observe(NULL);
    if (again.crc == expected->crc) return MP_OK;
    return mp_fail(MP_ERR_DIVERGED, "%s: two runs, two results", t->name);
}

static mp_status walk_task(const mp_comm *comm, const task *t, const mp_fault_plan *only)
{
    int64_t before = walk.walked, survived = walk.survived;
    double start = mp_seconds();
    task_result expected;

    MP_TRY(measure(comm, t, &expected));
    if (only->nth > 0)
        walk_call(comm, t, only, &expected);
    else
        walk_ranks(comm, t, &expected);
    if (comm->rank == 0)
        fprintf(stderr, "%s on %d: %d calls on rank 0, %lld walked, %lld survived, %.1f s\n",
                t->name, comm->size, walk.count, (long long)(walk.walked - before),
                (long long)(walk.survived - survived), mp_seconds() - start);
    return MP_OK;
}

/* A directory in memory, where there is one, for all ranks. */
static mp_status enter_scratch(const mp_comm *comm, char scratch[64])
{
    const char *output = comm->rank == 0 ? "printed" : "/dev/null";
    mp_status st = MP_OK;

    snprintf(scratch, 64, "%s/fault-walk-XXXXXX",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp");
    if (comm->rank == 0 && mkdtemp(scratch) == NULL) scratch[0] = '\0';
    MP_TRY(mp_comm_bcast(comm, scratch, 64, 0));
    if (chdir(scratch) != 0 || freopen(output, "w", stdout) == NULL)
        st = mp_fail(MP_ERR_IO, "%s: no scratch directory", scratch);
    return mp_comm_agree(comm, st);
}

static mp_status walk_all(const mp_comm *comm, int argc, char **argv)
{
    static const char *const modes[] = {"quick", "places", "calls"};
    mp_fault_plan only = {.nth = 0};
    int first = 0, found = 0;

    for (int m = 0; m < 3; m++)
        if (argc > 0 && strcmp(argv[0], modes[m]) == 0) {
            walk.mode = (walk_mode)m;
            first = 1;
        }
    if (argc > first + 1) setenv("MPRESS_FAULT", argv[first + 1], 1);
    MP_TRY(mp_fault_read(comm->size, &only));
    MP_TRY(tasks_open(comm));
    for (int i = 0; i < TASKS; i++) {
        if (argc > first ? strcmp(argv[first], tasks[i].name) != 0 : tasks[i].is_defective)
            continue;
        MP_TRY(walk_task(comm, &tasks[i], &only));
        found++;
    }
    return found > 0 ? MP_OK : mp_fail(MP_ERR_ARG, "%s: no such task", argv[first]);
}

int main(int argc, char **argv)
{
    mp_comm *comm = NULL;
    char scratch[64];
    mp_status st;
    int provided, failed;

    balance_start();
    MPI_Init_thread(&argc, &argv, MPI_THREAD_FUNNELED, &provided);
    signal(SIGALRM, give_up);
    st = mp_comm_create(MPI_COMM_WORLD, &comm);
    if (st == MP_OK) {
        mp_log_setup(MP_LOG_ERROR, comm->rank);
        st = enter_scratch(comm, scratch);
        if (st == MP_OK) st = walk_all(comm, argc - 1, argv + 1);
        if (st != MP_OK) fprintf(stderr, "%s: %s\n", walk.at, mp_error_message());
        MPI_Barrier(MPI_COMM_WORLD);
        if (comm->rank == 0) (void)mp_path_remove(scratch);
    }
    mp_comm_free(comm);
    failed = st != MP_OK || walk.wrong > 0 || walk.leaks > 0 || mp_memory_balance() != 0;
    MPI_Allreduce(MPI_IN_PLACE, &failed, 1, MPI_INT, MPI_MAX, MPI_COMM_WORLD);
    MPI_Finalize();
    return failed;
}
