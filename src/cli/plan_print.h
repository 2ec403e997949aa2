/* A forecast as a table or as JSON.
 * Floor 10: cli. */
#ifndef MPRESS_PLAN_PRINT_H
#define MPRESS_PLAN_PRINT_H

#include "mpress/forecast.h"

/* To stdout.  limit: bytes a rank may have, 0 where nothing was said; batch: why so many blocks are solved
 * side by side, NULL where none could be. */
void plan_print(const mp_forecast_job *job, const mp_forecast *forecast, const mp_rates *rates,
                int64_t limit, const char *batch, int json);

#endif
