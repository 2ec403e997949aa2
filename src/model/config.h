/* Members of a config.json that need more than a type: old and new spellings, and what we refuse.
 * For arch.c only.
 * Floor 4: model. */
#ifndef MPRESS_MODEL_CONFIG_H
#define MPRESS_MODEL_CONFIG_H

#include "mpress/arch.h"

#include <jansson.h>

/* Whether a member is there and not null. */
int mp_config_given(const json_t *config, const char *key);

/* A required integer from 1 to `limit`. */
mp_status mp_config_size(const json_t *config, const char *key, const char *where, int64_t limit,
                         int64_t *value);

/* The same; absent or null leaves *value as it is. */
mp_status mp_config_opt_size(const json_t *config, const char *key, const char *where,
                             int64_t limit, int64_t *value);

/* MP_ERR_FORMAT naming the first member that changes the arithmetic in a way that no architecture
 * of the table has: quantised weights, another activation, biases, partial rotation, experts. */
mp_status mp_config_refuse(const json_t *config, const char *where);

/* "layer_types", where it is given, must say "full_attention" for all blocks, or
 * "sliding_attention" for all of a model with a window. */
mp_status mp_config_check_layer_types(const json_t *config, const char *where, int64_t window);

/* rope_theta with rope_scaling (transformers 4) or rope_parameters (5); types default and llama3.
 */
mp_status mp_config_rope(const json_t *config, const char *where, mp_rope *rope);

/* "dtype" or "torch_dtype"; MP_F32 where neither is given, as transformers has it. */
mp_status mp_config_dtype(const json_t *config, const char *where, mp_dtype *dtype);

#endif
