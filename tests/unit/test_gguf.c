#include <criterion/criterion.h>

#include "mpress/fileio.h"
#include "mpress/gguf.h"
#include "mpress/memory.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The file byte by byte, as the description of the format has it. */
Test(gguf, keys_and_tensors_stand_where_the_format_wants_them)
{
    static const char keys[] = "\x0c\0\0\0\0\0\0\0general.type\x08\0\0\0\x02\0\0\0\0\0\0\0ab"
                               "\x01\0\0\0\0\0\0\0s\x09\0\0\0\x08\0\0\0\x02\0\0\0\0\0\0\0"
                               "\x01\0\0\0\0\0\0\0x\0\0\0\0\0\0\0\0"
                               "\x01\0\0\0\0\0\0\0n\x04\0\0\0\x07\0\0\0";
    static const char tensors[] = "\x01\0\0\0\0\0\0\0t\x01\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0"
                                  "\0\0\0\0\0\0\0\0"
                                  "\x01\0\0\0\0\0\0\0u\x01\0\0\0\x01\0\0\0\0\0\0\0\0\0\0\0"
                                  "\x20\0\0\0\0\0\0\0";
    static const char *const texts[] = {"x", ""};
    static const float three[] = {1.0f, -2.0f, 0.5f}, one = 9.0f;
    size_t length = 0, begin = 24 + sizeof keys - 1 + sizeof tensors - 1;
    char path[] = "/tmp/mpress-gguf-XXXXXX", *bytes = NULL;
    mp_gguf *g = NULL;
    float read[3];

    close(mkstemp(path));
    cr_assert_eq(mp_gguf_create(&g), MP_OK);
    cr_assert_eq(mp_gguf_text(g, "general.type", "ab"), MP_OK);
    cr_assert_eq(mp_gguf_texts(g, "s", texts, 2), MP_OK);
    cr_assert_eq(mp_gguf_u32(g, "n", 7), MP_OK);
    cr_assert_eq(mp_gguf_tensor(g, "t", three, 3), MP_OK);
    cr_assert_eq(mp_gguf_tensor(g, "u", &one, 1), MP_OK);
    cr_assert_eq(mp_gguf_write(g, path), MP_OK, "%s", mp_error_message());
    mp_gguf_free(g);
    cr_assert_eq(mp_file_read(path, 1 << 16, &bytes, &length), MP_OK);
    cr_expect_arr_eq(bytes, "GGUF\x03\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0", 24);
    cr_expect_arr_eq(bytes + 24, keys, sizeof keys - 1);
    cr_expect_arr_eq(bytes + 24 + sizeof keys - 1, tensors, sizeof tensors - 1);
    begin = (begin + 31) / 32 * 32;
    cr_assert_eq(length, begin + 64);
    memcpy(read, bytes + begin, sizeof read);
    cr_expect_arr_eq(read, three, sizeof read);
    memcpy(read, bytes + begin + 32, sizeof one);
    cr_expect_eq(read[0], one);
    mp_free(bytes);
    unlink(path);
    cr_expect_eq(mp_memory_balance(), 0);
}
