/* Hugging Face directories out, random models, and the identity of a model. */
#include "checkpoint_fixture.h"
#include "worker.h"

#include "../../src/checkpoint/pieces.h"
#include "mpress/export.h"
#include "mpress/fileio.h"
#include "mpress/imatrix.h"
#include "mpress/json.h"
#include "mpress/memory.h"
#include "mpress/safetensors.h"
#include "mpress/tensor.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* A directory as it was written against the model. */
static mp_status same_as_model(const fixture *f, const char *dir)
{
    mp_source *source = NULL;
    mp_status st = mp_safetensors_open(dir, &source);

    if (st == MP_OK) st = fixture_same(f->source, source);
    mp_source_close(&source);
    return mp_comm_agree(f->comm, st);
}

static mp_status export_checkpoint(const fixture *f)
{
    static const int64_t limits[] = {0, 20000, 1};
    static const char *const first[] = {"model.safetensors", "model-00001-of-00010.safetensors",
                                        "model-00001-of-00052.safetensors"};
    mp_source *source = NULL;
    char *assets = NULL, dir[160];
    mp_status st;

    MP_TRY(fixture_run(f, f->comm, f->out, 0));
    MP_TRY(mp_comm_agree(f->comm, mp_model_open(f->out, &source, &assets)));
    for (int i = 0; i < 3; i++) {
        snprintf(dir, sizeof dir, "%s/hf%d/", f->scratch, i);
        MP_GO(mp_export(f->comm, source, assets, dir, MP_EXPORT_AUTO, limits[i]));
        MP_GO(same_as_model(f, dir));
        if (!fixture_has(f->comm, dir, "tokenizer.json") || !fixture_has(f->comm, dir, first[i]) ||
            fixture_has(f->comm, dir, "model.safetensors.index.json") != (i > 0))
            st = mp_fail(MP_ERR_NUMERIC, "%s: not the files that were expected", dir);
        MP_GO(mp_comm_agree(f->comm, st));
    }
    snprintf(dir, sizeof dir, "%s/hf0", f->scratch);
    MP_GO(fixture_expect(f->comm, mp_export(f->comm, source, assets, dir, MP_EXPORT_AUTO, 0),
                         MP_ERR_ARG, "is there already"));
    MP_GO(same_as_model(f, dir));
out:
    mp_source_close(&source);
    mp_free(assets);
    return st;
}

static mp_status checkpoint_becomes_safetensors_bit_for_bit(const mp_comm *comm)
{
    return fixture_with(comm, export_checkpoint);
}

static mp_status config_bytes(const fixture *f)
{
    char path[160], *left = NULL, *right = NULL;
    size_t n = 0, m = 0;
    mp_status st;

    MP_TRY(mp_export(f->comm, f->source, f->model, f->out, MP_EXPORT_AUTO, 0));
    snprintf(path, sizeof path, "%s/config.json", f->model);
    MP_GO(mp_file_read(path, 1 << 16, &left, &n));
    snprintf(path, sizeof path, "%s/config.json", f->out);
    MP_GO(mp_file_read(path, 1 << 16, &right, &m));
    if (n != m || memcmp(left, right, n) != 0) st = mp_fail(MP_ERR_NUMERIC, "%s differs", path);
out:
    mp_free(left);
    mp_free(right);
    return mp_comm_agree(f->comm, st);
}

static mp_status config_is_exported_unchanged(const mp_comm *comm)
{
    return fixture_with(comm, config_bytes);
}

static mp_status export_fails(const fixture *f)
{
    char dir[160];

    for (int rank = 0; rank < f->comm->size; rank++) {
        mp_status st;

        /* the last rank in turn has pieces far behind the limit whatever their number */
        if (f->comm->rank == rank) fixture_limit_files(rank == 0 ? 20000 : 4000);
        st = mp_export(f->comm, f->source, f->model, f->out, MP_EXPORT_AUTO, 0);
        fixture_limit_files(-1);
        MP_TRY(fixture_expect(f->comm, st, MP_ERR_IO, "out.tmp-export/model.safetensors: "));
        MP_EXPECT(!fixture_has(f->comm, f->scratch, "out"));
        MP_EXPECT(!fixture_has(f->comm, f->scratch, "out.tmp-export"));
    }
    MP_TRY(fixture_expect(
        f->comm, mp_export(f->comm, f->source, f->model, "/proc/mpress/hf", MP_EXPORT_AUTO, 0),
        MP_ERR_IO, "/proc/mpress"));
    /* what a killed export left is in nobody's way, nor is an empty directory */
    snprintf(dir, sizeof dir, "%s.tmp-export", f->out);
    MP_TRY(mp_comm_agree(f->comm, f->comm->rank == 0 ? mp_directory_make(dir) : MP_OK));
    MP_TRY(mp_comm_agree(f->comm, f->comm->rank == 0 ? mp_directory_make(f->out) : MP_OK));
    MP_TRY(fixture_file(f->comm, dir, "model.safetensors", "half"));
    MP_TRY(mp_export(f->comm, f->source, f->model, f->out, MP_EXPORT_AUTO, 0));
    MP_EXPECT(!fixture_has(f->comm, f->scratch, "out.tmp-export"));
    return same_as_model(f, f->out);
}

static mp_status export_that_fails_on_one_rank_leaves_nothing(const mp_comm *comm)
{
    return fixture_with(comm, export_fails);
}

static mp_status copy_assets(const fixture *f)
{
    static const char *const kept[] = {"config.json", "tokenizer.json", "a.py",
                                       "merges.txt",  "index.json",     "linked.json"};
    static const char *const left[] = {
        "model.safetensors", "pytorch_model.bin", "x.gguf",
        ".hidden",           "original",          "pytorch_model.bin.index.json",
        "tf_model.h5"};
    char path[160], target[160];

    for (int i = 2; i < 5; i++) MP_TRY(fixture_file(f->comm, f->model, kept[i], kept[i]));
    for (int i = 1; i < 4; i++) MP_TRY(fixture_file(f->comm, f->model, left[i], "weights"));
    for (int i = 5; i < 7; i++) MP_TRY(fixture_file(f->comm, f->model, left[i], "weights"));
    if (f->comm->rank == 0) {
        snprintf(path, sizeof path, "%s/original", f->model);
        MP_TRY(mp_directory_make(path));
        MP_TRY(mp_directory_make(f->out));
        snprintf(path, sizeof path, "%s/tokenizer.json", f->model);
        snprintf(target, sizeof target, "%s/linked.json", f->model);
        MP_EXPECT(symlink(path, target) == 0);
        MP_TRY(mp_assets_copy(f->model, f->out));
    }
    MP_TRY(mp_comm_agree(f->comm, MP_OK));
    for (size_t i = 0; i < sizeof kept / sizeof kept[0]; i++)
        MP_EXPECT(fixture_has(f->comm, f->out, kept[i]));
    for (size_t i = 0; i < sizeof left / sizeof left[0]; i++)
        MP_EXPECT(!fixture_has(f->comm, f->out, left[i]));
    return MP_OK;
}

static mp_status assets_are_all_files_but_weights(const mp_comm *comm)
{
    return fixture_with(comm, copy_assets);
}

static mp_status identities(const fixture *f)
{
    char first[16], again[16], other[16], dir[160];
    mp_source *source = NULL;
    mp_status st;

    snprintf(dir, sizeof dir, "%s/hf", f->scratch);
    MP_TRY(mp_export(f->comm, f->source, f->model, dir, MP_EXPORT_AUTO, 10000));
    MP_GO(mp_model_identity(f->source, f->model, first));
    MP_GO(mp_safetensors_open(dir, &source));
    MP_GO(mp_model_identity(source, dir, again));
    MPI_Barrier(f->comm->mpi); /* all have read it */
    MP_GO(fixture_file(f->comm, dir, "config.json", "{}"));
    MP_GO(mp_model_identity(source, dir, other));
    if (strlen(first) != 8 || strcmp(first, again) != 0 || strcmp(first, other) == 0)
        st = mp_fail(MP_ERR_NUMERIC, "identities %s, %s, %s", first, again, other);
out:
    mp_source_close(&source);
    return mp_comm_agree(f->comm, st);
}

static mp_status identity_is_of_the_tensors_not_of_the_shards(const mp_comm *comm)
{
    return fixture_with(comm, identities);
}

/* Every piece small enough, a box of its length, and all of them the tensor in its order. */
static mp_status check_pieces(const mp_tensor_info *info)
{
    const int64_t size = (int64_t)mp_dtype_size(info->dtype);
    int64_t covered = 0;
    mp_pieces pieces;

    mp_pieces_cut(info, &pieces);
    for (int64_t p = 0; p < pieces.count; p++) {
        int64_t begin = 0, elements = 1;
        mp_piece piece;

        mp_pieces_at(info, &pieces, p, &piece);
        for (int d = 0; d < info->ndim; d++) {
            MP_EXPECT(piece.first[d] >= 0 && piece.extent[d] > 0);
            MP_EXPECT(piece.first[d] + piece.extent[d] <= info->shape[d]);
            begin = begin * info->shape[d] + piece.first[d];
            elements *= piece.extent[d];
        }
        MP_EXPECT(piece.begin == covered && begin * size == covered);
        MP_EXPECT(piece.length == elements * size && piece.length <= MP_PIECE_BYTES);
        covered += piece.length;
    }
    MP_EXPECT(covered == mp_tensor_bytes(info));
    return MP_OK;
}

static mp_status pieces_cover_a_tensor_in_order(const mp_comm *comm)
{
    static const mp_tensor_info shapes[] = {
        {.name = "scalar", .dtype = MP_F64, .ndim = 0},
        {.name = "vector", .dtype = MP_BF16, .ndim = 1, .shape = {33554433}},
        {.name = "small", .dtype = MP_F32, .ndim = 2, .shape = {3, 5}},
        {.name = "one row", .dtype = MP_F32, .ndim = 2, .shape = {1, 50000001}},
        {.name = "wide rows", .dtype = MP_BF16, .ndim = 2, .shape = {3, 40000000}},
        {.name = "embedding", .dtype = MP_BF16, .ndim = 2, .shape = {128256, 8192}},
        {.name = "cube", .dtype = MP_U8, .ndim = 4, .shape = {2, 3, 70000, 1001}},
        {.name = "empty", .dtype = MP_F32, .ndim = 3, .shape = {4, 0, 9}},
        {.name = "empty too", .dtype = MP_F32, .ndim = 1, .shape = {0}},
    };

    for (size_t i = 0; i < sizeof shapes / sizeof shapes[0]; i++) {
        mp_status st = check_pieces(&shapes[i]);

        if (st != MP_OK) st = mp_fail(st, "%s: %.400s", shapes[i].name, mp_error_message());
        MP_TRY(mp_comm_agree(comm, st));
    }
    return MP_OK;
}

/* The standard deviation of a tensor in BF16. */
static mp_status deviation(const mp_source *source, const char *name, double *mean, double *spread)
{
    int64_t index = mp_source_find(source, name), count;
    float *values = NULL;
    void *stored = NULL;
    double sum = 0.0, squares = 0.0;
    mp_status st;

    MP_EXPECT(index >= 0);
    MP_EXPECT(source->at(source->self, index)->dtype == MP_BF16);
    count = mp_tensor_elements(source->at(source->self, index));
    MP_GO(MP_NEW(values, count, "values"));
    MP_GO(mp_alloc(&stored, 2 * count, 1, 0, "values"));
    MP_GO(source->read(source->self, index, 0, 2 * count, stored));
    mp_to_f32(MP_BF16, stored, count, values);
    for (int64_t i = 0; i < count; i++) {
        sum += values[i];
        squares += (double)values[i] * values[i];
    }
    *mean = sum / (double)count;
    *spread = sqrt(squares / (double)count - *mean * *mean);
out:
    mp_free(values);
    mp_free(stored);
    return st;
}

static mp_status check_random(const char *dir)
{
    mp_source *source = NULL;
    double mean = 0.0, spread = 0.0;
    mp_arch arch;
    mp_status st;

    MP_TRY(mp_arch_load(dir, &arch));
    MP_EXPECT(arch.n_blocks == 2);
    MP_TRY(mp_safetensors_open(dir, &source));
    MP_GO(deviation(source, "model.layers.1.mlp.down_proj.weight", &mean, &spread));
    if (fabs(mean) > 0.01 || fabs(spread * sqrt(80.0) - 1.0) > 0.05)
        MP_GO(mp_fail(MP_ERR_NUMERIC, "down_proj: mean %g, deviation %g", mean, spread));
    MP_GO(deviation(source, "model.layers.0.input_layernorm.weight", &mean, &spread));
    if (mean != 1.0) MP_GO(mp_fail(MP_ERR_NUMERIC, "norm: mean %g", mean));
    /* 12 tensors of a block with its biases, embedding, norm, head */
    if (source->count != 2 * 12 + 3)
        st = mp_fail(MP_ERR_NUMERIC, "%lld tensors", (long long)source->count);
out:
    mp_source_close(&source);
    return st;
}

static mp_status synth(const fixture *f)
{
    char config[160], dir[160], other[160];
    mp_comm *alone = NULL;
    mp_source *left = NULL, *right = NULL;
    mp_status st;

    snprintf(config, sizeof config, "%s/config.json", f->model);
    snprintf(dir, sizeof dir, "%s/random", f->scratch);
    snprintf(other, sizeof other, "%s/alone", f->scratch);
    MP_TRY(mp_synth(f->comm, config, dir, 2, 5));
    MP_TRY(mp_comm_agree(f->comm, check_random(dir)));
    MP_TRY(fixture_expect(f->comm, mp_synth(f->comm, config, dir, 2, 5), MP_ERR_ARG,
                          "is there already"));
    MP_TRY(fixture_alone(f->comm, &alone));
    st = alone != NULL ? mp_synth(alone, config, other, 2, 5) : MP_OK;
    mp_comm_free(alone);
    MP_TRY(mp_comm_agree(f->comm, st));
    MP_GO(mp_safetensors_open(dir, &left));
    MP_GO(mp_safetensors_open(other, &right));
    MP_GO(fixture_same(left, right));
out:
    mp_source_close(&left);
    mp_source_close(&right);
    return mp_comm_agree(f->comm, st);
}

static mp_status random_model_has_its_shape_whatever_the_ranks(const mp_comm *comm)
{
    return fixture_with(comm, synth);
}

/* A run of which nothing was measured, a model, an unfinished run, a file that is there. */
static mp_status imatrix_refusals(const fixture *f)
{
    mp_checkpoint *checkpoint = NULL;
    json_t *run = json_object();
    char file[160];
    int64_t missing;
    mp_status st;

    snprintf(file, sizeof file, "%s/out.gguf", f->scratch);
    MP_GO(fixture_expect(f->comm, mp_imatrix_write(f->comm, f->model, file, &missing),
                         MP_ERR_FORMAT, "no run of mpress"));
    MP_GO(mp_checkpoint_create(f->comm, f->out, f->model, &f->arch, f->source, run, MP_START_NEW,
                               &checkpoint));
    MP_GO(fixture_put_block(f, checkpoint, 0));
    MP_GO(fixture_expect(f->comm, mp_imatrix_write(f->comm, f->out, file, &missing), MP_ERR_FORMAT,
                         "blocks/00001.h5 is missing"));
    MP_GO(fixture_put_block(f, checkpoint, 1));
    MP_GO(fixture_put_block(f, checkpoint, 2));
    MP_GO(fixture_expect(f->comm, mp_imatrix_write(f->comm, f->out, file, &missing), MP_ERR_FORMAT,
                         "has measured nothing"));
    MP_EXPECT(!fixture_has(f->comm, f->scratch, "out.gguf"));
    MP_GO(fixture_file(f->comm, f->scratch, "out.gguf", "precious"));
    MP_GO(fixture_expect(f->comm, mp_imatrix_write(f->comm, f->out, file, &missing), MP_ERR_ARG,
                         "out.gguf: is there already"));
out:
    mp_checkpoint_free(checkpoint);
    json_decref(run);
    return st;
}

static mp_status imatrix_of_nothing_is_refused(const mp_comm *comm)
{
    return fixture_with(comm, imatrix_refusals);
}

const mp_case cases_export[] = {
    {"checkpoint_becomes_safetensors_bit_for_bit", checkpoint_becomes_safetensors_bit_for_bit},
    {"config_is_exported_unchanged", config_is_exported_unchanged},
    {"export_that_fails_on_one_rank_leaves_nothing", export_that_fails_on_one_rank_leaves_nothing},
    {"assets_are_all_files_but_weights", assets_are_all_files_but_weights},
    {"identity_is_of_the_tensors_not_of_the_shards", identity_is_of_the_tensors_not_of_the_shards},
    {"pieces_cover_a_tensor_in_order", pieces_cover_a_tensor_in_order},
    {"random_model_has_its_shape_whatever_the_ranks",
     random_model_has_its_shape_whatever_the_ranks},
    {"imatrix_of_nothing_is_refused", imatrix_of_nothing_is_refused},
    {NULL, NULL},
};
