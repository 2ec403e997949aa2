/* Models that are wrong in one respect each.
 * Floor: tests.
 *
 * Every function takes a test's scratch directory and makes scratch/model of
 * tests/data/wikillama-5m. */
#ifndef MPRESS_TESTS_BROKEN_MODELS_H
#define MPRESS_TESTS_BROKEN_MODELS_H

/* The linear map that the models below are broken at: of block 3 of 6. */
#define BROKEN_TENSOR "model.layers.3.self_attn.q_proj.weight"

void sound_model(const char *scratch);     /* for comparison */
void missing_shard(const char *scratch);   /* the second of two */
void truncated_shard(const char *scratch); /* the second of two */
void truncated_model(const char *scratch);
void offsets_beyond_the_file(const char *scratch);
void offsets_that_overlap(const char *scratch);
void offsets_of_another_size(const char *scratch);
void shape_that_overflows(const char *scratch);
void header_length_that_overflows(const char *scratch);
void header_longer_than_the_file(const char *scratch);
void unknown_architecture(const char *scratch);
void unknown_dtype_in_config(const char *scratch);
void unknown_dtype_of_a_tensor(const char *scratch);
void integer_weights(const char *scratch);
void quantised_input(const char *scratch);
void missing_tensor(const char *scratch);
void wrong_shape(const char *scratch);
void unexpected_tensor(const char *scratch);
void no_tokenizer(const char *scratch);
void nan_in_a_linear(const char *scratch);            /* row 2, column 5 */
void nan_in_the_embedding(const char *scratch);       /* row 4095, column 7 */
void infinity_in_the_final_norm(const char *scratch); /* channel 5 */
void weight_that_overflows(const char *scratch);      /* finite, but what it multiplies is not */
void unfinished_config(const char *scratch);          /* cut in the middle */

#endif
