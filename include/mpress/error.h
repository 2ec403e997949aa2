/* One error type for the whole program; the first function that knows says why.
 * Floor 0: base.
 *
 * A function that can fail because of a user, a file or a machine returns an mp_status.  The first
 * one to see the failure calls mp_fail() with a message that names the thing, its value and what was
 * expected; every caller above passes the code on untouched (MP_TRY, MP_GO), so that one failure
 * makes one message. */
#ifndef MPRESS_ERROR_H
#define MPRESS_ERROR_H

#define MP_STATUS_LIST(X)                                                                          \
    X(MP_OK, 0, "success")                                                                         \
    X(MP_ERR_ARG, 64, "an option or argument is out of range or contradicts another")              \
    X(MP_ERR_NOFIT, 64, "the job does not fit the memory or the library's integers")               \
    X(MP_ERR_FORMAT, 65, "a file was read but its content is not valid")                           \
    X(MP_ERR_NUMERIC, 65, "non-finite values, or a matrix that is not positive definite")          \
    X(MP_ERR_NOMEM, 70, "out of memory")                                                           \
    X(MP_ERR_MPI, 70, "an MPI call failed")                                                        \
    X(MP_ERR_DIVERGED, 70, "ranks disagree on a value that must be the same")                      \
    X(MP_ERR_INTERNAL, 70, "an invariant of the program is broken")                                \
    X(MP_ERR_IO, 74, "a file could not be read or written")                                        \
    X(MP_ERR_STOPPED, 75, "stopped on request; may be resumed")

#define MP_STATUS_ENUM_(name, exit_code, text) name,
typedef enum mp_status { MP_STATUS_LIST(MP_STATUS_ENUM_) MP_STATUS_COUNT } mp_status;
#undef MP_STATUS_ENUM_

/* Records why `code` happened and returns `code`.  Call it only where a failure is first seen, on
 * the thread that will return the code (the message is thread local). */
#define mp_fail(...) mp_fail_at(__FILE__, __LINE__, __VA_ARGS__)
mp_status mp_fail_at(const char *file, int line, mp_status code, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* The message of the last failure on this thread; "" if none.  Borrowed until the next mp_fail. */
const char *mp_error_message(void);

/* Where the last failure was recorded, as "file.c:123"; "" if none. */
const char *mp_error_place(void);

/* The exit code of the program for a status: 0, 64, 65, 70, 74 or 75. */
int mp_exit_code(mp_status status);

/* What a status means, in a few words. */
const char *mp_status_text(mp_status status);

/* For functions that own nothing yet. */
#define MP_TRY(call)                                                                               \
    do {                                                                                           \
        mp_status mp_st_ = (call);                                                                 \
        if (mp_st_ != MP_OK) return mp_st_;                                                        \
    } while (0)

/* For functions that own something: needs a variable `st` and a label `out`. */
#define MP_GO(call)                                                                                \
    do {                                                                                           \
        st = (call);                                                                               \
        if (st != MP_OK) goto out;                                                                 \
    } while (0)

#endif
