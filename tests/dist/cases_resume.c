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

const mp_case cases_resume[] = {
    {"leftovers_of_a_killed_run_do_no_harm", leftovers_of_a_killed_run_do_no_harm},
    {"run_that_was_thought_dead_changes_nothing", run_that_was_thought_dead_changes_nothing},
    {NULL, NULL},
};
