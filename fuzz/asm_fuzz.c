/* Feeds arbitrary text to the assembler; what assembles must print and assemble to the same bytes.
 */
#include "isa/asm.h"
#include "isa/container.h"
#include "isa/validate.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

enum { MAX_DATA_BYTES = 1 << 16 }; /* a size in the text costs memory, not coverage */

static void check_assembled(const vtrn_program *p) {
    static vtrn_chip chip;
    if (!chip.gen)
        vtrn_status_free(chip_load("trn1", &chip));
    vtrn_status_free(program_validate(p, &chip));
    void *before, *after;
    char *text;
    size_t n_before, n_after, n_text;
    vtrn_program *q;
    if (program_save(p, &before, &n_before) || program_disassemble(p, &text, &n_text) ||
        program_assemble(text, n_text, "fuzz", &q) || program_save(q, &after, &n_after))
        abort();
    if (n_before != n_after || memcmp(before, after, n_before) != 0)
        abort();
    program_destroy(q);
    if (program_load(before, n_before, NULL, &q))
        abort();
    program_destroy(q);
    free(before);
    free(after);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    vtrn_program *p;
    vtrn_status status = program_assemble((const char *)bytes, size, "fuzz", &p);
    if (!status) {
        if (p->data_size <= MAX_DATA_BYTES)
            check_assembled(p);
        program_destroy(p);
    }
    vtrn_status_free(status);
    return 0;
}
