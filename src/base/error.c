#include "mpress/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local char last_message[1024];
static _Thread_local char last_place[128];

mp_status mp_fail_at(const char *file, int line, mp_status code, const char *format, ...)
{
    char message[sizeof last_message]; /* the arguments may point into last_message */
    const char *base = strrchr(file, '/');
    va_list args;

    va_start(args, format);
    vsnprintf(message, sizeof message, format, args);
    va_end(args);
    /* Names come from files of others: a newline in one must not make two lines of one message. */
    for (char *c = message; *c != '\0'; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f) *c = '?';
    memcpy(last_message, message, sizeof message);
    snprintf(last_place, sizeof last_place, "%s:%d", base != NULL ? base + 1 : file, line);
    return code;
}

const char *mp_error_message(void)
{
    return last_message;
}

const char *mp_error_place(void)
{
    return last_place;
}

static const struct {
    int exit_code;
    const char *text;
} statuses[MP_STATUS_COUNT] = {
#define MP_STATUS_ROW_(name, code, words) [name] = {code, words},
    MP_STATUS_LIST(MP_STATUS_ROW_)
#undef MP_STATUS_ROW_
};

int mp_exit_code(mp_status status)
{
    return status >= 0 && status < MP_STATUS_COUNT ? statuses[status].exit_code : 70;
}

const char *mp_status_text(mp_status status)
{
    return status >= 0 && status < MP_STATUS_COUNT ? statuses[status].text : "unknown status";
}
