/* The validator's rules by opcode: shapes, dtypes, operations. A rule is a small function. */
#include "isa/validate_rules.h"

#include <string.h>

static bool is_absent(const validation *v, int i) {
    return v->instr->ap[i].space == VTRN_SPACE_NONE;
}

/* Equal rows and equal elements a row. */
vtrn_status validate_same_shape(validation *v, int a, int b) {
    if (AP(a)->n_partitions != AP(b)->n_partitions)
        RULE_BROKEN(v, VTRN_UNDEFINED, "give both as many partitions",
                    "%s: ap%d has %u partitions, ap%d has %u", NAME, a, AP(a)->n_partitions, b,
                    AP(b)->n_partitions);
    if (FREE(a) != FREE(b))
        RULE_BROKEN(v, VTRN_UNDEFINED, "give both as many elements a partition",
                    "%s: ap%d has %llu elements a partition, ap%d has %llu", NAME, a,
                    (unsigned long long)FREE(a), b, (unsigned long long)FREE(b));
    return NULL;
}

/* ap0[F, P] against ap1[P, F]. */
vtrn_status validate_transposed_shape(validation *v, unsigned limit) {
    if (AP(0)->n_partitions != FREE(1) || FREE(0) != AP(1)->n_partitions)
        RULE_BROKEN(v, VTRN_UNDEFINED, "swap partitions and elements of ap0",
                    "%s: ap0 [%u, %llu] is not the transpose of ap1 [%u, %llu]", NAME,
                    AP(0)->n_partitions, (unsigned long long)FREE(0), AP(1)->n_partitions,
                    (unsigned long long)FREE(1));
    if (FREE(0) > limit || FREE(1) > limit)
        RULE_BROKEN(v, VTRN_UNDEFINED, "transpose it in smaller tiles",
                    "%s: a tile of [%llu, %llu] > [%u, %u]", NAME, (unsigned long long)FREE(0),
                    (unsigned long long)FREE(1), limit, limit);
    return NULL;
}

vtrn_status validate_same_dtype(validation *v, int a, int b) {
    if (AP(a)->dtype != AP(b)->dtype)
        RULE_BROKEN(v, VTRN_UNDEFINED, "copy first, with a cast",
                    "%s: ap%d is %s, ap%d is %s: it moves bits and does not cast", NAME, a,
                    dtype_name(AP(a)->dtype), b, dtype_name(AP(b)->dtype));
    return NULL;
}

/* Two inputs of the Vector engine do not come from PSUM both. Source: docs/hardware.md, "Vector
 * engine". */
static vtrn_status not_both_psum(validation *v, int a, int b) {
    if (AP(a)->space == VTRN_SPACE_PSUM && AP(b)->space == VTRN_SPACE_PSUM)
        RULE_BROKEN(v, VTRN_UNDEFINED, "copy one of them to SBUF", "%s: ap%d and ap%d both in PSUM",
                    NAME, a, b);
    return NULL;
}

vtrn_status validate_free_size_is(validation *v, int i, uint64_t want) {
    if (FREE(i) != want)
        RULE_BROKEN(v, VTRN_UNDEFINED, "give the operand that many",
                    "%s: ap%d has %llu elements a partition, not %llu", NAME, i,
                    (unsigned long long)FREE(i), (unsigned long long)want);
    return NULL;
}

static vtrn_status free_size_within(validation *v, int i, uint64_t lo, uint64_t hi) {
    if (FREE(i) < lo || FREE(i) > hi)
        RULE_BROKEN(v, VTRN_UNDEFINED, FREE(i) < lo ? "pad the free axis" : "split the free axis",
                    "%s: ap%d has %llu elements a partition, outside %llu..%llu", NAME, i,
                    (unsigned long long)FREE(i), (unsigned long long)lo, (unsigned long long)hi);
    return NULL;
}

static vtrn_status wants_alu(validation *v, vtrn_alu op, const char *classes) {
    if (op == VTRN_ALU_NONE)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "name an ALU operation", "%s: no operation given", NAME);
    if (!strchr(classes, isa_alu_class(op)))
        RULE_BROKEN(v, VTRN_UNDEFINED, "use an operation that docs/isa.md allows here",
                    "%s: operation %s is not legal here", NAME, isa_alu_name(op));
    if (op == VTRN_ALU_POWER && v->instr->engine != VTRN_ENGINE_GPSIMD)
        RULE_BROKEN(v, VTRN_UNDEFINED, "issue it on GpSimd", "%s: only GpSimd has power", NAME);
    return NULL;
}

/* Raw-bit operations take integers of one width. Source: docs/hardware.md, "Vector engine" and "ALU
 * operations". */
static vtrn_status bits_are_integers(validation *v, vtrn_alu op, int a, int b) {
    if (isa_alu_class(op) != 'B')
        return NULL;
    for (int i = a; i <= b; i++) {
        if (is_absent(v, i))
            continue;
        if (dtype_is_float(AP(i)->dtype))
            RULE_BROKEN(v, VTRN_UNDEFINED, "name the bits as an integer type",
                        "%s: %s works on raw bits, ap%d is %s", NAME, isa_alu_name(op), i,
                        dtype_name(AP(i)->dtype));
        if (dtype_size(AP(i)->dtype) != dtype_size(AP(0)->dtype))
            RULE_BROKEN(v, VTRN_UNDEFINED, "use integers of one width",
                        "%s: %s works on raw bits, ap%d is %s but ap0 %s", NAME, isa_alu_name(op),
                        i, dtype_name(AP(i)->dtype), dtype_name(AP(0)->dtype));
    }
    return NULL;
}

/* A per-partition scalar [P, 1], when given. */
static vtrn_status scalar_operand(validation *v, int i) {
    if (is_absent(v, i))
        return NULL;
    if (AP(i)->n_partitions != AP(0)->n_partitions)
        RULE_BROKEN(v, VTRN_UNDEFINED, "give a scalar for each partition",
                    "%s: the scalar ap%d has %u partitions, ap0 has %u", NAME, i,
                    AP(i)->n_partitions, AP(0)->n_partitions);
    return validate_free_size_is(v, i, 1);
}

/* Scalars are fp32; raw-bit operations and integer data take integers. Source: docs/hardware.md,
 * "Vector engine"
 */
static vtrn_status scalar_dtype(validation *v, int i) {
    if (is_absent(v, i) || AP(i)->dtype == VTRN_DTYPE_FP32)
        return NULL;
    if (!dtype_is_float(AP(i)->dtype) && !dtype_is_float(AP(1)->dtype))
        return NULL;
    RULE_BROKEN(v, VTRN_UNDEFINED, "convert the scalar to fp32",
                "%s: the scalar ap%d is %s, not fp32", NAME, i, dtype_name(AP(i)->dtype));
}

static vtrn_status elementwise(validation *v) {
    return validate_same_shape(v, 0, 1);
}

static vtrn_status check_tensor_tensor(validation *v) {
    VTRN_RETURN_IF_ERROR(wants_alu(v, v->instr->op0, "ACB"));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 1));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 2));
    VTRN_RETURN_IF_ERROR(not_both_psum(v, 1, 2));
    return bits_are_integers(v, v->instr->op0, 0, 2);
}

/* Scalar has (multiply, add), multiply and add, from NeuronCore-v3. Source: docs/hardware.md,
 * "Vector engine" and "ALU operations"
 */
static vtrn_status scalar_engine_alu(validation *v) {
    if (v->instr->engine != VTRN_ENGINE_SCALAR)
        return NULL;
    if (v->chip->gen < 3)
        RULE_BROKEN(v, VTRN_UNSUPPORTED, "use activate with scale and bias, or Vector",
                    "%s: Scalar has it from NeuronCore-v3, %s is v%d", NAME, v->chip->name,
                    v->chip->gen);
    vtrn_alu a = v->instr->op0, b = v->instr->op1;
    if ((a == VTRN_ALU_MULTIPLY && (b == VTRN_ALU_ADD || b == VTRN_ALU_NONE)) ||
        (a == VTRN_ALU_ADD && b == VTRN_ALU_NONE))
        return NULL;
    RULE_BROKEN(v, VTRN_UNSUPPORTED, "use Vector",
                "%s: Scalar has (multiply, add), multiply and add, not (%s, %s)", NAME,
                isa_alu_name(a), isa_alu_name(b));
}

static vtrn_status check_tensor_scalar(validation *v) {
    vtrn_alu a = v->instr->op0, b = v->instr->op1;
    VTRN_RETURN_IF_ERROR(wants_alu(v, a, "ACB"));
    if (b != VTRN_ALU_NONE)
        VTRN_RETURN_IF_ERROR(wants_alu(v, b, "ACB"));
    if (b != VTRN_ALU_NONE && (isa_alu_class(a) == 'B') != (isa_alu_class(b) == 'B'))
        RULE_BROKEN(v, VTRN_UNDEFINED, "use two instructions",
                    "%s: %s and %s: both work on raw bits or neither", NAME, isa_alu_name(a),
                    isa_alu_name(b));
    VTRN_RETURN_IF_ERROR(scalar_engine_alu(v));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 1));
    for (int i = 2; i < 4; i++) {
        VTRN_RETURN_IF_ERROR(scalar_operand(v, i));
        VTRN_RETURN_IF_ERROR(scalar_dtype(v, i));
    }
    return bits_are_integers(v, a, 0, 3);
}

/* Its scalars may have any type. Source: nki.isa.scalar_tensor_tensor */
static vtrn_status check_scalar_tensor_tensor(validation *v) {
    VTRN_RETURN_IF_ERROR(wants_alu(v, v->instr->op0, "AC"));
    VTRN_RETURN_IF_ERROR(wants_alu(v, v->instr->op1, "AC"));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 1));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 3));
    VTRN_RETURN_IF_ERROR(not_both_psum(v, 1, 3));
    return scalar_operand(v, 2);
}

/* Source: docs/hardware.md, "ALU operations" */
static vtrn_status reduction_alu(validation *v) {
    switch ((vtrn_alu)v->instr->op0) {
    case VTRN_ALU_ADD:
    case VTRN_ALU_SUBTRACT:
    case VTRN_ALU_MULTIPLY:
    case VTRN_ALU_MAX:
    case VTRN_ALU_MIN:
    case VTRN_ALU_LOGICAL_AND:
    case VTRN_ALU_LOGICAL_OR:
    case VTRN_ALU_LOGICAL_XOR:
    case VTRN_ALU_BITWISE_AND:
    case VTRN_ALU_BITWISE_OR:
    case VTRN_ALU_BITWISE_XOR:
        return NULL;
    default:
        RULE_BROKEN(v, VTRN_UNDEFINED,
                    "use add, subtract, multiply, max, min or a logical or bitwise operation",
                    "%s: %s does not reduce", NAME, isa_alu_name(v->instr->op0));
    }
}

static vtrn_status check_tensor_reduce(validation *v) {
    VTRN_RETURN_IF_ERROR(reduction_alu(v));
    int n = v->instr->arg[0];
    if (n < 1 || n > AP(1)->n_dims)
        RULE_BROKEN(v, VTRN_UNDEFINED, "reduce 1 to all of the free dimensions",
                    "%s: reduces %d dimensions of %u", NAME, n, AP(1)->n_dims);
    uint64_t kept = 1;
    for (int d = 0; d < AP(1)->n_dims - n; d++)
        kept *= AP(1)->dim[d].num;
    VTRN_RETURN_IF_ERROR(validate_free_size_is(v, 0, kept));
    if (AP(0)->n_partitions != AP(1)->n_partitions)
        return validate_same_shape(v, 0, 1);
    return bits_are_integers(v, v->instr->op0, 0, 1);
}

/* Scalar copies from NeuronCore-v3. Source: docs/hardware.md, "Scalar engine" */
static vtrn_status check_tensor_copy(validation *v) {
    if (v->instr->engine == VTRN_ENGINE_SCALAR && v->chip->gen < 3)
        RULE_BROKEN(v, VTRN_UNSUPPORTED, "use activate with the function copy",
                    "%s: Scalar has it from NeuronCore-v3, %s is v%d", NAME, v->chip->name,
                    v->chip->gen);
    return validate_same_shape(v, 0, 1);
}

static vtrn_status check_copy_predicated(validation *v) {
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 1));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 2));
    VTRN_RETURN_IF_ERROR(validate_same_dtype(v, 0, 1));
    VTRN_RETURN_IF_ERROR(not_both_psum(v, 1, 2));
    if (dtype_is_float(AP(2)->dtype))
        RULE_BROKEN(v, VTRN_UNDEFINED, "compare into an integer type first",
                    "%s: the predicate ap2 is %s, not an integer", NAME, dtype_name(AP(2)->dtype));
    return NULL;
}

static vtrn_status check_scan(validation *v) {
    VTRN_RETURN_IF_ERROR(wants_alu(v, v->instr->op0, "AC"));
    VTRN_RETURN_IF_ERROR(wants_alu(v, v->instr->op1, "AC"));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 1));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 2));
    VTRN_RETURN_IF_ERROR(scalar_operand(v, 3));
    VTRN_RETURN_IF_ERROR(scalar_dtype(v, 3));
    return not_both_psum(v, 1, 2);
}

static vtrn_status check_transpose32(validation *v) {
    VTRN_RETURN_IF_ERROR(validate_same_dtype(v, 0, 1));
    return validate_transposed_shape(v, 32);
}

static vtrn_status check_stream_shuffle(validation *v) {
    for (int i = 0; i < 32; i++)
        if (v->instr->shuffle[i] >= 32 && v->instr->shuffle[i] != 255)
            RULE_BROKEN(v, VTRN_UNDEFINED, "use a partition 0..31, or 255 to keep",
                        "%s: mask[%d] is %u, neither 0..31 nor 255", NAME, i, v->instr->shuffle[i]);
    VTRN_RETURN_IF_ERROR(validate_same_dtype(v, 0, 1));
    for (int r = 0; r < AP(0)->n_partitions; r++) {
        int from = v->instr->shuffle[r % 32];
        if (from != 255 && r / 32 * 32 + from >= AP(1)->n_partitions)
            RULE_BROKEN(v, VTRN_UNDEFINED, "let the mask name partitions of ap1",
                        "%s: partition %d takes from %d; ap1 has %u", NAME, r, r / 32 * 32 + from,
                        AP(1)->n_partitions);
    }
    return validate_free_size_is(v, 0, FREE(1));
}

static vtrn_status same_rows(validation *v) {
    if (AP(0)->n_partitions != AP(1)->n_partitions)
        return validate_same_shape(v, 0, 1);
    return NULL;
}

static vtrn_status check_bn_stats(validation *v) {
    VTRN_RETURN_IF_ERROR(free_size_within(v, 1, 1, 512));
    VTRN_RETURN_IF_ERROR(validate_free_size_is(v, 0, 6));
    return same_rows(v);
}

static vtrn_status check_bn_aggr(validation *v) {
    if (FREE(1) % 3)
        RULE_BROKEN(v, VTRN_UNDEFINED,
                    "give count, mean and variance for each chunk, as bn_stats does",
                    "%s: ap1 has %llu elements a partition, not triples", NAME,
                    (unsigned long long)FREE(1));
    VTRN_RETURN_IF_ERROR(validate_free_size_is(v, 0, 2));
    return same_rows(v);
}

/* Source: docs/hardware.md, "Vector engine" */
static vtrn_status check_max8(validation *v) {
    VTRN_RETURN_IF_ERROR(free_size_within(v, 1, 8, 16384));
    VTRN_RETURN_IF_ERROR(validate_free_size_is(v, 0, 8));
    return same_rows(v);
}

static vtrn_status check_find_index8(validation *v) {
    VTRN_RETURN_IF_ERROR(free_size_within(v, 1, 8, 16384));
    VTRN_RETURN_IF_ERROR(validate_free_size_is(v, 2, 8));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 2));
    if (AP(0)->dtype != VTRN_DTYPE_UINT16 && AP(0)->dtype != VTRN_DTYPE_UINT32)
        RULE_BROKEN(v, VTRN_UNDEFINED, "make the result uint16 or uint32",
                    "%s: indices ap0 are %s, not uint16 or uint32", NAME, dtype_name(AP(0)->dtype));
    return same_rows(v);
}

static vtrn_status check_match_replace8(validation *v) {
    VTRN_RETURN_IF_ERROR(validate_free_size_is(v, 2, 8));
    if (AP(2)->n_partitions != AP(0)->n_partitions)
        return validate_same_shape(v, 0, 2);
    return validate_same_shape(v, 0, 1);
}

static vtrn_status reduces_to_registers(validation *v, const char *classes) {
    VTRN_RETURN_IF_ERROR(wants_alu(v, v->instr->op0, classes));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 1));
    VTRN_RETURN_IF_ERROR(scalar_operand(v, 2));
    return scalar_dtype(v, 2);
}

/* Source: nki.isa.tensor_scalar_reduce and tensor_scalar_cumulative, which subtracts too. */
static vtrn_status check_tensor_scalar_reduce(validation *v) {
    vtrn_alu op = v->instr->op1;
    bool is_cumulative = v->instr->opcode == VTRN_OP_TENSOR_SCALAR_CUMULATIVE;
    if (op != VTRN_ALU_ADD && op != VTRN_ALU_MULTIPLY && op != VTRN_ALU_MAX && op != VTRN_ALU_MIN &&
        !(is_cumulative && op == VTRN_ALU_SUBTRACT))
        RULE_BROKEN(v, VTRN_UNDEFINED, "use add, multiply, max or min", "%s: %s does not reduce",
                    NAME, isa_alu_name(op));
    return reduces_to_registers(v, "AC");
}

/* Source: nki.isa.range_select */
static vtrn_status check_range_select(validation *v) {
    VTRN_RETURN_IF_ERROR(wants_alu(v, v->instr->op0, "C"));
    VTRN_RETURN_IF_ERROR(wants_alu(v, v->instr->op1, "C"));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 1));
    if (!dtype_is_float(AP(1)->dtype))
        RULE_BROKEN(v, VTRN_UNDEFINED, "convert it to a float type", "%s: ap1 is %s, not a float",
                    NAME, dtype_name(AP(1)->dtype));
    for (int i = 2; i < 4; i++) {
        VTRN_RETURN_IF_ERROR(scalar_operand(v, i));
        VTRN_RETURN_IF_ERROR(scalar_dtype(v, i));
    }
    return NULL;
}

/* Source: nki.isa.select_reduce */
static vtrn_status check_select_reduce(validation *v) {
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 1));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 2));
    VTRN_RETURN_IF_ERROR(not_both_psum(v, 1, 2));
    VTRN_RETURN_IF_ERROR(scalar_operand(v, 3));
    if (dtype_is_float(AP(2)->dtype))
        RULE_BROKEN(v, VTRN_UNDEFINED, "compare into an integer type first",
                    "%s: the predicate ap2 is %s, not an integer", NAME, dtype_name(AP(2)->dtype));
    return scalar_dtype(v, 3);
}

static vtrn_status check_exponential(validation *v) {
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 1));
    VTRN_RETURN_IF_ERROR(scalar_operand(v, 2));
    return scalar_dtype(v, 2);
}

static vtrn_status check_vector_load(validation *v) {
    return validate_free_size_is(v, 1, 1);
}

/* Source: nki.isa.nc_n_gather */
static vtrn_status check_n_gather(validation *v) {
    VTRN_RETURN_IF_ERROR(validate_same_dtype(v, 0, 1));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 2));
    if (AP(2)->dtype != VTRN_DTYPE_UINT32)
        RULE_BROKEN(v, VTRN_UNDEFINED, "convert the indices to uint32", "%s: indices ap2 are %s",
                    NAME, dtype_name(AP(2)->dtype));
    if (AP(0)->n_partitions != AP(1)->n_partitions)
        return validate_same_shape(v, 0, 1);
    return NULL;
}

enum { GPSIMD_CORE_PARTITIONS = 16 }; /* Source: docs/hardware.md, "GpSimd" */

/* Source: nki.isa.local_gather */
static vtrn_status check_local_gather(validation *v) {
    int64_t run = v->instr->arg[0], n = v->instr->arg[1];
    VTRN_RETURN_IF_ERROR(validate_same_dtype(v, 0, 1));
    if (AP(2)->dtype != VTRN_DTYPE_UINT16)
        RULE_BROKEN(v, VTRN_UNDEFINED, "convert the indices to uint16", "%s: indices ap2 are %s",
                    NAME, dtype_name(AP(2)->dtype));
    if (AP(0)->n_partitions != AP(1)->n_partitions || AP(0)->n_partitions != AP(2)->n_partitions ||
        AP(0)->n_partitions % GPSIMD_CORE_PARTITIONS)
        RULE_BROKEN(v, VTRN_UNDEFINED, "give all operands as many partitions, a multiple of 16",
                    "%s: %u, %u and %u partitions", NAME, AP(0)->n_partitions, AP(1)->n_partitions,
                    AP(2)->n_partitions);
    if (run < 1 || run > 32 || (run & (run - 1)))
        RULE_BROKEN(v, VTRN_UNDEFINED, "use 1, 2, 4, 8, 16 or 32", "%s: %lld elements an index",
                    NAME, (long long)run);
    if (n < 1 || n > 4096 || (uint64_t)n > FREE(2) * GPSIMD_CORE_PARTITIONS)
        RULE_BROKEN(v, VTRN_UNDEFINED, "give 16 partitions as many indices, and 4096 at most",
                    "%s: %lld indices a core, whose 16 partitions hold %llu", NAME, (long long)n,
                    (unsigned long long)FREE(2) * GPSIMD_CORE_PARTITIONS);
    return validate_free_size_is(v, 0, (uint64_t)(n * run));
}

/* Source: nki.isa.nonzero_with_count */
static vtrn_status check_nonzero(validation *v) {
    if (AP(0)->dtype != VTRN_DTYPE_INT32 ||
        (AP(1)->dtype != VTRN_DTYPE_INT32 && AP(1)->dtype != VTRN_DTYPE_FP32))
        RULE_BROKEN(v, VTRN_UNDEFINED, "use int32 from fp32 or int32", "%s: ap0 is %s, ap1 is %s",
                    NAME, dtype_name(AP(0)->dtype), dtype_name(AP(1)->dtype));
    if (AP(0)->n_partitions != AP(1)->n_partitions)
        return validate_same_shape(v, 0, 1);
    return validate_free_size_is(v, 0, FREE(1) + 1);
}

static vtrn_status check_set_rng_seed(validation *v) {
    if (AP(1)->n_partitions != 1 || FREE(1) != 1 || dtype_size(AP(1)->dtype) != 4)
        RULE_BROKEN(v, VTRN_UNDEFINED, "give one partition with one int32 or uint32",
                    "%s: the seed ap1 is one 32-bit element", NAME);
    return NULL;
}

static vtrn_status check_rng(validation *v) {
    if (v->instr->engine == VTRN_ENGINE_GPSIMD && v->chip->gen < 3)
        RULE_BROKEN(v, VTRN_UNSUPPORTED, "use Vector",
                    "%s: GpSimd has it from NeuronCore-v3, %s is v%d", NAME, v->chip->name,
                    v->chip->gen);
    if (!dtype_is_int(AP(0)->dtype))
        RULE_BROKEN(v, VTRN_UNDEFINED, "make the result an integer",
                    "%s: ap0 is %s, not an integer", NAME, dtype_name(AP(0)->dtype));
    return NULL;
}

/* Source: nki.isa.rand_set_state, rand_get_state. i: number of the operand. */
static vtrn_status check_rand_state(validation *v, int i) {
    bool is_vector = v->instr->engine == VTRN_ENGINE_VECTOR;
    uint64_t n = is_vector ? 24 : 6;
    if (is_vector && v->chip->gen < 4)
        RULE_BROKEN(v, VTRN_UNSUPPORTED, "use GpSimd",
                    "%s: Vector has it from NeuronCore-v4, %s is v%d", NAME, v->chip->name,
                    v->chip->gen);
    if (AP(i)->dtype != VTRN_DTYPE_UINT32)
        RULE_BROKEN(v, VTRN_UNDEFINED, "use uint32", "%s: ap%d is %s, and a state uint32", NAME, i,
                    dtype_name(AP(i)->dtype));
    return validate_free_size_is(v, i, n);
}

static vtrn_status check_rand_set_state(validation *v) {
    if (AP(1)->space != VTRN_SPACE_SBUF)
        RULE_BROKEN(v, VTRN_UNDEFINED, "copy it to SBUF", "%s: ap1 is not in SBUF", NAME);
    return check_rand_state(v, 1);
}

static vtrn_status check_rand_get_state(validation *v) {
    return check_rand_state(v, 0);
}

static vtrn_status check_dropout(validation *v) {
    VTRN_RETURN_IF_ERROR(scalar_operand(v, 2));
    VTRN_RETURN_IF_ERROR(scalar_dtype(v, 2));
    return validate_same_shape(v, 0, 1);
}

/* Source: docs/hardware.md, "Scalar engine": scale fp32, bias anything but tf32; on v2 a bias is a
 * tensor. */
static vtrn_status check_activate(validation *v) {
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 1));
    VTRN_RETURN_IF_ERROR(scalar_operand(v, 2));
    VTRN_RETURN_IF_ERROR(scalar_operand(v, 3));
    if (!is_absent(v, 2) && AP(2)->dtype != VTRN_DTYPE_FP32)
        RULE_BROKEN(v, VTRN_UNDEFINED, "convert the scale to fp32",
                    "%s: the scale ap2 is %s, not fp32", NAME, dtype_name(AP(2)->dtype));
    if (!is_absent(v, 3) && AP(3)->dtype == VTRN_DTYPE_TF32)
        RULE_BROKEN(v, VTRN_UNDEFINED, "convert the bias to fp32", "%s: the bias ap3 is tf32",
                    NAME);
    if (is_absent(v, 3) && v->chip->gen < 3 && v->instr->imm[1].f != 0)
        RULE_BROKEN(v, VTRN_UNSUPPORTED, "put the bias into a [P, 1] tensor",
                    "%s: an immediate bias of %g needs NeuronCore-v3, %s is v%d", NAME,
                    (double)v->instr->imm[1].f, v->chip->name, v->chip->gen);
    return NULL;
}

static vtrn_status check_act_read(validation *v) {
    return validate_free_size_is(v, 0, 1);
}

static vtrn_status check_act_table_load(validation *v) {
    int n_sets = 0;
    for (int f = 0; f < VTRN_ACT_COUNT; f++)
        n_sets = isa_act_table_set(f) >= n_sets ? isa_act_table_set(f) + 1 : n_sets;
    if (v->instr->arg[0] < 0 || v->instr->arg[0] >= n_sets)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "use the set of a function of docs/isa.md",
                    "%s: table set %d; there are %d", NAME, v->instr->arg[0], n_sets);
    return NULL;
}

static vtrn_status pattern_fits(validation *v) {
    if (FREE(3) != FREE(0))
        RULE_BROKEN(v, VTRN_UNDEFINED, "let the pattern count the elements of ap0",
                    "%s: the pattern ap3 has %llu elements, a partition of ap0 %llu", NAME,
                    (unsigned long long)FREE(3), (unsigned long long)FREE(0));
    return NULL;
}

static vtrn_status check_affine_select(validation *v) {
    VTRN_RETURN_IF_ERROR(wants_alu(v, v->instr->op0, "C"));
    VTRN_RETURN_IF_ERROR(validate_same_shape(v, 0, 1));
    return pattern_fits(v);
}

/* Source: docs/hardware.md, "ALU operations" */
static vtrn_status check_partition_reduce(validation *v) {
    vtrn_alu op = v->instr->op0;
    if (op != VTRN_ALU_ADD && op != VTRN_ALU_MAX && op != VTRN_ALU_BITWISE_OR &&
        op != VTRN_ALU_BITWISE_AND)
        RULE_BROKEN(v, VTRN_UNDEFINED, "reduce over the free axis after a transpose",
                    "%s: %s; it has add, max, bitwise_or, bitwise_and", NAME, isa_alu_name(op));
    if (AP(0)->n_partitions != 1)
        RULE_BROKEN(v, VTRN_UNDEFINED, "write the result to one partition",
                    "%s: ap0 has %u partitions, not 1", NAME, AP(0)->n_partitions);
    VTRN_RETURN_IF_ERROR(validate_free_size_is(v, 0, FREE(1)));
    return bits_are_integers(v, op, 0, 1);
}

static vtrn_status check_custom_op(validation *v) {
    int32_t i = v->instr->arg[0];
    if (i < 0 || (uint32_t)i >= v->program->n_customs)
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "name a custom op of the program",
                    "%s: number %d; the program has %u", NAME, i, v->program->n_customs);
    const vtrn_custom *custom = &v->program->customs[i];
    if ((custom->collective != NULL) != (v->instr->opcode == VTRN_OP_COLLECTIVE))
        RULE_BROKEN(v, VTRN_BAD_ARGUMENT, "run a collective by collective, all else by custom_op",
                    "%s: number %d is %s collective", NAME, i, custom->collective ? "a" : "no");
    for (uint32_t k = 0; k < custom->n_outputs; k++) {
        uint32_t slot = custom->slots[custom->n_inputs + k];
        bool is_writable = v->is_writable ? v->is_writable[slot]
                                          : v->program->slots[slot].kind != VTRN_SLOT_CONSTANT;
        if (!is_writable)
            RULE_BROKEN(v, VTRN_UNDEFINED, "write to an output or scratch slot",
                        "%s: %s: output %u: slot %u is read only (a constant, or an argument that "
                        "no output aliases)",
                        NAME, custom->name, k, slot);
    }
    return NULL;
}

static vtrn_status castable(validation *v, int a, int b) {
    vtrn_dtype s = AP(a)->dtype, t = AP(b)->dtype;
    bool moves_only = dtype_is_complex(s) || dtype_is_complex(t) || dtype_has_no_format(s) ||
                      dtype_has_no_format(t);
    if (s == t ? !(moves_only && (v->instr->flags & VTRN_FLAG_ACCUMULATE)) : !moves_only)
        return NULL;
    RULE_BROKEN(v, VTRN_UNDEFINED, "copy between equal types",
                "%s: %s and %s: complex numbers and types that no engine has move uncast", NAME,
                dtype_name(s), dtype_name(t));
}

static vtrn_status check_dma_copy(validation *v) {
    VTRN_RETURN_IF_ERROR(castable(v, 0, 1));
    int hbm = AP(0)->space == VTRN_SPACE_HBM ? 0 : 1;
    if (AP(hbm)->space != VTRN_SPACE_HBM || AP(!hbm)->space != VTRN_SPACE_SBUF ||
        AP(hbm)->n_partitions >= AP(!hbm)->n_partitions)
        return validate_same_shape(v, 0, 1);
    if (isa_ap_row_dims(AP(hbm), AP(!hbm)->n_partitions) < 0)
        RULE_BROKEN(v, VTRN_UNDEFINED, "make its outer dimensions count the partitions of a row",
                    "%s: %u rows in HBM cannot serve %u partitions", NAME, AP(hbm)->n_partitions,
                    AP(!hbm)->n_partitions);
    unsigned per_row = AP(!hbm)->n_partitions / AP(hbm)->n_partitions;
    if (FREE(hbm) != per_row * FREE(!hbm))
        RULE_BROKEN(v, VTRN_UNDEFINED, "let a row hold the elements of its partitions",
                    "%s: a row in HBM has %llu elements, its %u partitions have %llu each", NAME,
                    (unsigned long long)FREE(hbm), per_row, (unsigned long long)FREE(!hbm));
    return NULL;
}

/* Source: docs/hardware.md, "DMA" */
static vtrn_status check_dma_transpose(validation *v) {
    size_t size = dtype_size(AP(1)->dtype);
    if (size != 2 && size != 4)
        RULE_BROKEN(v, VTRN_UNDEFINED, "convert it to a 2- or 4-byte type, or name its bits as one",
                    "%s: %s; it moves 2- and 4-byte elements", NAME, dtype_name(AP(1)->dtype));
    VTRN_RETURN_IF_ERROR(validate_same_dtype(v, 0, 1));
    return validate_transposed_shape(v, UINT16_MAX);
}

/* table: the operand in HBM whose rows are indexed; rows: the other one. */
static vtrn_status check_indirect(validation *v, int table, int rows) {
    if (AP(table)->space != VTRN_SPACE_HBM || AP(2)->space != VTRN_SPACE_SBUF)
        RULE_BROKEN(v, VTRN_UNDEFINED, "load the indices to SBUF and keep the table in HBM",
                    "%s: ap%d is in HBM and the indices ap2 in SBUF", NAME, table);
    if (AP(2)->dtype != VTRN_DTYPE_UINT32 && AP(2)->dtype != VTRN_DTYPE_INT32)
        RULE_BROKEN(v, VTRN_UNDEFINED, "convert the indices to int32",
                    "%s: the indices ap2 are %s, not 32-bit integers", NAME,
                    dtype_name(AP(2)->dtype));
    VTRN_RETURN_IF_ERROR(validate_free_size_is(v, 2, 1));
    if (AP(2)->n_partitions != AP(rows)->n_partitions)
        RULE_BROKEN(v, VTRN_UNDEFINED, "give an index for each row", "%s: %u indices for %u rows",
                    NAME, AP(2)->n_partitions, AP(rows)->n_partitions);
    VTRN_RETURN_IF_ERROR(castable(v, table, rows));
    return validate_free_size_is(v, rows, FREE(table));
}

static vtrn_status check_dma_gather(validation *v) {
    return check_indirect(v, 1, 0);
}

static vtrn_status check_dma_scatter(validation *v) {
    return check_indirect(v, 0, 1);
}

enum {
    ACC = VTRN_FLAG_ACCUMULATE,
    REV0 = VTRN_FLAG_REVERSE0,
    REV1 = VTRN_FLAG_REVERSE1,
    NEG = VTRN_FLAG_NEGATE,
    SR = VTRN_FLAG_STOCHASTIC,
    OOB = VTRN_FLAG_OOB_SKIP | VTRN_FLAG_CLAMP_INDEX,
};

static const struct {
    vtrn_status (*check)(validation *v);
    uint32_t flags; /* legal ones */
} rules[VTRN_OP_COUNT] = {
    [VTRN_OP_LDWEIGHTS] = {validate_ldweights, VTRN_FLAG_DOUBLE_ROW},
    [VTRN_OP_MATMUL] = {validate_matmul, ACC | SR | VTRN_FLAG_LAST | VTRN_FLAG_DOUBLE_ROW},
    [VTRN_OP_PE_TRANSPOSE] = {validate_pe_transpose, 0},
    [VTRN_OP_LDWEIGHTS_MX] = {validate_ldweights_mx, 0},
    [VTRN_OP_MATMUL_MX] = {validate_matmul_mx, ACC | VTRN_FLAG_LAST},
    [VTRN_OP_QUANTIZE_MX] = {validate_quantize_mx, 0},
    [VTRN_OP_TENSOR_TENSOR] = {check_tensor_tensor, SR},
    [VTRN_OP_TENSOR_SCALAR] = {check_tensor_scalar, REV0 | REV1 | SR},
    [VTRN_OP_SCALAR_TENSOR_TENSOR] = {check_scalar_tensor_tensor, REV0 | REV1 | SR},
    [VTRN_OP_TENSOR_REDUCE] = {check_tensor_reduce, NEG | SR},
    [VTRN_OP_TENSOR_COPY] = {check_tensor_copy, SR},
    [VTRN_OP_COPY_PREDICATED] = {check_copy_predicated, REV0},
    [VTRN_OP_MEMSET] = {NULL, SR},
    [VTRN_OP_RECIPROCAL] = {elementwise, SR},
    [VTRN_OP_TENSOR_TENSOR_SCAN] = {check_scan, REV0 | REV1 | SR},
    [VTRN_OP_TRANSPOSE32] = {check_transpose32, 0},
    [VTRN_OP_STREAM_SHUFFLE] = {check_stream_shuffle, 0},
    [VTRN_OP_BN_STATS] = {check_bn_stats, SR},
    [VTRN_OP_BN_AGGR] = {check_bn_aggr, SR},
    [VTRN_OP_MAX8] = {check_max8, SR},
    [VTRN_OP_FIND_INDEX8] = {check_find_index8, REV0},
    [VTRN_OP_MATCH_REPLACE8] = {check_match_replace8, SR},
    [VTRN_OP_SET_RNG_SEED] = {check_set_rng_seed, 0},
    [VTRN_OP_RNG] = {check_rng, 0},
    [VTRN_OP_RAND_SET_STATE] = {check_rand_set_state, 0},
    [VTRN_OP_RAND_GET_STATE] = {check_rand_get_state, 0},
    [VTRN_OP_DROPOUT] = {check_dropout, SR},
    [VTRN_OP_TENSOR_SCALAR_REDUCE] = {check_tensor_scalar_reduce, ACC | REV0 | SR},
    [VTRN_OP_TENSOR_SCALAR_CUMULATIVE] = {check_tensor_scalar_reduce, ACC | REV0 | SR},
    [VTRN_OP_RANGE_SELECT] = {check_range_select, ACC | SR},
    [VTRN_OP_SELECT_REDUCE] = {check_select_reduce, ACC | REV0 | SR},
    [VTRN_OP_EXPONENTIAL] = {check_exponential, ACC | SR},
    [VTRN_OP_VECTOR_READ_ACCUMULATOR] = {check_act_read, NEG | SR},
    [VTRN_OP_VECTOR_LOAD_ACCUMULATOR] = {check_vector_load, 0},
    [VTRN_OP_ACTIVATE] = {check_activate, ACC | SR | VTRN_FLAG_RESET},
    [VTRN_OP_ACT_READ_ACCUMULATOR] = {check_act_read, SR},
    [VTRN_OP_ACT_TABLE_LOAD] = {check_act_table_load, 0},
    [VTRN_OP_IOTA] = {pattern_fits, SR},
    [VTRN_OP_AFFINE_SELECT] = {check_affine_select, SR},
    [VTRN_OP_PARTITION_REDUCE] = {check_partition_reduce, SR},
    [VTRN_OP_N_GATHER] = {check_n_gather, 0},
    [VTRN_OP_LOCAL_GATHER] = {check_local_gather, 0},
    [VTRN_OP_NONZERO_WITH_COUNT] = {check_nonzero, 0},
    [VTRN_OP_CUSTOM_OP] = {check_custom_op, 0},
    [VTRN_OP_COLLECTIVE] = {check_custom_op, 0},
    [VTRN_OP_DMA_COPY] = {check_dma_copy, ACC | VTRN_FLAG_SPILL},
    [VTRN_OP_DMA_TRANSPOSE] = {check_dma_transpose, 0},
    [VTRN_OP_DMA_GATHER] = {check_dma_gather, OOB},
    [VTRN_OP_DMA_SCATTER] = {check_dma_scatter, ACC | OOB},
};

uint32_t validate_legal_flags(vtrn_opcode opcode) {
    return rules[opcode].flags;
}

vtrn_status validate_opcode(validation *v) {
    return rules[v->instr->opcode].check ? rules[v->instr->opcode].check(v) : NULL;
}
