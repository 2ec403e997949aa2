/* What mpress inspect finds out, as JSON, and that in words.
 * Floor 10: cli. */
#ifndef MPRESS_INSPECT_REPORT_H
#define MPRESS_INSPECT_REPORT_H

#include "mpress/error.h"

#include <jansson.h>

/* Looks at a model directory, a checkpoint or a safetensors file; *report is ended by json_decref.
 *   {"kind": "model", "path", "identity", "architecture", "tensors", "tokenizer"}
 *   {"kind": "checkpoint", "path", "format", "blocks", "done", "finished", "run", "linears",
 *    "architecture", "tensors" (null where blocks are missing), "tokenizer"}
 *   {"kind": "tokens", "path", "tensors", "tokens": {"windows", "seqlen", "lowest", "highest"}}
 *   {"kind": "safetensors", "path", "tensors"}
 * What mpress does not support (an architecture, a tokenizer) is {"refused": why}. */
mp_status inspect_report(const char *path, json_t **report);

/* The report on stdout, in a screen. */
void inspect_print(const json_t *report);

#endif
