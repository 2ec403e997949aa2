/* Models, data and places that are wrong in one respect each, made in a test's scratch directory.
 * Floor: tests.
 *
 * Every function takes that directory; models are made from tests/data/wikillama-5m.  What cannot be
 * had on this machine (a mount) ends the test as skipped, with a word. */
#ifndef MPRESS_TESTS_BROKEN_MODELS_H
#define MPRESS_TESTS_BROKEN_MODELS_H

typedef void (*breakage)(const char *scratch);

/* The linear map that the models below are broken at: of block 3 of 6. */
#define BROKEN_TENSOR "model.layers.3.self_attn.q_proj.weight"

/* Into scratch/model. */
void missing_shard(const char *scratch); /* the second of two */
void truncated_shard(const char *scratch);
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
void nan_in_a_linear(const char *scratch);
void nan_in_the_embedding(const char *scratch);
void infinity_in_the_final_norm(const char *scratch);
void unfinished_config(const char *scratch); /* cut in the middle */

/* Into scratch/calib.<ending>. */
void short_text(const char *scratch);      /* .txt */
void short_documents(const char *scratch); /* .jsonl */
void short_tokens(const char *scratch);    /* .safetensors, one stream */
void id_outside_the_vocabulary(const char *scratch); /* .safetensors, row 1, position 36: 4096 */
void negative_id(const char *scratch);               /* the same place: -3 */
void documents_that_are_not_json(const char *scratch); /* .jsonl, line 2 */

/* Into scratch/out, the place where a run is to write. */
void files_of_somebody_else(const char *scratch);
void another_run(const char *scratch);    /* unfinished: three blocks of six */
void a_finished_run(const char *scratch); /* without hf/ */
void a_cut_block(const char *scratch);    /* finished, but one of its files has lost its end */
void a_file_in_the_way(const char *scratch);
void read_only_place(const char *scratch);
void disk_of_1_mib(const char *scratch);
void disk_of_4_mib(const char *scratch);
void disk_of_16_mib(const char *scratch);

/* Takes what was mounted away again. */
void unmount(const char *scratch);

#endif
