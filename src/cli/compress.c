#include "commands.h"

#include "mpress/driver.h"
#include "mpress/method.h"
#include "mpress/stop.h"
#include "mpress/token_weights.h"
#include "startup.h"

#include <stddef.h>
#include <string.h>

#define AT(field) offsetof(mp_job, field)

static const mp_option rows[] = {
    /* what MODEL and --calib name is part of the identity, where they lie is not */
    {"MODEL", NULL, "Hugging Face directory (or a finished OUT)", NULL, MP_OPT_STRING, AT(model),
     0},
    {"OUT", NULL, "directory of the checkpoint to make", NULL, MP_OPT_STRING, AT(out), 0},
    {"--method", "sparsegpt|wanda|magnitude|gptq|rtn|asvd+|asvd",
     "the first three prune, the next two quantise, the last two factor into low rank", "sparsegpt",
     MP_OPT_STRING, AT(method), MP_OPT_IDENTITY},
    {"--sparsity", "S",
     "pruning: share to remove, 0.5 (where nothing is said), or N of every M, 2:4", NULL,
     MP_OPT_STRING, AT(sparsity), MP_OPT_IDENTITY},
    {"--bits", "B",
     "bits of a weight, 2 to 8; 0: 4 for gptq and rtn, none for sparsegpt, which with bits does "
     "both",
     "0", MP_OPT_INT, AT(quant.bits), MP_OPT_IDENTITY},
    {"--group-size", "G|channel",
     "with --bits: columns that share a scale (128 where nothing is said), or whole rows", NULL,
     MP_OPT_STRING, AT(quant.group), MP_OPT_IDENTITY},
    {"--asym", NULL, "with --bits: grids from minimum to maximum, with zero points", NULL,
     MP_OPT_FLAG, AT(quant.asymmetric), MP_OPT_IDENTITY},
    {"--act-order", "none|static",
     "gptq: static: columns by falling diagonal of H, groups stay in place", "none", MP_OPT_STRING,
     AT(quant.order), MP_OPT_IDENTITY},
    {"--scale", "absmax|mse",
     "with --bits: scales by the extremes of a group, or by a search for the least error", "absmax",
     MP_OPT_STRING, AT(quant.scale), MP_OPT_IDENTITY},
    {"--calib", "FILE", "calibration data: .txt, .jsonl (key text) or .safetensors (tensor tokens)",
     NULL, MP_OPT_STRING, AT(calib), 0},
    {"--nsamples", "N", "windows; 0: all of a token file, 128 of a text", "0", MP_OPT_INT,
     AT(nsamples), MP_OPT_IDENTITY},
    {"--seqlen", "L", "tokens per window; 0: as the token file has, 2048 for a text", "0",
     MP_OPT_INT, AT(seqlen), MP_OPT_IDENTITY},
    {"--seed", "S", "of the draw of windows", "0", MP_OPT_INT, AT(seed), MP_OPT_IDENTITY},
    {"--bos", "auto|on|off", "auto: where the tokenizer adds it; on: first token of each window",
     "auto", MP_OPT_STRING, AT(bos), MP_OPT_IDENTITY},
    {"--state-ratio", "R",
     "normalised states count the first R of each window (state-aware length)", "1.0",
     MP_OPT_DOUBLE, AT(state_ratio), MP_OPT_IDENTITY},
    {"--lengths", "L1,L2,..", "multi-scale: nested prefixes of each window, averaged (MaCa-style)",
     NULL, MP_OPT_STRING, AT(lengths), MP_OPT_IDENTITY},
    {"--normalise", "auto|none|sequence",
     "sequence: a prefix weighs the same whatever its length; auto: with --lengths", "auto",
     MP_OPT_STRING, AT(normalise), MP_OPT_IDENTITY},
    {"--drop-first", NULL, "the first token of each window does not count (attention sink)", NULL,
     MP_OPT_FLAG, AT(drop_first), MP_OPT_IDENTITY},
    {"--ratio", "R", "low rank: stored parameters as a share of the dense ones", "0.8",
     MP_OPT_DOUBLE, AT(ratio), MP_OPT_IDENTITY},
    {"--rank-policy", "uniform|spectrum|sensitivity",
     "who gets how many ranks (sensitivity: search by perplexity)", "uniform", MP_OPT_STRING,
     AT(rank_policy), MP_OPT_IDENTITY},
    {"--max-search-flop", "F", "refuse a sensitivity search that costs more", "1e17", MP_OPT_DOUBLE,
     AT(max_search_flop), 0},
    {"--alpha", "A", "asvd: exponent of the scaling by activations", "0.5", MP_OPT_DOUBLE,
     AT(alpha), MP_OPT_IDENTITY},
    {"--asvd-scale", "abs_mean|abs_max", "asvd: what scales a channel", "abs_mean", MP_OPT_STRING,
     AT(asvd_scale), MP_OPT_IDENTITY},
    {"--svd", "gram|cholesky", "asvd+: gram is fast, cholesky the paper's definition", "gram",
     MP_OPT_STRING, AT(svd), MP_OPT_IDENTITY},
    {"--center", NULL, "asvd+: centre the activations of linear maps that have a bias", NULL,
     MP_OPT_FLAG, AT(center), MP_OPT_IDENTITY},
    {"--propagate", "auto|block|linear|dense",
     "linear: true sequential; auto: dense for low rank, else block", "auto", MP_OPT_STRING,
     AT(propagate), MP_OPT_IDENTITY},
    {"--batch", "K",
     "dense order, low rank: blocks solved side by side; 0: as ranks and memory allow", "0",
     MP_OPT_INT, AT(batch), 0},
    {"--damp", "D", "damping, as a share of the Hessian's mean diagonal", "0.01", MP_OPT_DOUBLE,
     AT(damp), MP_OPT_IDENTITY},
    {"--blocksize", "B", "columns of a lazy update, and tile of the Hessians", "128", MP_OPT_INT,
     AT(blocksize), MP_OPT_IDENTITY},
    {"--skip", "REGEX", "leave linear maps dense whose name matches (model.layers.3.mlp.up_proj)",
     NULL, MP_OPT_STRING, AT(skip), MP_OPT_IDENTITY},
    {"--blocks", "A:B", "compress blocks A to B - 1 only", NULL, MP_OPT_STRING, AT(blocks),
     MP_OPT_IDENTITY},
    {"--strict", NULL, "turn every fallback (a damping retry) into an error", NULL, MP_OPT_FLAG,
     AT(strict), 0},
    {"--eval", "FILE", "perplexity on this text or token file, before and after", NULL,
     MP_OPT_STRING, AT(eval), 0},
    {"--eval-seqlen", "L", "tokens per evaluation window; 0: as the calibration, else 2048", "0",
     MP_OPT_INT, AT(eval_seqlen), 0},
    {"--max-windows", "N", "evaluate at most so many windows; 0: all", "0", MP_OPT_INT,
     AT(max_windows), 0},
    {"--model-io", "auto|shared|root", "shared: every rank reads the model; root: rank 0 sends it",
     "auto", MP_OPT_STRING, AT(model_io), 0},
    {"--no-export", NULL, "do not write OUT/hf (mpress export does it later)", NULL, MP_OPT_FLAG,
     AT(no_export), 0},
    {"--resume", "auto|never|require", "auto: go on with an unfinished run in OUT", "auto",
     MP_OPT_STRING, AT(resume), 0},
    {"--save-hidden", "auto|every=N|off",
     "hidden states for a resume, every N blocks; off: finished blocks are replayed", "auto",
     MP_OPT_STRING, AT(save_hidden), 0},
    {"--hidden-dtype", "fp32|bf16", "of hidden states between blocks, in memory and saved", "fp32",
     MP_OPT_STRING, AT(hidden_dtype), MP_OPT_IDENTITY},
    {"--max-time", "T", "stop in time, with exit code 75: SECONDS or HH:MM:SS", NULL, MP_OPT_STRING,
     AT(max_time), 0},
    {"--mem-per-rank", "SIZE", "refuse to start if a rank will need more: 800M, 12G (binary)", NULL,
     MP_OPT_STRING, AT(mem_per_rank), 0},
    {"--stop-grace", "S", "seconds from a stop request (SIGUSR1, file OUT/stop) to the end", "60",
     MP_OPT_DOUBLE, AT(stop_grace), 0},
    {"--overwrite", NULL, "remove what another run left in OUT", NULL, MP_OPT_FLAG, AT(overwrite),
     0},
    {NULL, NULL, NULL, NULL, MP_OPT_FLAG, 0, 0},
};

static const mp_command_line line = {"compress",
                                     "prune, quantise or factor a model: from a Hugging Face "
                                     "directory to a checkpoint that loads again",
                                     rows};

/* The effective value of a row in its own type. */
static json_t *value_of(const mp_option *row, const mp_job *job)
{
    char buffer[64];
    const char *text = mp_option_text(row, job, buffer);
    int64_t integer = 0;
    double real = 0.0;

    switch (row->type) {
    case MP_OPT_INT:
        mp_parse_int(text, &integer);
        return json_integer(integer);
    case MP_OPT_DOUBLE:
        mp_parse_double(text, &real);
        return json_real(real);
    case MP_OPT_FLAG:
        return json_boolean(text[0] == 't');
    case MP_OPT_STRING:
        break;
    }
    return text != NULL ? json_string(text) : json_null();
}

/* The effective options by name, without dashes: all, or those with one of `flags`. */
static json_t *options_json(const mp_job *job, unsigned flags)
{
    json_t *all = json_object();

    for (const mp_option *row = rows; row->name != NULL; row++)
        if (flags == 0 || (row->flags & flags) != 0)
            json_object_set_new(all, row->name[0] == '-' ? row->name + 2 : row->name,
                                value_of(row, job));
    return all;
}

/* What follows from the method where the user said nothing: the record says what was done. */
static mp_status complete(mp_job *job)
{
    const mp_method *method = mp_method_find(job->method);
    mp_length_policy lengths = {.n_lengths = job->lengths != NULL};

    MP_TRY(mp_normalise_parse(job->normalise, &lengths, &job->normalise));
    if (method == NULL) return MP_OK; /* the driver tells which ones there are */
    if (strcmp(job->propagate, "auto") == 0) job->propagate = method->order;
    if (method->tile > 0) job->blocksize = method->tile;
    mp_quant_options_complete(method, &job->quant);
    if (method->prunes && job->sparsity == NULL) job->sparsity = "0.5";
    if (!method->prunes && job->sparsity != NULL)
        return mp_fail(MP_ERR_ARG, "--sparsity %s: method %s does not prune, expected %s",
                       job->sparsity, job->method,
                       method->factorise != NULL ? "--ratio"
                                                 : "--bits; sparsegpt with --bits does both");
    return MP_OK;
}

static mp_status run(const mp_comm *comm, int argc, char **argv)
{
    mp_job job;
    mp_status st;

    MP_TRY(command_parse(&command_compress, argc, argv, &job));
    MP_TRY(complete(&job));
    mp_stop_install();
    startup_banner(comm);
    job.options = options_json(&job, 0);
    job.identity = options_json(&job, MP_OPT_IDENTITY);
    st = mp_compress(comm, &job);
    json_decref(job.options);
    json_decref(job.identity);
    return st;
}

const mp_command command_compress = {&line, run};
