/* One block of the model as a file, committed. */
#include "model_file.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"
#include "run_files.h"
#include "writer.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* What the layout of a block needs. */
typedef struct block {
    int64_t index;
    const mp_slab *slabs;
    int n_slabs;
    const mp_linear_record *records;
    int n_records;
    const mp_state_record *states;
    int n_states;
} block;

static mp_status put_real_if_known(hid_t group, const char *path, const char *name, double value)
{
    return isnan(value) ? MP_OK : mp_h5_put_real(group, path, name, value);
}

static mp_status put_quant(hid_t group, const char *path, const mp_quant *quant)
{
    if (quant->bits == 0) return MP_OK;
    MP_TRY(mp_h5_put_int(group, path, "bits", quant->bits));
    MP_TRY(mp_h5_put_int(group, path, "group", quant->group));
    return mp_h5_put_int(group, path, "symmetric", quant->symmetric);
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
    MP_GO(mp_h5_put_int(group, path, "by_qr", record->by_qr));
    MP_GO(mp_h5_put_int(group, path, "rank", record->rank));
    MP_GO(put_quant(group, path, &record->quant));
    MP_GO(put_real_if_known(group, path, "damping", record->damping));
    MP_GO(put_real_if_known(group, path, "rel_error", record->rel_error));
    MP_GO(put_real_if_known(group, path, "sparsity", record->sparsity));
    MP_GO(put_real_if_known(group, path, "kept", record->kept));
out:
    H5Gclose(group);
    return st;
}

static mp_status put_state(hid_t file, const char *path, const mp_state_record *state)
{
    hid_t group = -1;
    mp_status st;

    MP_TRY(mp_h5_group(file, path, state->name, &group));
    MP_GO(mp_h5_put_int(group, path, "tokens", state->tokens));
    MP_GO(mp_h5_put_int(group, path, "probes", state->probes));
    MP_GO(mp_h5_put_real(group, path, "weight", state->weight));
    MP_GO(mp_h5_put_real(group, path, "effective_rank", state->effective_rank));
    MP_GO(mp_h5_put_real(group, path, "distance", state->distance));
    MP_GO(mp_h5_put_real(group, path, "distance_error", state->distance_error));
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
    for (int i = 0; i < b->n_states; i++) MP_TRY(put_state(file, path, &b->states[i]));
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

/* Where rows of a slab go. */
typedef struct place {
    const mp_writer *writer;
    const mp_slab *slab;
    hid_t set;
} place;

static mp_status write_rows(void *context, int64_t first_row, int64_t n_rows, const void *rows)
{
    const place *to = context;
    const mp_slab *slab = to->slab;
    const int64_t first[2] = {first_row, 0}, count[2] = {n_rows, slab->shape[1]};

    return mp_h5_write(to->set, to->writer->temporary, slab->dtype, slab->ndim, first, count, rows);
}

/* Opening a data set is collective, so that all ranks stop at the same tensor. */
static mp_status write_slab(const mp_writer *writer, const mp_slab *slab)
{
    const size_t row = mp_dtype_size(slab->dtype) * (size_t)(slab->ndim > 1 ? slab->shape[1] : 1);
    place to = {writer, slab, -1};
    hid_t set = -1;
    mp_status st;

    MP_GO(mp_writer_set(writer, slab->name, &set));
    to.set = set;
    MP_GO(mp_io_put(writer->io, row, slab->first_row, slab->n_rows, slab->data, write_rows, &to));
out:
    if (set >= 0) H5Dclose(set);
    return st;
}

static mp_status write_block(const mp_checkpoint *run, const char *path, const block *b)
{
    int64_t room = MP_H5_EMPTY_ROOM;
    mp_writer writer;
    mp_status st = MP_OK;

    for (int i = 0; i < b->n_slabs; i++) {
        const mp_tensor_info info = tensor_of(&b->slabs[i]);

        room += mp_h5_room(&info);
    }
    MP_TRY(mp_writer_open(&writer, run->io, &run->owner, path, room, lay_out_block, b));
    for (int i = 0; i < b->n_slabs && st == MP_OK; i++) st = write_slab(&writer, &b->slabs[i]);
    return mp_writer_commit(&writer, st);
}

/* Removes the hidden states of the commit before, once the journal names those of this one. */
static void remove_older(const mp_checkpoint *run, int64_t before)
{
    char name[64], *path = NULL;

    snprintf(name, sizeof name, MP_HIDDEN_FILE, (long long)before);
    if (run->comm->rank == 0 && before >= 0 && before != run->journal.hidden &&
        mp_journal_check_owner(&run->owner) == MP_OK &&
        mp_path_join(run->dir, name, &path) == MP_OK)
        unlink(path);
    mp_free(path);
}

/* The line that makes the block count.  Hidden states that were put before it count with it if it is the
 * block they come after; of blocks made together that is the last, so that until all of them are
 * there the states before the first one stay. */
static mp_status commit_block(mp_checkpoint *run, int64_t index, const char *path)
{
    json_t *hidden = run->hidden_after == index ? run->hidden : NULL;
    json_t *more = json_pack("{s:I, s:O*}", "block", (json_int_t)index, "hidden", hidden);
    int64_t before = run->journal.hidden;
    char file[64];
    mp_status st;

    snprintf(file, sizeof file, MP_BLOCK_FILE, (long long)index);
    st = mp_run_add_file(run, "block", file, more);
    /* not in the journal, so it must not look as if it were */
    if (st != MP_OK && run->comm->rank == 0 && mp_journal_is_owners(&run->owner, st)) unlink(path);
    if (hidden == NULL) return st;
    if (st == MP_OK) remove_older(run, before);
    json_decref(run->hidden);
    run->hidden = NULL;
    return st;
}

mp_status mp_checkpoint_put_block(mp_checkpoint *checkpoint, int64_t index, const mp_slab *slabs,
                                  int n_slabs, const mp_linear_record *records, int n_records,
                                  const mp_state_record *states, int n_states)
{
    const mp_comm *comm = checkpoint->comm;
    const block b = {index, slabs, n_slabs, records, n_records, states, n_states};
    char *path = NULL;
    mp_status st;

    MP_TRY(check_same(comm, &b));
    MP_TRY(check_cut(comm, slabs, n_slabs));
    st = index >= 0 && index < checkpoint->n_blocks
             ? mp_block_path(checkpoint->dir, index, &path)
             : mp_fail(MP_ERR_INTERNAL, "block %lld of %lld", (long long)index,
                       (long long)checkpoint->n_blocks);
    MP_GO(mp_comm_agree(comm, st));
    MP_GO(write_block(checkpoint, path, &b));
    MP_GO(commit_block(checkpoint, index, path));
out:
    mp_free(path);
    return st;
}
