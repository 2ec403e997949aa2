#include "fault_tasks.h"

#include "mpress/corpus.h"
#include "mpress/export.h"
#include "mpress/fault.h"
#include "mpress/fileio.h"
#include "mpress/linalg.h"
#include "mpress/memory.h"

#include <dirent.h>
#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { VOCABULARY = 61, WINDOWS = 4, TOKENS = 16 };

static const char config[] =
    "{\"architectures\": [\"Qwen2ForCausalLM\"], \"model_type\": \"qwen2\", \"hidden_size\": 32,\n"
    " \"intermediate_size\": 48, \"num_hidden_layers\": 2, \"num_attention_heads\": 2,\n"
    " \"num_key_value_heads\": 1, \"vocab_size\": 61, \"rms_norm_eps\": 1e-05,\n"
    " \"hidden_act\": \"silu\", \"max_position_embeddings\": 64, \"torch_dtype\": \"float32\",\n"
    " \"tie_word_embeddings\": false, \"use_sliding_window\": false}\n";

mp_status command_parse(const mp_command *command, int argc, char **argv, void *configuration)
{
    return mp_options_parse(command->line, argc, argv, configuration);
}

/* In place of the measurement, which would take most of the time of a run: the linker turns the calls
 * of mp_gemm_rate to this. */
mp_status __wrap_mp_gemm_rate(int64_t n, int single, double *flops);

mp_status __wrap_mp_gemm_rate(int64_t n, int single, double *flops)
{
    double *memory = NULL;

    (void)n, (void)single;
    MP_TRY(MP_NEW(memory, 1, "matrices for the GEMM rate"));
    mp_free(memory);
    *flops = 1e9;
    return MP_OK;
}

/* What ranks look for in a directory is hidden from this one.  The linker turns the calls of open to
 * this, and those of nanosleep, which would wait for a slow file system. */
static int is_blind;

int __real_open(const char *path, int flags, mode_t mode);
int __wrap_open(const char *path, int flags, mode_t mode);
int __wrap_nanosleep(const struct timespec *wanted, struct timespec *left);

int __wrap_open(const char *path, int flags, mode_t mode)
{
    if (!is_blind || strstr(path, "/probe.") == NULL) return __real_open(path, flags, mode);
    errno = ENOENT;
    return -1;
}

int __wrap_nanosleep(const struct timespec *wanted, struct timespec *left)
{
    (void)wanted, (void)left;
    return 0;
}

/* What is printed goes to a file, from its beginning. */
static mp_status run_command(const mp_comm *comm, const mp_command *command, const char *words)
{
    enum { MOST_WORDS = 48 };
    char line[1024], *argv[MOST_WORDS], *next, *state = NULL;
    int argc = 0;

    fflush(stdout);
    if (comm->rank == 0 && ftruncate(STDOUT_FILENO, 0) == 0) rewind(stdout);
    snprintf(line, sizeof line, "%s", words);
    for (next = strtok_r(line, " ", &state); next != NULL && argc < MOST_WORDS;
         next = strtok_r(NULL, " ", &state))
        argv[argc++] = next;
    return command->run(comm, argc, argv);
}

static int by_name(const struct dirent **left, const struct dirent **right)
{
    return strcmp((*left)->d_name, (*right)->d_name);
}

static int is_visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

/* Names and bytes of the files of a directory, if it is there. */
static mp_status add_directory(const char *dir, uint32_t *crc)
{
    struct dirent **entries = NULL;
    int count = scandir(dir, &entries, is_visible, by_name);
    mp_status st = MP_OK;

    for (int i = 0; i < count; i++) {
        char path[512], *bytes = NULL;
        size_t length = 0;

        snprintf(path, sizeof path, "%s/%s", dir, entries[i]->d_name);
        if (st == MP_OK) st = mp_file_read(path, SIZE_MAX / 2, &bytes, &length);
        *crc = mp_crc32c(*crc, entries[i]->d_name, strlen(entries[i]->d_name));
        *crc = mp_crc32c(*crc, bytes, length);
        mp_free(bytes);
        free(entries[i]);
    }
    free(entries);
    return st;
}

/* What the command has printed. */
static mp_status add_printed(uint32_t *crc)
{
    char *bytes = NULL;
    size_t length = 0;
    mp_status st;

    fflush(stdout);
    MP_TRY(mp_file_read("printed", 1 << 20, &bytes, &length));
    st = MP_OK;
    *crc = mp_crc32c(*crc, bytes, length);
    mp_free(bytes);
    return st;
}

static int64_t retries_of_report(void)
{
    json_t *report = json_load_file("out/report.json", 0, NULL), *linear;
    int64_t retries = json_integer_value(json_object_get(report, "search_retries"));
    size_t i;

    json_array_foreach (json_object_get(report, "linears"), i, linear)
        retries += json_integer_value(json_object_get(linear, "retries"));
    json_decref(report);
    return retries;
}

static mp_status look(task_result *result)
{
    *result = (task_result){.retries = retries_of_report()};
    MP_TRY(add_directory("out/blocks", &result->crc));
    MP_TRY(add_directory("out/hf", &result->crc));
    MP_TRY(add_directory("made", &result->crc));
    MP_TRY(add_directory("ids", &result->crc));
    return add_printed(&result->crc);
}

mp_status task_look(const mp_comm *comm, const task *t, task_result *result)
{
    if (t->command == NULL) return MP_OK;
    MP_TRY(mp_comm_agree(comm, comm->rank == 0 ? look(result) : MP_OK));
    return mp_comm_bcast(comm, result, sizeof *result, 0);
}

mp_status task_run(const mp_comm *comm, const task *t, task_result *result)
{
    *result = (task_result){.crc = 0};
    is_blind = t->is_blind && comm->rank > 0;
    return t->function != NULL ? t->function(comm, result)
                               : run_command(comm, t->command, t->words);
}

static mp_status create_comm(const mp_comm *comm, task_result *result)
{
    mp_comm *made = NULL;

    MP_TRY(mp_comm_create(comm->mpi, &made));
    result->crc = (uint32_t)made->node_count;
    mp_comm_free(made);
    return MP_OK;
}

/* Keeps the first buffer where the second cannot be had, and tells nobody; then misses a buffer and is
 * not surprised. */
static mp_status be_defective(const mp_comm *comm, task_result *result)
{
    char *first = NULL, *second = NULL;
    mp_status st;

    (void)comm;
    MP_TRY(MP_NEW(first, 1, "a buffer"));
    MP_TRY(MP_NEW(second, 1, "a buffer"));
    mp_free(first);
    mp_free(second);
    st = MP_NEW(first, 1, "a buffer that is not missed");
    result->crc = st == MP_OK;
    mp_free(first);
    return MP_OK;
}

/* Its figures are those of the moment: nothing to compare. */
static mp_status plan_job(const mp_comm *comm, task_result *result)
{
    (void)result;
    return run_command(comm, &command_plan,
                       "shape.json --tokens 64 --seqlen 16 --blocksize 16 --disk-gbs 1");
}

#define COMPRESS "model out --calib tokens.safetensors "
#define SAVING "--save-hidden every=1 "
#define EVALUATE "--eval tokens.safetensors --eval-seqlen 16 --max-windows 3 "
#define SPARSE COMPRESS EVALUATE SAVING "--sparsity 2:4 --blocksize 16 "
#define INTEGERS COMPRESS SAVING "--sparsity 2:4 --blocksize 16 --bits 3 --group-size 16 --asym "
#define LOW_RANK COMPRESS SAVING "--method asvd+ --ratio 0.6 --batch 2 "

const task tasks[TASKS] = {
    {.name = "create", .function = create_comm},
    {.name = "cholesky", .function = task_cholesky},
    {.name = "eigen", .function = task_eigen},
    {.name = "svd", .function = task_svd},
    {.name = "sparsegpt", .command = &command_compress, .words = SPARSE},
    {.name = "resume", .command = &command_compress, .words = SPARSE, .is_half = 1},
    {.name = "blind",
     .command = &command_compress,
     .words = SPARSE "--model-io root",
     .is_blind = 1},
    {.name = "blind-resume",
     .command = &command_compress,
     .words = SPARSE,
     .is_half = 1,
     .is_blind = 1},
    {.name = "linear",
     .command = &command_compress,
     .words =
         COMPRESS SAVING "--sparsity 0.5 --blocksize 16 --propagate linear --no-export --strict "
                         "--lengths 4,16",
     .is_strict = 1},
    {.name = "wanda",
     .command = &command_compress,
     .words = COMPRESS "--method wanda --sparsity 2:4 --save-hidden off --no-export"},
    {.name = "gptq",
     .command = &command_compress,
     .words = COMPRESS SAVING "--method gptq --bits 4 --group-size 16 --act-order static --scale "
                              "mse --blocksize 16 --no-export"},
    {.name = "replay",
     .command = &command_compress,
     .words = COMPRESS "--method magnitude --sparsity 0.5 --save-hidden off --no-export",
     .is_half = 1},
    {.name = "low-rank", .command = &command_compress, .words = LOW_RANK EVALUATE},
    {.name = "spectrum",
     .command = &command_compress,
     .words = COMPRESS SAVING "--method asvd --ratio 0.6 --rank-policy spectrum --no-export"},
    {.name = "sensitivity",
     .command = &command_compress,
     .words = COMPRESS SAVING "--method asvd+ --ratio 0.8 --rank-policy sensitivity --no-export"},
    {.name = "integers",
     .command = &command_compress,
     .words = INTEGERS EVALUATE "--model-io root",
     .is_blind = 1},
    {.name = "integers-replay",
     .command = &command_compress,
     .words = COMPRESS "--method rtn --bits 4 --group-size 16 --save-hidden off --no-export",
     .is_half = 1},
    {.name = "integers-export",
     .command = &command_export,
     .words = "out made --format compressed-tensors",
     .made = INTEGERS},
    {.name = "integers-dense",
     .command = &command_export,
     .words = "out made --format dense",
     .made = INTEGERS},
    {.name = "eval",
     .command = &command_eval,
     .words = "out --data tokens.safetensors --seqlen 16",
     .made = LOW_RANK},
    {.name = "export", .command = &command_export, .words = "out made --dense", .made = LOW_RANK},
    {.name = "imatrix",
     .command = &command_export,
     .words = "out ids/out.gguf --format imatrix",
     .made = LOW_RANK},
    {.name = "verify", .command = &command_inspect, .words = "out --verify", .made = LOW_RANK},
    {.name = "synth", .command = &command_synth, .words = "shape.json made --blocks 2"},
    {.name = "tokenize",
     .command = &command_tokenize,
     .words = MPRESS_DATA "/wikillama-5m --data text.jsonl --out ids/ids.safetensors"},
    {.name = "plan", .function = plan_job},
    {.name = "defective", .function = be_defective, .is_defective = 1},
};

static const char text[] =
    "{\"text\": \"The river is old.\"}\n{\"text\": \"It was built in 1907.\"}\n";

static mp_status write_tokens(void)
{
    mp_windows windows = {.count = WINDOWS, .seqlen = TOKENS};
    mp_status st;

    MP_GO(MP_NEW(windows.tokens, WINDOWS * TOKENS, "tokens"));
    MP_GO(MP_NEW(windows.document, WINDOWS, "tokens"));
    MP_GO(MP_NEW(windows.offset, WINDOWS, "tokens"));
    for (int i = 0; i < WINDOWS * TOKENS; i++) windows.tokens[i] = i * i * 7 % VOCABULARY;
    MP_GO(mp_windows_write("tokens.safetensors", &windows));
out:
    mp_windows_free(&windows);
    return st;
}

mp_status tasks_open(const mp_comm *comm)
{
    mp_status st = MP_OK;

    if (comm->rank == 0) {
        st = mp_file_write("shape.json", config, strlen(config));
        if (st == MP_OK) st = mp_file_write("text.jsonl", text, strlen(text));
        if (st == MP_OK) st = mp_directory_make("ids");
        if (st == MP_OK) st = write_tokens();
    }
    MP_TRY(mp_comm_agree(comm, st));
    return mp_synth(comm, "shape.json", "model", 2, 7);
}

/* Files and the files of folders. */
static mp_status copy_tree(const char *from, const char *to)
{
    struct dirent **entries = NULL;
    int count = scandir(from, &entries, is_visible, by_name);
    mp_status st = mp_directory_make(to);

    for (int i = 0; i < count; i++) {
        char source[512], target[512];

        snprintf(source, sizeof source, "%s/%s", from, entries[i]->d_name);
        snprintf(target, sizeof target, "%s/%s", to, entries[i]->d_name);
        if (st == MP_OK)
            st = mp_path_is_directory(source) ? copy_tree(source, target)
                                              : mp_file_copy(source, target);
        free(entries[i]);
    }
    free(entries);
    return st;
}

/* The third file that is flushed is that of the second block, after rest.h5 and the first one. */
static mp_status make_half(const mp_comm *comm, const task *t)
{
    const mp_fault_plan second_block = {MP_FAULT_H5_FLUSH, 0, 3};
    mp_status st;

    mp_fault_arm(&second_block, comm->rank);
    st = run_command(comm, &command_compress, t->words);
    mp_fault_arm(NULL, comm->rank);
    if (st == MP_OK) return mp_fail(MP_ERR_INTERNAL, "%s: ran to its end", t->name);
    st = comm->rank == 0 ? copy_tree("out", "half") : MP_OK;
    return mp_comm_agree(comm, st);
}

static mp_status remove_all(const mp_comm *comm, const char *const *paths)
{
    mp_status st = MP_OK;

    for (; comm->rank == 0 && *paths != NULL && st == MP_OK; paths++) st = mp_path_remove(*paths);
    return mp_comm_agree(comm, st);
}

mp_status task_prepare(const mp_comm *comm, const task *t)
{
    static const char *const old[] = {"out", "half", "made", NULL};

    MP_TRY(remove_all(comm, old));
    if (t->is_half) return make_half(comm, t);
    return t->made != NULL ? run_command(comm, &command_compress, t->made) : MP_OK;
}

mp_status task_reset(const mp_comm *comm, const task *t)
{
    static const char *const old[] = {"made", "ids/ids.safetensors", "out", NULL};
    static const char *const old_but_out[] = {"made", "ids/out.gguf", NULL};

    MP_TRY(remove_all(comm, t->made != NULL ? old_but_out : old));
    if (!t->is_half) return MP_OK;
    return mp_comm_agree(comm, comm->rank == 0 ? copy_tree("half", "out") : MP_OK);
}
