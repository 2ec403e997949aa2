/* Cases of the distributed tests: each runs on all ranks of a job and returns a status. */
#ifndef MPRESS_TESTS_WORKER_H
#define MPRESS_TESTS_WORKER_H

#include "mpress/comm.h"

typedef struct mp_case {
    const char *name; /* a sentence in snake_case */
    mp_status (*run)(const mp_comm *comm);
} mp_case;

/* One array per area, ended by name == NULL; listed in worker.c. */
extern const mp_case cases_comm[];
extern const mp_case cases_hosts[], cases_forecast[];
extern const mp_case cases_method[];
extern const mp_case cases_token_weights[];
extern const mp_case cases_quant[];
extern const mp_case cases_integers[];
extern const mp_case cases_layouts[];
extern const mp_case cases_lowrank[];
extern const mp_case cases_arch[];
extern const mp_case cases_weights[];
extern const mp_case cases_kernels[];
extern const mp_case cases_forward[];
extern const mp_case cases_checkpoint[];
extern const mp_case cases_checkpoint_disk[];
extern const mp_case cases_resume[];
extern const mp_case cases_export[];
extern const mp_case cases_budget[];
extern const mp_case cases_sensitivity[];
extern const mp_case cases_factored[];
extern const mp_case cases_factored_bounds[];

/* What a case returns to say that it did not run: a line "skipped: <why>" is printed. */
mp_status mp_case_skip(const char *why);

/* MP_ERR_NUMERIC with the text of the condition and where it stands. */
#define MP_EXPECT(condition)                                                                       \
    do {                                                                                           \
        if (!(condition))                                                                          \
            return mp_fail(MP_ERR_NUMERIC, "%s:%d: expected %s", __FILE__, __LINE__, #condition);  \
    } while (0)

#endif
