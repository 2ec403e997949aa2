/* Files of documents: one JSON object with a string "text" per line.
 * Floor 1: formats.
 *
 * Only the places of the lines are kept (8 bytes each), so a file of many GB costs little until its
 * documents are read one by one.  Lines of spaces, tabs and carriage returns alone are no
 * documents. */
#ifndef MPRESS_JSONL_H
#define MPRESS_JSONL_H

#include "mpress/error.h"

#include <stddef.h>
#include <stdint.h>

typedef struct mp_jsonl mp_jsonl;

/* Opens the file, finds its lines in one pass, and checks those of the first GiB as mp_jsonl_text
 * does (about 60 MB/s); later ones are checked when they are read.  No document at all is
 * MP_ERR_FORMAT. */
mp_status mp_jsonl_open(const char *path, mp_jsonl **file);

void mp_jsonl_close(mp_jsonl *file);

int64_t mp_jsonl_count(const mp_jsonl *file);

/* Bytes of the file: never less than all texts together with two bytes between them. */
int64_t mp_jsonl_size(const mp_jsonl *file);

/* The text of a document (0-based) in UTF-8, owned by the caller (mp_free).  A line that is no JSON
 * object, or has no string "text", is MP_ERR_FORMAT and named by its number, 1-based. */
mp_status mp_jsonl_text(const mp_jsonl *file, int64_t document, char **text, size_t *length);

#endif
