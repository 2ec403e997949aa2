/* The search for ranks over the dense model, and what its two kinds share.
 * Floor 9: pipeline; for ranks.c and ranks_sensitivity.c only. */
#ifndef MPRESS_RANKS_H
#define MPRESS_RANKS_H

#include "run.h"

typedef struct rank_search {
    mp_budget_item
        *items;     /* [count] the linear maps that are not skipped, in the order of the blocks, */
    int64_t *place; /* [count] and where they stand in run.ranks */
    int64_t count;
    double **spectra; /* [n_blocks][n_linears], owned; NULL unless they are looked at */
} rank_search;

/* Items without spectra.  `s` is zeroed before, and is to be closed whatever is returned.  Local. */
mp_status search_open(const run *r, rank_search *s);
void search_close(const run *r, rank_search *s);

/* Blocks [b, b + count) of the dense model: what the method makes of them at `ranks` [n_linears] (0: left
 * alone) is then in runner.blocks; or, where `spectra` [count][n_linears] is not NULL, their spectra alone.
 * The runner is in dense order.  Collective; agreed. */
mp_status search_blocks(run *r, int64_t b, int count, const int64_t *ranks, double **spectra,
                        mp_linear_result *results);

/* ranks_sensitivity.c: prints what the search costs; MP_ERR_ARG above --max-search-flop.  Local. */
mp_status sensitivity_afford(const run *r);

/* ranks_sensitivity.c: the ranks of the items.  Gives the runner and its hidden states back, so that their
 * memory serves the candidates.  Collective; agreed. */
mp_status by_sensitivity(run *r, rank_search *s);

#endif
