#include "mpress/jsonl.h"

#include "helpers.h"

static mp_status open_jsonl(const char *path)
{
    mp_jsonl *file = NULL;
    mp_status st = mp_jsonl_open(path, &file);

    mp_jsonl_close(file);
    return st;
}

Test(jsonl, blank_lines_are_no_documents_and_texts_come_in_order)
{
    static const char text[] =
        "\n  \t\r\n{\"text\": \"a\\u0000\303\244\"}\r\n\n{\"id\": 1, \"text\": \"\"}\n"
        " {\"text\": \"last\"}";
    const char *dir = scratch_make(), *path = path_in(dir, "a.jsonl");
    mp_jsonl *file = NULL;
    char *found = NULL;
    size_t length = 9;

    write_text(path, text);
    EXPECT_OK(mp_jsonl_open(path, &file));
    cr_assert_eq(mp_jsonl_count(file), 3);
    cr_assert_eq(mp_jsonl_size(file), (int64_t)strlen(text));
    EXPECT_OK(mp_jsonl_text(file, 0, &found, &length));
    cr_assert(length == 4 && memcmp(found, "a\0\303\244", 5) == 0);
    mp_free(found);
    EXPECT_OK(mp_jsonl_text(file, 1, &found, &length));
    cr_assert_eq(length, 0);
    mp_free(found);
    EXPECT_OK(mp_jsonl_text(file, 2, &found, &length));
    cr_assert_str_eq(found, "last");
    mp_free(found);
    mp_jsonl_close(file);
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(jsonl, a_line_that_is_no_document_is_named_by_its_number)
{
    const char *dir = scratch_make(), *path = path_in(dir, "a.jsonl");

    write_text(path, "{\"text\": \"a\"}\n\n{\"text\": \n{\"text\": \"c\"}\n");
    EXPECT_FAILURE(open_jsonl(path), MP_ERR_FORMAT, "a.jsonl: line 3", "not valid JSON");
    write_text(path, "{\"text\": \"a\"}\n{\"tekst\": \"b\"}\n");
    EXPECT_FAILURE(open_jsonl(path), MP_ERR_FORMAT, "a.jsonl: line 2", "\"text\" is missing");
    write_text(path, "{\"text\": [\"a\"]}\n");
    EXPECT_FAILURE(open_jsonl(path), MP_ERR_FORMAT, "line 1", "expected a string");
    write_text(path, "\"text\"\n");
    EXPECT_FAILURE(open_jsonl(path), MP_ERR_FORMAT, "line 1", "not an object");
    write_text(path, "{\"text\": \"\xff\"}\n");
    EXPECT_FAILURE(open_jsonl(path), MP_ERR_FORMAT, "line 1", "decode byte");
    write_text(path, "\n \n");
    EXPECT_FAILURE(open_jsonl(path), MP_ERR_FORMAT, "no document");
    EXPECT_FAILURE(open_jsonl(dir), MP_ERR_IO, "not a regular file");
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

/* Lines are found in pieces of 1 MiB: one ends at the border, one goes over two of them. */
Test(jsonl, lines_that_cross_the_pieces_are_whole)
{
    static const size_t lengths[] = {(1 << 20) - 13, 3 << 20, 5, 1 << 20};
    const char *dir = scratch_make(), *path = path_in(dir, "a.jsonl");
    FILE *out = fopen(path, "w");
    mp_jsonl *file = NULL;

    cr_assert_not_null(out);
    for (int i = 0; i < 4; i++) {
        fputs("{\"text\": \"", out);
        for (size_t k = 0; k < lengths[i]; k++) fputc('a' + i, out);
        fputs("\"}\n", out);
    }
    cr_assert_eq(fclose(out), 0);
    EXPECT_OK(mp_jsonl_open(path, &file));
    cr_assert_eq(mp_jsonl_count(file), 4);
    for (int i = 0; i < 4; i++) {
        char *text = NULL;
        size_t length;

        EXPECT_OK(mp_jsonl_text(file, i, &text, &length));
        cr_assert_eq(length, lengths[i]);
        cr_assert(text[0] == 'a' + i && text[length - 1] == 'a' + i);
        mp_free(text);
    }
    mp_jsonl_close(file);
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}

Test(jsonl, thousands_of_lines_are_found)
{
    const char *dir = scratch_make(), *path = path_in(dir, "a.jsonl");
    FILE *out = fopen(path, "w");
    mp_jsonl *file = NULL;

    cr_assert_not_null(out);
    for (int i = 0; i < 5000; i++) fprintf(out, "{\"text\": \"%d\"}\n", i);
    cr_assert_eq(fclose(out), 0);
    EXPECT_OK(mp_jsonl_open(path, &file));
    cr_assert_eq(mp_jsonl_count(file), 5000);
    for (int i = 0; i < 5000; i += 7) {
        char *text = NULL, expected[16];
        size_t length;

        EXPECT_OK(mp_jsonl_text(file, i, &text, &length));
        snprintf(expected, sizeof expected, "%d", i);
        cr_assert_str_eq(text, expected);
        mp_free(text);
    }
    mp_jsonl_close(file);
    scratch_remove(dir);
    EXPECT_NO_LEAKS();
}
