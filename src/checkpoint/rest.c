#include "rest.h"

#include "mpress/checkpoint.h"
#include "mpress/memory.h"
#include "mpress/weights.h"
#include "pieces.h"
#include "writer.h"

#include <stdlib.h>
#include <string.h>

/* Whether `suffix` ("self_attn.q_proj.weight", "self_attn.q_proj.A") is a tensor of every block. */
static int is_block_tensor(const mp_arch *arch, const char *suffix)
{
    for (int i = 0; i < arch->n_linears; i++) {
        const mp_linear_row *row = &arch->linears[i];
        size_t length = strlen(row->name);

        if (strncmp(suffix, row->name, length) != 0) continue;
        for (int e = 0; mp_weight_endings[e] != NULL; e++)
            if (strcmp(suffix + length, mp_weight_endings[e]) == 0) return 1;
        if (row->has_bias && strcmp(suffix + length, ".bias") == 0) return 1;
    }
    for (int i = 0; i < arch->n_vectors; i++)
        if (strcmp(suffix, arch->vectors[i].name) == 0) return 1;
    return 0;
}

/* Whether the architecture names the tensor in one of its blocks. */
static int is_in_a_block(const mp_arch *arch, const char *name)
{
    static const char layers[] = "model.layers.";
    char prefix[256];
    long long block;

    if (strncmp(name, layers, sizeof layers - 1) != 0) return 0;
    block = strtoll(name + sizeof layers - 1, NULL, 10);
    if (block < 0 || block >= arch->n_blocks) return 0;
    mp_arch_tensor_name(block, "", prefix);
    return strncmp(name, prefix, strlen(prefix)) == 0 &&
           is_block_tensor(arch, name + strlen(prefix));
}

mp_status mp_rest_list(const mp_arch *arch, const mp_source *source, mp_rest *rest)
{
    rest->count = 0;
    MP_TRY(MP_NEW(rest->index, source->count, "the tensors outside the blocks"));
    for (int64_t i = 0; i < source->count; i++)
        if (!is_in_a_block(arch, source->at(source->self, i)->name)) rest->index[rest->count++] = i;
    return MP_OK;
}

/* What the layout needs. */
typedef struct contents {
    const mp_source *source;
    const mp_rest *rest;
} contents;

static mp_status lay_out_rest(hid_t file, const char *path, const void *context)
{
    const contents *c = context;

    MP_TRY(mp_h5_put_int(file, path, "format", MP_CHECKPOINT_FORMAT));
    for (int64_t i = 0; i < c->rest->count; i++)
        MP_TRY(mp_h5_add_tensor(file, path, c->source->at(c->source->self, c->rest->index[i])));
    return MP_OK;
}

/* This rank's pieces of one tensor.  The pieces of all tensors are dealt in turn to the ranks that can
 * read and write them; `dealt` counts them. */
static mp_status copy_pieces(const mp_io *io, const mp_source *source, int64_t index, hid_t set,
                             const char *path, int64_t dealt, void *buffer)
{
    const mp_tensor_info *info = source->at(source->self, index);
    const int copiers = mp_io_copiers(io, source);
    mp_pieces pieces;

    mp_pieces_cut(info, &pieces);
    for (int64_t p = 0; p < pieces.count; p++) {
        mp_piece piece;

        if ((dealt + p) % copiers != io->place) continue;
        mp_pieces_at(info, &pieces, p, &piece);
        MP_TRY(source->read(source->self, index, piece.begin, piece.length, buffer));
        MP_TRY(mp_h5_write(set, path, info->dtype, info->ndim, piece.first, piece.extent, buffer));
    }
    return MP_OK;
}

/* Opening a data set is collective, so that all ranks stop at the same tensor. */
static mp_status copy_tensor(const mp_writer *w, const mp_source *source, int64_t index,
                             int64_t *dealt, void *buffer)
{
    const mp_tensor_info *info = source->at(source->self, index);
    mp_pieces pieces;
    hid_t set = -1;
    mp_status st;

    MP_GO(mp_writer_set(w, info->name, &set));
    st = copy_pieces(w->io, source, index, set, w->temporary, *dealt, buffer);
    MP_GO(mp_comm_agree(w->io->comm, st));
    mp_pieces_cut(info, &pieces);
    *dealt += pieces.count;
out:
    if (set >= 0) H5Dclose(set);
    return st;
}

static int64_t room_of(const mp_source *source, const mp_rest *rest)
{
    int64_t room = MP_H5_EMPTY_ROOM;

    for (int64_t i = 0; i < rest->count; i++)
        room += mp_h5_room(source->at(source->self, rest->index[i]));
    return room;
}

/* Memory for the largest piece. */
static mp_status make_buffer(const mp_source *source, const mp_rest *rest, void **buffer)
{
    int64_t largest = 0;

    for (int64_t i = 0; i < rest->count; i++) {
        int64_t bytes = mp_tensor_bytes(source->at(source->self, rest->index[i]));

        if (bytes > largest) largest = bytes;
    }
    return mp_alloc(buffer, largest < MP_PIECE_BYTES ? largest : MP_PIECE_BYTES, 1, 0,
                    "a piece of a tensor");
}

mp_status mp_rest_write(const mp_io *io, const mp_owner *owner, const char *path,
                        const mp_source *source, const mp_rest *rest)
{
    const contents c = {source, rest};
    mp_writer writer;
    void *buffer = NULL;
    int64_t dealt = 0;
    mp_status st;

    MP_TRY(mp_writer_open(&writer, io, owner, path, room_of(source, rest), lay_out_rest, &c));
    st = mp_comm_agree(io->comm, make_buffer(source, rest, &buffer));
    for (int64_t i = 0; i < rest->count && st == MP_OK; i++)
        st = copy_tensor(&writer, source, rest->index[i], &dealt, buffer);
    mp_free(buffer);
    return mp_writer_commit(&writer, st);
}
