/* Errors that name a kernel of a plan. */
#include "compiler/plan/verify_failed.h"

#include <stdarg.h>
#include <stdio.h>

vtrn_status verify_failed(const plan *p, const kernel *k, const char *format, ...) {
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    const vtrn_source *s = &p->build->sources[k->source];
    return VTRN_ERROR(VTRN_INTERNAL,
                      "plan: %s kernel %u of %s%s%s: %s; this is a bug of the compiler, please "
                      "report the program",
                      kernel_name((kernel_kind)k->kind), (unsigned)(k - p->list.kernels), s->op,
                      *s->place ? " " : "", s->place, text);
}
