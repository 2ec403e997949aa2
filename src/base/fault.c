#include "mpress/fault.h"

#include "mpress/log.h"
#include "mpress/options.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    int error;
    const char *words;
} sites[MP_FAULT_SITES] = {
#define MP_FAULT_ROW_(id, text, number, what) [id] = {text, number, what},
    MP_FAULT_LIST(MP_FAULT_ROW_)
#undef MP_FAULT_ROW_
};

atomic_int mp_fault_is_armed;

static mp_fault_plan armed;
static int is_here; /* the planned call is one of this rank */
static void (*watching)(mp_fault_site site, int64_t call);
static atomic_llong calls[MP_FAULT_SITES];

const char *mp_fault_name(mp_fault_site site)
{
    return sites[site].name;
}

/* "key=number" of length `length`; -1 unless it is one, at least `least`. */
static int parse_number(const char *text, size_t length, const char *key, int64_t least,
                        int64_t *number)
{
    const size_t head = strlen(key);
    char digits[24];

    if (length <= head || length - head >= sizeof digits || strncmp(text, key, head) != 0)
        return -1;
    memcpy(digits, text + head, length - head);
    digits[length - head] = '\0';
    return mp_parse_int(digits, number) == 0 && *number >= least ? 0 : -1;
}

/* SITE:rank=R:nth=K; -1 for anything else. */
static int parse(const char *text, int ranks, mp_fault_plan *plan)
{
    size_t site = strcspn(text, ":");
    const char *rank = text + site + (text[site] == ':'), *nth = rank + strcspn(rank, ":");
    int64_t number = 0;
    int i = 0;

    while (i < MP_FAULT_SITES &&
           (strlen(sites[i].name) != site || strncmp(sites[i].name, text, site) != 0))
        i++;
    if (i == MP_FAULT_SITES || *nth != ':') return -1;
    if (parse_number(rank, (size_t)(nth - rank), "rank=", 0, &number) != 0 || number >= ranks)
        return -1;
    plan->site = (mp_fault_site)i;
    plan->rank = (int)number;
    return parse_number(nth + 1, strlen(nth + 1), "nth=", 1, &plan->nth);
}

mp_status mp_fault_read(int ranks, mp_fault_plan *plan)
{
    const char *text = getenv("MPRESS_FAULT");
    char known[512] = "";

    *plan = (mp_fault_plan){.nth = 0};
    if (text == NULL || text[0] == '\0' || parse(text, ranks, plan) == 0) return MP_OK;
    for (int i = 0; i < MP_FAULT_SITES; i++) {
        strcat(known, i > 0 ? ", " : "");
        strcat(known, sites[i].name);
    }
    *plan = (mp_fault_plan){.nth = 0};
    return mp_fail(MP_ERR_ARG,
                   "MPRESS_FAULT=%.100s: expected SITE:rank=R:nth=K, R up to %d, K from 1 on, SITE "
                   "one of %s",
                   text, ranks - 1, known);
}

void mp_fault_arm(const mp_fault_plan *plan, int rank)
{
    atomic_store(&mp_fault_is_armed, 0);
    if (plan == NULL) return;
    armed = *plan;
    is_here = plan->nth > 0 && plan->rank == rank;
    for (int i = 0; i < MP_FAULT_SITES; i++) atomic_store(&calls[i], 0);
    if (plan->nth > 0)
        mp_log(MP_LOG_WARNING, "MPRESS_FAULT: %s, call %lld on rank %d, will fail on purpose",
               sites[plan->site].words, (long long)plan->nth, plan->rank);
    atomic_store(&mp_fault_is_armed, 1);
}

int64_t mp_fault_calls(mp_fault_site site)
{
    return atomic_load(&calls[site]);
}

void mp_fault_observe(void (*observer)(mp_fault_site site, int64_t call))
{
    watching = observer;
}

int mp_fault_count(mp_fault_site site)
{
    int64_t call = atomic_fetch_add(&calls[site], 1) + 1;

    if (watching != NULL) watching(site, call);
    if (!is_here || site != armed.site || call != armed.nth) return 0;
    errno = sites[site].error;
    return 1;
}
