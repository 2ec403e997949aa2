/* What a user gets for bad input: one clear line, one exit code on all ranks, no hang, and nothing
 * half-written under a final name. */
#include <criterion/criterion.h>
#include <criterion/parameterized.h>

#include "broken_models.h"
#include "broken_places.h"
#include "launch.h"

enum { MOST_WORDS = 5, SECONDS = 50 };

/* What a failed run may leave. */
enum leaves {
    NOTHING, /* the scratch directory is as it was */
    A_RUN,   /* OUT with whole blocks, all of them in its journal, and neither report nor export */
    A_REPORT /* the same with its report: all but the export is done */
};

/* The arguments may use the names of places_make (launch.h). */
struct row {
    const char *name;
    void (*prepare)(const char *scratch); /* NULL: nothing to prepare */
    const char *arguments;
    int code;
    const char *words[MOST_WORDS]; /* in the one line of the message */
    enum leaves leaves;
};

#define CALIB " --calib $G/calib.safetensors --nsamples 2"
#define COMPRESS_IT "compress $S/model $S/out --sparsity 2:4" CALIB
#define EVAL_IT "eval $S/model --data $G/eval.safetensors --seqlen 256 --max-windows 3"
#define COMPRESS "compress $M $S/out"
#define LOW_RANK COMPRESS CALIB " --method asvd+"
#define TO_OUT COMPRESS CALIB " --sparsity 2:4"

/* Laid out by hand: a case on two or three lines. */
/* clang-format off */
static const struct row rows[] = {
    {"missing shard", missing_shard, COMPRESS_IT, 74,
     {"/model/model-00002-of-00002.safetensors", "No such file"}, NOTHING},
    {"missing shard, eval", missing_shard, EVAL_IT, 74,
     {"/model/model-00002-of-00002.safetensors", "No such file"}, NOTHING},
    {"truncated shard", truncated_shard, COMPRESS_IT, 65,
     {"/model/model-00002-of-00002.safetensors", "model.layers.5.", "data_offsets",
      "expected within"},
     NOTHING},
    {"truncated model, eval", truncated_model, EVAL_IT, 65,
     {"/model/model.safetensors", "model.layers.5.", "data_offsets", "expected within"}, NOTHING},
    {"truncated model, inspect", truncated_model, "inspect $S/model", 65,
     {"/model/model.safetensors", "model.layers.5.", "data_offsets", "expected within"}, NOTHING},
    {"offsets beyond the file", offsets_beyond_the_file, COMPRESS_IT, 65,
     {"/model/model.safetensors", BROKEN_TENSOR, "4611686018427387904", "expected within"},
     NOTHING},
    {"offsets that overlap", offsets_that_overlap, COMPRESS_IT, 65,
     {"/model/model.safetensors", BROKEN_TENSOR, "overlaps", "expected"}, NOTHING},
    {"offsets of another size", offsets_of_another_size, COMPRESS_IT, 65,
     {"/model/model.safetensors", BROKEN_TENSOR, "131136", "expected 131072"}, NOTHING},
    {"shape that overflows", shape_that_overflows, COMPRESS_IT, 65,
     {"/model/model.safetensors", BROKEN_TENSOR, "overflows", "1099511627776"}, NOTHING},
    {"header length that overflows", header_length_that_overflows, COMPRESS_IT, 65,
     {"/model/model.safetensors", "header", "18446744073709551608", "expected at most"}, NOTHING},
    {"header longer than the file", header_longer_than_the_file, COMPRESS_IT, 65,
     {"/model/model.safetensors", "header", "99999999", "the file has only"}, NOTHING},
    {"unknown architecture", unknown_architecture, COMPRESS_IT, 65,
     {"/model/config.json", "model_type", "gpt_neox", "expected"}, NOTHING},
    {"unknown dtype in the config", unknown_dtype_in_config, COMPRESS_IT, 65,
     {"/model/config.json", "torch_dtype", "float8_e4m3fn", "expected"}, NOTHING},
    {"unknown dtype of a tensor", unknown_dtype_of_a_tensor, COMPRESS_IT, 65,
     {"/model/model.safetensors", BROKEN_TENSOR, "F4", "expected"}, NOTHING},
    {"integer weights", integer_weights, COMPRESS_IT, 65,
     {"/model", BROKEN_TENSOR, "I16", "expected F32, F16 or BF16"}, NOTHING},
    {"quantised input", quantised_input, COMPRESS_IT, 65,
     {"/model/config.json", "quantization_config", "expected", "quantised"}, NOTHING},
    {"config cut short", unfinished_config, COMPRESS_IT, 65,
     {"/model/config.json", "not valid JSON"}, NOTHING},
    {"missing tensor", missing_tensor, COMPRESS_IT, 65,
     {"/model", BROKEN_TENSOR, "missing", "expected shape [256, 256]"}, NOTHING},
    {"wrong shape", wrong_shape, COMPRESS_IT, 65,
     {"/model", BROKEN_TENSOR, "[128, 512]", "expected [256, 256]"}, NOTHING},
    {"unexpected tensor", unexpected_tensor, COMPRESS_IT, 65,
     {"/model", "model.layers.3.self_attn.q_proj.bias", "llama"}, NOTHING},
    {"no model", NULL, "compress $S/nowhere $S/out" CALIB, 74, {"/nowhere", "expected a model"},
     NOTHING},

    {"no tokenizer for calibration text", no_tokenizer,
     "compress $S/model $S/out --calib $M/sample-calib.jsonl", 74,
     {"/model", "tokenizer.json", "vocab.json"}, NOTHING},
    {"no tokenizer for evaluation text", no_tokenizer, "eval $S/model --data $M/sample-eval.jsonl",
     74, {"/model", "tokenizer.json", "vocab.json"}, NOTHING},
    {"no tokenizer to tokenise", no_tokenizer,
     "tokenize $S/model --data $M/sample-eval.jsonl --out $S/x.safetensors", 74,
     {"/model", "tokenizer.json", "vocab.json"}, NOTHING},
    {"text shorter than a window", short_text, COMPRESS " --calib $S/data.txt --seqlen 64", 65,
     {"/data.txt", "tokens", "expected more than a window of 64"}, NOTHING},
    {"documents shorter than a window", short_documents,
     COMPRESS " --calib $S/data.jsonl --seqlen 64", 65,
     {"/data.jsonl", "3 documents", "expected more than a window of 64"}, NOTHING},
    {"tokens shorter than a window", short_tokens,
     COMPRESS " --calib $S/data.safetensors --seqlen 64", 65,
     {"/data.safetensors", "20 tokens", "expected more than a window of 64"}, NOTHING},
    {"evaluation text shorter than a window", short_text,
     TO_OUT " --eval $S/data.txt --eval-seqlen 64", 65,
     {"/data.txt", "expected at least a window of 64"}, NOTHING},
    {"windows longer than those of the file", NULL, COMPRESS CALIB " --seqlen 512", 64,
     {"/calib.safetensors", "2 windows of 512", "it holds 32 of 256"}, NOTHING},
    {"token id outside the vocabulary", id_outside_the_vocabulary,
     COMPRESS " --calib $S/data.safetensors", 65,
     {"/data.safetensors", "row 1, position 36", "4096", "expected 0 .. 4095"}, NOTHING},
    {"negative token id in the evaluation", negative_id,
     TO_OUT " --eval $S/data.safetensors --eval-seqlen 64", 65,
     {"/data.safetensors", "row 1, position 36", "-3", "expected 0 .. 4095"}, NOTHING},
    {"tokens of another dtype", tokens_of_another_dtype, COMPRESS " --calib $S/data.safetensors",
     65, {"/data.safetensors", "\"tokens\"", "I64", "expected I32"}, NOTHING},
    {"documents that are not JSON", documents_that_are_not_json,
     COMPRESS " --calib $S/data.jsonl --seqlen 2 --nsamples 8", 65,
     {"/data.jsonl", "line 2", "oops"}, NOTHING},
    {"missing calibration file", NULL, COMPRESS " --calib $S/nothere.txt", 74,
     {"/nothere.txt", "No such file"}, NOTHING},
    {"missing evaluation file", NULL, TO_OUT " --eval $S/nothere.txt", 74,
     {"/nothere.txt", "No such file"}, NOTHING},
    {"missing file to eval", NULL, "eval $M --data $S/nothere.safetensors", 74,
     {"/nothere.safetensors", "No such file"}, NOTHING},
    {"data of an unknown kind", NULL, "eval $M --data $S/data.csv", 64,
     {"/data.csv", "expected", ".jsonl"}, NOTHING},

    {"NaN in a weight", nan_in_a_linear, COMPRESS_IT, 65,
     {"/model", BROKEN_TENSOR, "row 2, column 5", "nan", "expected a finite"}, A_RUN},
    {"NaN in a weight, linear order", nan_in_a_linear, COMPRESS_IT " --propagate linear", 65,
     {"/model", BROKEN_TENSOR, "row 2, column 5", "nan", "expected a finite"}, A_RUN},
    {"NaN in a weight, eval", nan_in_a_linear, EVAL_IT, 65,
     {"/model", BROKEN_TENSOR, "row 2, column 5", "nan", "expected a finite"}, NOTHING},
    {"NaN in the embedding", nan_in_the_embedding, COMPRESS_IT, 65,
     {"/model", "model.embed_tokens.weight", "row 4095, column 7", "nan"}, NOTHING},
    {"infinity in the final norm", infinity_in_the_final_norm, COMPRESS_IT, 65,
     {"/model", "model.norm.weight", "5", "infinite"}, NOTHING},
    {"activations that overflow", weight_that_overflows, COMPRESS_IT, 65,
     {"block 3, state attn_in", "non-finite activation", "token", "channel 5"}, A_RUN},
    {"activations that overflow, linear order", weight_that_overflows,
     COMPRESS_IT " --propagate linear", 65,
     {"block 3, state attn_in", "non-finite activation", "token", "channel 5"}, A_RUN},
    {"activations that overflow, eval", weight_that_overflows, EVAL_IT, 65,
     {"logit of window", "position", "not finite"}, NOTHING},

    {"N:M that does not divide d_in", NULL, COMPRESS CALIB " --sparsity 64:128", 64,
     {"64:128", "704", "mlp.down_proj"}, NOTHING},
    {"N:M that does not divide the block size", NULL,
     COMPRESS CALIB " --sparsity 2:4 --blocksize 18", 64, {"2:4", "block size 18"}, NOTHING},
    {"3:4", NULL, COMPRESS CALIB " --sparsity 3:4", 64, {"sparsity 3:4", "N = M/2"}, NOTHING},
    {"2:5", NULL, COMPRESS CALIB " --sparsity 2:5", 64, {"sparsity 2:5", "N = M/2"}, NOTHING},
    {"nothing removed", NULL, COMPRESS CALIB " --sparsity 0", 64,
     {"sparsity 0:", "expected a share in (0, 1)"}, NOTHING},
    {"everything removed", NULL, COMPRESS CALIB " --sparsity 1", 64,
     {"sparsity 1:", "expected a share in (0, 1)"}, NOTHING},
    {"more than everything removed", NULL, COMPRESS CALIB " --sparsity 1.5", 64,
     {"sparsity 1.5:", "expected a share in (0, 1)"}, NOTHING},
    {"state ratio of 0 tokens", NULL, COMPRESS CALIB " --state-ratio 0.003", 64,
     {"--state-ratio 0.003", "256 tokens", "0 tokens", "expected at least 1"}, NOTHING},
    {"state ratio without calibration", NULL, COMPRESS " --method magnitude --state-ratio 1.5", 64,
     {"--state-ratio 1.5", "expected a number in (0, 1]"}, NOTHING},
    {"lengths that are no numbers", NULL, COMPRESS CALIB " --lengths 64,x", 64,
     {"--lengths 64,x", "not all of it is a number", "as 128,512,2048"}, NOTHING},
    {"lengths that end in a comma", NULL, COMPRESS CALIB " --lengths 64,", 64,
     {"--lengths 64,:", "not all of it is a number"}, NOTHING},
    {"a length of nothing", NULL, COMPRESS CALIB " --lengths 0,64", 64,
     {"--lengths 0,64", "not all of it is a number of 1 or more"}, NOTHING},
    {"lengths out of order", NULL, COMPRESS CALIB " --lengths 64,128,128", 64,
     {"--lengths 64,128,128", "a length is not above the one before it"}, NOTHING},
    {"more lengths than there is room for", NULL,
     COMPRESS CALIB " --lengths 1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17", 64,
     {"--lengths 1,2", "too many lengths", "up to 16"}, NOTHING},
    {"a length above the windows", NULL, COMPRESS CALIB " --lengths 64,257", 64,
     {"--lengths", "257 tokens", "256 of a window"}, NOTHING},
    {"a length of which a ratio leaves nothing", NULL,
     COMPRESS CALIB " --lengths 3,64 --state-ratio 0.25", 64,
     {"--state-ratio 0.25", "of 3 tokens counts 0 tokens", "a ratio of 0.333334 or more"}, NOTHING},
    {"a length of the first token alone", NULL, COMPRESS CALIB " --lengths 1,64 --drop-first", 64,
     {"--drop-first", "no token", "(--lengths) of 1 tokens"}, NOTHING},
    {"a ratio of the first token alone", NULL,
     COMPRESS CALIB " --state-ratio 0.005 --drop-first", 64,
     {"--state-ratio 0.005", "256 tokens", "behind the first", "a ratio of 0.0078125 or more"}, NOTHING},
    {"normalisation that does not exist", NULL, COMPRESS CALIB " --normalise token", 64,
     {"--normalise token", "auto, none or sequence"}, NOTHING},

    {"bits of nothing", NULL, COMPRESS CALIB " --method gptq --bits 1", 64,
     {"--bits 1", "expected 2 to 8"}, NOTHING},
    {"too many bits", NULL, COMPRESS CALIB " --method rtn --bits 16", 64,
     {"--bits 16", "expected 2 to 8"}, NOTHING},
    {"negative bits", NULL, TO_OUT " --bits -4", 64, {"--bits -4", "expected 2 to 8"}, NOTHING},
    {"groups that do not divide d_in", NULL, COMPRESS CALIB " --method gptq", 64,
     {"--group-size 128", "704", "mlp.down_proj", "16, 32, 64, or channel"}, NOTHING},
    {"groups that do not divide d_in, joint", NULL, TO_OUT " --bits 4 --group-size 48", 64,
     {"--group-size 48", "256", "self_attn.q_proj", "16, 32, 64, 128, 256, or channel"}, NOTHING},
    {"groups of one", NULL, COMPRESS CALIB " --method rtn --group-size 1", 64,
     {"--group-size 1", "2 or more, or channel"}, NOTHING},
    {"groups of words", NULL, COMPRESS CALIB " --method rtn --group-size row", 64,
     {"--group-size row", "or channel"}, NOTHING},
    {"bits of a method that prunes", NULL, COMPRESS CALIB " --method wanda --bits 4", 64,
     {"--bits 4", "wanda does not quantise", "sparsegpt, gptq, rtn"}, NOTHING},
    {"bits of factors", NULL, LOW_RANK " --bits 4", 64,
     {"--bits 4", "asvd+ does not quantise", "sparsegpt, gptq, rtn"}, NOTHING},
    {"sparsity of integers", NULL, TO_OUT " --method gptq", 64,
     {"--sparsity 2:4", "gptq does not prune", "--bits", "sparsegpt"}, NOTHING},
    {"order of columns of rtn", NULL, COMPRESS CALIB " --method rtn --act-order static", 64,
     {"--act-order static", "rtn", "expected gptq"}, NOTHING},
    {"order of columns of a joint run", NULL, TO_OUT " --bits 4 --act-order static", 64,
     {"--act-order static", "sparsegpt", "expected gptq"}, NOTHING},
    {"order that does not exist", NULL, COMPRESS CALIB " --method gptq --act-order group", 64,
     {"--act-order group", "none or static"}, NOTHING},
    {"scales that do not exist", NULL, COMPRESS CALIB " --method gptq --scale max", 64,
     {"--scale max", "absmax or mse"}, NOTHING},
    {"zero points without bits", NULL, TO_OUT " --asym", 64, {"--asym", "without --bits"}, NOTHING},
    {"groups without bits", NULL, TO_OUT " --group-size 64", 64,
     {"--group-size 64", "without --bits"}, NOTHING},
    {"scales of a method that prunes", NULL, COMPRESS CALIB " --method wanda --scale mse", 64,
     {"--scale mse", "wanda does not quantise"}, NOTHING},
    {"no calibration for integers", NULL, COMPRESS " --method gptq", 64, {"--calib", "gptq", "needs"},
     NOTHING},

    {"ratio of nothing", NULL, LOW_RANK " --ratio 0", 64, {"--ratio 0:", "expected a share"}, NOTHING},
    {"ratio above one", NULL, LOW_RANK " --ratio 1.01", 64, {"--ratio 1.01", "expected a share"},
     NOTHING},
    {"ratio below rank 1", NULL, LOW_RANK " --ratio 0.001", 64,
     {"self_attn.q_proj", "ratio 0.001 of 256 x 256 is 65", "rank 1 takes 512"}, NOTHING},
    {"policy that does not exist", NULL, LOW_RANK " --rank-policy best", 64,
     {"--rank-policy best", "uniform, spectrum or sensitivity"}, NOTHING},
    {"spectrum over one linear map", NULL,
     LOW_RANK " --rank-policy spectrum --blocks 0:1 --skip '[kvo]_proj|gate|up|down'", 64,
     {"--rank-policy spectrum", "1 linear map", "two or more"}, A_RUN},
    {"sparsity of factors", NULL, LOW_RANK " --sparsity 2:4", 64, {"--sparsity 2:4", "asvd+", "--ratio"},
     NOTHING},
    {"exponent of nothing", NULL, LOW_RANK " --alpha 0", 64, {"--alpha 0", "expected"}, NOTHING},
    {"scale that does not exist", NULL, LOW_RANK " --asvd-scale mean", 64,
     {"--asvd-scale mean", "abs_mean or abs_max"}, NOTHING},
    {"road that does not exist", NULL, LOW_RANK " --svd full", 64, {"--svd full", "gram or cholesky"},
     NOTHING},
    {"centring without a bias", NULL, LOW_RANK " --center", 64, {"--center", "no linear map", "bias"},
     NOTHING},
    {"whitened asvd", NULL, COMPRESS CALIB " --method asvd --svd cholesky", 64,
     {"--svd cholesky", "asvd+"}, NOTHING},
    {"batch of a pruning method", NULL, TO_OUT " --batch 2", 64, {"--batch 2", "dense order"}, NOTHING},
    {"batch that is too large", NULL, LOW_RANK " --batch 65", 64, {"--batch 65", "at most 64"}, NOTHING},
    {"centring of asvd", NULL, COMPRESS CALIB " --method asvd --center", 64, {"--center", "asvd+"},
     NOTHING},
    {"activations that overflow, low rank", weight_that_overflows,
     "compress $S/model $S/out --method asvd+" CALIB, 65,
     {"block 3, state attn_in", "non-finite activation", "token", "channel 5"}, A_RUN},
    {"skip that matches nothing", NULL, TO_OUT " --skip self_atn", 64,
     {"--skip self_atn", "matches no linear map"}, NOTHING},
    {"skip that matches everything", NULL, TO_OUT " --skip .", 64, {"--skip .", "every linear map"},
     NOTHING},

    {"no command", NULL, "", 64, {"expected a command"}, NOTHING},
    {"unknown command", NULL, "prune $M", 64, {"prune", "no such command"}, NOTHING},
    {"unknown option", NULL, TO_OUT " --seqlength 128", 64, {"--seqlength", "unknown option"},
     NOTHING},
    {"option without its value", NULL, COMPRESS " --calib", 64, {"--calib", "expected a value"},
     NOTHING},
    {"option that is no number", NULL, TO_OUT " --seqlen 2k", 64,
     {"--seqlen 2k", "expected a whole number"}, NOTHING},
    {"option given twice", NULL, TO_OUT " --sparsity 0.5", 64, {"--sparsity", "twice"}, NOTHING},
    {"negative count", NULL, TO_OUT " --eval $G/eval.safetensors --eval-seqlen -1", 64,
     {"--eval-seqlen -1", "expected 0 or more"}, NOTHING},
    {"missing argument", NULL, "compress $M", 64, {"'mpress compress' needs OUT"}, NOTHING},
    {"one argument too many", NULL, TO_OUT " again", 64, {"again", "no further argument"}, NOTHING},
    {"no calibration where it is needed", NULL, COMPRESS " --method wanda", 64,
     {"--calib", "wanda", "needs"}, NOTHING},
    {"unknown method", NULL, COMPRESS CALIB " --method lottery", 64,
     {"--method lottery", "expected", "sparsegpt"}, NOTHING},
    {"blocks that are not there", NULL, TO_OUT " --blocks 4:9", 64, {"--blocks 4:9", "<= 6"},
     NOTHING},
    {"a skip that is no expression", NULL, TO_OUT " --skip '('", 64,
     {"--skip (", "not a regular expression"}, NOTHING},
    {"damping that is no share", NULL, TO_OUT " --damp 2", 64, {"--damp 2", "from 0 to 1"},
     NOTHING},
    {"bench of blocks of no columns", NULL, "bench solve --d-in 64 --d-out 64 --blocksize 0", 64,
     {"--blocksize 0", "expected 16 to 1024"}, NOTHING},
    {"bench of a pattern that does not fit", NULL,
     "bench solve --d-in 100 --d-out 10 --pattern 4:8", 64, {"4:8", "100 input channels"}, NOTHING},
    {"bench of groups that do not fit", NULL, "bench solve --d-in 100 --d-out 10 --method gptq", 64,
     {"--group-size 128", "100 input channels", "channel"}, NOTHING},
    {"bench of a missing config", NULL, "bench block --config $S/nothere.json", 74,
     {"/nothere.json", "No such file"}, NOTHING},
    {"eval without data", NULL, "eval $M", 64, {"needs --data"}, NOTHING},

    {"OUT holds another run", an_unfinished_run, TO_OUT, 65, {"/out", "another run", "--overwrite"},
     NOTHING},
    {"OUT holds a finished run", a_finished_run, TO_OUT, 65, {"/out", "another run", "--overwrite"},
     NOTHING},
    {"a mistake with --overwrite", a_finished_run, TO_OUT " --overwrite --eval $S/nothere.txt", 74,
     {"/nothere.txt"}, NOTHING},
    {"OUT is not a run of mpress", files_of_somebody_else, TO_OUT " --overwrite", 65,
     {"/out", "no run of mpress", "expected an empty or a new directory"}, NOTHING},
    {"OUT is a file", a_file_in_the_way, TO_OUT " --overwrite", 65,
     {"/out", "expected a directory"}, NOTHING},
    {"OUT under a file", a_file_in_the_way, "compress $M $S/out/run" CALIB, 74,
     {"/out/run", "Not a directory"}, NOTHING},
    {"read-only OUT", read_only_place, TO_OUT, 74, {"/out", "Read-only file system"}, NOTHING},
    {"OUT in a read-only place", read_only_place, "compress $M $S/out/run" CALIB, 74,
     {"/out/run", "Read-only file system"}, NOTHING},
    {"full disk at the start", disk_of_1_mib, TO_OUT, 74, {"/out/blocks/rest.h5", "No space left"},
     NOTHING},
    {"full disk at a block", disk_of_4_mib, TO_OUT, 74, {"/out/blocks/0000", "No space left"},
     A_RUN},
    {"full disk at the export", disk_of_16_mib, TO_OUT, 74,
     {"/out/hf", "No space left", "is complete", "mpress export"}, A_REPORT},
    {"OUT is MODEL", sound_model, "compress $S/model $S/model --overwrite" CALIB, 65,
     {"/model", "no run of mpress"}, NOTHING},
    {"OUT is MODEL, a run", a_finished_run, "compress $S/out $S/out --overwrite" CALIB, 64,
     {"/out", "--overwrite would remove it", "to be read"}, NOTHING},

    {"unfinished OUT to eval", an_unfinished_run, "eval $S/out --data $G/eval.safetensors", 65,
     {"/out", "not finished", "3 of 6", "blocks/00003.h5"}, NOTHING},
    {"unfinished OUT to export", an_unfinished_run, "export $S/out $S/hf", 65,
     {"/out", "not finished", "3 of 6", "blocks/00003.h5"}, NOTHING},
    {"cut block to eval", a_run_with_a_cut_block, "eval $S/out --data $G/eval.safetensors", 65,
     {"/out/blocks/00004.h5", "100000", "expected"}, NOTHING},
    {"imatrix of a model", NULL, "export $M $S/x.gguf --format imatrix", 65,
     {"wikillama-5m: no run of mpress", "imatrix"}, NOTHING},
    {"format that does not exist", NULL, "export $M $S/hf --format gguf", 64,
     {"--format gguf", "gptq, awq or dense; or imatrix"}, NOTHING},
    {"imatrix of dense factors", NULL, "export $M $S/x.gguf --format imatrix --dense", 64,
     {"--dense", "--format imatrix"}, NOTHING},
    {"export over something", files_of_somebody_else, "export $M $S/out", 64,
     {"/out", "expected an empty or a new directory"}, NOTHING},
    {"export to a read-only place", read_only_place, "export $M $S/out/hf", 74,
     {"/out/hf", "Read-only file system"}, NOTHING},
    {"export to a full disk", disk_of_4_mib, "export $M $S/out/hf", 74,
     {"/out/hf", "No space left"}, NOTHING},
    {"tokens to a read-only place", read_only_place,
     "tokenize $M --data $M/sample-eval.jsonl --out $S/out/x.safetensors", 74,
     {"/out/x.safetensors", "Read-only file system"}, NOTHING},
    {"synth of an unknown architecture", unknown_architecture,
     "synth $S/model/config.json $S/out --blocks 1", 65, {"/model/config.json", "gpt_neox"},
     NOTHING},
    {"synth to a full disk", disk_of_1_mib, "synth $M/config.json $S/out/hf --blocks 1", 74,
     {"/out/hf", "No space left"}, NOTHING},
};
/* clang-format on */

enum { ROWS = sizeof rows / sizeof rows[0] };

/* The program as each rank runs it: its own exit code goes to $S/codes.  mpirun stops the other
 * ranks as soon as one ends with an error, so each waits until all $N have come to their end. */
#define RANK                                                                                       \
    "sh -c '" PROGRAM " \"$@\"; code=$?; echo $code >>$S/codes; "                                  \
    "while [ $(wc -l <$S/codes) -lt $N ]; do sleep 0.05; done; exit $code' mpress"

struct attempt {
    int row, ranks; /* 0 ranks: without mpirun */
};

static struct attempt attempts[2 * ROWS];

ParameterizedTestParameters(bad_input, gives_one_clear_line)
{
    for (int i = 0; i < 2 * ROWS; i++) attempts[i] = (struct attempt){i / 2, i % 2 == 0 ? 0 : 3};
    return cr_make_param_array(struct attempt, attempts, 2 * ROWS);
}

/* Every file and directory below the scratch directory, with sizes and checksums. */
static void take_stock(struct outcome *o)
{
    run_shell(o, "cd $S && find . ! -path ./codes | sort && "
                 "find . -type f ! -path ./codes -exec cksum {} + | sort");
    cr_assert_eq(o->code, 0, "%s", o->text);
}

/* The message is one line of the text, and says what it should. */
static void check_message(const struct row *row, const char *text)
{
    static const char mark[] = "mpress: error: ";
    const char *line = strstr(text, mark);
    char message[2048] = "";

    cr_assert_not_null(line, "%s: no message in\n%s", row->name, text);
    cr_assert_null(strstr(line + 1, mark), "%s: two messages in\n%s", row->name, text);
    cr_assert(line == text || line[-1] == '\n', "%s: no line of its own in\n%s", row->name, text);
    snprintf(message, sizeof message, "%.*s", (int)strcspn(line, "\n"), line);
    for (int i = 0; i < MOST_WORDS && row->words[i] != NULL; i++)
        cr_expect_not_null(strstr(message, row->words[i]), "%s: \"%s\" lacks \"%s\"", row->name,
                           message, row->words[i]);
}

static void check_codes(const struct row *row, int ranks)
{
    static struct outcome codes;
    char expected[64] = "";

    for (int i = 0; i < ranks; i++) snprintf(expected + strlen(expected), 8, "%d\n", row->code);
    run_shell(&codes, "cat $S/codes");
    cr_expect_str_eq(codes.text, expected, "%s: the ranks ended with %s", row->name, codes.text);
}

/* OUT is a run that can be told from a finished one, with whole blocks only. */
static void check_run(const struct row *row)
{
    static struct outcome o;

    run_shell(&o, row->leaves == A_REPORT
                      ? "test -s $S/out/report.json && ! test -e $S/out/hf || echo hf"
                      : "ls -d $S/out/hf $S/out/report.json 2>/dev/null");
    cr_expect_str_empty(o.text, "%s: left over:\n%s", row->name, o.text);
    run_shell(&o,
              "cd $S/out && { find . -name '*.tmp*'; "
              "for f in blocks/*.h5; do grep -q \"\\\"$f\\\"\" journal.jsonl || echo $f; done; } "
              "2>/dev/null");
    cr_expect_str_empty(o.text, "%s: left over:\n%s", row->name, o.text);
    launch_within(&o, SECONDS, 0, PROGRAM, "inspect $S/out");
    cr_expect_eq(o.code, 0, "%s: %s", row->name, o.text);
}

ParameterizedTest(struct attempt *a, bad_input, gives_one_clear_line, .timeout = 120)
{
    static struct outcome o, before, after;
    const struct row *row = &rows[a->row];
    char scratch[64];

    places_make(scratch);
    setenv("N", a->ranks > 1 ? "3" : "1", 1);
    if (row->prepare != NULL) row->prepare(scratch);
    take_stock(&before);
    launch_within(&o, SECONDS, a->ranks, RANK, row->arguments);
    cr_assert_neq(o.code, 124, "%s on %d ranks hangs:\n%s", row->name, a->ranks, o.text);
    cr_expect_eq(o.code, row->code, "%s on %d ranks: exit code %d, expected %d\n%s", row->name,
                 a->ranks, o.code, row->code, o.text);
    check_message(row, o.text);
    check_codes(row, a->ranks > 1 ? 3 : 1);
    take_stock(&after);
    if (row->leaves == NOTHING)
        cr_expect_str_eq(after.text, before.text, "%s: left\n%s\nof\n%s", row->name, after.text,
                         before.text);
    else
        check_run(row);
    unmount(scratch);
    scratch_remove(scratch);
}
