/* What a run meets that another has left, or is still at work in. */
#include "checkpoint_fixture.h"
#include "worker.h"

#include "mpress/fileio.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>

static mp_status after_a_kill(const fixture *f)
{
    /* what a run leaves that was killed before its first block */
    mp_checkpoint *checkpoint = NULL;
    json_t *run = json_object();
    mp_source *source = NULL;
    mp_status st;

    MP_GO(
        mp_checkpoint_create(f->comm, f->out, f->model, &f->arch, f->source, run, 0, &checkpoint));
    MP_GO(fixture_file(f->comm, f->out, "blocks/00001.h5.tmp", "half of a block"));
    MP_GO(fixture_put_block(f, checkpoint, 0));
    st = mp_checkpoint_open(f->out, &source);
    MP_GO(
        fixture_expect(f->comm, st, MP_ERR_FORMAT, "1 of 3 blocks are there, block 1 is missing"));
    MP_GO(fixture_put_block(f, checkpoint, 1));
    MP_GO(fixture_put_block(f, checkpoint, 2));
    MP_GO(fixture_same_as_model(f, f->out));
    /* a line that the kill cut short does not count */
    if (f->comm->rank == 0) {
        char path[160];
        FILE *journal;

        snprintf(path, sizeof path, "%s/journal.jsonl", f->out);
        journal = fopen(path, "a");
        fputs("{\"event\":\"block\",\"blo", journal);
        fclose(journal);
    }
    MP_GO(mp_comm_agree(f->comm, MP_OK));
    MP_GO(fixture_same_as_model(f, f->out));
    /* model.h5 was not there yet: no checkpoint, but ours to overwrite */
    if (f->comm->rank == 0) {
        char path[160];

        snprintf(path, sizeof path, "%s/model.h5", f->out);
        remove(path);
    }
    MP_GO(mp_comm_agree(f->comm, MP_OK));
    if (mp_checkpoint_is(f->out)) st = mp_fail(MP_ERR_NUMERIC, "a checkpoint without model.h5");
    MP_GO(mp_comm_agree(f->comm, st));
    mp_checkpoint_free(checkpoint); /* and with it the lock */
    checkpoint = NULL;
    MP_GO(mp_comm_agree(f->comm, st));
    MP_GO(fixture_run(f, f->comm, f->out, 1));
    MP_GO(fixture_same_as_model(f, f->out));
out:
    mp_checkpoint_free(checkpoint);
    json_decref(run);
    return st;
}

static mp_status leftovers_of_a_killed_run_do_no_harm(const mp_comm *comm)
{
    return fixture_with(comm, after_a_kill);
}

/* A line of the journal as another run would write it. */
static mp_status take_over(const fixture *f, const char *run)
{
    char line[160], sealed[200], path[160];
    int length;

    if (f->comm->rank != 0) return mp_comm_agree(f->comm, MP_OK);
    length = snprintf(line, sizeof line, "{\"event\":\"resume\",\"run\":\"%s\"", run);
    snprintf(sealed, sizeof sealed, "%s,\"crc\":\"%08x\"}", line,
             mp_crc32c(0, line, (size_t)length));
    snprintf(path, sizeof path, "%s/journal.jsonl", f->out);
    return mp_comm_agree(f->comm, mp_file_append_line(path, sealed));
}

/* A run that hangs while another goes on with its directory, and then wakes up. */
static mp_status wake_up(const fixture *f)
{
    mp_checkpoint *checkpoint = NULL;
    json_t *run = json_object(), *description = NULL;
    mp_status st;

    MP_GO(
        mp_checkpoint_create(f->comm, f->out, f->model, &f->arch, f->source, run, 0, &checkpoint));
    MP_GO(fixture_put_block(f, checkpoint, 0));
    MP_GO(take_over(f, "another"));
    st = fixture_put_block(f, checkpoint, 1);
    MP_GO(fixture_expect(f->comm, st, MP_ERR_IO, "another run has taken it over"));
    if (fixture_has(f->comm, f->out, "blocks/00001.h5") || fixture_has_unfinished(f->comm, f->out))
        st = mp_fail(MP_ERR_NUMERIC, "the stale run has left a file");
    MP_GO(mp_comm_agree(f->comm, st));
    MP_GO(mp_comm_agree(f->comm, mp_checkpoint_describe(f->out, &description)));
    st = json_array_size(json_object_get(description, "done")) == 1
             ? MP_OK
             : mp_fail(MP_ERR_NUMERIC, "the stale run's block counts");
    MP_GO(mp_comm_agree(f->comm, st));
out:
    mp_checkpoint_free(checkpoint);
    json_decref(run);
    json_decref(description);
    return st;
}

static mp_status run_that_was_thought_dead_changes_nothing(const mp_comm *comm)
{
    return fixture_with(comm, wake_up);
}

/* The states that a test keeps after a block: all of them one number. */
static void fill(mp_hidden *h, float value)
{
    for (int64_t i = 0; i < h->local; i++)
        for (int64_t k = 0; k < h->n_tokens * h->width; k++) mp_hidden_sequence(h, i)[k] = value;
}

static mp_status put_hidden(mp_checkpoint *checkpoint, int64_t block, mp_hidden *h)
{
    fill(h, (float)block);
    return mp_checkpoint_put_hidden(checkpoint, block, MP_F32, h);
}

/* The newest states are those after `block`, and the only ones that are kept. */
static mp_status expect_hidden(const fixture *f, const mp_checkpoint *checkpoint, int64_t block,
                               int64_t not_there, mp_hidden *h)
{
    char name[64];
    mp_status st = MP_OK;

    MP_EXPECT(mp_checkpoint_hidden_block(checkpoint) == block);
    fill(h, -1.0f);
    MP_TRY(mp_checkpoint_get_hidden(checkpoint, h));
    for (int64_t i = 0; i < h->local && st == MP_OK; i++)
        if (mp_hidden_sequence(h, i)[0] != (float)block)
            st = mp_fail(MP_ERR_NUMERIC, "states of another block");
    snprintf(name, sizeof name, "hidden/%05lld.safetensors", (long long)not_there);
    if (fixture_has(f->comm, f->out, name)) st = mp_fail(MP_ERR_NUMERIC, "%s is there", name);
    return mp_comm_agree(f->comm, st);
}

static mp_status go_on(const fixture *f, mp_checkpoint **checkpoint)
{
    json_t *run = json_pack("{s:{s:i}}", "identity", "seed", 3);
    mp_status st;

    mp_checkpoint_free(*checkpoint);
    *checkpoint = NULL;
    MPI_Barrier(f->comm->mpi);
    st = mp_checkpoint_create(f->comm, f->out, f->model, &f->arch, f->source, run, MP_START_RESUME,
                              checkpoint);
    json_decref(run);
    return st;
}

/* Blocks 1 and 2 are made together, and the run is killed between their lines of the journal. */
static mp_status batch_in_parts(const fixture *f)
{
    mp_checkpoint *run = NULL;
    mp_hidden *h = NULL;
    mp_status st;

    MP_GO(mp_hidden_create(f->comm, 7, 5, 3, &h));
    MP_GO(go_on(f, &run));
    MP_GO(put_hidden(run, 0, h));
    MP_GO(fixture_put_block(f, run, 0));
    MP_GO(expect_hidden(f, run, 0, 2, h));
    MP_GO(put_hidden(run, 2, h));
    MP_GO(fixture_put_block(f, run, 1));
    MP_GO(go_on(f, &run)); /* sweeps out what does not count */
    MP_GO(expect_hidden(f, run, 0, 2, h));
    MP_GO(put_hidden(run, 2, h));
    MP_GO(fixture_put_block(f, run, 2));
    MP_GO(expect_hidden(f, run, 2, 0, h));
    MP_GO(go_on(f, &run));
    MP_GO(expect_hidden(f, run, 2, 0, h));
out:
    mp_checkpoint_free(run);
    mp_hidden_free(h);
    return st;
}

static mp_status hidden_states_of_a_batch_count_with_its_last_block(const mp_comm *comm)
{
    return fixture_with(comm, batch_in_parts);
}

const mp_case cases_resume[] = {
    {"hidden_states_of_a_batch_count_with_its_last_block",
     hidden_states_of_a_batch_count_with_its_last_block},
    {"leftovers_of_a_killed_run_do_no_harm", leftovers_of_a_killed_run_do_no_harm},
    {"run_that_was_thought_dead_changes_nothing", run_that_was_thought_dead_changes_nothing},
    {NULL, NULL},
};
