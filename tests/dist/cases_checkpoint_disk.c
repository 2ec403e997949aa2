/* Checkpoints where the disk is full or may not be written. */
#include "checkpoint_fixture.h"
#include "worker.h"

#include "mpress/fileio.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static mp_status unwritable(const fixture *f)
{
    char path[160];
    mp_status st = fixture_run(f, f->comm, "/proc/mpress/out", 0);

    MP_TRY(fixture_expect(f->comm, st, MP_ERR_IO, "/proc/mpress"));
    snprintf(path, sizeof path, "%s/config.json", f->model);
    MP_TRY(fixture_expect(f->comm, fixture_run(f, f->comm, path, 1), MP_ERR_FORMAT, "a file"));
    MP_EXPECT(fixture_has(f->comm, f->model, "config.json"));
    return MP_OK;
}

static mp_status place_that_cannot_be_written_is_an_error_on_all_ranks(const mp_comm *comm)
{
    return fixture_with(comm, unwritable);
}

/* No rank can reserve, or (rank > 0) one rank cannot write its rows of a block. */
static mp_status full_disk(const fixture *f, int rank)
{
    mp_checkpoint *checkpoint = NULL;
    json_t *run = json_object();
    mp_status st;

    MP_GO(
        mp_checkpoint_create(f->comm, f->out, f->model, &f->arch, f->source, run, 0, &checkpoint));
    MP_GO(fixture_put_block(f, checkpoint, 0));
    if (f->comm->rank == rank) fixture_limit_files(30000);
    st = fixture_put_block(f, checkpoint, 1);
    fixture_limit_files(-1);
    MP_GO(fixture_expect(f->comm, st, MP_ERR_IO, "blocks/00001.h5."));
    if (fixture_has_unfinished(f->comm, f->out) || fixture_has(f->comm, f->out, "blocks/00001.h5"))
        st = mp_fail(MP_ERR_NUMERIC, "a block that failed was left behind");
    MP_GO(mp_comm_agree(f->comm, st));
    /* the run may go on where the space comes back */
    MP_GO(fixture_put_block(f, checkpoint, 1));
    MP_GO(fixture_put_block(f, checkpoint, 2));
    MP_GO(fixture_same_as_model(f, f->out));
out:
    mp_checkpoint_free(checkpoint);
    json_decref(run);
    return st;
}

static mp_status full_disk_at_rank_0(const fixture *f)
{
    return full_disk(f, 0);
}

static mp_status full_disk_at_last_rank(const fixture *f)
{
    return full_disk(f, f->comm->size - 1);
}

static mp_status full_disk_leaves_the_earlier_blocks_and_no_later_one(const mp_comm *comm)
{
    return fixture_with(comm, full_disk_at_rank_0);
}

static mp_status failed_write_of_one_rank_is_an_error_on_all(const mp_comm *comm)
{
    return fixture_with(comm, full_disk_at_last_rank);
}

static mp_status full_disk_at_start(const fixture *f)
{
    for (int rank = 0; rank < f->comm->size; rank++) {
        mp_status st;

        if (f->comm->rank == rank) fixture_limit_files(8000);
        st = fixture_run(f, f->comm, f->out, 0);
        fixture_limit_files(-1);
        MP_TRY(fixture_expect(f->comm, st, MP_ERR_IO, "blocks/rest.h5."));
        MP_EXPECT(!fixture_has(f->comm, f->scratch, "out"));
    }
    return MP_OK;
}

static mp_status full_disk_at_the_start_leaves_no_directory(const mp_comm *comm)
{
    return fixture_with(comm, full_disk_at_start);
}

const mp_case cases_checkpoint_disk[] = {
    {"place_that_cannot_be_written_is_an_error_on_all_ranks",
     place_that_cannot_be_written_is_an_error_on_all_ranks},
    {"full_disk_leaves_the_earlier_blocks_and_no_later_one",
     full_disk_leaves_the_earlier_blocks_and_no_later_one},
    {"failed_write_of_one_rank_is_an_error_on_all", failed_write_of_one_rank_is_an_error_on_all},
    {"full_disk_at_the_start_leaves_no_directory", full_disk_at_the_start_leaves_no_directory},
    {NULL, NULL},
};
