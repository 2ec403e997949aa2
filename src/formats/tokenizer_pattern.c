#include "tokenizer_internal.h"

#include "mpress/memory.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <string.h>

/* Steps a search may take: far beyond what an expression that is linear in the text needs, and an
 * end, with a message, for one that is exponential. */
enum { STEPS = 10000000, STEPS_PER_BYTE = 64 };
enum { JIT_STACK_MIN = 32 << 10, JIT_STACK_MAX = 64 << 20 };

struct mp_pattern {
    pcre2_code *code; /* NULL: the literal */
    mp_text literal;
};

struct mp_match_work {
    pcre2_match_data *data;
    pcre2_match_context *context;
    pcre2_jit_stack *stack;
};

static mp_status compile(const mp_text *expression, const char *where, pcre2_code **code)
{
    pcre2_compile_context *context = pcre2_compile_context_create(NULL);
    /* Searches begin where a match is expected, so start optimisations gain nothing here; and the
     * just-in-time code of 10.42 misses matches with them ("(?>a+?)b" in "aab"). */
    const uint32_t options = PCRE2_UTF | PCRE2_UCP | PCRE2_NO_START_OPTIMIZE;
    PCRE2_UCHAR text[128];
    PCRE2_SIZE offset = 0;
    int error = 0;

    if (context == NULL) return mp_fail(MP_ERR_NOMEM, "%s: no memory for an expression", where);
    /* The reference's "." excludes \n and nothing else, however this PCRE2 was built. */
    pcre2_set_newline(context, PCRE2_NEWLINE_LF);
    *code = pcre2_compile((PCRE2_SPTR)expression->bytes, expression->length, options, &error,
                          &offset, context);
    pcre2_compile_context_free(context);
    if (*code == NULL) {
        pcre2_get_error_message(error, text, sizeof text);
        return mp_fail(MP_ERR_FORMAT, "%s: the expression '%.*s' does not compile: %s (byte %zu)",
                       where, mp_text_shown(expression->bytes, expression->length),
                       expression->bytes, (const char *)text, (size_t)offset);
    }
    /* Where there is no just-in-time compiler the interpreter gives the same, more slowly. */
    pcre2_jit_compile(*code, PCRE2_JIT_COMPLETE);
    return MP_OK;
}

mp_status mp_pattern_regex(const char *source, size_t length, const char *where,
                           mp_pattern **pattern)
{
    mp_text expression = {0};
    mp_pattern *made = NULL;
    mp_status st;

    MP_GO(MP_NEW(made, 1, "a split expression"));
    MP_GO(mp_regex_translate(source, length, where, &expression));
    MP_GO(compile(&expression, where, &made->code));
    *pattern = made;
    made = NULL;
out:
    mp_text_free(&expression);
    mp_pattern_free(made);
    return st;
}

mp_status mp_pattern_literal(const char *text, size_t length, const char *where,
                             mp_pattern **pattern)
{
    mp_pattern *made = NULL;
    mp_status st;

    if (length == 0) return mp_fail(MP_ERR_FORMAT, "%s: an empty text to split at", where);
    MP_TRY(MP_NEW(made, 1, "a text to split at"));
    st = mp_text_append(&made->literal, text, length);
    if (st == MP_OK)
        *pattern = made;
    else
        mp_pattern_free(made);
    return st;
}

void mp_pattern_free(mp_pattern *pattern)
{
    if (pattern == NULL) return;
    pcre2_code_free(pattern->code);
    mp_text_free(&pattern->literal);
    mp_free(pattern);
}

mp_status mp_match_work_create(mp_match_work **work)
{
    mp_match_work *made;

    MP_TRY(MP_NEW(made, 1, "scratch for matching"));
    made->data = pcre2_match_data_create(1, NULL);
    made->context = pcre2_match_context_create(NULL);
    if (made->data == NULL || made->context == NULL) {
        mp_match_work_free(made);
        return mp_fail(MP_ERR_NOMEM, "scratch for matching could not be allocated");
    }
    /* Without it (NULL) the just-in-time code has 32 KiB of the machine's stack. */
    made->stack = pcre2_jit_stack_create(JIT_STACK_MIN, JIT_STACK_MAX, NULL);
    if (made->stack != NULL) pcre2_jit_stack_assign(made->context, NULL, made->stack);
    *work = made;
    return MP_OK;
}

void mp_match_work_free(mp_match_work *work)
{
    if (work == NULL) return;
    pcre2_match_data_free(work->data);
    pcre2_match_context_free(work->context);
    pcre2_jit_stack_free(work->stack);
    mp_free(work);
}

static mp_status search_code(const mp_pattern *pattern, mp_match_work *work,
                             const mp_cursor *cursor, int *found)
{
    uint64_t steps = STEPS + (uint64_t)cursor->length * STEPS_PER_BYTE;
    PCRE2_SPTR text = (PCRE2_SPTR)cursor->text;
    PCRE2_UCHAR message[128];
    int result;

    pcre2_set_match_limit(work->context, steps < UINT32_MAX ? (uint32_t)steps : UINT32_MAX);
    /* The text was checked once for all; a check per search would make a long text quadratic. */
    result = pcre2_match(pattern->code, text, cursor->length, cursor->position, PCRE2_NO_UTF_CHECK,
                         work->data, work->context);
    if (result == PCRE2_ERROR_JIT_STACKLIMIT)
        result = pcre2_match(pattern->code, text, cursor->length, cursor->position,
                             PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT, work->data, work->context);
    *found = result >= 0;
    if (result >= 0 || result == PCRE2_ERROR_NOMATCH) return MP_OK;
    pcre2_get_error_message(result, message, sizeof message);
    return mp_fail(MP_ERR_FORMAT, "the tokenizer's split expression fails at byte %zu of %zu: %s",
                   cursor->position, cursor->length, (const char *)message);
}

static mp_status search(const mp_pattern *pattern, mp_match_work *work, const mp_cursor *cursor,
                        int *found, size_t *start, size_t *end)
{
    if (pattern->code == NULL) {
        const char *at = memmem(cursor->text + cursor->position, cursor->length - cursor->position,
                                pattern->literal.bytes, pattern->literal.length);

        *found = at != NULL;
        *start = at != NULL ? (size_t)(at - cursor->text) : 0;
        *end = *start + pattern->literal.length;
        return MP_OK;
    }
    MP_TRY(search_code(pattern, work, cursor, found));
    if (*found) {
        const PCRE2_SIZE *ends = pcre2_get_ovector_pointer(work->data);

        *start = ends[0];
        *end = ends[1];
    }
    return MP_OK;
}

mp_status mp_pattern_next(const mp_pattern *pattern, mp_match_work *work, mp_cursor *cursor,
                          int *found, size_t *start, size_t *end)
{
    for (;;) {
        *found = 0;
        if (cursor->position > cursor->length) return MP_OK;
        MP_TRY(search(pattern, work, cursor, found, start, end));
        if (!*found) return MP_OK;
        /* As the reference: no empty match right behind the last one. */
        if (*end != *start || (int64_t)*end != cursor->last_end) break;
        if (cursor->position == cursor->length) {
            cursor->position++;
            continue;
        }
        cursor->position++;
        while (cursor->position < cursor->length && (cursor->text[cursor->position] & 0xC0) == 0x80)
            cursor->position++;
    }
    cursor->position = *end;
    cursor->last_end = (int64_t)*end;
    return MP_OK;
}
