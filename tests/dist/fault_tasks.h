/* What the walk over faults (fault_walk.c) runs again and again: commands as a user says them, on a
 * tiny model, and factorisations on grids of several ranks, which a tiny model has no use for. */
#ifndef MPRESS_TESTS_FAULT_TASKS_H
#define MPRESS_TESTS_FAULT_TASKS_H

#include "../../src/cli/commands.h"

typedef struct task_result {
    uint32_t crc;    /* of what came out; the same on all ranks */
    int64_t retries; /* factorisations that were tried again, as the report says */
} task_result;

/* A command with its words, or a function. */
typedef struct task {
    const char *name;
    const mp_command *command;
    const char *words;
    const char *made; /* the compression whose OUT the command reads; NULL: it makes OUT itself */
    mp_status (*function)(const mp_comm *comm, task_result *result);
    int is_blind;     /* ranks but the first do not see the directory of OUT */
    int is_half;      /* the command goes on with OUT as it is after the first of two blocks */
    int is_strict;    /* a failed factorisation is an error */
    int is_defective; /* run by its name only: the walk must complain */
} task;

enum { TASKS = 27 };

extern const task tasks[TASKS];

/* The model and the windows that the commands read, in the working directory.  Collective. */
mp_status tasks_open(const mp_comm *comm);

/* Makes what a task starts from.  Collective. */
mp_status task_prepare(const mp_comm *comm, const task *t);

/* Puts everything back to where the task starts from.  Collective. */
mp_status task_reset(const mp_comm *comm, const task *t);

mp_status task_run(const mp_comm *comm, const task *t, task_result *result);

/* What a command has left behind; a function has said it itself.  Collective. */
mp_status task_look(const mp_comm *comm, const task *t, task_result *result);

/* fault_grids.c */
mp_status task_cholesky(const mp_comm *comm, task_result *result);
mp_status task_eigen(const mp_comm *comm, task_result *result);
mp_status task_svd(const mp_comm *comm, task_result *result);

#endif
