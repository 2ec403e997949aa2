/* Tokenizers: a tokenizer.json, a zero byte, and a text that it encodes.
 *
 * Whatever the file says: every id is below the size of the vocabulary, and nothing is left
 * allocated. With -dict=tests/fuzz/tokenizer.dict -max_len=8192. */
#include "fuzz.h"

#include "mpress/tokenizer.h"

static void encode(const mp_tokenizer *tokenizer, const char *text, size_t length)
{
    int32_t *ids = NULL;
    int64_t count = 0;
    mp_status st = mp_tokenizer_encode(tokenizer, text, length, &ids, &count);

    fuzz_expect_message(st);
    fuzz_expect((st == MP_OK) == (ids != NULL), "ids are set on success only");
    for (int64_t i = 0; i < count; i++)
        fuzz_expect(ids[i] >= 0 && ids[i] < mp_tokenizer_size(tokenizer), "an id is in range");
    mp_free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *input = (const char *)data;
    const char *zero = size > 0 ? memchr(input, '\0', size) : NULL;
    size_t json = zero != NULL ? (size_t)(zero - input) : size;
    size_t text = zero != NULL ? json + 1 : 0; /* without a zero byte the file is its own text */
    mp_tokenizer *tokenizer = NULL;
    mp_status st = mp_tokenizer_parse(input, json, "fuzz", &tokenizer);

    fuzz_expect_message(st);
    fuzz_expect((st == MP_OK) == (tokenizer != NULL), "a tokenizer is set on success only");
    if (st == MP_OK) {
        fuzz_expect(mp_tokenizer_bos(tokenizer) < mp_tokenizer_size(tokenizer), "the BOS is an id");
        encode(tokenizer, input + text, size - text);
    }
    mp_tokenizer_free(tokenizer);
    fuzz_expect(mp_memory_balance() == 0, "nothing is left allocated");
    return 0;
}
