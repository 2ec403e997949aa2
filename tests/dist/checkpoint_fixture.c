#include "checkpoint_fixture.h"

#include "worker.h"

#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "mpress/rng.h"
#include "mpress/safetensors.h"

#include <glob.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

enum { MAX_TENSORS = 64, MAX_SLABS = 32 };

static const char config[] =
    "{\"architectures\": [\"Qwen2ForCausalLM\"], \"model_type\": \"qwen2\", \"hidden_size\": 48,\n"
    " \"intermediate_size\": 80, \"num_hidden_layers\": 3, \"num_attention_heads\": 4,\n"
    " \"num_key_value_heads\": 2, \"vocab_size\": 67, \"rms_norm_eps\": 1e-05,\n"
    " \"hidden_act\": \"silu\", \"max_position_embeddings\": 512, \"torch_dtype\": \"bfloat16\",\n"
    " \"use_sliding_window\": false, \"a key of another program\": [1, 0.1]}";

/* Tensors that no table of an architecture names. */
static const mp_tensor_info strangers[] = {
    {.name = "model.layers.0.self_attn.rotary_emb.inv_freq",
     .dtype = MP_F32,
     .ndim = 1,
     .shape = {6}},
    {.name = "model.layers.1.scale", .dtype = MP_F64, .ndim = 0},
    {.name = "model.layers.7.mlp.up_proj.weight", .dtype = MP_BF16, .ndim = 2, .shape = {3, 5}},
    {.name = "position_ids", .dtype = MP_I64, .ndim = 2, .shape = {1, 7}},
    {.name = "extra.mask", .dtype = MP_U8, .ndim = 3, .shape = {2, 3, 5}},
    {.name = "extra.flags", .dtype = MP_BOOL, .ndim = 1, .shape = {9}},
    {.name = "extra.empty", .dtype = MP_F16, .ndim = 2, .shape = {0, 4}},
    {.name = "extra.i32", .dtype = MP_I32, .ndim = 1, .shape = {1}},
    {.name = "extra.i16", .dtype = MP_I16, .ndim = 1, .shape = {3}},
    {.name = "extra.i8", .dtype = MP_I8, .ndim = 4, .shape = {1, 2, 1, 3}},
    {.name = "extra.u16", .dtype = MP_U16, .ndim = 1, .shape = {3}},
    {.name = "extra.e4m3", .dtype = MP_F8_E4M3, .ndim = 2, .shape = {2, 2}},
    {.name = "extra.e5m2", .dtype = MP_F8_E5M2, .ndim = 1, .shape = {5}},
};

/* A model to be written. */
typedef struct list {
    mp_tensor_info infos[MAX_TENSORS];
    char names[MAX_TENSORS][256];
    int count;
} list;

static void add(list *l, const char *name, mp_dtype dtype, int64_t rows, int64_t columns)
{
    int i = l->count++;

    snprintf(l->names[i], sizeof l->names[i], "%s", name);
    l->infos[i] = (mp_tensor_info){
        .name = l->names[i], .dtype = dtype, .ndim = columns > 0 ? 2 : 1, .shape = {rows, columns}};
}

/* Every block in another dtype, norms in single precision. */
static void add_block(list *l, const mp_arch *arch, int64_t block)
{
    static const mp_dtype dtypes[] = {MP_BF16, MP_F16, MP_F32};
    char suffix[128], name[256];

    for (int i = 0; i < arch->n_linears; i++) {
        const mp_linear_row *row = &arch->linears[i];

        snprintf(suffix, sizeof suffix, "%s.weight", row->name);
        mp_arch_tensor_name(block, suffix, name);
        add(l, name, dtypes[block % 3], row->d_out, row->d_in);
        if (!row->has_bias) continue;
        snprintf(suffix, sizeof suffix, "%s.bias", row->name);
        mp_arch_tensor_name(block, suffix, name);
        add(l, name, dtypes[(block + 1) % 3], row->d_out, 0);
    }
    for (int i = 0; i < arch->n_vectors; i++) {
        mp_arch_tensor_name(block, arch->vectors[i].name, name);
        add(l, name, MP_F32, arch->vectors[i].size, 0);
    }
}

static int wider_first(const void *left, const void *right)
{
    const mp_tensor_info *a = left, *b = right;
    size_t n = mp_dtype_size(a->dtype), m = mp_dtype_size(b->dtype);

    return n != m ? (n > m ? -1 : 1) : strcmp(a->name, b->name);
}

static mp_status write_tensors(const char *path, const list *l)
{
    const void *data[MAX_TENSORS] = {NULL};
    mp_status st = MP_OK;

    for (int i = 0; i < l->count; i++) {
        int64_t words = (mp_tensor_bytes(&l->infos[i]) + 15) / 16;
        uint32_t *bits = NULL;

        MP_GO(MP_NEW(bits, 4 * words, "random bits"));
        data[i] = bits;
        for (int64_t w = 0; w < words; w++) {
            const uint32_t key[2] = {7, (uint32_t)i}, counter[4] = {(uint32_t)w, 0, 0, 0};

            mp_philox(key, counter, bits + 4 * w);
        }
    }
    MP_GO(mp_safetensors_write(path, l->infos, data, l->count));
out:
    for (int i = 0; i < l->count; i++) mp_free((void *)data[i]);
    return st;
}

static mp_status write_model(const fixture *f)
{
    list *l = NULL;
    char *path = NULL;
    mp_status st;

    MP_TRY(MP_NEW(l, 1, "a list of tensors"));
    add(l, MP_EMBED_NAME, MP_BF16, f->arch.vocabulary, f->arch.d_model);
    add(l, MP_NORM_NAME, MP_F16, f->arch.d_model, 0);
    add(l, MP_HEAD_NAME, MP_F32, f->arch.vocabulary, f->arch.d_model);
    for (int64_t b = 0; b < f->arch.n_blocks; b++) add_block(l, &f->arch, b);
    for (size_t i = 0; i < sizeof strangers / sizeof strangers[0]; i++)
        l->infos[l->count++] = strangers[i];
    qsort(l->infos, (size_t)l->count, sizeof l->infos[0], wider_first);
    MP_GO(mp_path_join(f->model, "model.safetensors", &path));
    MP_GO(write_tensors(path, l));
out:
    mp_free(path);
    mp_free(l);
    return st;
}

mp_status fixture_file(const mp_comm *comm, const char *dir, const char *name, const char *text)
{
    char *path = NULL;
    mp_status st = MP_OK;

    if (comm->rank == 0) {
        st = mp_path_join(dir, name, &path);
        if (st == MP_OK) st = mp_file_write(path, text, strlen(text));
        mp_free(path);
    }
    return mp_comm_agree(comm, st);
}

int fixture_has(const mp_comm *comm, const char *dir, const char *name)
{
    char *path = NULL;
    int there;

    MPI_Barrier(comm->mpi);
    there = mp_path_join(dir, name, &path) == MP_OK && mp_path_exists(path);
    mp_free(path);
    return there;
}

int fixture_has_unfinished(const mp_comm *comm, const char *out)
{
    char pattern[256];
    glob_t found = {0};
    int some;

    MPI_Barrier(comm->mpi);
    snprintf(pattern, sizeof pattern, "%s/blocks/*.tmp", out);
    some = glob(pattern, 0, NULL, &found) == 0;
    globfree(&found);
    return some;
}

static mp_status make_scratch(fixture *f)
{
    const char *base = getenv("TMPDIR");

    if (base == NULL || strlen(base) > 40) base = "/tmp";
    snprintf(f->scratch, sizeof f->scratch, "%s/mpress-XXXXXX", base);
    if (f->comm->rank == 0 && mkdtemp(f->scratch) == NULL)
        return mp_fail(MP_ERR_IO, "%s: mkdtemp failed", f->scratch);
    return MP_OK;
}

mp_status fixture_create(const mp_comm *comm, fixture *f)
{
    json_t *parsed = json_loads(config, 0, NULL);
    mp_status st;

    *f = (fixture){.comm = comm};
    st = mp_arch_parse(parsed, "config.json", &f->arch);
    json_decref(parsed);
    MP_TRY(mp_comm_agree(comm, st));
    MP_TRY(mp_comm_agree(comm, make_scratch(f)));
    MP_TRY(mp_comm_bcast(comm, f->scratch, sizeof f->scratch, 0));
    snprintf(f->model, sizeof f->model, "%s/model", f->scratch);
    snprintf(f->out, sizeof f->out, "%s/out", f->scratch);
    MP_TRY(mp_comm_agree(comm, comm->rank == 0 ? mp_directory_make(f->model) : MP_OK));
    MP_TRY(fixture_file(comm, f->model, "config.json", config));
    MP_TRY(fixture_file(comm, f->model, "tokenizer.json", "{}"));
    MP_TRY(mp_comm_agree(comm, comm->rank == 0 ? write_model(f) : MP_OK));
    return mp_comm_agree(comm, mp_safetensors_open(f->model, &f->source));
}

void fixture_free(fixture *f)
{
    mp_source_close(&f->source);
    MPI_Barrier(f->comm->mpi);
    if (f->comm->rank == 0 && f->scratch[0] != '\0') (void)mp_path_remove(f->scratch);
}

mp_status fixture_with(const mp_comm *comm, mp_status (*body)(const fixture *))
{
    fixture f;
    mp_status st = fixture_create(comm, &f);

    if (st == MP_OK) st = mp_comm_agree(comm, body(&f));
    fixture_free(&f);
    return st;
}

void fixture_limit_files(int64_t bytes)
{
    struct rlimit limit;

    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = bytes < 0 ? limit.rlim_max : (rlim_t)bytes;
    setrlimit(RLIMIT_FSIZE, &limit);
}

mp_status fixture_alone(const mp_comm *comm, mp_comm **alone)
{
    MPI_Comm one;
    mp_status st = MP_OK;

    *alone = NULL;
    MPI_Comm_split(comm->mpi, comm->rank == 0 ? 0 : MPI_UNDEFINED, 0, &one);
    if (comm->rank == 0) {
        st = mp_comm_create(one, alone);
        MPI_Comm_free(&one);
    }
    return mp_comm_agree(comm, st);
}

/* The slabs of a block, with room for their names and data. */
typedef struct slabs {
    mp_slab slab[MAX_SLABS];
    char names[MAX_SLABS][128];
    void *data[MAX_SLABS];
    int count;
} slabs;

/* An equal share, or all rows to the last or to the first rank, in turn. */
static void share_rows(const mp_comm *comm, int turn, int64_t rows, int64_t *begin, int64_t *end)
{
    int owner = turn % 3 == 1 ? comm->size - 1 : 0;

    mp_share(rows, 1, comm->rank, comm->size, begin, end);
    if (turn % 3 == 0) return;
    *begin = comm->rank <= owner ? 0 : rows;
    *end = comm->rank == owner ? rows : *begin;
}

static mp_status add_slab(const fixture *f, const mp_comm *comm, int64_t block, const char *suffix,
                          slabs *s)
{
    mp_slab *slab = &s->slab[s->count];
    const mp_tensor_info *info;
    char full[256];
    int64_t index, begin, end, row;

    mp_arch_tensor_name(block, suffix, full);
    index = mp_source_find(f->source, full);
    MP_EXPECT(index >= 0);
    info = f->source->at(f->source->self, index);
    snprintf(s->names[s->count], sizeof s->names[0], "%s", suffix);
    share_rows(comm, s->count, info->shape[0], &begin, &end);
    row = mp_tensor_bytes(info) / info->shape[0];
    MP_TRY(mp_alloc(&s->data[s->count], (end - begin) * row, 1, 0, "a slab"));
    *slab = (mp_slab){.name = s->names[s->count],
                      .dtype = info->dtype,
                      .ndim = info->ndim,
                      .shape = {info->shape[0], info->ndim > 1 ? info->shape[1] : 1},
                      .first_row = begin,
                      .n_rows = end - begin,
                      .data = s->data[s->count]};
    MP_TRY(f->source->read(f->source->self, index, begin * row, (end - begin) * row,
                           s->data[s->count]));
    s->count++;
    return MP_OK;
}

/* All ones: nothing in the tests reads it but that it must not come out again. */
static mp_status add_mask(const mp_comm *comm, const mp_linear_row *row, slabs *s)
{
    int64_t begin, end, bytes = (row->d_in + 7) / 8;

    snprintf(s->names[s->count], sizeof s->names[0], "%s.mask", row->name);
    mp_share(row->d_out, 1, comm->rank, comm->size, &begin, &end);
    MP_TRY(mp_alloc(&s->data[s->count], (end - begin) * bytes, 1, 0, "a slab"));
    memset(s->data[s->count], 0xff, (size_t)((end - begin) * bytes));
    s->slab[s->count] = (mp_slab){.name = s->names[s->count],
                                  .dtype = MP_U8,
                                  .ndim = 2,
                                  .shape = {row->d_out, bytes},
                                  .first_row = begin,
                                  .n_rows = end - begin,
                                  .data = s->data[s->count]};
    s->count++;
    return MP_OK;
}

static mp_status collect(const fixture *f, const mp_comm *comm, int64_t block, slabs *s)
{
    char suffix[128];

    for (int i = 0; i < f->arch.n_linears; i++) {
        snprintf(suffix, sizeof suffix, "%s.weight", f->arch.linears[i].name);
        MP_TRY(add_slab(f, comm, block, suffix, s));
        snprintf(suffix, sizeof suffix, "%s.bias", f->arch.linears[i].name);
        if (f->arch.linears[i].has_bias) MP_TRY(add_slab(f, comm, block, suffix, s));
    }
    for (int i = 0; i < f->arch.n_vectors; i++)
        MP_TRY(add_slab(f, comm, block, f->arch.vectors[i].name, s));
    return add_mask(comm, &f->arch.linears[0], s);
}

static mp_status put_block(const fixture *f, const mp_comm *comm, mp_checkpoint *checkpoint,
                           int64_t block)
{
    const mp_linear_record record = {.name = f->arch.linears[0].name,
                                     .method = "none",
                                     .d_out = f->arch.linears[0].d_out,
                                     .d_in = f->arch.linears[0].d_in,
                                     .tokens = 1000 + block,
                                     .dead = 2,
                                     .retries = 1,
                                     .damping = 0.01,
                                     .rel_error = NAN,
                                     .sparsity = 0.5};
    slabs *s = NULL;
    mp_status st;

    st = MP_NEW(s, 1, "slabs");
    if (st == MP_OK) st = collect(f, comm, block, s);
    MP_GO(mp_comm_agree(comm, st));
    MP_GO(mp_checkpoint_put_block(checkpoint, block, s->slab, s->count, &record, 1, NULL, 0));
out:
    for (int i = 0; s != NULL && i < MAX_SLABS; i++) mp_free(s->data[i]);
    mp_free(s);
    return st;
}

mp_status fixture_put_block(const fixture *f, mp_checkpoint *checkpoint, int64_t block)
{
    return put_block(f, f->comm, checkpoint, block);
}

mp_status fixture_run(const fixture *f, const mp_comm *comm, const char *out, int overwrite)
{
    mp_checkpoint *checkpoint = NULL;
    json_t *run = json_pack("{s:s, s:{s:i}}", "note", "Zürich", "options", "seed", 3);
    mp_status st;

    MP_GO(mp_checkpoint_create(comm, out, f->model, &f->arch, f->source, run, overwrite,
                               &checkpoint));
    for (int64_t b = 0; b < f->arch.n_blocks; b++) MP_GO(put_block(f, comm, checkpoint, b));
    MP_GO(mp_checkpoint_finish(checkpoint));
out:
    mp_checkpoint_free(checkpoint);
    json_decref(run);
    return st;
}

static mp_status same_tensor(const mp_source *left, const mp_source *right, int64_t i)
{
    const mp_tensor_info *a = left->at(left->self, i), *b = right->at(right->self, i);
    int64_t bytes = mp_tensor_bytes(a);
    char *x = NULL, *y = NULL;
    mp_status st;

    MP_EXPECT(strcmp(a->name, b->name) == 0);
    MP_EXPECT(a->dtype == b->dtype && a->ndim == b->ndim);
    for (int d = 0; d < a->ndim; d++) MP_EXPECT(a->shape[d] == b->shape[d]);
    MP_GO(MP_NEW(x, bytes, "a tensor"));
    MP_GO(MP_NEW(y, bytes, "a tensor"));
    MP_GO(left->read(left->self, i, 0, bytes, x));
    /* in two ranges, so that an offset that is ignored shows */
    MP_GO(right->read(right->self, i, 0, bytes / 3, y));
    MP_GO(right->read(right->self, i, bytes / 3, bytes - bytes / 3, y + bytes / 3));
    if (memcmp(x, y, (size_t)bytes) != 0)
        st = mp_fail(MP_ERR_NUMERIC, "%s and %s: tensor %s differs", left->path, right->path,
                     a->name);
out:
    mp_free(x);
    mp_free(y);
    return st;
}

mp_status fixture_same(const mp_source *left, const mp_source *right)
{
    MP_EXPECT(left->count == right->count);
    for (int64_t i = 0; i < left->count; i++) MP_TRY(same_tensor(left, right, i));
    return MP_OK;
}

mp_status fixture_expect(const mp_comm *comm, mp_status st, mp_status expected, const char *words)
{
    mp_status mine = MP_OK;

    if (st != expected)
        mine = mp_fail(MP_ERR_NUMERIC, "status %d (%s), expected %d", (int)st,
                       st != MP_OK ? mp_error_message() : "fine", (int)expected);
    else if (st != MP_OK && strstr(mp_error_message(), words) == NULL)
        mine = mp_fail(MP_ERR_NUMERIC, "expected \"%s\" in: %.500s", words, mp_error_message());
    return mp_comm_agree(comm, mine);
}

mp_status fixture_same_as_model(const fixture *f, const char *out)
{
    mp_source *source = NULL;
    mp_status st = mp_checkpoint_open(out, &source);

    if (st == MP_OK) st = fixture_same(f->source, source);
    mp_source_close(&source);
    return mp_comm_agree(f->comm, st);
}
