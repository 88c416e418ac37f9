/* Feeds arbitrary bytes to the container loader; what loads must validate, save and print cleanly.
 */
#include "compiler/compile.h"
#include "isa/asm.h"
#include "isa/container.h"
#include "isa/validate.h"

#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size);

/* Most mutations would die at the checksum: the file is sealed first with what the loader says. */
static uint8_t *seal(const uint8_t *bytes, size_t size) {
    uint8_t *copy = malloc(size ? size : 1);
    if (!copy || size < 24) {
        if (copy && size)
            memcpy(copy, bytes, size);
        return copy;
    }
    memcpy(copy, bytes, size);
    memcpy(copy, "VTRN\1\0\7\0", 8);
    for (size_t i = 0; i < 8; i++)
        copy[8 + i] = (uint8_t)((uint64_t)size >> (8 * i));
    vtrn_program *p;
    vtrn_status status = program_load(copy, size, NULL, &p);
    if (!status) {
        program_destroy(p);
        return copy;
    }
    const char *at = strstr(vtrn_status_message(status), "the bytes give ");
    if (at) {
        uint64_t sum = strtoull(at + strlen("the bytes give "), NULL, 16);
        for (size_t i = 0; i < 8; i++)
            copy[16 + i] = (uint8_t)(sum >> (8 * i));
    }
    vtrn_status_free(status);
    return copy;
}

static void check_loaded(const vtrn_program *p, size_t size) {
    static vtrn_chip chip;
    if (!chip.gen)
        vtrn_status_free(chip_load("trn1", &chip));
    vtrn_status_free(program_validate(p, &chip));
    vtrn_status_free(compile_check_customs(p));
    void *saved = NULL;
    size_t n_saved;
    char *text = NULL;
    size_t n_text;
    vtrn_status status = program_save(p, &saved, &n_saved);
    if (status || n_saved > size)
        abort(); /* what loads can be saved, canonically: no longer than it came */
    status = program_disassemble(p, &text, &n_text);
    if (status)
        abort(); /* what loads can be shown */
    vtrn_program *again;
    status = program_assemble(text, n_text, "fuzz", &again);
    if (!status) {
        void *saved_again = NULL;
        size_t n_again;
        if (program_save(again, &saved_again, &n_again) || n_again != n_saved ||
            memcmp(saved, saved_again, n_saved) != 0)
            abort(); /* the round trip is exact */
        free(saved_again);
        program_destroy(again);
    } else {
        abort(); /* what is printed assembles */
    }
    free(saved);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    uint8_t *sealed = seal(bytes, size);
    vtrn_program *p;
    if (!sealed)
        return 0;
    vtrn_status status = program_load(sealed, size, NULL, &p);
    if (!status) {
        check_loaded(p, size);
        program_destroy(p);
    }
    vtrn_status_free(status);
    free(sealed);
    return 0;
}
