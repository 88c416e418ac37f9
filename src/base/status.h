/* Status values: how every fallible function reports. OK is NULL, so success costs one compare. */
#ifndef VTRN_BASE_STATUS_H
#define VTRN_BASE_STATUS_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>

/* What kind of thing went wrong; the prefix of every message a user reads. */
typedef enum vtrn_category {
    VTRN_OK = 0,
    VTRN_BAD_ARGUMENT,  /* the caller passed something malformed */
    VTRN_UNDEFINED,     /* the program breaks the chip's contract */
    VTRN_UNINITIALISED, /* the program reads what nothing wrote */
    VTRN_CAPACITY,      /* SBUF, PSUM, HBM or another chip resource is exhausted */
    VTRN_HAZARD,        /* two accesses race */
    VTRN_DEADLOCK,      /* a semaphore that nobody raises */
    VTRN_UNSUPPORTED,   /* refused on purpose */
    VTRN_UNIMPLEMENTED, /* planned, not there yet */
    VTRN_UNSPECIFIED,   /* the vendor is silent */
    VTRN_RESOURCE,      /* the environment failed: host memory, a file */
    VTRN_INTERNAL,      /* our own invariant broke */
    VTRN_CALLBACK,      /* a function of the host that the program calls failed */
    VTRN_INTERRUPTED,   /* the user asked the run to stop */
    VTRN_UNAVAILABLE,   /* another process of the same programs has ended or does not answer */
} vtrn_category;

/* NULL is OK. A non-NULL status is owned by whoever received it; vtrn_status_free() releases it. */
typedef struct vtrn_status_payload *vtrn_status;

/* Makes a status; bytes of the message that are no UTF-8 text become '?'. Never returns NULL: when
 * memory is short it returns a static RESOURCE status. */
vtrn_status vtrn_status_make(vtrn_category category, const char *file, int line, const char *format,
                             ...) __attribute__((format(printf, 4, 5), returns_nonnull));

/* Appends "\n  at <text>" (the user's place: op, source line, instruction); text that begins with a
 * space explains the line before and gets no "at". Consumes and returns the status; OK stays OK. */
vtrn_status vtrn_status_annotate(vtrn_status status, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

void vtrn_status_free(vtrn_status status);
vtrn_category vtrn_status_category(vtrn_status status);
const char *vtrn_category_name(vtrn_category category); /* "out of capacity", ... */
const char *vtrn_status_message(vtrn_status status);    /* lives as long as the status */
/* "category: message", what a user reads; lives as long as the status. */
const char *vtrn_status_text(vtrn_status status);

#ifdef __clang_analyzer__
/* The static analyzer does not read returns_nonnull; without it every error could be an OK. */
static inline vtrn_status vtrn_status_not_ok(vtrn_status status) {
    if (!status)
        __builtin_unreachable();
    return status;
}
#else
#define vtrn_status_not_ok(status) (status)
#endif

#define VTRN_ERROR(category, ...)                                                                  \
    vtrn_status_not_ok(vtrn_status_make((category), __FILE__, __LINE__, __VA_ARGS__))

#define VTRN_RETURN_IF_ERROR(expr)                                                                 \
    do {                                                                                           \
        vtrn_status status_ = (expr);                                                              \
        if (__builtin_expect(status_ != NULL, 0))                                                  \
            return status_;                                                                        \
    } while (0)

/* For our own invariants, which no input may reach. Yields an INTERNAL status from the function. */
#define VTRN_CHECK(cond, why)                                                                      \
    do {                                                                                           \
        if (__builtin_expect(!(cond), 0))                                                          \
            return VTRN_ERROR(VTRN_INTERNAL, "invariant broken: %s (%s)", (why), #cond);           \
    } while (0)

#define VTRN_OUT_OF_MEMORY(n_bytes)                                                                \
    VTRN_ERROR(VTRN_RESOURCE, "host memory: cannot allocate %zu bytes", (size_t)(n_bytes))

#endif
