/* What a run meets that another has left, or is still at work in. */
#include "checkpoint_fixture.h"
#include "worker.h"

#include "../../src/checkpoint/lock.h"
#include "mpress/fault.h"
#include "mpress/fileio.h"
#include "mpress/memory.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

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
    MP_GO(fixture_expect(f->comm, st, MP_ERR_FORMAT,
                         "1 of 3 blocks are there, blocks/00001.h5 is missing"));
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

/* A line of the journal as another run would write it, by this rank. */
static mp_status write_line(const char *out, const char *run)
{
    char line[160], sealed[200], path[160];
    int length;

    length = snprintf(line, sizeof line, "{\"event\":\"resume\",\"run\":\"%s\"", run);
    snprintf(sealed, sizeof sealed, "%s,\"crc\":\"%08x\"}", line,
             mp_crc32c(0, line, (size_t)length));
    snprintf(path, sizeof path, "%s/journal.jsonl", out);
    return mp_file_append_line(path, sealed);
}

static mp_status take_over(const fixture *f, const char *run)
{
    return mp_comm_agree(f->comm, f->comm->rank == 0 ? write_line(f->out, run) : MP_OK);
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

/* What another run does in the middle of a call: it takes the directory over at the first call at `site`, and
 * then `fault` happens. */
static struct {
    const char *out;
    mp_fault_site site;
    const mp_fault_plan *fault;
    int is_done;
} another;

static void come_between(mp_fault_site site, int64_t call)
{
    (void)call;
    if (site != another.site || another.is_done) return;
    another.is_done = 1;
    (void)write_line(another.out, "another");
    if (another.fault != NULL) mp_fault_arm(another.fault, 0);
}

static void let_another_come(const fixture *f, mp_fault_site site, const mp_fault_plan *fault)
{
    static const mp_fault_plan nothing = {.nth = 0};

    if (f->comm->rank != 0) return;
    another.out = f->out;
    another.site = site;
    another.fault = fault;
    another.is_done = 0;
    mp_fault_arm(&nothing, 0);
    mp_fault_observe(come_between);
}

static void leave_alone(const fixture *f)
{
    if (f->comm->rank != 0) return;
    mp_fault_observe(NULL);
    mp_fault_arm(NULL, 0);
}

/* Where a file system has no locks, a run that cannot begin must not remove what is another's by now. */
static mp_status fail_late(const fixture *f)
{
    const mp_fault_plan sync = {.site = MP_FAULT_SYNC, .rank = 0, .nth = 1};
    mp_checkpoint *checkpoint = NULL;
    json_t *run = json_object();
    mp_status st;

    let_another_come(f, MP_FAULT_H5_CREATE, NULL);
    st = mp_checkpoint_create(f->comm, f->out, f->model, &f->arch, f->source, run, 0, &checkpoint);
    leave_alone(f);
    MP_GO(fixture_expect(f->comm, st, MP_ERR_IO, "another run has taken it over"));
    MP_GO(fixture_has(f->comm, f->out, "journal.jsonl") && fixture_has(f->comm, f->out, "blocks")
              ? MP_OK
              : mp_fail(MP_ERR_NUMERIC, "the other run is gone"));
    MP_GO(mp_checkpoint_create(f->comm, f->out, f->model, &f->arch, f->source, run,
                               MP_START_OVERWRITE, &checkpoint));
    /* renamed, and then not synced: the file may be the other's */
    let_another_come(f, MP_FAULT_RENAME, &sync);
    st = fixture_put_block(f, checkpoint, 0);
    leave_alone(f);
    MP_GO(fixture_expect(f->comm, st, MP_ERR_IO, "fsync failed"));
    if (!fixture_has(f->comm, f->out, "blocks/00000.h5"))
        st = mp_fail(MP_ERR_NUMERIC, "the other run's block is gone");
    else
        st = MP_OK;
    MP_GO(mp_comm_agree(f->comm, st));
    st = mp_comm_agree(f->comm, mp_checkpoint_check_owner(checkpoint));
    MP_GO(fixture_expect(f->comm, st, MP_ERR_IO, "another run has taken it over"));
out:
    mp_checkpoint_free(checkpoint);
    json_decref(run);
    return st;
}

static mp_status run_that_fails_late_leaves_what_is_anothers(const mp_comm *comm)
{
    return fixture_with(comm, fail_late);
}

/* Whichever of rank 0's writes fails first when a run is begun. */
static mp_status fail_to_write(const fixture *f)
{
    json_t *run = json_object();
    mp_status st = MP_ERR_IO;

    for (int nth = 1; st != MP_OK; nth++) {
        const mp_fault_plan write = {.site = MP_FAULT_WRITE, .rank = 0, .nth = nth};
        mp_checkpoint *checkpoint = NULL;

        mp_fault_arm(&write, f->comm->rank);
        st = mp_checkpoint_create(f->comm, f->out, f->model, &f->arch, f->source, run, 0,
                                  &checkpoint);
        mp_fault_arm(NULL, f->comm->rank);
        mp_checkpoint_free(checkpoint);
        if (st != MP_OK && fixture_has(f->comm, f->scratch, "out")) {
            json_decref(run);
            return mp_fail(MP_ERR_NUMERIC, "write %d failed: the directory is left", nth);
        }
        MPI_Barrier(f->comm->mpi);
    }
    json_decref(run);
    return MP_OK;
}

static mp_status run_that_cannot_begin_leaves_no_directory(const mp_comm *comm)
{
    return fixture_with(comm, fail_to_write);
}

/* Killed in the very first write of the journal, which is no journal yet. */
static mp_status killed_at_once(const fixture *f)
{
    mp_status st = mp_comm_agree(f->comm, f->comm->rank == 0 ? mp_directory_make(f->out) : MP_OK);

    MP_TRY(st);
    MP_TRY(fixture_file(f->comm, f->out, "lock", "process 1 on a host\n"));
    MP_TRY(fixture_file(f->comm, f->out, "journal.jsonl.tmp", "{\"eve"));
    st = fixture_run(f, f->comm, f->out, MP_START_REQUIRE);
    MP_TRY(fixture_expect(f->comm, st, MP_ERR_ARG, "there is no run to resume"));
    MP_TRY(fixture_run(f, f->comm, f->out, MP_START_RESUME));
    return fixture_same_as_model(f, f->out);
}

static mp_status run_that_was_killed_at_once_is_begun_again(const mp_comm *comm)
{
    return fixture_with(comm, killed_at_once);
}

typedef struct contest {
    const char *dir;
    atomic_int holders, taken, broken;
} contest;

/* Takes the lock and gives the directory back, again and again. */
static void *contend(void *context)
{
    contest *c = context;
    char path[160];
    int lock;

    snprintf(path, sizeof path, "%s/%s", c->dir, MP_LOCK_FILE);
    for (int i = 0; i < 20000 && c->taken < 2000; i++) {
        if (mp_lock_take(c->dir, &lock) != MP_OK) continue;
        if (atomic_fetch_add(&c->holders, 1) != 0) c->broken++;
        c->taken++;
        usleep(10);
        atomic_fetch_sub(&c->holders, 1);
        unlink(path);
        mp_lock_release(lock);
    }
    return NULL;
}

static mp_status contest_for_lock(const fixture *f)
{
    contest c = {.dir = f->scratch};
    pthread_t threads[3];

    if (f->comm->rank != 0) return MP_OK;
    for (int i = 0; i < 3; i++) pthread_create(&threads[i], NULL, contend, &c);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    MP_EXPECT(c.taken > 100);
    MP_EXPECT(c.broken == 0);
    return MP_OK;
}

static mp_status lock_that_is_removed_keeps_others_out(const mp_comm *comm)
{
    return fixture_with(comm, contest_for_lock);
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

/* All ranks read the tensors, but one alone asks HDF5 where they are. */
static mp_status share_model(const fixture *f)
{
    static const mp_fault_plan nothing = {.nth = 0};
    mp_checkpoint *run = NULL;
    mp_source *source = NULL;
    int64_t opened;
    mp_status st;

    MP_GO(go_on(f, &run));
    for (int64_t b = 0; b < f->arch.n_blocks; b++) MP_GO(fixture_put_block(f, run, b));
    mp_fault_arm(&nothing, f->comm->rank);
    st = mp_checkpoint_share_model(run, &source);
    opened = mp_fault_calls(MP_FAULT_H5_OPEN);
    mp_fault_arm(NULL, f->comm->rank);
    MP_GO(st);
    st = fixture_same(f->source, source);
    if (st == MP_OK && (opened > 0) != (f->comm->rank == 0))
        st = mp_fail(MP_ERR_NUMERIC, "%lld files or data sets opened by HDF5", (long long)opened);
    MP_GO(mp_comm_agree(f->comm, st));
out:
    mp_source_close(&source);
    mp_checkpoint_free(run);
    return st;
}

static mp_status one_rank_looks_into_the_files_for_all(const mp_comm *comm)
{
    return fixture_with(comm, share_model);
}

const mp_case cases_resume[] = {
    {"one_rank_looks_into_the_files_for_all", one_rank_looks_into_the_files_for_all},
    {"run_that_fails_late_leaves_what_is_anothers", run_that_fails_late_leaves_what_is_anothers},
    {"run_that_cannot_begin_leaves_no_directory", run_that_cannot_begin_leaves_no_directory},
    {"run_that_was_killed_at_once_is_begun_again", run_that_was_killed_at_once_is_begun_again},
    {"lock_that_is_removed_keeps_others_out", lock_that_is_removed_keeps_others_out},
    {"hidden_states_of_a_batch_count_with_its_last_block",
     hidden_states_of_a_batch_count_with_its_last_block},
    {"leftovers_of_a_killed_run_do_no_harm", leftovers_of_a_killed_run_do_no_harm},
    {"run_that_was_thought_dead_changes_nothing", run_that_was_thought_dead_changes_nothing},
    {NULL, NULL},
};
