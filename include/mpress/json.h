/* A thin door to jansson: files, and members of the expected type, with messages users can act on.
 * Floor 1: formats.
 *
 * `where` is the file's path, for messages.  Errors: MP_ERR_FORMAT (file, key, value, expectation).
 * Duplicate keys are refused everywhere; integers beyond 64 bits are read as reals. */
#ifndef MPRESS_JSON_H
#define MPRESS_JSON_H

#include "mpress/error.h"

#include <jansson.h>
#include <stdint.h>

/* Parses a file of at most 256 MiB whose top value is an object (ended by json_decref). */
mp_status mp_json_load(const char *path, json_t **object);

/* Parses text (not NUL terminated) whose top value is an object. */
mp_status mp_json_parse(const char *text, size_t length, const char *where, json_t **object);

/* Required members; a real may be written as an integer, a text must not hold NUL. */
mp_status mp_json_int(const json_t *object, const char *key, const char *where, int64_t *value);
mp_status mp_json_real(const json_t *object, const char *key, const char *where, double *value);
mp_status mp_json_text(const json_t *object, const char *key, const char *where,
                       const char **value); /* borrowed */

/* As above, but absent or null leaves *value as it is. */
mp_status mp_json_opt_int(const json_t *object, const char *key, const char *where, int64_t *value);
mp_status mp_json_opt_real(const json_t *object, const char *key, const char *where, double *value);
mp_status mp_json_opt_bool(const json_t *object, const char *key, const char *where, int *value);
mp_status mp_json_opt_text(const json_t *object, const char *key, const char *where,
                           const char **value);

/* The text of a value on one line (compact != 0) or indented, members in the order in which they
 * were set, reals with the fewest digits that read back the same; owned by the caller (mp_free). */
mp_status mp_json_dump(const json_t *value, int compact, char **text);

#endif
