/* Data that does not do, and places where a run cannot write.
 * Floor: tests.
 *
 * Every function takes a test's scratch directory.  What cannot be had on this machine (a mount
 * needs rights) ends the test as skipped, with a word. */
#ifndef MPRESS_TESTS_BROKEN_PLACES_H
#define MPRESS_TESTS_BROKEN_PLACES_H

/* To scratch/data.<ending>. */
void short_text(const char *scratch);                  /* .txt, 20 words */
void short_documents(const char *scratch);             /* .jsonl, three of a few words */
void short_tokens(const char *scratch);                /* .safetensors, a stream of 20 */
void id_outside_the_vocabulary(const char *scratch);   /* .safetensors [4, 64]: 4096 in row 1 */
void negative_id(const char *scratch);                 /* the same with -3 */
void tokens_of_another_dtype(const char *scratch);     /* .safetensors, I64 */
void documents_that_are_not_json(const char *scratch); /* .jsonl, line 2 */

/* To scratch/out, where a run is to write. */
void files_of_somebody_else(const char *scratch);
void a_file_in_the_way(const char *scratch);
void an_unfinished_run(const char *scratch); /* three blocks of six */
void a_finished_run(const char *scratch);    /* without hf/ */
void a_run_with_a_cut_block(const char *scratch);
void read_only_place(const char *scratch);
void disk_of_1_mib(const char *scratch);  /* rest.h5 does not fit */
void disk_of_4_mib(const char *scratch);  /* the blocks do not */
void disk_of_16_mib(const char *scratch); /* the export does not */

/* Takes away what was mounted. */
void unmount(const char *scratch);

#endif
