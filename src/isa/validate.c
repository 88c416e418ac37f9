/* The validator's common rules: structure of the program, operands, queues, semaphores. */
#include "isa/validate.h"

#include "isa/access.h"
#include "isa/validate_rules.h"

#include <stdlib.h>

static const char engine_letters[] = "TVSGYC";

enum { /* more than any caller has; they bound what is allocated */
       MAX_ARGUMENTS = 1 << 24,
       MAX_RANKS = 1 << 20,
};

static const char *space_name(unsigned space) {
    static const char *const names[] = {"nothing", "SBUF", "PSUM", "HBM"};
    return space <= VTRN_SPACE_HBM ? names[space] : "unknown memory";
}

static bool is_no_memory(char role) {
    return role == '-' || role == 'p';
}

/* Operands that a role letter forbids or demands. */
static vtrn_status rule_presence(validation *v, int i) {
    const vtrn_ap *ap = &v->instr->ap[i];
    char role = v->info->roles[i];
    if (ap->space > VTRN_SPACE_HBM)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "name SBUF, PSUM or HBM",
                    "%s: ap%d: memory number %u does not exist", v->info->mnemonic, i, ap->space);
    if (ap->space == VTRN_SPACE_NONE && (role == 'W' || role == 'R' || role == 'U'))
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "give the operand", "%s: ap%d is missing",
                    v->info->mnemonic, i);
    if (ap->space != VTRN_SPACE_NONE && is_no_memory(role))
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "leave the operand out",
                    "%s: ap%d: the instruction takes no memory there", v->info->mnemonic, i);
    return NULL;
}

/* Which memories an engine reaches. Source: docs/hardware.md, "Operands": the tensor engine reads
 * SBUF and writes PSUM, GpSimd never reaches PSUM, nor does DMA; compute engines never reach HBM.
 */
static vtrn_status rule_space(validation *v, int i) {
    const vtrn_ap *ap = &v->instr->ap[i];
    bool is_legal;
    if (v->is_dma) {
        is_legal = ap->space != VTRN_SPACE_PSUM;
    } else if (v->instr->engine == VTRN_ENGINE_TENSOR) {
        is_legal =
            ap->space == (access_is_written(v->instr, i) ? VTRN_SPACE_PSUM : VTRN_SPACE_SBUF);
    } else if (v->instr->engine == VTRN_ENGINE_GPSIMD) {
        is_legal = ap->space == VTRN_SPACE_SBUF;
    } else {
        is_legal = ap->space != VTRN_SPACE_HBM;
    }
    if (is_legal)
        return NULL;
    const char *who = v->is_dma ? "DMA" : isa_engine_name(v->instr->engine);
    RULE_BROKEN(v, VTRN_UNDEFINED, "move the operand by DMA or a copy to a memory that it reaches",
                "%s: ap%d: %s does not %s %s (NeuronCore-v%d)", v->info->mnemonic, i, who,
                access_is_written(v->instr, i) ? "write" : "read", space_name(ap->space),
                v->chip->gen);
}

static vtrn_status rule_dtype(validation *v, int i) {
    const vtrn_ap *ap = &v->instr->ap[i];
    if (ap->dtype >= VTRN_DTYPE_COUNT)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "use a type of docs/isa.md",
                    "%s: ap%d: dtype number %u does not exist", v->info->mnemonic, i, ap->dtype);
    /* 64-bit types and those without a hardware format move but are not computed with.
     * Source: docs/hardware.md, "Numbers" */
    bool is_packed = dtype_of_packed(ap->dtype) != ap->dtype;
    if (is_packed && validate_takes_packed(v->instr->opcode, i))
        return NULL;
    if (!dtype_is_on_engines(ap->dtype) && !v->is_dma)
        RULE_BROKEN(v, VTRN_UNSUPPORTED, "move it by DMA or compute in a 32-bit type",
                    "%s: ap%d: no engine computes in %s", v->info->mnemonic, i,
                    dtype_name(ap->dtype));
    return NULL;
}

/* Of absent operands, too: whoever walks a program relies on it. */
static vtrn_status rule_n_dims(validation *v, int i) {
    const vtrn_ap *ap = &v->instr->ap[i];
    if (ap->n_dims <= VTRN_MAX_FREE_DIMS)
        return NULL;
    RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "merge dimensions or split the instruction",
                "%s: ap%d: %u free dimensions > %d", v->info->mnemonic, i, ap->n_dims,
                VTRN_MAX_FREE_DIMS);
}

/* Dimensions of a pattern; sets free_size, low, high and is_repeating. Limits of the instruction
 * word for on-chip patterns: num uint16, step int16. Source: docs/hardware.md, "Operands". */
static vtrn_status rule_pattern(validation *v, int i) {
    const vtrn_ap *ap = &v->instr->ap[i];
    bool is_on_chip = ap->space == VTRN_SPACE_SBUF || ap->space == VTRN_SPACE_PSUM;
    uint64_t n = 1;
    int64_t low = 0, high = 0; /* the product is below 2^32 and a step below 2^31: no overflow */
    v->is_repeating = false;
    for (int d = 0; d < ap->n_dims; d++) {
        const vtrn_dim *dim = &ap->dim[d];
        if (dim->num == 0)
            RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "leave the instruction out",
                        "%s: ap%d: dimension %d has 0 elements", v->info->mnemonic, i, d);
        if (is_on_chip && dim->num > UINT16_MAX)
            RULE_BROKEN(v, VTRN_UNDEFINED, "split the instruction",
                        "%s: ap%d: dimension %d: %u elements > %d (the instruction's size field)",
                        v->info->mnemonic, i, d, dim->num, UINT16_MAX);
        if (is_on_chip && (dim->step > INT16_MAX || dim->step < INT16_MIN) && dim->num > 1)
            RULE_BROKEN(v, VTRN_UNDEFINED, "copy the operand to a denser layout first",
                        "%s: ap%d: dimension %d: step %d is outside %d..%d (the instruction's "
                        "stride field)",
                        v->info->mnemonic, i, d, dim->step, INT16_MIN, INT16_MAX);
        if (__builtin_mul_overflow(n, (uint64_t)dim->num, &n) || n > UINT32_MAX)
            RULE_BROKEN(v, VTRN_UNDEFINED, "split the instruction",
                        "%s: ap%d: more than 2^32-1 elements a row", v->info->mnemonic, i);
        int64_t reach = (int64_t)dim->step * ((int64_t)dim->num - 1);
        low += reach < 0 ? reach : 0;
        high += reach < 0 ? 0 : reach;
        v->is_repeating |= dim->step == 0 && dim->num > 1;
    }
    v->free_size[i] = n;
    v->low = low;
    v->high = high;
    return NULL;
}

/* Elements of a row that are not the same element again. */
static uint64_t distinct_elements(const vtrn_ap *ap) {
    uint64_t n = 1;
    for (int d = 0; d < ap->n_dims; d++)
        n *= ap->dim[d].step ? ap->dim[d].num : 1;
    return n;
}

/* Elements that an instruction of Vector, Scalar or GpSimd takes a partition: 64K from SBUF, and
 * from PSUM as many as a partition has room for, 4K. Source: nki.isa, "Tile size" of these
 * instructions. */
static vtrn_status rule_free_size(validation *v, int i) {
    const vtrn_ap *ap = &v->instr->ap[i];
    bool is_psum = ap->space == VTRN_SPACE_PSUM;
    uint64_t limit = is_psum ? 4096 : 65536;
    uint64_t n = is_psum ? distinct_elements(ap) : v->free_size[i];
    if (v->is_dma || n <= limit)
        return NULL;
    RULE_BROKEN(v, VTRN_UNDEFINED, "split the free axis",
                "%s: ap%d: %llu elements a partition > %llu (from %s)", v->info->mnemonic, i,
                (unsigned long long)n, (unsigned long long)limit, space_name(ap->space));
}

/* A destination that writes an element twice has no defined value, but for access_may_repeat(). */
static vtrn_status rule_no_broadcast(validation *v, int i) {
    const vtrn_ap *ap = &v->instr->ap[i];
    if (!access_is_written(v->instr, i))
        return NULL;
    bool is_broadcast = ap->partition_step == 0 && ap->n_partitions > 1 &&
                        !access_is_table(v->instr, i); /* whose rows come from the indices */
    if (is_broadcast || (v->is_repeating && !access_may_repeat(v->instr)))
        RULE_BROKEN(v, VTRN_UNDEFINED, "only sources may have a step of 0",
                    "%s: ap%d: the destination names an element more than once", v->info->mnemonic,
                    i);
    return NULL;
}

/* Start partitions of an engine's operand: n > 64: 0; 32 < n <= 64: 0 or 64; n <= 32: a multiple of
 * 32. Source: docs/hardware.md, "Operands". DMA starts anywhere. */
static vtrn_status rule_partition_start(validation *v, int i) {
    const vtrn_ap *ap = &v->instr->ap[i];
    unsigned n = ap->n_partitions, grid = n > 64 ? 128 : n > 32 ? 64 : 32;
    if (v->is_dma || (ap->partition & (grid - 1)) == 0)
        return NULL;
    /* MX scales of up to four tiles share a quadrant. Source: NKI, "Packing Scale Values" */
    if (i == 2 && validate_has_scales(v->instr->opcode) && ap->partition % 32 % 4 == 0 &&
        ap->partition % 32 <= 12)
        return NULL;
    RULE_BROKEN(v, VTRN_UNDEFINED, "move the operand or use DMA",
                "%s: ap%d: %u partitions may not start at partition %u (%s)", v->info->mnemonic, i,
                n, ap->partition,
                n > 64   ? "more than 64 start at 0"
                : n > 32 ? "33 to 64 start at 0 or 64"
                         : "up to 32 start at 0, 32, 64 or 96");
}

static vtrn_status rule_partition_range(validation *v, int i) {
    const vtrn_ap *ap = &v->instr->ap[i];
    if (ap->n_partitions == 0)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "leave the instruction out", "%s: ap%d has 0 rows",
                    v->info->mnemonic, i);
    if (access_is_table(v->instr, i) && v->instr->arg[1] < 1)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "give the rows of the table in arg1",
                    "%s: ap%d has %d rows", v->info->mnemonic, i, v->instr->arg[1]);
    if (ap->space == VTRN_SPACE_HBM)
        return NULL;
    if (ap->partition_step != 1 && !(ap->partition_step == 0 && v->is_dma))
        RULE_BROKEN(v, VTRN_UNDEFINED,
                    v->is_dma ? "let it span neighbouring partitions, or move one at a time"
                              : "let it span neighbouring partitions, or gather them by DMA",
                    "%s: ap%d: partition step %lld; an on-chip operand is contiguous partitions",
                    v->info->mnemonic, i, (long long)ap->partition_step);
    int rows = ap->partition_step ? ap->n_partitions : 1;
    if (ap->partition + rows > v->chip->n_partitions)
        RULE_BROKEN(v, VTRN_CAPACITY, "split the partitions over two instructions",
                    "%s: ap%d: partitions %u..%u; %s has %d", v->info->mnemonic, i, ap->partition,
                    ap->partition + rows - 1, space_name(ap->space), v->chip->n_partitions);
    return rule_partition_start(v, i);
}

/* Byte range of an operand in 128-bit arithmetic: a hostile HBM pattern reaches past 2^63. */
static void extent(const validation *v, int i, __int128 *lo, __int128 *hi) {
    const vtrn_ap *ap = &v->instr->ap[i];
    __int128 low = v->low, high = v->high, size = (__int128)dtype_size(ap->dtype);
    if (ap->space == VTRN_SPACE_HBM) {
        int64_t rows = access_rows(v->instr, i);
        __int128 reach = (__int128)ap->partition_step * (rows - 1);
        *(reach < 0 ? &low : &high) += reach;
    }
    *lo = ap->addr + low * size;
    *hi = ap->addr + (high + 1) * size;
}

/* The same in 64 bits: true only when nothing overflows and all is inside [0, limit). */
static bool is_within(const validation *v, int i, uint64_t limit) {
    const vtrn_ap *ap = &v->instr->ap[i];
    int64_t low = v->low, high = v->high, size = (int64_t)dtype_size(ap->dtype), reach = 0;
    if (ap->space == VTRN_SPACE_HBM) {
        int64_t rows = access_rows(v->instr, i);
        if (__builtin_mul_overflow(ap->partition_step, rows - 1, &reach) ||
            __builtin_add_overflow(*(reach < 0 ? &low : &high), reach, reach < 0 ? &low : &high))
            return false;
    }
    if (__builtin_add_overflow(high, 1, &high) || __builtin_mul_overflow(low, size, &low) ||
        __builtin_mul_overflow(high, size, &high) || __builtin_add_overflow(low, ap->addr, &low) ||
        __builtin_add_overflow(high, ap->addr, &high))
        return false;
    return low >= 0 && (uint64_t)high <= limit;
}

static vtrn_status rule_range(validation *v, int i) {
    const vtrn_ap *ap = &v->instr->ap[i];
    if (ap->space == VTRN_SPACE_HBM && ap->slot >= v->program->n_slots)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "name a slot of the program",
                    "%s: ap%d: slot %u; the program has %u", v->info->mnemonic, i, ap->slot,
                    v->program->n_slots);
    uint64_t limit = ap->space == VTRN_SPACE_SBUF   ? v->chip->sbuf_partition_bytes
                     : ap->space == VTRN_SPACE_PSUM ? v->chip->psum_partition_bytes
                                                    : v->program->slots[ap->slot].size_bytes;
    if (is_within(v, i, limit))
        return NULL;
    __int128 lo, hi;
    extent(v, i, &lo, &hi);
    if (lo >= 0 && hi <= limit)
        return NULL;
    bool is_low = lo < 0;
    long long at = (long long)(is_low ? lo : hi);
    if (ap->space == VTRN_SPACE_HBM)
        RULE_BROKEN(v, VTRN_UNDEFINED, "make the slot larger or the access smaller",
                    "%s: ap%d: %s at byte %lld of slot %u, which has %llu", v->info->mnemonic, i,
                    is_low ? "begins" : "ends", at, ap->slot, (unsigned long long)limit);
    RULE_BROKEN(v, VTRN_CAPACITY, "move the operand or split the free axis",
                "%s: ap%d: %s at byte %lld; a partition of %s has %llu (%s)", v->info->mnemonic, i,
                is_low ? "begins" : "ends", at, space_name(ap->space), (unsigned long long)limit,
                v->chip->name);
}

static vtrn_status rule_alignment(validation *v, int i) {
    const vtrn_ap *ap = &v->instr->ap[i];
    size_t size = dtype_size(ap->dtype), align = size > 8 ? 8 : size; /* a power of two */
    if (((uint64_t)ap->addr & (align - 1)) == 0)
        return NULL;
    RULE_BROKEN(v, VTRN_UNDEFINED, "align the address to the element",
                "%s: ap%d: address %lld is no multiple of %zu (%s)", v->info->mnemonic, i,
                (long long)ap->addr, align, dtype_name(ap->dtype));
}

static vtrn_status rule_writable(validation *v, int i) {
    const vtrn_ap *ap = &v->instr->ap[i];
    if (ap->space != VTRN_SPACE_HBM || !access_is_written(v->instr, i))
        return NULL;
    bool is_writable = v->is_writable ? v->is_writable[ap->slot]
                                      : v->program->slots[ap->slot].kind != VTRN_SLOT_CONSTANT;
    if (is_writable)
        return NULL;
    RULE_BROKEN(
        v, VTRN_UNDEFINED, "write to an output or scratch slot",
        "%s: ap%d: slot %u is read only (a constant, or an argument that no output aliases)",
        v->info->mnemonic, i, ap->slot);
}

static vtrn_status validate_operands(validation *v) {
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        VTRN_RETURN_IF_ERROR(rule_n_dims(v, i));
        if (v->info->roles[i] == '-' && v->instr->ap[i].space == VTRN_SPACE_NONE)
            continue;
        VTRN_RETURN_IF_ERROR(rule_presence(v, i));
        if (v->info->roles[i] == 'p')
            VTRN_RETURN_IF_ERROR(rule_pattern(v, i));
        if (v->instr->ap[i].space == VTRN_SPACE_NONE)
            continue;
        VTRN_RETURN_IF_ERROR(rule_space(v, i));
        VTRN_RETURN_IF_ERROR(rule_dtype(v, i));
        VTRN_RETURN_IF_ERROR(rule_pattern(v, i));
        VTRN_RETURN_IF_ERROR(rule_free_size(v, i));
        VTRN_RETURN_IF_ERROR(rule_no_broadcast(v, i));
        VTRN_RETURN_IF_ERROR(rule_partition_range(v, i));
        VTRN_RETURN_IF_ERROR(rule_range(v, i));
        VTRN_RETURN_IF_ERROR(rule_alignment(v, i));
        VTRN_RETURN_IF_ERROR(rule_writable(v, i));
    }
    return NULL;
}

static vtrn_status rule_engine(validation *v) {
    const vtrn_instr *instr = v->instr;
    if (instr->engine >= VTRN_ENGINE_COUNT)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "use Tensor, Vector, Scalar, GpSimd, Sync or CC",
                    "%s: engine number %u does not exist", v->info->mnemonic, instr->engine);
    const char *letter = v->info->engines;
    while (*letter && *letter != engine_letters[instr->engine])
        letter++;
    if (!*letter)
        RULE_BROKEN(v, VTRN_UNDEFINED, "issue it on an engine that docs/isa.md lists for it",
                    "%s: %s does not have this instruction", v->info->mnemonic,
                    isa_engine_name(instr->engine));
    /* NeuronCore-v1's instructions were never published: assumed to be those of v2. */
    if (v->chip->gen < v->info->min_gen && !(v->chip->gen == 1 && v->info->min_gen == 2))
        RULE_BROKEN(v, VTRN_UNSUPPORTED, "use another instruction or a newer chip",
                    "%s: needs NeuronCore-v%d, %s is v%d", v->info->mnemonic, v->info->min_gen,
                    v->chip->name, v->chip->gen);
    return NULL;
}

static vtrn_status rule_semaphores(validation *v) {
    const vtrn_instr *instr = v->instr;
    int n = v->chip->n_semaphores;
    if (instr->n_waits > VTRN_MAX_WAITS)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "put an event_semaphore in front", "%s: %u waits > %d",
                    v->info->mnemonic, instr->n_waits, VTRN_MAX_WAITS);
    for (int w = 0; w < instr->n_waits; w++)
        if (instr->wait[w].semaphore >= n)
            RULE_BROKEN(v, VTRN_CAPACITY, "use a semaphore with a smaller number",
                        "%s: waits for semaphore %u; a core of %s has %d", v->info->mnemonic,
                        instr->wait[w].semaphore, v->chip->name, n);
    if (instr->update_semaphore != VTRN_NO_SEMAPHORE && instr->update_semaphore >= n)
        RULE_BROKEN(v, VTRN_CAPACITY, "use a semaphore with a smaller number",
                    "%s: raises semaphore %u; a core of %s has %d", v->info->mnemonic,
                    instr->update_semaphore, v->chip->name, n);
    return NULL;
}

static vtrn_status rule_fields(validation *v) {
    const vtrn_instr *instr = v->instr;
    if (v->is_dma && instr->queue >= v->chip->n_dma_queues)
        RULE_BROKEN(v, VTRN_CAPACITY, "use a ring with a smaller number",
                    "%s: DMA ring %u; an engine of %s has %d", v->info->mnemonic, instr->queue,
                    v->chip->name, v->chip->n_dma_queues);
    if (instr->op0 >= VTRN_ALU_COUNT || instr->op1 >= VTRN_ALU_COUNT)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "use an operation of docs/isa.md",
                    "%s: ALU operation number %u does not exist", v->info->mnemonic,
                    instr->op0 >= VTRN_ALU_COUNT ? instr->op0 : instr->op1);
    if (instr->func >= VTRN_ACT_COUNT)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "use a function of docs/isa.md",
                    "%s: activation function number %u does not exist", v->info->mnemonic,
                    instr->func);
    uint32_t unknown = instr->flags & ~validate_legal_flags(instr->opcode);
    if (unknown)
        RULE_BROKEN(v, VTRN_UNDEFINED, "clear them",
                    "%s: flags 0x%x mean nothing to this instruction", v->info->mnemonic, unknown);
    if (v->program->n_sources && instr->source >= v->program->n_sources)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "name a source line of the program",
                    "%s: source %u; the program has %u", v->info->mnemonic, instr->source,
                    v->program->n_sources);
    return NULL;
}

static vtrn_status validate_instr(validation *v) {
    v->info = isa_op_info(v->instr->opcode);
    if (!v->info)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "use an instruction of docs/isa.md",
                    "opcode %u does not exist", v->instr->opcode);
    v->is_dma = isa_is_dma(v->instr->opcode);
    VTRN_RETURN_IF_ERROR(rule_engine(v));
    VTRN_RETURN_IF_ERROR(rule_semaphores(v));
    VTRN_RETURN_IF_ERROR(rule_fields(v));
    VTRN_RETURN_IF_ERROR(validate_operands(v));
    return validate_opcode(v);
}

/* Appends where the offender is and how to mend it. */
static vtrn_status blame(const validation *v, vtrn_status status) {
    uint32_t instr_i = (uint32_t)(v->instr - v->program->instrs);
    const char *op = "", *place = "";
    if (v->instr->source < v->program->n_sources) {
        const vtrn_source *s = &v->program->sources[v->instr->source];
        op = s->op ? s->op : "";
        place = s->place ? s->place : "";
    }
    return vtrn_status_annotate(status, "instruction %u (%s)%s%s%s%s%s%s", instr_i,
                                isa_engine_name(v->instr->engine), *op ? ", " : "", op,
                                *place ? " " : "", place, v->remedy ? "; " : "",
                                v->remedy ? v->remedy : "");
}

vtrn_status program_validate_lone(const vtrn_program *program, const vtrn_chip *chip,
                                  const vtrn_instr *instr, program_stationary *stationary) {
    validation v = {.program = program, .chip = chip, .instr = instr};
    if (stationary)
        v.stationary = *stationary;
    vtrn_status status = validate_instr(&v);
    if (stationary && !status)
        *stationary = v.stationary;
    return status && v.remedy ? vtrn_status_annotate(status, " (%s)", v.remedy) : status;
}

vtrn_status program_validate_instr(const vtrn_program *program, const vtrn_chip *chip,
                                   uint32_t instr_i) {
    if (instr_i >= program->n_instrs)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "program: instruction %u; it has %u", instr_i,
                          program->n_instrs);
    validation v = {.program = program, .chip = chip, .instr = &program->instrs[instr_i]};
    vtrn_status status = validate_instr(&v);
    return status ? blame(&v, status) : NULL;
}

static vtrn_status validate_slot(const vtrn_program *p, uint32_t i) {
    const vtrn_slot *s = &p->slots[i];
    if (s->kind > VTRN_SLOT_RANK || s->dtype >= VTRN_DTYPE_COUNT)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "slot %u: kind %u or dtype %u does not exist", i,
                          s->kind, s->dtype);
    if (s->kind == VTRN_SLOT_ARGUMENT || s->kind == VTRN_SLOT_OUTPUT) {
        uint32_t n = s->kind == VTRN_SLOT_ARGUMENT ? p->n_arguments : p->n_outputs;
        if (s->index < 0 || (uint32_t)s->index >= n)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "slot %u: %s %d; the program has %u", i,
                              s->kind == VTRN_SLOT_ARGUMENT ? "argument" : "output", s->index, n);
        return NULL;
    }
    if (s->kind == VTRN_SLOT_RANK) {
        if (s->index < 0 || s->index >= VTRN_RANK_WORDS || s->size_bytes != sizeof(uint32_t))
            return VTRN_ERROR(
                VTRN_BAD_ARGUMENT,
                "slot %u: word %d of a rank, %llu bytes; there are 0 (partition) and 1 "
                "(replica), of 4 bytes",
                i, s->index, (unsigned long long)s->size_bytes);
        return NULL;
    }
    bool is_constant = s->kind == VTRN_SLOT_CONSTANT;
    uint64_t size = is_constant ? p->data_size : p->scratch_size;
    if (s->offset % 64)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "slot %u: offset %llu is no multiple of 64", i,
                          (unsigned long long)s->offset);
    if (s->offset > size || s->size_bytes > size - s->offset)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "slot %u: %llu bytes at %llu do not fit the %llu bytes of %s", i,
                          (unsigned long long)s->size_bytes, (unsigned long long)s->offset,
                          (unsigned long long)size, is_constant ? "constants" : "scratch memory");
    return NULL;
}

/* Whether the last element of a pattern of runs is within n elements. */
static bool runs_fit(const vtrn_exchange *x, uint64_t places, uint64_t place,
                     const uint64_t step[2], uint64_t n) {
    uint64_t end = x->run, reach;
    const uint64_t counts[] = {places, x->n[0], x->n[1]}, steps[] = {place, step[0], step[1]};
    for (int i = 0; i < 3; i++)
        if (__builtin_mul_overflow(counts[i] - 1, steps[i], &reach) ||
            __builtin_add_overflow(end, reach, &end))
            return false;
    return end <= n;
}

static vtrn_status validate_exchange(const vtrn_program *p, const vtrn_custom *custom, uint32_t i) {
    const vtrn_collective *c = custom->collective;
    const vtrn_exchange *x = &c->exchanges[i];
    bool is_gather = c->kind == VTRN_COLLECTIVE_ALL_GATHER || c->kind == VTRN_COLLECTIVE_ALL_TO_ALL;
    bool is_scatter =
        c->kind == VTRN_COLLECTIVE_REDUCE_SCATTER || c->kind == VTRN_COLLECTIVE_ALL_TO_ALL;
    uint64_t size = dtype_size((vtrn_dtype)x->dtype), part, all;
    if (!size)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "operand %u: dtype number %u does not exist", i,
                          x->dtype);
    uint64_t from = p->slots[custom->slots[i]].size_bytes / size;
    uint64_t to = p->slots[custom->slots[custom->n_inputs + i]].size_bytes / size;
    if (__builtin_mul_overflow(x->n[0], x->n[1], &part) ||
        __builtin_mul_overflow(part, x->run, &part) ||
        __builtin_mul_overflow(part, is_gather ? c->group_size : 1, &all))
        all = UINT64_MAX;
    if (all == 0 && to == 0)
        return NULL;
    if (all != to || !all)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "operand %u: the parts of a result have %llu elements, slot %u has %llu",
                          i, (unsigned long long)all, custom->slots[custom->n_inputs + i],
                          (unsigned long long)to);
    if (!runs_fit(x, is_scatter ? c->group_size : 1, x->from_place, x->from_step, from) ||
        !runs_fit(x, is_gather ? c->group_size : 1, x->to_place, x->to_step, to))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "operand %u: a part is outside of slot %u or %u", i,
                          custom->slots[i], custom->slots[custom->n_inputs + i]);
    return NULL;
}

/* Every rank in one group at most; of pairs, once a source and once a target. */
static vtrn_status validate_groups(const vtrn_collective *c, uint64_t n_ranks) {
    bool is_permute = c->kind == VTRN_COLLECTIVE_PERMUTE;
    bool needs_full = c->kind != VTRN_COLLECTIVE_ALL_REDUCE && c->kind != VTRN_COLLECTIVE_BROADCAST;
    uint8_t *seen = calloc(n_ranks + 1, 1);
    if (!seen)
        return VTRN_OUT_OF_MEMORY(n_ranks);
    vtrn_status status = NULL;
    for (size_t i = 0; i < (size_t)c->n_groups * c->group_size && !status; i++) {
        int32_t rank = c->groups[i];
        uint8_t role = is_permute && i % 2 ? 2 : 1;
        if (rank == -1 && !needs_full && i % c->group_size)
            continue;
        if (rank < 0 || (uint64_t)rank >= n_ranks)
            status =
                VTRN_ERROR(VTRN_BAD_ARGUMENT,
                           "group %zu has rank %d; there are 0..%llu, and groups of %s are full",
                           i / c->group_size, rank, (unsigned long long)n_ranks - 1,
                           collective_kind_name(c->kind));
        else if (seen[rank] & role)
            status = VTRN_ERROR(VTRN_BAD_ARGUMENT,
                                "rank %d is twice in the groups, the second time in %zu", rank,
                                i / c->group_size);
        else
            seen[rank] |= role;
    }
    for (uint64_t rank = 0; rank < n_ranks && !status; rank++)
        if (!seen[rank] && !is_permute && c->kind != VTRN_COLLECTIVE_BROADCAST)
            status = VTRN_ERROR(VTRN_BAD_ARGUMENT, "no group has rank %llu of %llu",
                                (unsigned long long)rank, (unsigned long long)n_ranks);
    free(seen);
    return status;
}

/* Whether the slots share memory, in part or whole. */
static bool share_memory(const vtrn_program *p, uint32_t a, uint32_t b) {
    const vtrn_slot *x = &p->slots[a], *y = &p->slots[b];
    if (x->kind == VTRN_SLOT_SCRATCH && y->kind == VTRN_SLOT_SCRATCH)
        return x->offset < y->offset + y->size_bytes && y->offset < x->offset + x->size_bytes;
    if (x->kind == y->kind)
        return x->kind == VTRN_SLOT_ARGUMENT || x->kind == VTRN_SLOT_OUTPUT ? x->index == y->index
                                                                            : a == b;
    const vtrn_slot *output = x->kind == VTRN_SLOT_OUTPUT ? x : y;
    const vtrn_slot *argument = output == x ? y : x;
    return output->kind == VTRN_SLOT_OUTPUT && argument->kind == VTRN_SLOT_ARGUMENT &&
           p->output_alias && p->output_alias[output->index] == argument->index;
}

/* Members read operands while others write results: only where each element is read by all before
 * it is written may they be one. */
static vtrn_status validate_places(const vtrn_program *p, const vtrn_custom *custom) {
    for (uint32_t i = 0; i < custom->n_inputs; i++)
        for (uint32_t o = 0; o < custom->n_outputs; o++) {
            uint32_t in = custom->slots[i], out = custom->slots[custom->n_inputs + o];
            bool is_in_place = i == o && custom->collective->kind == VTRN_COLLECTIVE_ALL_REDUCE;
            if (!is_in_place && p->slots[in].size_bytes && p->slots[out].size_bytes &&
                share_memory(p, in, out))
                return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                                  "operand %u (slot %u) and result %u (slot %u) share memory; give "
                                  "the result its own",
                                  i, in, o, out);
        }
    return NULL;
}

static vtrn_status validate_collective(const vtrn_program *p, const vtrn_custom *custom) {
    const vtrn_collective *c = custom->collective;
    bool reduces =
        c->kind == VTRN_COLLECTIVE_ALL_REDUCE || c->kind == VTRN_COLLECTIVE_REDUCE_SCATTER;
    if (c->kind >= VTRN_COLLECTIVE_KINDS || c->reducer >= VTRN_REDUCERS ||
        reduces != (c->reducer != VTRN_REDUCER_NONE))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "kind %u with reducer %u does not exist", c->kind,
                          c->reducer);
    if (custom->n_inputs != custom->n_outputs || !custom->n_inputs)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%u operands for %u results", custom->n_inputs,
                          custom->n_outputs);
    if (c->reducer == VTRN_REDUCER_CUSTOM && custom->n_inputs != 1)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "a custom reducer of %u operands; give each its own collective",
                          custom->n_inputs);
    for (uint32_t i = 0; reduces && i < custom->n_inputs; i++)
        if (c->reducer != VTRN_REDUCER_CUSTOM &&
            !collective_reduces((vtrn_dtype)c->exchanges[i].dtype, c->reducer))
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "operand %u: cores do not reduce %s by %s", i,
                              dtype_name((vtrn_dtype)c->exchanges[i].dtype),
                              reducer_name(c->reducer));
    if ((c->n_groups && (c->group_size < 1 || c->group_size > 2 * MAX_RANKS)) ||
        (c->kind == VTRN_COLLECTIVE_PERMUTE && c->group_size != 2 && c->n_groups))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%u groups of %u", c->n_groups, c->group_size);
    VTRN_RETURN_IF_ERROR(validate_groups(c, program_n_ranks(p)));
    for (uint32_t i = 0; i < custom->n_inputs; i++)
        VTRN_RETURN_IF_ERROR(validate_exchange(p, custom, i));
    return validate_places(p, custom);
}

static vtrn_status validate_tables(const vtrn_program *p) {
    if (program_n_ranks(p) > MAX_RANKS)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "%u replicas of %u partitions; at most %d ranks",
                          p->n_replicas, p->n_partitions, MAX_RANKS);
    for (uint32_t i = 0; i < p->n_outputs; i++)
        if (p->output_alias &&
            (p->output_alias[i] < -1 ||
             (p->output_alias[i] >= 0 && (uint32_t)p->output_alias[i] >= p->n_arguments)))
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "output %u: aliases argument %d; the program has %u", i,
                              p->output_alias[i], p->n_arguments);
    for (uint32_t i = 0; i < p->n_slots; i++)
        VTRN_RETURN_IF_ERROR(validate_slot(p, i));
    for (uint32_t i = 0; i < p->n_customs; i++) {
        const vtrn_custom *c = &p->customs[i];
        uint64_t n = (uint64_t)c->n_inputs + c->n_outputs;
        for (uint64_t s = 0; s < n; s++)
            if (c->slots[s] >= p->n_slots)
                return VTRN_ERROR(VTRN_BAD_ARGUMENT, "custom %u (%s): slot %u; the program has %u",
                                  i, c->name, c->slots[s], p->n_slots);
        vtrn_status status = c->collective ? validate_collective(p, c) : NULL;
        if (status)
            return vtrn_status_annotate(status, "collective of custom %u (%s)", i, c->name);
    }
    return NULL;
}

static vtrn_status validate_block_end(const vtrn_program *p, uint32_t block_i) {
    const vtrn_block *b = &p->blocks[block_i];
    if (b->end > VTRN_END_SWITCH)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "block %u: end number %u does not exist", block_i,
                          b->end);
    int n_next = b->end == VTRN_END_JUMP ? 1 : b->end == VTRN_END_BRANCH ? 2 : 0;
    uint32_t n_targets = b->end == VTRN_END_SWITCH ? b->n_targets : 0;
    if (b->end == VTRN_END_SWITCH && n_targets == 0)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "block %u: a switch without targets", block_i);
    for (uint32_t i = 0; i < n_next + n_targets; i++) {
        uint32_t target = n_targets ? b->targets[i] : b->next[i];
        if (target >= p->n_blocks)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT, "block %u: goes to block %u; the program has %u",
                              block_i, target, p->n_blocks);
    }
    if (b->end != VTRN_END_BRANCH && b->end != VTRN_END_SWITCH)
        return NULL;
    if (b->cond_slot >= p->n_slots)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "block %u: condition in slot %u; the program has %u",
                          block_i, b->cond_slot, p->n_slots);
    uint64_t size = p->slots[b->cond_slot].size_bytes;
    if (b->cond_addr < 0 || b->cond_addr % 4 || size < 4 || (uint64_t)b->cond_addr > size - 4)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "block %u: condition at byte %lld of slot %u, which has %llu", block_i,
                          (long long)b->cond_addr, b->cond_slot, (unsigned long long)size);
    return NULL;
}

/* Streams: inside the instruction list, and in all no longer than it (none is shared). */
static vtrn_status validate_streams(const vtrn_program *p) {
    uint64_t total = 0;
    for (uint32_t b = 0; b < p->n_blocks; b++)
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++) {
            uint64_t first = p->blocks[b].first[e], count = p->blocks[b].count[e];
            total += count;
            if (count && first + count > p->n_instrs)
                return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                                  "block %u: the %s stream ends at instruction %llu; the program "
                                  "has %u",
                                  b, isa_engine_name(e), (unsigned long long)(first + count),
                                  p->n_instrs);
        }
    if (total > p->n_instrs)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "blocks: their streams hold %llu instructions, the program has %u: "
                          "streams share instructions",
                          (unsigned long long)total, p->n_instrs);
    return NULL;
}

static vtrn_status validate_queue(const vtrn_program *p, uint32_t block_i, int engine,
                                  uint32_t instr_i) {
    if (p->instrs[instr_i].engine == engine)
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "an instruction of %s in the stream of %s\n  at instruction %u, block %u",
                      isa_engine_name(p->instrs[instr_i].engine), isa_engine_name(engine), instr_i,
                      block_i);
}

static vtrn_status validate_stream(validation *v, uint32_t block_i, int engine) {
    const vtrn_block *b = &v->program->blocks[block_i];
    v->stationary.k = 0; /* what another block left in the PE array is not known here */
    for (uint32_t i = b->first[engine]; i < b->first[engine] + b->count[engine]; i++) {
        VTRN_RETURN_IF_ERROR(validate_queue(v->program, block_i, engine, i));
        v->instr = &v->program->instrs[i];
        isa_ask_ahead(v->instr);
        vtrn_status status = validate_instr(v);
        if (status)
            return blame(v, status);
    }
    return NULL;
}

/* Slots that instructions may write: outputs, scratch, and arguments that an output aliases. */
static uint8_t *find_writable(const vtrn_program *p) {
    uint8_t *is_argument_open = calloc((size_t)p->n_arguments + 1, 1);
    uint8_t *is_writable = calloc((size_t)p->n_slots + 1, 1);
    if (!is_argument_open || !is_writable) {
        free(is_argument_open);
        free(is_writable);
        return NULL;
    }
    for (uint32_t i = 0; i < p->n_outputs; i++)
        if (p->output_alias && p->output_alias[i] >= 0)
            is_argument_open[p->output_alias[i]] = 1;
    for (uint32_t i = 0; i < p->n_slots; i++) {
        const vtrn_slot *s = &p->slots[i];
        is_writable[i] = s->kind == VTRN_SLOT_ARGUMENT
                             ? is_argument_open[s->index]
                             : s->kind != VTRN_SLOT_CONSTANT && s->kind != VTRN_SLOT_RANK;
    }
    free(is_argument_open);
    return is_writable;
}

/* Numbers of an instruction that index tables; what a walk over any program relies on. */
static vtrn_status validate_encoding(const vtrn_program *p, uint32_t instr_i) {
    const vtrn_instr *instr = &p->instrs[instr_i];
    const vtrn_op_info *info = isa_op_info(instr->opcode);
    bool is_bad = !info || instr->n_waits > VTRN_MAX_WAITS || instr->op0 >= VTRN_ALU_COUNT ||
                  instr->op1 >= VTRN_ALU_COUNT || instr->func >= VTRN_ACT_COUNT;
    for (int i = 0; i < VTRN_MAX_AP && !is_bad; i++) {
        const vtrn_ap *ap = &instr->ap[i];
        bool is_memory = ap->space != VTRN_SPACE_NONE;
        is_bad = ap->space > VTRN_SPACE_HBM || ap->n_dims > VTRN_MAX_FREE_DIMS ||
                 (is_memory && (ap->dtype >= VTRN_DTYPE_COUNT || is_no_memory(info->roles[i])));
    }
    if (!is_bad)
        return NULL;
    return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                      "%s: a number beyond its table, or an operand that it does not take\n  at "
                      "instruction %u",
                      info ? info->mnemonic : "unknown opcode", instr_i);
}

/* Everything but the instructions. */
static vtrn_status validate_frame(const vtrn_program *p) {
    if (p->n_blocks == 0)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "program: it has no block to start at");
    if (p->n_arguments > MAX_ARGUMENTS || p->n_outputs > MAX_ARGUMENTS)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "program: %u arguments, %u outputs; at most %d",
                          p->n_arguments, p->n_outputs, MAX_ARGUMENTS);
    VTRN_RETURN_IF_ERROR(validate_tables(p));
    VTRN_RETURN_IF_ERROR(validate_streams(p));
    for (uint32_t b = 0; b < p->n_blocks; b++)
        VTRN_RETURN_IF_ERROR(validate_block_end(p, b));
    return NULL;
}

static vtrn_status validate_structure(const vtrn_program *p) {
    VTRN_RETURN_IF_ERROR(validate_frame(p));
    for (uint32_t b = 0; b < p->n_blocks; b++)
        for (int e = 0; e < VTRN_ENGINE_COUNT; e++)
            for (uint32_t i = 0; i < p->blocks[b].count[e]; i++) {
                VTRN_RETURN_IF_ERROR(validate_queue(p, b, e, p->blocks[b].first[e] + i));
                VTRN_RETURN_IF_ERROR(validate_encoding(p, p->blocks[b].first[e] + i));
            }
    return NULL;
}

/* Consumes the status. */
static vtrn_status advise(vtrn_status status) {
    return vtrn_status_annotate(status, " correct the program's text, or compile it again");
}

vtrn_status program_validate_structure(const vtrn_program *p) {
    return advise(validate_structure(p));
}

vtrn_status program_validate(const vtrn_program *p, const vtrn_chip *chip) {
    if (p->gen != chip->gen)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "program: made for NeuronCore-v%u, %s has v%d; compile it again for this "
                          "chip, or choose its own with VTRN_CHIP",
                          p->gen, chip->name, chip->gen);
    VTRN_RETURN_IF_ERROR(advise(validate_frame(p)));
    uint8_t *is_writable = find_writable(p);
    if (!is_writable)
        return VTRN_OUT_OF_MEMORY((size_t)p->n_slots + 1);
    validation v = {.program = p, .chip = chip, .is_writable = is_writable};
    vtrn_status status = NULL;
    for (uint32_t b = 0; b < p->n_blocks && !status; b++)
        for (int e = 0; e < VTRN_ENGINE_COUNT && !status; e++)
            status = validate_stream(&v, b, e);
    free(is_writable);
    return status;
}
