/* Weights of a block in shared memory, rows of embedding and head, and what is wrong with a file.
 */
#include "worker.h"

#include "memory_source.h"

#include "mpress/memory.h"
#include "mpress/remote.h"
#include "mpress/tensor.h"
#include "mpress/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static int same_as_stored(mp_source *source, int64_t block, const char *suffix, const float *values)
{
    char name[256];
    const memory_tensor *t;
    float *expected = NULL;
    int same;

    mp_arch_tensor_name(block, suffix, name);
    t = memory_source_tensor(source, name);
    if (t == NULL) return 0;
    if (MP_NEW(expected, mp_tensor_elements(&t->info), "expected") != MP_OK) return 0;
    mp_to_f32(t->info.dtype, t->data, mp_tensor_elements(&t->info), expected);
    same = memcmp(expected, values, (size_t)mp_tensor_elements(&t->info) * sizeof *values) == 0;
    mp_free(expected);
    return same;
}

static mp_status check_block(const mp_block *block, mp_source *source, mp_dtype dtype)
{
    const mp_arch *arch = block->arch;
    char suffix[128];

    for (int i = 0; i < arch->n_linears; i++) {
        const mp_linear *l = &block->linears[i];

        MP_EXPECT(l->dtype == dtype && l->d_in == arch->linears[i].d_in);
        snprintf(suffix, sizeof suffix, "%s.weight", arch->linears[i].name);
        MP_EXPECT(same_as_stored(source, block->index, suffix, l->weight));
        MP_EXPECT((l->bias != NULL) == arch->linears[i].has_bias);
        snprintf(suffix, sizeof suffix, "%s.bias", arch->linears[i].name);
        if (l->bias != NULL) MP_EXPECT(same_as_stored(source, block->index, suffix, l->bias));
    }
    for (int i = 0; i < arch->n_vectors; i++)
        MP_EXPECT(same_as_stored(source, block->index, arch->vectors[i].name,
                                 block->norms[arch->vectors[i].role]));
    MP_EXPECT(arch->n_vectors == 4 || block->norms[MP_Q_NORM] == NULL);
    return MP_OK;
}

/* The source itself; or, on all ranks but 0, what rank 0 tells of it. */
static mp_status open_for(const mp_comm *comm, const mp_arch *arch, mp_dtype dtype,
                          mp_readers readers, mp_source **source)
{
    if (comm->rank == 0 || readers == MP_READ_BY_ALL)
        MP_TRY(memory_source_create(arch, dtype, 3, source));
    return readers == MP_READ_BY_ALL ? MP_OK : mp_remote_source(comm, source);
}

static mp_status load_blocks(const mp_comm *comm, const mp_arch *arch, mp_dtype dtype,
                             mp_readers readers)
{
    mp_source *stored = NULL, *source = NULL;
    mp_block *block = NULL;
    mp_status st;

    MP_GO(memory_source_create(arch, dtype, 3, &stored));
    MP_GO(open_for(comm, arch, dtype, readers, &source));
    MP_GO(mp_weights_check(arch, source));
    MP_GO(mp_block_create(comm, arch, &block));
    for (int64_t b = 0; b < arch->n_blocks; b++) {
        mp_block_prefetch(arch, comm, source, b + 1);
        MP_GO(mp_block_load(block, comm, source, b));
        if (block->index != b)
            MP_GO(mp_fail(MP_ERR_NUMERIC, "index %lld", (long long)block->index));
        MP_GO(mp_comm_agree(comm, check_block(block, stored, dtype)));
    }
out:
    mp_block_free(block);
    mp_source_close(&source);
    mp_source_close(&stored);
    return st;
}

static mp_status load_and_check(const mp_comm *comm, const mp_arch *arch, mp_dtype dtype)
{
    return load_blocks(comm, arch, dtype, MP_READ_BY_ALL);
}

static mp_status blocks_hold_what_the_source_stores(const mp_comm *comm)
{
    mp_arch arch;

    MP_TRY(tiny_arch("llama", "", &arch));
    MP_TRY(load_and_check(comm, &arch, MP_F32));
    MP_TRY(tiny_arch("qwen2", "\"tie_word_embeddings\": true", &arch));
    MP_TRY(load_and_check(comm, &arch, MP_BF16));
    MP_TRY(tiny_arch("qwen3", "\"head_dim\": 2", &arch)); /* norms of 2: fewer rows than ranks */
    return load_and_check(comm, &arch, MP_F16);
}

/* On a node of all ranks, and on nodes of one rank each. */
static mp_status blocks_come_from_rank_0_where_it_alone_reads(const mp_comm *comm)
{
    mp_comm *apart = NULL;
    mp_arch arch;
    mp_status st;

    MP_TRY(tiny_arch("qwen2", "\"hidden_size\": 1040", &arch)); /* q_proj: two pieces */
    MP_TRY(load_blocks(comm, &arch, MP_F32, MP_READ_BY_ROOT));
    MP_TRY(mp_comm_apart(comm, 1, &apart));
    MP_GO(load_blocks(apart, &arch, MP_BF16, MP_READ_BY_ROOT));
    MP_GO(load_blocks(apart, &arch, MP_F32, MP_READ_BY_ALL));
out:
    mp_comm_free(apart);
    return st;
}

static mp_status rank_0_alone_prefetches_and_shares_nothing_out(const mp_comm *comm)
{
    mp_source *source = NULL;
    int64_t begin, end, hints = 0;
    mp_arch arch;
    mp_status st;

    MP_TRY(tiny_arch("llama", "", &arch));
    MP_TRY(open_for(comm, &arch, MP_BF16, MP_READ_BY_ROOT, &source));
    mp_block_prefetch(&arch, comm, source, 1);
    for (int64_t i = 0; i < source->count && comm->rank == 0; i++)
        hints += memory_source_tensor(source, source->at(source->self, i)->name)->hints;
    mp_remote_share(comm, source, 1000, &begin, &end);
    st = hints == (comm->rank == 0 ? 9 : 0) && end - begin == (comm->rank == 0 ? 1000 : 0)
             ? MP_OK
             : mp_fail(MP_ERR_NUMERIC, "%lld hints, %lld to %lld", (long long)hints,
                       (long long)begin, (long long)end);
    if (st == MP_OK && comm->rank != 0 && source->read(source->self, 0, 0, 2, &end) == MP_OK)
        st = mp_fail(MP_ERR_NUMERIC, "rank %d can read", comm->rank);
    mp_source_close(&source);
    return mp_comm_agree(comm, st);
}

static mp_status prefetch_names_the_next_block_once_per_node(const mp_comm *comm)
{
    mp_source *source = NULL;
    double hints[2] = {0.0, 0.0};
    mp_arch arch;

    MP_TRY(tiny_arch("llama", "", &arch));
    MP_TRY(memory_source_create(&arch, MP_BF16, 1, &source));
    mp_block_prefetch(&arch, comm, source, 1);
    mp_block_prefetch(&arch, comm, source, 2); /* past the last: nothing */
    for (int64_t i = 0; i < source->count; i++) {
        const char *name = source->at(source->self, i)->name;
        double count = (double)memory_source_tensor(source, name)->hints;

        hints[strncmp(name, "model.layers.1.", 15) == 0] += count;
    }
    mp_source_close(&source);
    MP_TRY(mp_comm_sum(comm, hints, 2));
    MP_EXPECT(hints[0] == 0.0 && hints[1] == 9.0 * comm->node_count);
    return MP_OK;
}

typedef void (*spoiler)(mp_source *source);

static void drop_up_proj(mp_source *source)
{
    memory_source_remove(source, "model.layers.1.mlp.up_proj.weight");
}

static void transpose_k_proj(mp_source *source)
{
    memory_tensor *t = memory_source_tensor(source, "model.layers.0.self_attn.k_proj.weight");

    t->info.shape[0] = 48;
    t->info.shape[1] = 24;
}

static void flatten_norm(mp_source *source)
{
    memory_tensor *t = memory_source_tensor(source, MP_NORM_NAME);

    t->info.ndim = 2;
    t->info.shape[1] = 1;
}

static void quantise_gate(mp_source *source)
{
    memory_source_tensor(source, "model.layers.1.mlp.gate_proj.weight")->info.dtype = MP_I32;
}

static void drop_head(mp_source *source)
{
    memory_source_remove(source, MP_HEAD_NAME);
}

static void drop_embedding(mp_source *source)
{
    memory_source_remove(source, MP_EMBED_NAME);
}

static mp_status faults_of_a_file_are_named_with_the_expectation(const mp_comm *comm)
{
    static const struct {
        spoiler spoil;
        const char *name, *words;
    } rows[] = {
        {drop_up_proj, "model.layers.1.mlp.up_proj.weight", "missing, expected shape [80, 48]"},
        {transpose_k_proj, "model.layers.0.self_attn.k_proj.weight",
         "shape [48, 24], expected [24, 48]"},
        {flatten_norm, "model.norm.weight", "shape [48, 1], expected [48]"},
        {quantise_gate, "model.layers.1.mlp.gate_proj.weight", "dtype I32"},
        {drop_head, "lm_head.weight", "missing"},
        {drop_embedding, "model.embed_tokens.weight", "missing, expected shape [67, 48]"},
    };

    (void)comm;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mp_source *source = NULL;
        mp_arch arch;
        mp_status st;

        MP_TRY(tiny_arch("llama", "", &arch));
        MP_TRY(memory_source_create(&arch, MP_BF16, 1, &source));
        rows[i].spoil(source);
        st = mp_weights_check(&arch, source);
        mp_source_close(&source);
        MP_EXPECT(st == MP_ERR_FORMAT);
        if (strstr(mp_error_message(), rows[i].name) == NULL ||
            strstr(mp_error_message(), rows[i].words) == NULL ||
            strstr(mp_error_message(), "memory: ") == NULL)
            return mp_fail(MP_ERR_NUMERIC, "expected \"%s\" and \"%s\" in: %s", rows[i].name,
                           rows[i].words, mp_error_message());
    }
    return MP_OK;
}

/* A tied model, whose source has one tensor more: the head under another name. */
static mp_status check_with_name(const char *head, mp_status *result)
{
    mp_source *source = NULL;
    mp_arch arch;

    MP_TRY(tiny_arch("llama", "", &arch));
    MP_TRY(memory_source_create(&arch, MP_BF16, 1, &source));
    arch.tied_head = 1;
    memory_source_rename(source, MP_HEAD_NAME, head);
    *result = mp_weights_check(&arch, source);
    mp_source_close(&source);
    return MP_OK;
}

static mp_status tensors_nobody_reads_are_refused_by_name(const mp_comm *comm)
{
    static const struct {
        const char *name;
        mp_status expected;
    } rows[] = {{MP_HEAD_NAME, MP_OK},
                {"model.layers.1.self_attn.rotary_emb.inv_freq", MP_OK},
                {"lm_head.bias", MP_ERR_FORMAT},
                {"model.layers.1.mlp.up_proj.bias", MP_ERR_FORMAT},
                {"model.layers.2.mlp.up_proj.weight", MP_ERR_FORMAT},
                {"visual.weight", MP_ERR_FORMAT}};

    (void)comm;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        mp_status st;

        MP_TRY(check_with_name(rows[i].name, &st));
        MP_EXPECT(st == rows[i].expected);
        if (st != MP_OK) MP_EXPECT(strstr(mp_error_message(), rows[i].name) != NULL);
    }
    return MP_OK;
}

/* Loads block 1 of a spoilt source; the status and the message of all ranks. */
static mp_status load_spoilt(const mp_comm *comm, mp_readers readers, float value, int fails,
                             const char *words)
{
    const int64_t row = 79, column = 13; /* the last row: of the last rank of a node */
    mp_source *source = NULL;
    mp_block *block = NULL;
    mp_arch arch;
    memory_tensor *t;
    mp_status st, loaded;

    MP_GO(tiny_arch("llama", "", &arch));
    MP_GO(memory_source_create(&arch, MP_F16, 1, &source));
    t = memory_source_tensor(source, "model.layers.1.mlp.gate_proj.weight");
    mp_from_f32(MP_F16, &value, 1, (uint16_t *)t->data + row * 48 + column);
    t->fails = fails && comm->rank == (readers == MP_READ_BY_ALL ? comm->size - 1 : 0);
    if (readers == MP_READ_BY_ROOT && comm->rank != 0) mp_source_close(&source);
    if (readers == MP_READ_BY_ROOT) MP_GO(mp_remote_source(comm, &source));
    MP_GO(mp_block_create(comm, &arch, &block));
    MP_GO(mp_block_load(block, comm, source, 0));
    loaded = mp_block_load(block, comm, source, 1);
    if (loaded != (fails ? MP_ERR_IO : MP_ERR_FORMAT) || block->index != -1 ||
        strstr(mp_error_message(), words) == NULL)
        st = mp_fail(MP_ERR_NUMERIC, "status %d, expected \"%s\" in: %s", (int)loaded, words,
                     mp_error_message());
    st = mp_comm_agree(comm, st);
out:
    mp_block_free(block);
    mp_source_close(&source);
    return st;
}

static mp_status a_nan_in_a_weight_is_named_on_all_ranks(const mp_comm *comm)
{
    return load_spoilt(
        comm, MP_READ_BY_ALL, NAN, 0,
        "memory: tensor \"model.layers.1.mlp.gate_proj.weight\": row 79, column 13 is "
        "nan, expected a finite number");
}

static mp_status an_infinity_in_a_weight_is_named_on_all_ranks(const mp_comm *comm)
{
    return load_spoilt(comm, MP_READ_BY_ALL, INFINITY, 0, "row 79, column 13 is infinite");
}

static mp_status a_read_that_fails_on_one_rank_fails_on_all(const mp_comm *comm)
{
    return load_spoilt(comm, MP_READ_BY_ALL, 0.0f, 1, "gate_proj.weight cannot be read");
}

static mp_status what_rank_0_cannot_send_fails_on_all(const mp_comm *comm)
{
    mp_comm *apart = NULL;
    mp_status st;

    MP_TRY(mp_comm_apart(comm, 1, &apart));
    MP_GO(load_spoilt(apart, MP_READ_BY_ROOT, NAN, 0, "row 79, column 13 is nan"));
    MP_GO(load_spoilt(apart, MP_READ_BY_ROOT, 0.0f, 1, "gate_proj.weight cannot be read"));
out:
    mp_comm_free(apart);
    return st;
}

static mp_status check_rows(mp_source *source)
{
    const int32_t ids[3] = {66, 0, 66}, wrong[2] = {1, 67};
    const memory_tensor *t = memory_source_tensor(source, MP_EMBED_NAME);
    float all[67 * 48], some[3 * 48], norm[48];

    mp_to_f32(MP_BF16, t->data, 67 * 48, all);
    MP_TRY(mp_weights_gather(source, MP_EMBED_NAME, ids, 3, some));
    for (int i = 0; i < 3; i++)
        MP_EXPECT(memcmp(some + 48 * i, all + 48 * ids[i], 48 * sizeof(float)) == 0);
    MP_TRY(mp_weights_rows(source, MP_EMBED_NAME, 64, 3, some));
    MP_EXPECT(memcmp(some, all + 48 * 64, sizeof some) == 0);
    MP_TRY(mp_weights_rows(source, MP_NORM_NAME, 0, 48, norm));
    mp_to_f32(MP_BF16, memory_source_tensor(source, MP_NORM_NAME)->data, 48, all);
    MP_EXPECT(memcmp(norm, all, sizeof norm) == 0);

    MP_EXPECT(mp_weights_rows(source, MP_EMBED_NAME, 65, 3, some) == MP_ERR_FORMAT);
    MP_EXPECT(mp_weights_rows(source, "model.other", 0, 1, some) == MP_ERR_FORMAT);
    MP_EXPECT(mp_weights_gather(source, MP_EMBED_NAME, wrong, 2, some) == MP_ERR_FORMAT);
    MP_EXPECT(strstr(mp_error_message(), "token 1 has id 67, expected 0 to 66") != NULL);
    return MP_OK;
}

static mp_status rows_come_by_range_and_by_id(const mp_comm *comm)
{
    mp_source *source = NULL;
    mp_arch arch;
    mp_status st;

    (void)comm;
    MP_TRY(tiny_arch("llama", "", &arch));
    MP_TRY(memory_source_create(&arch, MP_BF16, 1, &source));
    st = check_rows(source);
    mp_source_close(&source);
    return st;
}

const mp_case cases_weights[] = {
    {"blocks_hold_what_the_source_stores", blocks_hold_what_the_source_stores},
    {"blocks_come_from_rank_0_where_it_alone_reads", blocks_come_from_rank_0_where_it_alone_reads},
    {"rank_0_alone_prefetches_and_shares_nothing_out",
     rank_0_alone_prefetches_and_shares_nothing_out},
    {"prefetch_names_the_next_block_once_per_node", prefetch_names_the_next_block_once_per_node},
    {"faults_of_a_file_are_named_with_the_expectation",
     faults_of_a_file_are_named_with_the_expectation},
    {"tensors_nobody_reads_are_refused_by_name", tensors_nobody_reads_are_refused_by_name},
    {"a_nan_in_a_weight_is_named_on_all_ranks", a_nan_in_a_weight_is_named_on_all_ranks},
    {"an_infinity_in_a_weight_is_named_on_all_ranks",
     an_infinity_in_a_weight_is_named_on_all_ranks},
    {"a_read_that_fails_on_one_rank_fails_on_all", a_read_that_fails_on_one_rank_fails_on_all},
    {"what_rank_0_cannot_send_fails_on_all", what_rank_0_cannot_send_fails_on_all},
    {"rows_come_by_range_and_by_id", rows_come_by_range_and_by_id},
    {NULL, NULL},
};
