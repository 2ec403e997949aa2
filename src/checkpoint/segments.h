/* Checksums of files, in segments that the ranks share out.
 * Floor 7: checkpoint; for the files of src/checkpoint only. */
#ifndef MPRESS_SEGMENTS_H
#define MPRESS_SEGMENTS_H

#include "mpress/io.h"

#include <jansson.h>

enum { MP_SEGMENT_BYTES = 1 << 26 };

/* Reads `path` back: {"file": name, "bytes": N, "crc32c": ["89abcdef", ..]}, one CRC-32C for each 64 MiB
 * and one for what is left; to be ended by json_decref.  The ranks that see the file take
 * the segments in turn; where they are on several hosts, none takes them from its memory of what it
 * wrote.
 * Collective; the status is agreed, and the record is on all ranks.  Memory: 1 MiB. */
mp_status mp_segments_read(const mp_io *io, const char *path, const char *name, json_t **record);

/* Whether DIR/name is still what `record` says.  *what says how it is damaged, in `text`; NULL where it
 * is whole.  Collective; agreed. */
mp_status mp_segments_check(const mp_io *io, const char *dir, const char *name,
                            const json_t *record, char text[160], const char **what);

#endif
