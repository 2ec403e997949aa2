/* A run's checkpoint: begun, a block at a time, finished. */
#include "mpress/checkpoint.h"

#include "directory.h"
#include "journal.h"
#include "model_file.h"
#include "mpress/export.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "rest.h"
#include "writer.h"

#include <math.h>
#include <string.h>
#include <unistd.h>

struct mp_checkpoint {
    const mp_comm *comm;
    char *dir;
    int64_t n_blocks;
};

void mp_checkpoint_free(mp_checkpoint *checkpoint)
{
    if (checkpoint == NULL) return;
    mp_free(checkpoint->dir);
    mp_free(checkpoint);
}

int mp_checkpoint_is(const char *path)
{
    static const char *const names[] = {"model.h5", "journal.jsonl"};
    int is = 1;

    for (int i = 0; i < 2; i++) {
        char *file = NULL;

        is = is && mp_path_join(path, names[i], &file) == MP_OK && mp_path_exists(file);
        mp_free(file);
    }
    return is;
}

static mp_status copy_assets(const char *dir, const char *model_dir)
{
    char *assets = NULL;
    mp_status st;

    MP_TRY(mp_path_join(dir, "assets", &assets));
    st = mp_directory_make(assets);
    if (st == MP_OK) st = mp_assets_copy(model_dir, assets);
    mp_free(assets);
    return st;
}

/* The part of the start that comes after the directory is ours: rest.h5, assets, and last model.h5,
 * with which the directory becomes a checkpoint. */
static mp_status fill_directory(const mp_checkpoint *c, const char *model_dir,
                                const mp_source *source, const mp_rest *rest, const json_t *run)
{
    char *path = NULL;
    int64_t bytes = 0;
    mp_status st = mp_rest_path(c->dir, &path);

    MP_GO(mp_comm_agree(c->comm, st));
    MP_GO(mp_rest_write(c->comm, path, source, rest, &bytes));
    if (c->comm->rank == 0) {
        st = copy_assets(c->dir, model_dir);
        if (st == MP_OK) st = mp_journal_rest(c->dir, bytes);
        if (st == MP_OK) st = mp_model_file_write(c->dir, c->n_blocks, source, rest, run);
    }
    MP_GO(mp_comm_agree(c->comm, st));
out:
    mp_free(path);
    return st;
}

static mp_status start(const mp_checkpoint *c, const char *model_dir, const mp_arch *arch,
                       const mp_source *source, const json_t *run, int overwrite)
{
    const char *const reads[] = {model_dir, source->path};
    mp_rest rest = {0};
    int made = 0;
    mp_status st = mp_rest_list(arch, source, &rest);

    if (st == MP_OK && c->comm->rank == 0)
        st = mp_directory_take(c->dir, reads, 2, overwrite, &made);
    st = mp_comm_agree(c->comm, st);
    if (st == MP_OK) {
        st = fill_directory(c, model_dir, source, &rest, run);
        if (st != MP_OK && c->comm->rank == 0) mp_directory_give_back(c->dir, made);
    }
    mp_free(rest.index);
    return st;
}

mp_status mp_checkpoint_create(const mp_comm *comm, const char *dir, const char *model_dir,
                               const mp_arch *arch, const mp_source *source, const json_t *run,
                               int overwrite, mp_checkpoint **checkpoint)
{
    mp_checkpoint *c = NULL;
    mp_status st;

    st = MP_NEW(c, 1, "a checkpoint");
    if (st == MP_OK) {
        c->comm = comm;
        c->n_blocks = arch->n_blocks;
        st = mp_strdup(dir, &c->dir);
    }
    st = mp_comm_agree(comm, st);
    if (st == MP_OK) st = start(c, model_dir, arch, source, run, overwrite);
    if (st == MP_OK)
        *checkpoint = c;
    else
        mp_checkpoint_free(c);
    return st;
}

/* What the layout of a block needs. */
typedef struct block {
    int64_t index;
    const mp_slab *slabs;
    int n_slabs;
    const mp_linear_record *records;
    int n_records;
} block;

static mp_status put_real_if_known(hid_t group, const char *path, const char *name, double value)
{
    return isnan(value) ? MP_OK : mp_h5_put_real(group, path, name, value);
}

static mp_status put_record(hid_t file, const char *path, const mp_linear_record *record)
{
    hid_t group = -1;
    mp_status st;

    MP_TRY(mp_h5_group(file, path, record->name, &group));
    MP_GO(mp_h5_put_text(group, path, "method", record->method));
    MP_GO(mp_h5_put_int(group, path, "d_out", record->d_out));
    MP_GO(mp_h5_put_int(group, path, "d_in", record->d_in));
    MP_GO(mp_h5_put_int(group, path, "tokens", record->tokens));
    MP_GO(mp_h5_put_int(group, path, "dead", record->dead));
    MP_GO(mp_h5_put_int(group, path, "retries", record->retries));
    MP_GO(mp_h5_put_int(group, path, "rank", record->rank));
    MP_GO(put_real_if_known(group, path, "damping", record->damping));
    MP_GO(put_real_if_known(group, path, "rel_error", record->rel_error));
    MP_GO(put_real_if_known(group, path, "sparsity", record->sparsity));
    MP_GO(put_real_if_known(group, path, "kept", record->kept));
out:
    H5Gclose(group);
    return st;
}

static mp_tensor_info tensor_of(const mp_slab *slab)
{
    return (mp_tensor_info){.name = slab->name,
                            .dtype = slab->dtype,
                            .ndim = slab->ndim,
                            .shape = {slab->shape[0], slab->shape[1]}};
}

static mp_status lay_out_block(hid_t file, const char *path, const void *context)
{
    const block *b = context;

    MP_TRY(mp_h5_put_int(file, path, "format", MP_CHECKPOINT_FORMAT));
    MP_TRY(mp_h5_put_int(file, path, "block", b->index));
    for (int i = 0; i < b->n_slabs; i++) {
        const mp_tensor_info info = tensor_of(&b->slabs[i]);

        MP_TRY(mp_h5_add_tensor(file, path, &info));
    }
    for (int i = 0; i < b->n_records; i++) MP_TRY(put_record(file, path, &b->records[i]));
    return MP_OK;
}

/* The ranks' ranges must cut the rows: their lengths sum to the number of rows N, and the
 * differences of the squares of their ends to N^2, which overlapping ranges miss. */
static mp_status check_cut(const mp_comm *comm, const mp_slab *slabs, int n_slabs)
{
    int64_t *sums = NULL;
    mp_status st;

    MP_GO(mp_comm_agree(comm, MP_NEW(sums, 2 * n_slabs, "the slabs of a block")));
    for (int i = 0; i < n_slabs; i++) {
        sums[2 * i] = slabs[i].n_rows;
        sums[2 * i + 1] = slabs[i].n_rows * (2 * slabs[i].first_row + slabs[i].n_rows);
    }
    MP_GO(mp_comm_sum_int(comm, sums, 2 * n_slabs));
    for (int i = 0; i < n_slabs; i++) {
        int64_t rows = slabs[i].shape[0];

        if (sums[2 * i] != rows || sums[2 * i + 1] != rows * rows)
            MP_GO(mp_fail(MP_ERR_DIVERGED,
                          "%s: the ranks' rows do not cut the %lld rows of the tensor",
                          slabs[i].name, (long long)rows));
    }
out:
    mp_free(sums);
    return st;
}

/* The ranks must bring the same tensors. */
static mp_status check_same(const mp_comm *comm, const block *b)
{
    uint32_t crc = 0;

    for (int i = 0; i < b->n_slabs; i++) {
        const mp_slab *slab = &b->slabs[i];
        const int64_t numbers[] = {slab->dtype, slab->ndim, slab->shape[0],
                                   slab->ndim > 1 ? slab->shape[1] : 1};

        crc = mp_crc32c(crc, slab->name, strlen(slab->name));
        crc = mp_crc32c(crc, numbers, sizeof numbers);
    }
    MP_TRY(mp_comm_same(comm, b->index, "the block to write"));
    MP_TRY(mp_comm_same(comm, b->n_slabs, "the number of tensors of a block"));
    return mp_comm_same(comm, crc, "the list of tensors of a block");
}

/* Opening a data set is collective, so that all ranks stop at the same tensor. */
static mp_status write_slab(const mp_writer *writer, const mp_slab *slab)
{
    const int64_t first[2] = {slab->first_row, 0}, count[2] = {slab->n_rows, slab->shape[1]};
    hid_t set = -1;
    mp_status st;

    MP_GO(mp_comm_agree(writer->comm,
                        mp_h5_open_tensor(writer->file, writer->temporary, slab->name, &set)));
    st = mp_h5_write(set, writer->temporary, slab->dtype, slab->ndim, first, count, slab->data);
    MP_GO(mp_comm_agree(writer->comm, st));
out:
    if (set >= 0) H5Dclose(set);
    return st;
}

static mp_status write_block(const mp_comm *comm, const char *path, const block *b, int64_t *bytes)
{
    int64_t room = MP_H5_EMPTY_ROOM;
    mp_writer writer;
    mp_status st = MP_OK;

    for (int i = 0; i < b->n_slabs; i++) {
        const mp_tensor_info info = tensor_of(&b->slabs[i]);

        room += mp_h5_room(&info);
    }
    MP_TRY(mp_writer_open(&writer, comm, path, room, lay_out_block, b));
    for (int i = 0; i < b->n_slabs && st == MP_OK; i++) st = write_slab(&writer, &b->slabs[i]);
    return mp_writer_commit(&writer, st, bytes);
}

mp_status mp_checkpoint_put_block(mp_checkpoint *checkpoint, int64_t index, const mp_slab *slabs,
                                  int n_slabs, const mp_linear_record *records, int n_records)
{
    const mp_comm *comm = checkpoint->comm;
    const block b = {index, slabs, n_slabs, records, n_records};
    char *path = NULL;
    int64_t bytes = 0;
    mp_status st;

    MP_TRY(check_same(comm, &b));
    MP_TRY(check_cut(comm, slabs, n_slabs));
    st = index >= 0 && index < checkpoint->n_blocks
             ? mp_block_path(checkpoint->dir, index, &path)
             : mp_fail(MP_ERR_INTERNAL, "block %lld of %lld", (long long)index,
                       (long long)checkpoint->n_blocks);
    MP_GO(mp_comm_agree(comm, st));
    MP_GO(write_block(comm, path, &b, &bytes));
    if (comm->rank == 0) {
        st = mp_journal_block(checkpoint->dir, index, bytes);
        if (st != MP_OK) unlink(path); /* not in the journal, so it must not look as if it were */
    }
    MP_GO(mp_comm_agree(comm, st));
out:
    mp_free(path);
    return st;
}

mp_status mp_checkpoint_finish(mp_checkpoint *checkpoint)
{
    mp_status st = checkpoint->comm->rank == 0 ? mp_journal_finish(checkpoint->dir) : MP_OK;

    return mp_comm_agree(checkpoint->comm, st);
}
