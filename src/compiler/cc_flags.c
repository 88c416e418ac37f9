#include "compiler/cc_flags.h"

#include <string.h>

static bool is_text(const char *value, size_t n, const char *word) {
    return strlen(word) == n && memcmp(value, word, n) == 0;
}

/* How many arguments are weights. */
static vtrn_status set_weights(const char *value, size_t n, compile_options *out) {
    uint64_t number = 0;
    for (size_t i = 0; i < n && number <= UINT32_MAX; i++)
        number = value[i] < '0' || value[i] > '9' ? (uint64_t)UINT32_MAX + 1
                                                  : number * 10 + (uint64_t)(value[i] - '0');
    if (!n || number > UINT32_MAX)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "--weights-stay is '%.*s'; it is how many of the first arguments are "
                          "weights",
                          (int)(n > 80 ? 80 : n), value);
    out->n_weights = (uint32_t)number;
    return NULL;
}

vtrn_status cc_flags_set(const char *name, const char *value, size_t n, compile_options *out) {
    if (strcmp(name, "weights-stay") == 0)
        return set_weights(value, n, out);
    static const char *const CASTS[] = {"none", "matmult", "all"};
    static const struct {
        const char *name;
        vtrn_dtype type;
    } TYPES[] = {{"bf16", VTRN_DTYPE_BF16},
                 {"fp16", VTRN_DTYPE_FP16},
                 {"tf32", VTRN_DTYPE_TF32},
                 {"fp8_e4m3", VTRN_DTYPE_FP8E4M3}};
    bool is_type = strcmp(name, "auto-cast-type") == 0;
    for (size_t i = 0; !is_type && i < sizeof CASTS / sizeof *CASTS; i++)
        if (is_text(value, n, CASTS[i])) {
            out->auto_cast = (auto_cast)i;
            out->has_auto_cast = true;
            return NULL;
        }
    for (size_t i = 0; is_type && i < sizeof TYPES / sizeof *TYPES; i++)
        if (is_text(value, n, TYPES[i].name)) {
            out->auto_cast_type = TYPES[i].type;
            return NULL;
        }
    return VTRN_ERROR(VTRN_BAD_ARGUMENT, "--%s is '%.*s'; there are %s", name,
                      (int)(n > 80 ? 80 : n), value,
                      is_type ? "bf16, fp16, tf32 and fp8_e4m3" : "none, matmult and all");
}

vtrn_status cc_flags_parse(const char *text, compile_options *out) {
    static const char SPACES[] = " \t\n\r\"'";
    static const char *const NAMES[] = {"auto-cast-type", "auto-cast", "weights-stay"};
    for (const char *at = text; at && *at;) {
        at += strspn(at, SPACES);
        size_t n = strcspn(at, SPACES), n_name = strcspn(at, " \t\n\r\"'=");
        const char *word = at;
        at += n;
        for (size_t i = 0; i < sizeof NAMES / sizeof *NAMES; i++) {
            if (n_name < 3 || !is_text(word + 2, n_name - 2, NAMES[i]) ||
                memcmp(word, "--", 2) != 0)
                continue;
            const char *value = word + n_name + 1;
            size_t n_value = n - n_name;
            if (n_value == 0) { /* the next word */
                at += strspn(at, SPACES);
                value = at;
                n_value = strcspn(at, SPACES);
                at += n_value;
            } else {
                n_value--;
            }
            VTRN_RETURN_IF_ERROR(cc_flags_set(NAMES[i], value, n_value, out));
        }
    }
    return NULL;
}
