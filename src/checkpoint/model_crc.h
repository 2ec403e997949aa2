/* A checksum that tells models apart.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_MODEL_CRC_H
#define MPRESS_MODEL_CRC_H

#include "mpress/source.h"

/* CRC-32C over config.json, over name, dtype and shape of every tensor, and the first 4 KiB of every
 * step-th one.  Not collective: on a rank that can read. */
mp_status mp_model_crc(const mp_source *source, const char *assets, int64_t step, uint32_t *crc);

#endif
