/* A Hugging Face directory written by all ranks.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_HF_H
#define MPRESS_HF_H

#include "mpress/checkpoint.h"
#include "mpress/source.h"

#include <jansson.h>

/* The directory is made under its name with this at the end. */
#define MP_EXPORT_SUFFIX ".tmp-export"

/* Puts config.json and what belongs to it into `dir`; called on rank 0 only. */
typedef mp_status (*mp_companions)(const char *dir, const void *context);

/* Writes config.json. */
mp_status mp_config_write(const char *dir, const json_t *config);

/* See mp_export (export.h), of which this is the whole but for where the other files come from.  `run`:
 * whose directory `dir` lies in, NULL for none; one that another run has taken over is not touched. */
mp_status mp_hf_write(const mp_comm *comm, const mp_source *source, mp_companions companions,
                      const void *context, const char *dir, int64_t shard_bytes,
                      const mp_checkpoint *run);

#endif
