/* Files of documents, and the JSON door behind them.
 *
 * The number of lines is compared with a count made another way, and each document with the object
 * that jansson finds in its line. */
#include "fuzz.h"

#include "mpress/json.h"
#include "mpress/jsonl.h"

/* Lines that hold more than spaces, tabs and carriage returns. */
static int64_t count_lines(const uint8_t *data, size_t size)
{
    int64_t count = 0;
    int filled = 0;

    for (size_t i = 0; i < size; i++) {
        if (data[i] == '\n')
            filled = 0;
        else if (!filled && data[i] != ' ' && data[i] != '\t' && data[i] != '\r') {
            filled = 1;
            count++;
        }
    }
    return count;
}

static void check_documents(const mp_jsonl *file, size_t size)
{
    size_t total = 0;

    for (int64_t i = 0; i < mp_jsonl_count(file); i++) {
        char *text = NULL;
        size_t length = 0;

        fuzz_expect(mp_jsonl_text(file, i, &text, &length) == MP_OK,
                    "a checked line is read again");
        fuzz_expect(text[length] == '\0', "a text ends with NUL");
        total += length + (i > 0 ? 2 : 0);
        mp_free(text);
    }
    fuzz_expect(total <= size, "all texts with two bytes between fit the size of the file");
}

/* What is written must be read again, and be the same value. */
static void check_dump(const uint8_t *data, size_t size)
{
    json_t *object = NULL, *again = NULL;
    char *text = NULL;
    mp_status st = mp_json_parse((const char *)data, size, "input", &object);

    fuzz_expect_message(st);
    if (st != MP_OK) return;
    fuzz_expect(mp_json_dump(object, 1, &text) == MP_OK, "a value can be written");
    fuzz_expect(mp_json_parse(text, strlen(text), "dump", &again) == MP_OK, "and read again");
    fuzz_expect(json_equal(object, again), "and is the same");
    mp_free(text);
    json_decref(object);
    json_decref(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char *path;
    static int fd;
    mp_jsonl *file = NULL;
    mp_status st;

    if (path == NULL) fd = fuzz_file("x.jsonl", &path);
    fuzz_fill(fd, data, size);
    st = mp_jsonl_open(path, &file);
    fuzz_expect_message(st);
    if (st == MP_OK) {
        fuzz_expect(mp_jsonl_count(file) == count_lines(data, size), "each line is a document");
        check_documents(file, size);
    }
    mp_jsonl_close(file);
    check_dump(data, size);
    fuzz_expect(mp_memory_balance() == 0, "nothing leaks");
    return 0;
}
