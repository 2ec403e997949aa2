/* A compression under way: what the driver, the selection and the report share.
 * Floor 9: pipeline. */
#ifndef MPRESS_RUN_H
#define MPRESS_RUN_H

#include "mpress/block_run.h"
#include "mpress/budget.h"
#include "mpress/checkpoint.h"
#include "mpress/corpus.h"
#include "mpress/driver.h"
#include "mpress/export.h"
#include "mpress/perplexity.h"

#include <regex.h>

/* Which linear maps stay dense: --skip and --blocks. */
typedef struct selection {
    int has_pattern;
    regex_t pattern;
    int64_t first_block, end_block;
} selection;

/* After how many blocks hidden states are saved, and what that has cost. */
typedef struct save_policy {
    int64_t every;        /* 0: never; -1: as the measured rates say */
    int64_t last;         /* the block after which they were saved last, or -1 */
    double block_seconds; /* of one block, commit included; 0: none measured yet */
} save_policy;

typedef struct run {
    const mp_comm *comm;
    mp_comm *apart; /* `comm` where hosts have too little shared memory; else NULL; owned */
    const mp_job *job;
    mp_arch arch;
    mp_source *source; /* of the dense model */
    char *assets;      /* where its config and tokenizer are */
    char identity[16];
    selection selected;
    int64_t wanted; /* linear maps that --skip and --blocks leave to compress */
    mp_bos bos;
    mp_model_io model_io;
    mp_windows calibration, evaluation; /* tokens on rank 0 only; counts on all */
    int64_t evaluation_crc;             /* of their tokens */
    mp_perplexity_result before, after; /* windows = 0: not evaluated */
    mp_model_size size;                 /* of the finished model */
    mp_runner runner;
    mp_checkpoint *checkpoint;
    mp_linear_result *results; /* [n_blocks][n_linears] */
    mp_state_result *states;   /* [n_blocks][n_states]; squares until their block is written */
    mp_rank_policy policy;
    int64_t *
        ranks; /* [n_blocks][n_linears] where the method factors, 0: dense; NULL for other methods */
    json_t *sensitivity; /* for the report, where a search has measured it; else NULL; owned */
    char *log_path;      /* OUT/log.jsonl */
    char *stop_path;     /* OUT/stop */
    save_policy save;
    mp_start start;             /* what to do with an earlier run in OUT */
    int has_earlier;            /* there is one, and it is not written over */
    int64_t kept_blocks;        /* that an earlier run has made */
    int64_t search_retries;     /* factorisations that the search for them tried again */
    int has_ranks;              /* an earlier run has searched for them */
    double max_seconds;         /* of the whole run; 0: no limit */
    int64_t rank_limit;         /* bytes that a rank may have; 0: what is free */
    int most_batch;             /* blocks side by side that --mem-per-rank allows */
    double started, gemm_flops; /* seconds; single-precision rate of all ranks together */
    mp_clock clock_before;      /* at the end of the last block */
} run;

mp_status selection_open(selection *s, const mp_job *job, int64_t n_blocks);
void selection_close(selection *s);

/* A --skip that matches nothing is a mistake: MP_ERR_ARG. */
mp_status selection_check(const selection *s, const mp_job *job, const mp_arch *arch);

/* skip[i] = 1 for the linear maps of `block` that --skip and --blocks leave dense; returns how many are
 * not. */
int selection_of_block(const selection *s, const mp_arch *arch, int64_t block, int *skip);

/* run_model.c: the model and what it says together with the options; the nodes of the run, by what they
 * have to share.  Collective; agreed. */
mp_status run_open_model(run *r);

/* run_model.c: r->identity.  Collective; agreed. */
mp_status run_identify(run *r);

/* run_model.c: weights outside the blocks that are not finite are MP_ERR_FORMAT; each rank looks at its
 * share.  Collective; agreed. */
mp_status run_check_outside_blocks(run *r);

/* ranks.c: --ratio, --rank-policy and what follows from them before any data is read; MP_ERR_ARG. */
mp_status ranks_open(run *r);

/* Says what a search by sensitivity will cost, as soon as the windows are drawn; MP_ERR_ARG where that is
 * above --max-search-flop.  Collective; agreed. */
mp_status ranks_afford(run *r);

/* The ranks that the spectra or the sensitivity of the dense model say; nothing for uniform ones.  The
 * hidden states must be embedded, and are used up.  Collective; agreed. */
mp_status ranks_search(run *r);

/* run_windows.c: calibration and evaluation windows, tokens on rank 0; what the files decided goes into the
 * record of the options.  Collective; agreed. */
mp_status run_draw_windows(run *r);

/* OUT/calib.safetensors, by rank 0.  Collective; agreed. */
mp_status run_keep_windows(const run *r);

/* The embedded windows as hidden states of all ranks: the first or, after a search, the second time.
 * Collective; agreed. */
mp_status run_embed(run *r);

/* run_evaluate.c: the perplexity of `source` on the windows of --eval, if there are any: as an earlier run has
 * noted it under `name`, or measured, and noted.  Collective; agreed. */
mp_status run_evaluate(run *r, const char *name, const mp_source *source,
                       mp_perplexity_result *result);

/* What was noted of the same windows; 0 if nothing was.  Local; the same on all ranks. */
int run_recall_perplexity(const run *r, const mp_checkpoint *from, const char *name,
                          mp_perplexity_result *result);

/* afford.c: MP_ERR_NOFIT where a rank will not fit --mem-per-rank, or the ranks of a host its free memory.
 * The windows are drawn.  Collective; agreed. */
mp_status run_afford(run *r);

/* stopping.c: --max-time and --stop-grace; MP_ERR_ARG. */
mp_status stopping_options(run *r);

/* stopping.c: from here on the run can be stopped.  Collective; agreed. */
mp_status stopping_open(run *r);

/* stopping.c: MP_ERR_STOPPED where `count` more blocks are not wanted, or would take too long; otherwise
 * they are expected to be there in that time.  Collective; agreed. */
mp_status stopping_before_blocks(const run *r, int count);

/* stopping.c: where `st` says that the run was stopped, the message for the user.  On all ranks. */
mp_status stopping_say(const run *r, mp_status st);

/* resume.c: --resume, --save-hidden, --hidden-dtype; MP_ERR_ARG. */
mp_status resume_options(run *r);

/* resume.c: whether an earlier run has done all that is asked for, and its files are whole; says so.  Only
 * looks: OUT need not be writable.  Collective; agreed. */
mp_status resume_is_done(const run *r, int *is_done);

/* resume.c: OUT begun, or an earlier run in it continued.  Collective; agreed. */
mp_status resume_open(run *r);

/* resume.c: what an earlier run has found out: results of its blocks, ranks, perplexity.  Collective;
 * agreed. */
mp_status resume_recall(run *r);

/* resume.c: the hidden states before block *first, the first that is to be made or replayed; the
 * embedded windows before block 0.  Collective; agreed. */
mp_status resume_hidden(run *r, int64_t *first);

/* resume.c: the hidden states through block `b`, which is there.  Collective; agreed. */
mp_status resume_replay(run *r, const mp_source *blocks, int64_t b);

/* resume.c: saves the hidden states after block `b` if it is time to.  Collective; agreed. */
mp_status resume_save_hidden(run *r, int64_t b);

/* block_write.c: this rank's rows of every tensor of the loaded block, and what was measured at its states
 * (NULL: nothing), whose squares are freed.  Collective; agreed. */
mp_status run_write_block(run *r, mp_checkpoint *to, int64_t block, const mp_linear_result *results,
                          mp_state_result *states);

/* report.c: what to tell.  Those that gather figures are collective; rank 0 writes. */
mp_status report_start(const run *r);
mp_status report_write(const run *r); /* report.json as things stand */
mp_status report_finish(const run *r);
json_t *report_identity(const run *r);

/* A line of log.jsonl with these figures, which are consumed; and a number in it, null where there is none. */
mp_status report_event(const run *r, const char *name, json_t *figures);
json_t *report_real(double value);

/* report_blocks.c: what is to be told of blocks [first, first + count), solved in so many seconds.
 * Collective. */
mp_status report_blocks(run *r, int64_t first, int count, double seconds);

/* report_states.c: what was measured at the states of blocks [first, first + count), an array. */
json_t *report_states(const run *r, int64_t first, int64_t count);

#endif
