/* Hosts that share no memory or no file system: ranks that keep copies, directories and models that some
 * ranks do not see.  A rank that is given another path than rank 0 stands for one on another host. */
#include "worker.h"

#include "checkpoint_fixture.h"

#include "mpress/export.h"
#include "mpress/fileio.h"
#include "mpress/io.h"
#include "mpress/memory.h"
#include "mpress/safetensors.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static mp_status ranks_apart_are_nodes_of_one_host(const mp_comm *c)
{
    mp_comm *apart = NULL, *together = NULL;
    mp_status st;

    MP_GO(mp_comm_apart(c, 1, &apart));
    MP_GO(mp_comm_apart(apart, 0, &together));
    if (apart->node_size != 1 || apart->node_count != c->size || apart->node_index != c->rank ||
        apart->host_size != c->size || apart->host_count != 1 || apart->leaders == MPI_COMM_NULL)
        MP_GO(mp_fail(MP_ERR_NUMERIC, "apart: node %d of %d, host of %d", apart->node_index,
                      apart->node_count, apart->host_size));
    if (together->node_size != c->size || together->node_count != 1)
        MP_GO(mp_fail(MP_ERR_NUMERIC, "together: %d nodes", together->node_count));
out:
    mp_comm_free(apart);
    mp_comm_free(together);
    return st;
}

/* What a host can share needs no copies; what no machine has is refused with the figures. */
static mp_status copies_are_kept_only_where_they_fit(const mp_comm *c)
{
    mp_comm *apart = NULL;

    MP_TRY(mp_shared_plan(c, 1 << 16, "a little", &apart));
    MP_EXPECT(apart == NULL);
    if (c->size == 1) return MP_OK; /* a node of one rank shares nothing */
    MP_TRY(fixture_expect(c, mp_shared_plan(c, (size_t)1 << 60, "too much", &apart), MP_ERR_NOFIT,
                          "too much: "));
    MP_EXPECT(strstr(mp_error_message(), "ranks would take") != NULL && apart == NULL);
    return MP_OK;
}

/* The file that the ranks of a case fill, in units. */
typedef struct file {
    size_t unit;
    int fd;    /* -1 on ranks that do not see it */
    int fails; /* writing is MP_ERR_IO here */
} file;

static mp_status write_units(void *context, int64_t first, int64_t count, const void *data)
{
    const file *f = context;

    if (f->fails) return mp_fail(MP_ERR_IO, "this disk is full");
    return mp_file_pwrite(f->fd, "units", data, (size_t)count * f->unit, (uint64_t)first * f->unit);
}

static mp_status read_units(void *context, int64_t first, int64_t count, void *data)
{
    const file *f = context;

    return mp_file_pread(f->fd, "units", data, (size_t)count * f->unit, (uint64_t)first * f->unit);
}

/* Whether this rank sees the directory of the case: rank 0, and of the others every second one. */
static int sees(const mp_comm *c)
{
    return c->rank % 2 == 0;
}

static mp_status check_io(const mp_comm *c, const mp_io *io)
{
    int server = sees(c) ? c->rank : c->rank / 2 % io->count * 2;

    MP_EXPECT(io->count == (c->size + 1) / 2);
    MP_EXPECT(io->place == (sees(c) ? c->rank / 2 : -1));
    MP_EXPECT((io->mpi != MPI_COMM_NULL) == sees(c));
    MP_EXPECT(io->server_of[c->rank] == server);
    return MP_OK;
}

/* Rank r has r + 1 units from 10 r on, each of its number. */
static mp_status exchange_units(const mp_io *io, file *f)
{
    const mp_comm *c = io->comm;
    const int64_t first = 10 * c->rank, count = c->rank + 1;
    unsigned char *data = NULL;
    mp_status st;

    MP_GO(MP_NEW(data, count * (int64_t)f->unit, "units"));
    for (int64_t i = 0; i < count; i++)
        memset(data + (size_t)i * f->unit, (int)(first + i), f->unit);
    MP_GO(mp_io_put(io, f->unit, first, count, data, write_units, f));
    memset(data, 0xff, (size_t)count * f->unit);
    MP_GO(mp_io_get(io, f->unit, first, count, data, read_units, f));
    for (int64_t i = 0; i < count * (int64_t)f->unit; i++)
        if (data[i] != first + i / (int64_t)f->unit)
            MP_GO(mp_fail(MP_ERR_NUMERIC, "byte %lld is %d", (long long)i, data[i]));
    MP_GO(mp_io_put(io, f->unit, 0, 0, NULL, write_units, f)); /* nobody has anything */
out:
    mp_free(data);
    return mp_comm_agree(c, st);
}

/* Units of a few bytes, so that one piece has all of them, and units that go one by one. */
static mp_status serve(const fixture *f)
{
    const size_t units[] = {12, 9 << 20};
    char dir[160], path[200];
    mp_io *io = NULL;
    mp_status st;

    snprintf(dir, sizeof dir, "%s%s", f->model, sees(f->comm) ? "" : "/not-here");
    MP_GO(mp_io_open(f->comm, dir, &io));
    MP_GO(mp_comm_agree(f->comm, check_io(f->comm, io)));
    snprintf(path, sizeof path, "%s/units", dir);
    for (int i = 0; i < 2; i++) {
        file units_file = {.unit = units[i], .fd = open(path, O_RDWR | O_CREAT, 0666)};

        st = exchange_units(io, &units_file);
        units_file.fails = f->comm->rank == 0;
        if (st == MP_OK)
            st = fixture_expect(f->comm, exchange_units(io, &units_file), MP_ERR_IO,
                                "this disk is full");
        if (units_file.fd >= 0) close(units_file.fd);
        MP_GO(st);
    }
    MP_GO(mp_comm_agree(f->comm, MP_OK));
    if (fixture_has(f->comm, f->model, "units") != 1)
        st = mp_fail(MP_ERR_NUMERIC, "the units are not there");
out:
    mp_io_close(io);
    return st;
}

static mp_status ranks_that_see_a_directory_serve_the_others(const mp_comm *comm)
{
    return fixture_with(comm, serve);
}

/* Where rank 0 cannot write nobody can. */
static mp_status no_directory(const fixture *f)
{
    char dir[160];
    mp_io *io = NULL;

    snprintf(dir, sizeof dir, "%s/not-here", f->scratch);
    return fixture_expect(f->comm, mp_io_open(f->comm, dir, &io), MP_ERR_IO, "not-here/probe.");
}

static mp_status a_directory_that_rank_0_does_not_see_is_an_error(const mp_comm *comm)
{
    return fixture_with(comm, no_directory);
}

/* The model as all ranks open it, those that do not see it under another path; then out again. */
static mp_status share_model(const fixture *f, const char *path, mp_model_io how,
                             mp_readers expected, const char *out)
{
    mp_source *source = NULL, *written = NULL;
    char *assets = NULL, dir[160];
    mp_arch arch;
    mp_status st;

    snprintf(dir, sizeof dir, "%s/%s", f->scratch, out);
    MP_GO(mp_model_share(f->comm, path, how, &source, &assets));
    MP_GO(mp_arch_share(f->comm, assets, &arch));
    if (source->readers != expected || arch.n_blocks != f->arch.n_blocks)
        st = mp_fail(MP_ERR_NUMERIC, "%s: read by %d", out, (int)source->readers);
    MP_GO(mp_comm_agree(f->comm, st));
    MP_GO(mp_export(f->comm, source, assets, dir, MP_EXPORT_AUTO, 0));
    MP_GO(mp_comm_agree(f->comm, mp_safetensors_open(dir, &written)));
    MP_GO(mp_comm_agree(f->comm, fixture_same(written, f->source)));
out:
    mp_source_close(&source);
    mp_source_close(&written);
    mp_free(assets);
    return st;
}

static mp_status share_models(const fixture *f)
{
    const int blind = f->comm->rank == f->comm->size - 1 && f->comm->size > 1;
    const mp_readers found = f->comm->size > 1 ? MP_READ_BY_ROOT : MP_READ_BY_ALL;
    char elsewhere[160], config[160];

    snprintf(config, sizeof config, "%s/config.json", f->model);
    snprintf(elsewhere, sizeof elsewhere, "%s%s", f->model, blind ? "-not-here" : "");
    MP_TRY(share_model(f, f->model, MP_MODEL_AUTO, MP_READ_BY_ALL, "auto"));
    MP_TRY(share_model(f, f->model, MP_MODEL_ROOT, MP_READ_BY_ROOT, "root"));
    MP_TRY(share_model(f, elsewhere, MP_MODEL_AUTO, found, "blind"));
    if (f->comm->size == 1) return MP_OK;
    MP_TRY(fixture_expect(f->comm,
                          share_model(f, elsewhere, MP_MODEL_SHARED, MP_READ_BY_ALL, "never"),
                          MP_ERR_IO, "model-not-here: not a directory"));
    /* another model of the same shape */
    snprintf(elsewhere, sizeof elsewhere, "%s/other", f->scratch);
    MP_TRY(mp_synth(f->comm, config, elsewhere, f->arch.n_blocks, 1));
    if (!blind) snprintf(elsewhere, sizeof elsewhere, "%s", f->model);
    MP_TRY(share_model(f, elsewhere, MP_MODEL_AUTO, MP_READ_BY_ROOT, "differs"));
    return fixture_expect(f->comm,
                          share_model(f, elsewhere, MP_MODEL_SHARED, MP_READ_BY_ALL, "never"),
                          MP_ERR_FORMAT, "other files than rank 0 sees");
}

static mp_status a_model_is_read_by_those_that_see_the_same_files(const mp_comm *comm)
{
    return fixture_with(comm, share_models);
}

static mp_status same_file(const char *left, const char *right)
{
    char *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    mp_status st;

    MP_GO(mp_file_read(left, 1 << 24, &x, &n));
    MP_GO(mp_file_read(right, 1 << 24, &y, &m));
    if (n != m || memcmp(x, y, n) != 0)
        st = mp_fail(MP_ERR_NUMERIC, "%s and %s differ", left, right);
out:
    mp_free(x);
    mp_free(y);
    return st;
}

/* A number of each sequence and place in it, whichever rank has it. */
static float hidden_value(const mp_comm *c, int64_t local, int64_t at)
{
    return (float)((c->rank + local * c->size) * 1000 + at);
}

static mp_status check_hidden(const mp_comm *c, const mp_hidden *h)
{
    const int64_t size = h->n_tokens * h->width;

    for (int64_t i = 0; i < h->local; i++)
        for (int64_t k = 0; k < size; k++)
            MP_EXPECT(mp_hidden_sequence(h, i)[k] == hidden_value(c, i, k));
    return MP_OK;
}

/* The first block, after which hidden states are kept. */
static mp_status begin_run(const fixture *f, mp_checkpoint *run, mp_hidden *h)
{
    for (int64_t i = 0; i < h->local; i++)
        for (int64_t k = 0; k < h->n_tokens * h->width; k++)
            mp_hidden_sequence(h, i)[k] = hidden_value(f->comm, i, k);
    MP_TRY(mp_checkpoint_put_hidden(run, 0, MP_F32, h));
    return fixture_put_block(f, run, 0);
}

/* The rest, by a run that goes on where the other one ended. */
static mp_status end_run(const fixture *f, mp_checkpoint *run, mp_hidden *h)
{
    mp_source *blocks = NULL;
    mp_status st;

    MP_EXPECT(mp_checkpoint_resumed(run) && mp_checkpoint_hidden_block(run) == 0);
    MP_TRY(mp_checkpoint_get_hidden(run, h));
    MP_TRY(mp_comm_agree(f->comm, check_hidden(f->comm, h)));
    MP_TRY(mp_checkpoint_share_blocks(run, &blocks));
    st = mp_source_find(blocks, "model.layers.0.mlp.up_proj.weight") >= 0 &&
                 mp_source_find(blocks, "model.layers.1.mlp.up_proj.weight") < 0
             ? MP_OK
             : mp_fail(MP_ERR_NUMERIC, "%lld tensors", (long long)blocks->count);
    mp_source_close(&blocks);
    MP_TRY(mp_comm_agree(f->comm, st));
    for (int64_t b = 1; b < f->arch.n_blocks; b++) MP_TRY(fixture_put_block(f, run, b));
    return mp_checkpoint_finish(run);
}

/* One part of the run, in a directory that some ranks look for in another place. */
static mp_status part_of_run(const fixture *f, int blind, int first)
{
    mp_checkpoint *run = NULL;
    mp_hidden *h = NULL;
    json_t *record = json_pack("{s:{s:i}}", "identity", "seed", 3);
    char out[160];
    mp_status st;

    snprintf(out, sizeof out, "%s%s", f->out, blind ? "-not-here" : "");
    MP_GO(mp_hidden_create(f->comm, 7, 5, 3, &h));
    MP_GO(mp_checkpoint_create(f->comm, out, f->model, &f->arch, f->source, record,
                               first ? MP_START_NEW : MP_START_RESUME, &run));
    MP_GO(first ? begin_run(f, run, h) : end_run(f, run, h));
out:
    mp_checkpoint_free(run);
    mp_hidden_free(h);
    json_decref(record);
    return st;
}

/* Begun where every second rank sees OUT, ended where only rank 0 does. */
static mp_status write_blind(const fixture *f)
{
    char reference[160], name[64], left[256], right[256];

    MP_TRY(part_of_run(f, !sees(f->comm), 1));
    MP_TRY(part_of_run(f, f->comm->rank > 0, 0));
    MP_TRY(fixture_same_as_model(f, f->out));
    snprintf(reference, sizeof reference, "%s/reference", f->scratch);
    MP_TRY(fixture_run(f, f->comm, reference, 0));
    for (int64_t b = 0; b < f->arch.n_blocks; b++) {
        snprintf(name, sizeof name, "blocks/%05lld.h5", (long long)b);
        snprintf(left, sizeof left, "%s/%s", f->out, name);
        snprintf(right, sizeof right, "%s/%s", reference, name);
        MP_TRY(mp_comm_agree(f->comm, same_file(left, right)));
    }
    return mp_comm_agree(f->comm,
                         fixture_has(f->comm, f->scratch, "out-not-here")
                             ? mp_fail(MP_ERR_NUMERIC, "ranks wrote into a directory of their own")
                             : MP_OK);
}

static mp_status a_checkpoint_is_written_for_ranks_that_do_not_see_it(const mp_comm *comm)
{
    return fixture_with(comm, write_blind);
}

const mp_case cases_hosts[] = {
    {"ranks_apart_are_nodes_of_one_host", ranks_apart_are_nodes_of_one_host},
    {"copies_are_kept_only_where_they_fit", copies_are_kept_only_where_they_fit},
    {"ranks_that_see_a_directory_serve_the_others", ranks_that_see_a_directory_serve_the_others},
    {"a_directory_that_rank_0_does_not_see_is_an_error",
     a_directory_that_rank_0_does_not_see_is_an_error},
    {"a_model_is_read_by_those_that_see_the_same_files",
     a_model_is_read_by_those_that_see_the_same_files},
    {"a_checkpoint_is_written_for_ranks_that_do_not_see_it",
     a_checkpoint_is_written_for_ranks_that_do_not_see_it},
    {NULL, NULL},
};
