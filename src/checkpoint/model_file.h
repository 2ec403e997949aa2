/* model.h5: the run, and one view of the whole model through links into the other files.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_MODEL_FILE_H
#define MPRESS_MODEL_FILE_H

#include "h5.h"
#include "journal.h"
#include "rest.h"

#include <jansson.h>

/* Writes model.h5 of the owner's directory in one step, if it is still the owner's.  A tensor's Hugging Face
 * name is its path in this file with dots for the slashes: blocks are linked as "model.layers.N", other
 * tensors one by one.  Rank 0 only. */
mp_status mp_model_file_write(const mp_owner *owner, int64_t n_blocks, const mp_source *source,
                              const mp_rest *rest, const json_t *run);

/* Reads it back; *run (NULL: not wanted) is ended by json_decref.  MP_ERR_FORMAT for another format
 * number. */
mp_status mp_model_file_read(const char *dir, int64_t *n_blocks, json_t **run);

/* MP_ERR_FORMAT unless attribute `format` of an open file is this program's. */
mp_status mp_format_check(hid_t file, const char *path);

#endif
