/* The safetensors reader: files, headers and indexes that lie.
 *
 * The first byte chooses what the rest is: 0 a whole file; 1 a header up to the first NUL with data
 * behind it (the length word is then right, so that the fuzzer gets past it); 2 an index of two
 * good shards.  What opens is read whole and must keep the promises of the header file. */
#include "fuzz.h"

#include "mpress/corpus.h"
#include "mpress/safetensors.h"

static struct {
    int file, index; /* descriptors */
    const char *file_path, *index_path;
} f;

/* A file of a header, given up to the first NUL, and the data behind it. */
static void frame_header(int fd, const uint8_t *data, size_t size)
{
    const uint8_t *end = memchr(data, 0, size);
    size_t header = end != NULL ? (size_t)(end - data) : size, rest = size - header;
    uint8_t *bytes = malloc(8 + size);

    if (rest > 0) rest--; /* the NUL itself */
    for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(header >> 8 * i);
    memcpy(bytes + 8, data, header);
    if (rest > 0) memcpy(bytes + 8 + header, data + header + 1, rest);
    fuzz_fill(fd, bytes, 8 + header + rest);
    free(bytes);
}

/* Two good shards; a target whose good files do not open would test little. */
static void set_up(void)
{
    static const char shard[] = "{\"a\":{\"dtype\":\"I8\",\"shape\":[2],\"data_offsets\":[0,2]},"
                                "\"b\":{\"dtype\":\"I8\",\"shape\":[],\"data_offsets\":[2,3]}}"
                                "\0xyz";

    if (f.file_path != NULL) return;
    for (int i = 0; i < 2; i++) {
        mp_source *source = NULL;
        const char *path;

        frame_header(fuzz_file(i == 0 ? "A" : "B", &path), (const uint8_t *)shard,
                     sizeof shard - 1);
        fuzz_expect(mp_safetensors_open(path, &source) == MP_OK, "the good shards open");
        mp_source_close(&source);
    }
    f.file = fuzz_file("x.safetensors", &f.file_path);
    f.index = fuzz_file("model.safetensors.index.json", &f.index_path);
}

/* Reads every tensor; names ascend, and all data fits the size of the input. */
static void check_source(mp_source *source, size_t size)
{
    int64_t total = 0;
    char *bytes = malloc(size + 16);

    for (int64_t i = 0; i < source->count; i++) {
        const mp_tensor_info *info = source->at(source->self, i);
        int64_t length = mp_tensor_bytes(info);

        fuzz_expect(info->ndim >= 0 && info->ndim <= MP_MAX_DIMS, "at most 8 dimensions");
        fuzz_expect(length >= 0 && length <= (int64_t)size + 16, "a tensor lies in its file");
        fuzz_expect(mp_source_find(source, info->name) == i, "names are found and ascend");
        total += length;
        source->prefetch(source->self, i);
        fuzz_expect(source->read(source->self, i, 0, length, bytes) == MP_OK, "all of it is read");
        fuzz_expect(source->read(source->self, i, 1, length, bytes) == MP_ERR_INTERNAL,
                    "a read beyond the end is refused");
    }
    fuzz_expect(total <= (int64_t)size + 16, "tensors do not overlap");
    free(bytes);
}

static void open_and_check(const char *path, size_t size)
{
    mp_source *source = NULL;
    mp_status st = mp_safetensors_open(path, &source);

    fuzz_expect((st == MP_OK) == (source != NULL), "a source only on success");
    fuzz_expect(st == MP_ERR_IO || st == MP_OK || st == MP_ERR_FORMAT, "a bad input");
    if (st != MP_ERR_IO) fuzz_expect_message(st); /* an index may name a shard that is not there */
    if (st == MP_OK) check_source(source, size);
    mp_source_close(&source);
}

/* The same file as a token file, when its tensor has the right name. */
static void try_tokens(void)
{
    const mp_corpus_request request = {
        .path = f.file_path, .seqlen = 2, .nsamples = 1, .vocabulary = 512};
    mp_windows windows = {0};
    mp_status st = mp_corpus_calibration(&request, &windows);

    if (st != MP_ERR_ARG) fuzz_expect_message(st); /* fewer tokens than wanted */
    for (int i = 0; st == MP_OK && i < 2; i++)
        fuzz_expect(windows.tokens[i] >= 0 && windows.tokens[i] < 512, "ids are in the vocabulary");
    mp_windows_free(&windows);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1) return 0;
    set_up();
    if (data[0] % 3 == 2) {
        fuzz_fill(f.index, data + 1, size - 1);
        open_and_check(fuzz_directory, size);
    } else {
        if (data[0] % 3 == 1)
            frame_header(f.file, data + 1, size - 1);
        else
            fuzz_fill(f.file, data + 1, size - 1);
        open_and_check(f.file_path, size);
        try_tokens();
    }
    fuzz_expect(mp_memory_balance() == 0, "nothing leaks");
    return 0;
}
