/* The validator's rules of the tensor engine: stationary and moving tiles, MX, transposes. */
#include "isa/validate_rules.h"

/* Source: docs/hardware.md, "Tensor engine" */
static vtrn_status matmul_dtype(validation *v, int i) {
    vtrn_dtype t = AP(i)->dtype;
    /* v1 takes bf16 and fp16; fp32 there stands for passes of bf16 parts (fp32_passes) */
    bool is_on_v1 = dtype_size(t) == 2 || t == VTRN_DTYPE_FP32;
    bool is_legal = dtype_is_float(t) && (t != VTRN_DTYPE_FP8E4M3FN || v->chip->gen >= 4) &&
                    (v->chip->gen > 1 || is_on_v1);
    is_legal |= t == VTRN_DTYPE_INT8 && v->chip->cost.int8_speedup > 0;
    if (!is_legal)
        RULE_BROKEN(v, VTRN_UNSUPPORTED, "cast it to bf16 or fp32",
                    "%s: ap%d is %s; the tensor engine of NeuronCore-v%d does not take it", NAME, i,
                    dtype_name(t), v->chip->gen);
    return NULL;
}

static bool is_full_width(vtrn_dtype t) {
    return t == VTRN_DTYPE_FP32 || t == VTRN_DTYPE_TF32;
}

static vtrn_status contraction_fits(validation *v) {
    if (AP(1)->n_partitions > v->chip->tensor_max_k)
        RULE_BROKEN(v, VTRN_UNDEFINED, "split the contraction and accumulate",
                    "%s: contraction size %u > %d (rows of the PE array)", NAME,
                    AP(1)->n_partitions, v->chip->tensor_max_k);
    return NULL;
}

/* Source: nki.isa.nc_matmul, "Performance mode" */
static vtrn_status double_row(validation *v) {
    if (!(v->instr->flags & VTRN_FLAG_DOUBLE_ROW))
        return NULL;
    if (v->chip->gen < 3)
        RULE_BROKEN(v, VTRN_UNSUPPORTED, "use the ordinary mode",
                    "%s: double_row on NeuronCore-v%d", NAME, v->chip->gen);
    if (dtype_size(AP(1)->dtype) != 1)
        RULE_BROKEN(v, VTRN_UNDEFINED, "cast it to an fp8 type", "%s: double_row of %s", NAME,
                    dtype_name(AP(1)->dtype));
    return NULL;
}

/* The instructions behind multiply by ap1. */
static void keep_stationary(validation *v) {
    v->stationary.k = AP(1)->n_partitions;
    v->stationary.m = (uint32_t)FREE(1);
    v->stationary.dtype = AP(1)->dtype;
}

vtrn_status validate_ldweights(validation *v) {
    VTRN_RETURN_IF_ERROR(double_row(v));
    VTRN_RETURN_IF_ERROR(matmul_dtype(v, 1));
    VTRN_RETURN_IF_ERROR(contraction_fits(v));
    if (FREE(1) > v->chip->tensor_max_m)
        RULE_BROKEN(v, VTRN_UNDEFINED, "split the free axis into tiles of 128",
                    "%s: stationary free size %llu > %d (columns of the PE array)", NAME,
                    (unsigned long long)FREE(1), v->chip->tensor_max_m);
    keep_stationary(v);
    return NULL;
}

/* A result lies in one bank until NeuronCore-v4. Source: docs/hardware.md, "Tensor engine" */
static vtrn_status one_bank(validation *v, int i) {
    if (v->chip->gen >= 4)
        return NULL;
    int64_t lo, hi, bank = v->chip->psum_bank_bytes;
    isa_ap_extent(AP(i), &lo, &hi); /* inside PSUM: 32 bits hold it */
    if ((uint32_t)lo / (uint32_t)bank != (uint32_t)(hi - 1) / (uint32_t)bank)
        RULE_BROKEN(v, VTRN_UNDEFINED, "start the result at a bank",
                    "%s: ap%d: bytes %lld..%lld of PSUM cross a bank of %lld (NeuronCore-v%d)",
                    NAME, i, (long long)lo, (long long)hi - 1, (long long)bank, v->chip->gen);
    return NULL;
}

static vtrn_status psum_dtype(validation *v) {
    if (AP(0)->dtype == VTRN_DTYPE_FP32 || (AP(0)->dtype == VTRN_DTYPE_BF16 && v->chip->gen >= 4))
        return NULL;
    RULE_BROKEN(v, VTRN_UNDEFINED, "cast when copying out of PSUM",
                "%s: ap0 is %s; PSUM accumulates in fp32%s (NeuronCore-v%d)", NAME,
                dtype_name(AP(0)->dtype), v->chip->gen >= 4 ? " or bf16" : "", v->chip->gen);
}

/* What a matmul needs of the weights before it. Source: docs/hardware.md, "Tensor engine" */
static vtrn_status matches_stationary(validation *v) {
    if (!v->stationary.k)
        return NULL;
    if (v->stationary.k != AP(1)->n_partitions)
        RULE_BROKEN(v, VTRN_UNDEFINED, "load weights of that contraction size first",
                    "%s: contraction size %u, the stationary tile has %u", NAME,
                    AP(1)->n_partitions, v->stationary.k);
    if (v->stationary.m != AP(0)->n_partitions)
        RULE_BROKEN(v, VTRN_UNDEFINED, "give the result a partition for each column of the weights",
                    "%s: ap0 has %u partitions, the stationary tile has %u columns", NAME,
                    AP(0)->n_partitions, v->stationary.m);
    vtrn_dtype a = v->stationary.dtype, b = AP(1)->dtype;
    if ((dtype_of_packed(a) != a) != (dtype_of_packed(b) != b))
        RULE_BROKEN(v, VTRN_UNDEFINED, "load weights of the same kind first",
                    "%s: stationary %s with moving %s", NAME, dtype_name(a), dtype_name(b));
    bool is_legacy_mix = (a == VTRN_DTYPE_FP8E4M3 && b == VTRN_DTYPE_FP8E4M3FN) ||
                         (b == VTRN_DTYPE_FP8E4M3 && a == VTRN_DTYPE_FP8E4M3FN);
    if (is_full_width(a) != is_full_width(b) || is_legacy_mix)
        RULE_BROKEN(v, VTRN_UNDEFINED, "cast one of them",
                    "%s: stationary %s with moving %s (fp32 and tf32 go only with each other)",
                    NAME, dtype_name(a), dtype_name(b));
    return NULL;
}

/* Columns of the moving tile and the shape of the result. */
static vtrn_status moving_fits(validation *v) {
    if (FREE(1) > v->chip->tensor_max_n)
        RULE_BROKEN(v, VTRN_UNDEFINED, "split the free axis into tiles of that size",
                    "%s: moving free size %llu > %d (%s, NeuronCore-v%d)", NAME,
                    (unsigned long long)FREE(1), v->chip->tensor_max_n,
                    v->chip->gen < 4 ? "one PSUM bank" : "all PSUM banks", v->chip->gen);
    VTRN_RETURN_IF_ERROR(validate_free_size_is(v, 0, FREE(1)));
    if (AP(0)->n_partitions > v->chip->tensor_max_m)
        RULE_BROKEN(v, VTRN_UNDEFINED, "split the weights into tiles of fewer columns",
                    "%s: ap0 has %u partitions > %d", NAME, AP(0)->n_partitions,
                    v->chip->tensor_max_m);
    return one_bank(v, 0);
}

vtrn_status validate_matmul(validation *v) {
    VTRN_RETURN_IF_ERROR(double_row(v));
    VTRN_RETURN_IF_ERROR(matmul_dtype(v, 1));
    VTRN_RETURN_IF_ERROR(psum_dtype(v));
    VTRN_RETURN_IF_ERROR(contraction_fits(v));
    VTRN_RETURN_IF_ERROR(moving_fits(v));
    return matches_stationary(v);
}

bool validate_has_scales(vtrn_opcode opcode) {
    return opcode == VTRN_OP_LDWEIGHTS_MX || opcode == VTRN_OP_MATMUL_MX ||
           opcode == VTRN_OP_QUANTIZE_MX;
}

bool validate_takes_packed(vtrn_opcode opcode, int i) {
    return ((opcode == VTRN_OP_LDWEIGHTS_MX || opcode == VTRN_OP_MATMUL_MX) && i == 1) ||
           (opcode == VTRN_OP_QUANTIZE_MX && i == 0);
}

/* Packed elements in whole quadrants, and a scale for each 8 partitions of a quadrant. Source:
 * nki.isa.nc_matmul_mx, "Tile size", and nki.isa.quantize_mx, "Layout" */
static vtrn_status mx_operands(validation *v, int data_i) {
    enum { QUADRANT = 32, SCALES = 4 /* of a quadrant */ };
    uint32_t n = AP(data_i)->n_partitions, least = n - QUADRANT + SCALES;
    if (dtype_of_packed(AP(data_i)->dtype) == AP(data_i)->dtype)
        RULE_BROKEN(v, VTRN_UNDEFINED, "view it as one of float8_e4m3fn_x4 and its like",
                    "%s: ap%d is %s, no packed type", NAME, data_i, dtype_name(AP(data_i)->dtype));
    if (n % QUADRANT || n > (unsigned)v->chip->n_partitions)
        RULE_BROKEN(v, VTRN_UNDEFINED, "pad it to whole quadrants",
                    "%s: ap%d has %u partitions; MX works on whole quadrants of 32", NAME, data_i,
                    n);
    if (AP(2)->dtype != VTRN_DTYPE_UINT8)
        RULE_BROKEN(v, VTRN_UNDEFINED, "view them as uint8", "%s: scales are %s", NAME,
                    dtype_name(AP(2)->dtype));
    if (AP(2)->n_partitions < least)
        RULE_BROKEN(v, VTRN_UNDEFINED, "give each quadrant its 4 partitions of scales",
                    "%s: scales in %u partitions, those of %u lie in %u", NAME, AP(2)->n_partitions,
                    n, least);
    if (FREE(2) < FREE(data_i))
        RULE_BROKEN(v, VTRN_UNDEFINED, "give each column its scales",
                    "%s: %llu columns of scales for %llu of data", NAME,
                    (unsigned long long)FREE(2), (unsigned long long)FREE(data_i));
    return NULL;
}

vtrn_status validate_ldweights_mx(validation *v) {
    VTRN_RETURN_IF_ERROR(mx_operands(v, 1));
    if (FREE(1) > v->chip->tensor_max_m || FREE(1) % 2)
        RULE_BROKEN(v, VTRN_UNDEFINED, "split the free axis into tiles of 128, or pad it",
                    "%s: stationary free size %llu; it is even and at most %d", NAME,
                    (unsigned long long)FREE(1), v->chip->tensor_max_m);
    keep_stationary(v);
    return NULL;
}

vtrn_status validate_matmul_mx(validation *v) {
    VTRN_RETURN_IF_ERROR(mx_operands(v, 1));
    VTRN_RETURN_IF_ERROR(psum_dtype(v));
    VTRN_RETURN_IF_ERROR(moving_fits(v));
    return matches_stationary(v);
}

vtrn_status validate_quantize_mx(validation *v) {
    vtrn_dtype t = AP(0)->dtype, from = AP(1)->dtype;
    VTRN_RETURN_IF_ERROR(mx_operands(v, 0));
    if (t == VTRN_DTYPE_FP4E2M1FN_X4 || (from != VTRN_DTYPE_BF16 && from != VTRN_DTYPE_FP16))
        RULE_BROKEN(v, VTRN_UNDEFINED, "quantise bf16 or fp16 to an fp8 type",
                    "%s: %s from %s; it makes float8_e4m3fn_x4 or float8_e5m2_x4 of 16-bit floats",
                    NAME, dtype_name(t), dtype_name(from));
    for (int i = 0; i < 3; i++)
        if (AP(i)->space != VTRN_SPACE_SBUF)
            RULE_BROKEN(v, VTRN_UNDEFINED, "copy it to SBUF", "%s: ap%d is not in SBUF", NAME, i);
    if (AP(1)->n_partitions != AP(0)->n_partitions)
        return validate_same_shape(v, 0, 1);
    VTRN_RETURN_IF_ERROR(validate_free_size_is(v, 2, FREE(0)));
    return validate_free_size_is(v, 1, 4 * FREE(0));
}

vtrn_status validate_pe_transpose(validation *v) {
    v->stationary.k = 0; /* the data itself is loaded as the stationary tile */
    VTRN_RETURN_IF_ERROR(matmul_dtype(v, 1));
    VTRN_RETURN_IF_ERROR(validate_transposed_shape(v, (unsigned)v->chip->tensor_max_m));
    if (AP(0)->dtype != VTRN_DTYPE_FP32)
        VTRN_RETURN_IF_ERROR(validate_same_dtype(v, 0, 1));
    return one_bank(v, 0);
}
