#include "mpress/memory.h"
#include "mpress/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* libFuzzer target: a tokenizer.json, a zero byte, and a text that it encodes.
 *
 *   clang -O1 -g -D_GNU_SOURCE -Iinclude -fsanitize=fuzzer,address,undefined \
 *       -fno-sanitize-recover=all tests/fuzz/fuzz_tokenizer.c src/formats/tokenizer*.c \
 *       src/formats/bpe*.c src/formats/pretokenize.c src/formats/json.c src/base/error.c \
 *       src/base/memory.c src/base/fileio.c -ljansson -lpcre2-8 -lutf8proc -o fuzz_tokenizer
 *   ./fuzz_tokenizer -dict=tests/fuzz/tokenizer.dict -max_len=8192 -timeout=20 corpus
 *
 * Whatever the file says: no crash, no leak, every refusal has a message, and every id is below the
 * size of the vocabulary. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void demand(int condition, const char *what)
{
    if (condition) return;
    fprintf(stderr, "broken: %s (last message: %s)\n", what, mp_error_message());
    abort();
}

static void encode(const mp_tokenizer *tokenizer, const char *text, size_t length)
{
    int32_t *ids = NULL;
    int64_t count = 0;

    if (mp_tokenizer_encode(tokenizer, text, length, &ids, &count) != MP_OK) {
        demand(mp_error_message()[0] != '\0' && ids == NULL, "a failed encoding");
        return;
    }
    for (int64_t i = 0; i < count; i++)
        demand(ids[i] >= 0 && ids[i] < mp_tokenizer_size(tokenizer), "an id");
    mp_free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *input = (const char *)data;
    const char *zero = size > 0 ? memchr(input, '\0', size) : NULL;
    size_t json = zero != NULL ? (size_t)(zero - input) : size;
    size_t text = zero != NULL ? json + 1 : 0; /* without a zero byte the file is its own text */
    mp_tokenizer *tokenizer = NULL;

    if (mp_tokenizer_parse(input, json, "fuzz", &tokenizer) == MP_OK) {
        demand(mp_tokenizer_bos(tokenizer) < mp_tokenizer_size(tokenizer), "the BOS");
        encode(tokenizer, input + text, size - text);
    } else {
        demand(mp_error_message()[0] != '\0' && tokenizer == NULL, "a refusal");
    }
    mp_tokenizer_free(tokenizer);
    demand(mp_memory_balance() == 0, "the balance of memory");
    return 0;
}
