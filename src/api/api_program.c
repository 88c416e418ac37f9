/* Executables from programs that exist already: containers and assembly text. */
#include "api/api.h"

#include "compiler/compile.h"
#include "isa/asm.h"
#include "isa/container.h"
#include "isa/validate.h"

#include <stdlib.h>
#include <string.h>

/* A vector of the slot's dtype that fills the slot. */
static vtrn_status type_of(const vtrn_slot *slot, api_type *out) {
    vtrn_dtype t = slot->dtype;
    VTRN_CHECK(dtype_size(t), "slots of a valid program have a type");
    if (slot->size_bytes % dtype_size(t))
        t = VTRN_DTYPE_UINT8;
    int64_t n = (int64_t)(slot->size_bytes / dtype_size(t));
    return api_type_init((int)t, 1, &n, out);
}

/* The largest slot of each argument and output gives its type; one that no slot names is empty. */
static vtrn_status describe(const vtrn_program *p, vtrn_executable *e) {
    VTRN_RETURN_IF_ERROR(api_executable_describe(e, p->name && *p->name ? p->name : "program",
                                                 p->n_arguments, p->n_outputs));
    const int64_t none = 0;
    for (int i = 0; i < e->n_inputs + e->n_outputs; i++)
        VTRN_RETURN_IF_ERROR(
            api_type_init(VTRN_DTYPE_UINT8, 1, &none,
                          i < e->n_inputs ? &e->inputs[i] : &e->outputs[i - e->n_inputs]));
    for (uint32_t i = 0; i < p->n_slots; i++) {
        const vtrn_slot *slot = &p->slots[i];
        api_type *type = slot->kind == VTRN_SLOT_ARGUMENT ? &e->inputs[slot->index]
                         : slot->kind == VTRN_SLOT_OUTPUT ? &e->outputs[slot->index]
                                                          : NULL;
        if (type && slot->size_bytes > type->size_bytes)
            VTRN_RETURN_IF_ERROR(type_of(slot, type));
    }
    return NULL;
}

/* Takes the program over. */
static vtrn_status adopt(vtrn_device *device, vtrn_program *p, vtrn_executable *e) {
    vtrn_status status = program_validate(p, &device->rt->chip);
    if (!status)
        status = compile_check_customs(p);
    if (!status)
        status = describe(p, e);
    if (status) {
        program_destroy(p);
        return status;
    }
    VTRN_RETURN_IF_ERROR(runtime_load(device->rt, p, compile_run_custom, NULL, &e->loaded));
    for (int i = 0; i < e->n_inputs; i++)
        e->input_alias[i] = e->loaded->argument_output[i];
    VTRN_RETURN_IF_ERROR(api_hold_callbacks(e));
    return device->is_checking ? api_check_program(e) : NULL;
}

vtrn_status vtrn_program_load(vtrn_device *device, const void *bytes, size_t size,
                              vtrn_executable **out) {
    *out = NULL;
    VTRN_RETURN_IF_ERROR(runtime_device_check_process(device->rt));
    vtrn_program *p;
    if (program_is_container(bytes, size))
        VTRN_RETURN_IF_ERROR(program_load(bytes, size, NULL, &p));
    else
        VTRN_RETURN_IF_ERROR(program_assemble(bytes, size, "program", &p));
    return api_program_adopt(device, p, out);
}

vtrn_status api_program_adopt(vtrn_device *device, vtrn_program *program, vtrn_executable **out) {
    *out = NULL;
    vtrn_executable *e = calloc(1, sizeof *e);
    if (!e) {
        program_destroy(program);
        return VTRN_OUT_OF_MEMORY(sizeof *e);
    }
    vtrn_status status = adopt(device, program, e);
    if (status) {
        api_executable_free(e);
        return status;
    }
    api_executable_publish(device, e);
    *out = e;
    return NULL;
}
