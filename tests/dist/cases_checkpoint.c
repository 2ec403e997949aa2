/* The checkpoint: what goes in comes out, what must be refused is, what fails leaves nothing
 * behind. */
#include "checkpoint_fixture.h"
#include "worker.h"

#include "mpress/fileio.h"
#include "mpress/memory.h"

#include <hdf5.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static mp_status round_trip(const fixture *f)
{
    MP_TRY(fixture_run(f, f->comm, f->out, 0));
    MP_EXPECT(mp_checkpoint_is(f->out));
    MP_EXPECT(!fixture_has_unfinished(f->comm, f->out));
    MP_EXPECT(fixture_has(f->comm, f->out, "assets/tokenizer.json"));
    return fixture_same_as_model(f, f->out);
}

static mp_status every_dtype_comes_back_bit_for_bit(const mp_comm *comm)
{
    return fixture_with(comm, round_trip);
}

static mp_status same_file(const char *left, const char *right, const char *name)
{
    char *a = NULL, *b = NULL, *x = NULL, *y = NULL;
    size_t n = 0, m = 0;
    mp_status st;

    MP_GO(mp_path_join(left, name, &a));
    MP_GO(mp_path_join(right, name, &b));
    MP_GO(mp_file_read(a, 1 << 24, &x, &n));
    MP_GO(mp_file_read(b, 1 << 24, &y, &m));
    if (n != m || memcmp(x, y, n) != 0) st = mp_fail(MP_ERR_NUMERIC, "%s and %s differ", a, b);
out:
    mp_free(a);
    mp_free(b);
    mp_free(x);
    mp_free(y);
    return st;
}

static mp_status files_of_one_and_all(const fixture *f)
{
    /* the journal has the id of its run */
    static const char *const names[] = {"model.h5",        "blocks/rest.h5",  "blocks/00000.h5",
                                        "blocks/00001.h5", "blocks/00002.h5", "assets/config.json"};
    mp_comm *alone = NULL;
    char other[128];
    mp_status st;

    snprintf(other, sizeof other, "%s/alone", f->scratch);
    MP_TRY(fixture_run(f, f->comm, f->out, 0));
    sleep(1); /* times in the files would differ */
    MP_TRY(fixture_alone(f->comm, &alone));
    st = alone != NULL ? fixture_run(f, alone, other, 0) : MP_OK;
    mp_comm_free(alone);
    MP_TRY(mp_comm_agree(f->comm, st));
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        MP_TRY(mp_comm_agree(f->comm, same_file(f->out, other, names[i])));
    return MP_OK;
}

static mp_status files_do_not_depend_on_the_number_of_ranks(const mp_comm *comm)
{
    return fixture_with(comm, files_of_one_and_all);
}

static mp_status check_description(const json_t *d)
{
    const json_t *record = json_array_get(json_object_get(d, "linears"), 1);
    const json_t *run = json_object_get(d, "run");

    MP_EXPECT(json_integer_value(json_object_get(d, "format")) == MP_CHECKPOINT_FORMAT);
    MP_EXPECT(json_integer_value(json_object_get(d, "blocks")) == 3);
    MP_EXPECT(json_array_size(json_object_get(d, "done")) == 3);
    MP_EXPECT(json_is_true(json_object_get(d, "finished")));
    MP_EXPECT(strcmp(json_string_value(json_object_get(run, "note")), "Zürich") == 0);
    MP_EXPECT(json_array_size(json_object_get(d, "linears")) == 3);
    MP_EXPECT(json_integer_value(json_object_get(record, "block")) == 1);
    MP_EXPECT(strcmp(json_string_value(json_object_get(record, "name")), "self_attn.q_proj") == 0);
    MP_EXPECT(strcmp(json_string_value(json_object_get(record, "method")), "none") == 0);
    MP_EXPECT(json_integer_value(json_object_get(record, "tokens")) == 1001);
    MP_EXPECT(json_integer_value(json_object_get(record, "dead")) == 2);
    MP_EXPECT(json_real_value(json_object_get(record, "damping")) == 0.01);
    MP_EXPECT(json_is_null(json_object_get(record, "rel_error")));
    return MP_OK;
}

static mp_status describe(const fixture *f)
{
    json_t *description = NULL;
    mp_status st;

    MP_TRY(fixture_run(f, f->comm, f->out, 0));
    st = mp_checkpoint_describe(f->out, &description);
    if (st == MP_OK) st = check_description(description);
    json_decref(description);
    return mp_comm_agree(f->comm, st);
}

static mp_status records_and_run_can_be_read_back(const mp_comm *comm)
{
    return fixture_with(comm, describe);
}

static mp_status refuse_foreign(const fixture *f)
{
    MP_TRY(mp_comm_agree(f->comm, f->comm->rank == 0 ? mp_directory_make(f->out) : MP_OK));
    MP_TRY(fixture_file(f->comm, f->out, "thesis.tex", "precious"));
    for (int overwrite = 0; overwrite < 2; overwrite++) {
        mp_status st = fixture_run(f, f->comm, f->out, overwrite);

        MP_TRY(fixture_expect(f->comm, st, MP_ERR_FORMAT, "no run of mpress made"));
        MP_EXPECT(fixture_has(f->comm, f->out, "thesis.tex"));
        MP_EXPECT(!fixture_has(f->comm, f->out, "journal.jsonl"));
        MP_EXPECT(!fixture_has(f->comm, f->out, "blocks"));
    }
    /* a journal of somebody else does not make it ours */
    MP_TRY(fixture_file(f->comm, f->out, "journal.jsonl", "{\"event\":\"start\"}\n"));
    MP_TRY(fixture_expect(f->comm, fixture_run(f, f->comm, f->out, 1), MP_ERR_FORMAT,
                          "no run of mpress made"));
    return MP_OK;
}

static mp_status directory_of_others_is_refused_even_with_overwrite(const mp_comm *comm)
{
    return fixture_with(comm, refuse_foreign);
}

static mp_status overwrite_own(const fixture *f)
{
    MP_TRY(fixture_run(f, f->comm, f->out, 0));
    MP_TRY(fixture_file(f->comm, f->out, "notes.txt", "mine"));
    MP_TRY(fixture_file(f->comm, f->out, "blocks/00009.h5", "of an earlier model"));
    MP_TRY(fixture_expect(f->comm, fixture_run(f, f->comm, f->out, 0), MP_ERR_FORMAT,
                          "--resume never"));
    MP_TRY(fixture_same_as_model(f, f->out));
    MP_TRY(fixture_run(f, f->comm, f->out, 1));
    MP_EXPECT(fixture_has(f->comm, f->out, "notes.txt"));
    MP_EXPECT(!fixture_has(f->comm, f->out, "blocks/00009.h5"));
    return fixture_same_as_model(f, f->out);
}

static mp_status another_run_is_refused_or_overwritten_on_request(const mp_comm *comm)
{
    return fixture_with(comm, overwrite_own);
}

static mp_status overwrite_source(const fixture *f)
{
    fixture inner = *f;
    mp_status st;

    MP_TRY(fixture_run(f, f->comm, f->out, 0));
    snprintf(inner.model, sizeof inner.model, "%.80s/assets", f->out);
    st = fixture_run(&inner, f->comm, f->out, 1);
    MP_TRY(fixture_expect(f->comm, st, MP_ERR_ARG, "is to be read"));
    return fixture_same_as_model(f, f->out);
}

static mp_status model_inside_of_out_is_never_overwritten(const mp_comm *comm)
{
    return fixture_with(comm, overwrite_source);
}

/* Sets attribute `format` of a file on rank 0. */
static mp_status set_format(const fixture *f, const char *name, int value)
{
    char path[192];
    hid_t file, attribute;
    herr_t done;

    if (f->comm->rank != 0) return mp_comm_agree(f->comm, MP_OK);
    snprintf(path, sizeof path, "%s/%s", f->out, name);
    file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    attribute = H5Aopen(file, "format", H5P_DEFAULT);
    done = H5Awrite(attribute, H5T_NATIVE_INT, &value);
    H5Aclose(attribute);
    H5Fclose(file);
    return mp_comm_agree(f->comm, done < 0 ? mp_fail(MP_ERR_IO, "%s: no attribute", path) : MP_OK);
}

static mp_status other_formats(const fixture *f)
{
    static const char *const names[] = {"model.h5", "blocks/00001.h5", "blocks/rest.h5"};
    mp_source *source = NULL;

    MP_TRY(fixture_run(f, f->comm, f->out, 0));
    for (int i = 0; i < 3; i++) {
        mp_status st;

        MP_TRY(set_format(f, names[i], 2));
        st = mp_checkpoint_open(f->out, &source);
        MP_TRY(fixture_expect(f->comm, st, MP_ERR_FORMAT, "checkpoint format 2, expected 1"));
        MP_TRY(fixture_expect(f->comm, st, MP_ERR_FORMAT, names[i]));
        MP_TRY(set_format(f, names[i], 1));
    }
    return fixture_same_as_model(f, f->out);
}

static mp_status another_format_number_is_refused(const mp_comm *comm)
{
    return fixture_with(comm, other_formats);
}

static mp_status damaged_files(const fixture *f)
{
    mp_source *source = NULL;
    char path[160];
    mp_status st;

    MP_TRY(fixture_run(f, f->comm, f->out, 0));
    snprintf(path, sizeof path, "%s/blocks/00002.h5", f->out);
    if (f->comm->rank == 0 && truncate(path, 70000) != 0) return mp_fail(MP_ERR_IO, "truncate");
    MP_TRY(mp_comm_agree(f->comm, MP_OK));
    st = mp_checkpoint_open(f->out, &source);
    MP_TRY(fixture_expect(f->comm, st, MP_ERR_FORMAT, "00002.h5: 70000 bytes, expected"));
    MP_TRY(fixture_file(f->comm, f->out, "model.h5", "no HDF5 at all"));
    st = mp_checkpoint_open(f->out, &source);
    MP_TRY(fixture_expect(f->comm, st, MP_ERR_IO, "model.h5: opening failed: HDF5"));
    return MP_OK;
}

static mp_status damaged_files_are_named(const mp_comm *comm)
{
    return fixture_with(comm, damaged_files);
}

static mp_status wrong_slabs(const fixture *f)
{
    const int64_t rows = 4 * f->comm->size, mine = f->comm->rank;
    mp_checkpoint *checkpoint = NULL;
    json_t *run = json_object();
    float *data = NULL;
    mp_status st;
    mp_slab slab = {.name = "mlp.up_proj.weight",
                    .dtype = MP_F32,
                    .ndim = 1,
                    .shape = {rows, 1},
                    .first_row = 4 * mine,
                    .n_rows = mine == 0 ? 3 : 4};

    MP_GO(MP_NEW(data, rows, "a slab"));
    slab.data = data;
    MP_GO(
        mp_checkpoint_create(f->comm, f->out, f->model, &f->arch, f->source, run, 0, &checkpoint));
    st = mp_checkpoint_put_block(checkpoint, 0, &slab, 1, NULL, 0, NULL,
                                 0); /* a row that nobody has */
    MP_GO(fixture_expect(f->comm, st, MP_ERR_DIVERGED, "mlp.up_proj.weight"));
    slab.n_rows = 4;
    slab.first_row = 0; /* all ranks the same rows */
    st = mp_checkpoint_put_block(checkpoint, 0, &slab, 1, NULL, 0, NULL, 0);
    if (f->comm->size > 1) MP_GO(fixture_expect(f->comm, st, MP_ERR_DIVERGED, "do not cut"));
    slab.first_row = 4 * mine;
    if (mine == f->comm->size - 1) slab.dtype = MP_I32;
    st = mp_checkpoint_put_block(checkpoint, 0, &slab, 1, NULL, 0, NULL, 0);
    if (f->comm->size > 1) MP_GO(fixture_expect(f->comm, st, MP_ERR_DIVERGED, "list of tensors"));
    slab.dtype = MP_F32;
    MP_GO(mp_checkpoint_put_block(checkpoint, 0, &slab, 1, NULL, 0, NULL, 0));
    st = mp_checkpoint_put_block(checkpoint, 3, &slab, 1, NULL, 0, NULL, 0);
    MP_GO(fixture_expect(f->comm, st, MP_ERR_INTERNAL, "block 3 of 3"));
out:
    mp_checkpoint_free(checkpoint);
    json_decref(run);
    mp_free(data);
    return st;
}

static mp_status slabs_that_do_not_fit_together_are_refused(const mp_comm *comm)
{
    return fixture_with(comm, wrong_slabs);
}

static mp_status linked_view(const fixture *f)
{
    static const char *const paths[] = {
        "model.layers.0/self_attn.q_proj/weight",
        "model.layers.2/input_layernorm/weight",
        "model.layers.1/self_attn.q_proj/mask",
        "model.embed_tokens/weight",
        "model.layers.1.scale",
        "position_ids",
        "model.layers.0.self_attn.rotary_emb.inv_freq",
    };
    char path[160];
    mp_status st = MP_OK;
    hid_t file;

    MP_TRY(fixture_run(f, f->comm, f->out, 0));
    snprintf(path, sizeof path, "%s/model.h5", f->out);
    file = H5Fopen(path, H5F_ACC_RDONLY, H5P_DEFAULT);
    for (size_t i = 0; i < sizeof paths / sizeof paths[0] && st == MP_OK; i++) {
        hid_t set = H5Dopen2(file, paths[i], H5P_DEFAULT);

        if (set < 0) st = mp_fail(MP_ERR_NUMERIC, "%s: no data set %s", path, paths[i]);
        if (set >= 0) H5Dclose(set);
    }
    H5Fclose(file);
    return mp_comm_agree(f->comm, st);
}

static mp_status model_file_shows_the_whole_model_through_links(const mp_comm *comm)
{
    return fixture_with(comm, linked_view);
}

/* One tensor whose name has a slash, which is a group to HDF5. */
static const mp_tensor_info *slash_at(void *self, int64_t index)
{
    static const mp_tensor_info info = {.name = "a/b.c", .dtype = MP_U8, .ndim = 1, .shape = {1}};

    (void)self;
    (void)index;
    return &info;
}

static mp_status slash_in_a_name(const fixture *f)
{
    mp_source source = {.path = "memory", .count = 1, .at = slash_at};
    fixture spoilt = *f;

    spoilt.source = &source;
    MP_TRY(fixture_expect(f->comm, fixture_run(&spoilt, f->comm, f->out, 0), MP_ERR_FORMAT,
                          "\"a/b.c\""));
    MP_EXPECT(!fixture_has(f->comm, f->scratch, "out"));
    return MP_OK;
}

static mp_status name_that_hdf5_cannot_keep_is_refused(const mp_comm *comm)
{
    return fixture_with(comm, slash_in_a_name);
}

const mp_case cases_checkpoint[] = {
    {"every_dtype_comes_back_bit_for_bit", every_dtype_comes_back_bit_for_bit},
    {"files_do_not_depend_on_the_number_of_ranks", files_do_not_depend_on_the_number_of_ranks},
    {"records_and_run_can_be_read_back", records_and_run_can_be_read_back},
    {"directory_of_others_is_refused_even_with_overwrite",
     directory_of_others_is_refused_even_with_overwrite},
    {"another_run_is_refused_or_overwritten_on_request",
     another_run_is_refused_or_overwritten_on_request},
    {"model_inside_of_out_is_never_overwritten", model_inside_of_out_is_never_overwritten},
    {"another_format_number_is_refused", another_format_number_is_refused},
    {"damaged_files_are_named", damaged_files_are_named},
    {"slabs_that_do_not_fit_together_are_refused", slabs_that_do_not_fit_together_are_refused},
    {"model_file_shows_the_whole_model_through_links",
     model_file_shows_the_whole_model_through_links},
    {"name_that_hdf5_cannot_keep_is_refused", name_that_hdf5_cannot_keep_is_refused},
    {NULL, NULL},
};
