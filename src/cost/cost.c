/* Cost of an instruction on its engine: initiation interval and latency. */
#include "cost/cost.h"

#include "isa/access.h"

#include <math.h>

static double ns(double cycles, double hz) {
    return cycles / hz * 1e9;
}

static bool is_16_bit_float(const vtrn_ap *ap) {
    return ap->dtype == VTRN_DTYPE_BF16 || ap->dtype == VTRN_DTYPE_FP16;
}

static bool is_in_sbuf(const vtrn_ap *ap) {
    return ap->space == VTRN_SPACE_SBUF;
}

static bool is_on_chip(const vtrn_ap *ap) {
    return ap->space == VTRN_SPACE_SBUF || ap->space == VTRN_SPACE_PSUM;
}

static bool is_contiguous(const vtrn_ap *ap) {
    return !ap->n_dims || ap->dim[ap->n_dims - 1].step == 1;
}

static double elements(const vtrn_ap *ap) {
    return ap->space == VTRN_SPACE_NONE ? 0 : (double)isa_ap_free_size(ap);
}

/* The operand whose elements stream: the widest of output and first input. */
static double stream_elements(const vtrn_instr *instr) {
    return fmax(elements(&instr->ap[0]), elements(&instr->ap[1]));
}

static double engine_hz(const vtrn_chip *chip, int engine) {
    const double hz[] = {chip->tensor_hz, chip->vector_hz, chip->scalar_hz,
                         chip->gpsimd_hz, chip->sync_hz,   chip->sync_hz};
    return hz[engine];
}

/* One elementwise input on Vector: 4x and 2x modes of NeuronCore-v3. Source: NKI guide
 * trainium2_arch. */
static double copy_speedup(const vtrn_chip *chip, const vtrn_instr *instr) {
    const vtrn_ap *out = &instr->ap[0], *in = &instr->ap[1];
    bool is_narrow = is_16_bit_float(out) && is_16_bit_float(in);
    bool is_dense = is_contiguous(out) && is_contiguous(in);
    if (is_in_sbuf(out) && is_in_sbuf(in))
        return is_narrow && is_dense ? chip->cost.vector_bf16_speedup
                                     : chip->cost.vector_sbuf_speedup;
    return is_narrow && is_dense ? chip->cost.vector_sbuf_speedup : 1;
}

/* Cycles an element of two streamed inputs a and b. Source: cost of
 * nki.isa.tensor_tensor; NKI guide trainium2_arch. */
static double two_input_factor(const vtrn_chip *chip, const vtrn_instr *instr, const vtrn_ap *a,
                               const vtrn_ap *b) {
    const vtrn_ap *out = &instr->ap[0];
    bool is_narrow = is_16_bit_float(a) && is_16_bit_float(b) && is_16_bit_float(out);
    if (!is_in_sbuf(a) || !is_in_sbuf(b))
        return 1;
    if (is_narrow && is_in_sbuf(out) && chip->cost.vector_tensor_tensor_speedup > 1)
        return 1 / chip->cost.vector_tensor_tensor_speedup;
    bool is_simple = instr->op0 == VTRN_ALU_ADD || instr->op0 == VTRN_ALU_SUBTRACT ||
                     instr->op0 == VTRN_ALU_MULTIPLY;
    bool is_dense = is_contiguous(a) && is_contiguous(b) && is_contiguous(out);
    return is_narrow && is_simple && is_dense ? 1 : chip->cost.vector_two_input_factor;
}

/* (data op0 scalar) op1 tensor: N only for one combination on v2, whatever the memory. Source:
 * cost of nki.isa.scalar_tensor_tensor. */
static double scalar_tensor_tensor_factor(const vtrn_chip *chip, const vtrn_instr *instr) {
    const vtrn_ap *data = &instr->ap[1], *operand = &instr->ap[3];
    bool is_fast = data->dtype == VTRN_DTYPE_BF16 && operand->dtype == VTRN_DTYPE_BF16 &&
                   instr->op0 == VTRN_ALU_SUBTRACT && instr->op1 == VTRN_ALU_MULTIPLY &&
                   isa_ap_free_size(data) % 2 == 0;
    return is_fast ? 1 : chip->cost.vector_two_input_factor;
}

static double reduce_speedup(const vtrn_chip *chip, const vtrn_instr *instr) {
    bool is_fast = (instr->op0 == VTRN_ALU_ADD || instr->op0 == VTRN_ALU_MAX) &&
                   instr->ap[0].dtype == VTRN_DTYPE_BF16 && instr->ap[1].dtype == VTRN_DTYPE_BF16;
    return is_fast ? chip->cost.vector_reduce_bf16_speedup : 1;
}

static double memset_speedup(const vtrn_chip *chip, const vtrn_instr *instr) {
    bool is_fast = instr->imm[0].bits == 0 && is_16_bit_float(&instr->ap[0]);
    return is_fast ? chip->cost.vector_zero_16bit_speedup : 1;
}

/* Engine cycles that the elements need, before minima and addends. */
static double stream_cycles(const vtrn_chip *chip, const vtrn_instr *instr, vtrn_cost_class class) {
    double n = stream_elements(instr);
    bool is_vector = instr->engine == VTRN_ENGINE_VECTOR;
    switch (class) {
    case COST_TENSOR_TENSOR:
        return n * two_input_factor(chip, instr, &instr->ap[1], &instr->ap[2]);
    case COST_SCALAR_TENSOR_TENSOR:
        return n * scalar_tensor_tensor_factor(chip, instr);
    case COST_ELEMENTWISE: {
        bool has_modes =
            instr->opcode == VTRN_OP_TENSOR_COPY || instr->opcode == VTRN_OP_TENSOR_SCALAR;
        return is_vector && has_modes ? n / copy_speedup(chip, instr) : n;
    }
    case COST_TENSOR_REDUCE:
        return n / reduce_speedup(chip, instr);
    case COST_COPY_PREDICATED:
        return is_in_sbuf(&instr->ap[1]) && is_in_sbuf(&instr->ap[2])
                   ? n * chip->cost.vector_two_input_factor
                   : n;
    case COST_QUANTIZE_MX: /* four elements a cycle. Source: NKI guide trainium3_arch, "MX data-type
                              Quantization" */
        return elements(&instr->ap[0]);
    case COST_MEMSET:
        return n / memset_speedup(chip, instr);
    case COST_RECIPROCAL:
        return n * chip->cost.vector_reciprocal_factor;
    case COST_SCAN:
        return n * chip->cost.vector_scan_factor;
    case COST_BN_AGGR:
        return chip->cost.bn_aggr_cycles * elements(&instr->ap[1]) / 3;
    case COST_FIXED:
        return instr->opcode == VTRN_OP_ACT_READ_ACCUMULATOR
                   ? chip->cost.act_read_accumulator_cycles
                   : 0;
    default:
        return n;
    }
}

/* A wide innermost stride halves the bandwidth of SBUF and PSUM. Source: NKI
 * guide trainium_inferentia2_arch. */
static double stride_factor(const vtrn_chip *chip, const vtrn_instr *instr) {
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        const vtrn_ap *ap = &instr->ap[i];
        if (!is_on_chip(ap) || !ap->n_dims || ap->dim[ap->n_dims - 1].num < 2)
            continue;
        double stride = fabs((double)ap->dim[ap->n_dims - 1].step) * (double)dtype_size(ap->dtype);
        if (stride > chip->cost.stride_limit_bytes)
            return chip->cost.stride_factor;
    }
    return 1;
}

/* A [P, 1] operand in memory besides the streamed one. */
static bool has_scalar_operand(const vtrn_instr *instr) {
    const vtrn_op_info *info = isa_op_info(instr->opcode);
    for (int i = 0; i < VTRN_MAX_AP; i++)
        if (info->roles[i] == 's' && instr->ap[i].space != VTRN_SPACE_NONE)
            return true;
    return false;
}

static void cost_stream(const vtrn_chip *chip, const vtrn_instr *instr, vtrn_cost_class class,
                        instr_cost *out) {
    double hz = engine_hz(chip, instr->engine);
    double cycles = stream_cycles(chip, instr, class) * stride_factor(chip, instr);
    double overhead = 0, latency = 0;
    if (instr->engine == VTRN_ENGINE_VECTOR) {
        overhead = chip->cost.vector_overhead_ns;
        latency = chip->cost.vector_latency_ns;
        if (has_scalar_operand(instr)) {
            latency += chip->cost.vector_scalar_operand_ns;
            overhead += chip->cost.vector_scalar_overhead_ns;
        }
    } else if (instr->engine == VTRN_ENGINE_SCALAR) {
        overhead = chip->cost.scalar_overhead_ns;
        latency = chip->cost.scalar_latency_ns;
        /* Set 0 is always resident: copy, relu and their like need no table. */
        if (instr->opcode == VTRN_OP_ACTIVATE && isa_act_table_set(instr->func) != 0) {
            latency += chip->cost.scalar_func_latency_ns;
            overhead += chip->cost.scalar_func_overhead_ns;
        }
    } else {
        latency = chip->cost.gpsimd_latency_ns;
    }
    out->ii_ns = fmax(ns(chip->cost.min_ii_cycles, hz), ns(cycles, hz) + overhead);
    out->latency_ns = ns(cycles, hz) + latency;
}

static void cost_gpsimd(const vtrn_chip *chip, const vtrn_instr *instr, instr_cost *out) {
    double cycles = chip->cost.gpsimd_start_cycles + stream_elements(instr);
    out->ii_ns = ns(cycles, chip->gpsimd_hz);
    out->latency_ns = out->ii_ns + chip->cost.gpsimd_latency_ns;
}

static double passes(const vtrn_chip *chip, const vtrn_ap *ap, double fp32_passes) {
    if (ap->dtype == VTRN_DTYPE_INT8 && chip->cost.int8_speedup > 0)
        return 1 / chip->cost.int8_speedup;
    return ap->dtype == VTRN_DTYPE_FP32 ? fp32_passes : 1;
}

static double weights_cycles(const vtrn_chip *chip, const vtrn_ap *ap, double columns) {
    if (ap->dtype == VTRN_DTYPE_FP32)
        return columns * chip->cost.fp32_passes / chip->cost.ldweights_fp32_cols_per_cycle;
    return columns / chip->cost.ldweights_cols_per_cycle;
}

/* Two instructions in double_row mode pass the array together. Source: nki.isa.nc_matmul,
 * "Performance mode". */
static double row_share(const vtrn_instr *instr) {
    return instr->flags & VTRN_FLAG_DOUBLE_ROW ? 0.5 : 1;
}

static void cost_ldweights(const vtrn_chip *chip, const vtrn_instr *instr, instr_cost *out) {
    const vtrn_ap *weights = &instr->ap[1];
    out->kind = COST_KIND_LDWEIGHTS;
    out->ii_ns =
        ns(weights_cycles(chip, weights, elements(weights)) * row_share(instr), chip->tensor_hz);
    out->latency_ns = out->ii_ns + chip->cost.ldweights_latency_ns;
}

/* A result crosses the array, a column a cycle, before it reaches PSUM. Source: profiles in the NKI
 * performance guide (a MATMUL of 96 columns takes 31 ns longer than one of 1) and of transposes on
 * Trainium2 (158 cycles of the latency lie inside the array). */
static double result_latency_ns(const vtrn_chip *chip, double columns) {
    return chip->cost.tensor_latency_ns + ns(columns, chip->tensor_hz);
}

/* passes * max(min(64, N_stationary), N_moving). Source: cost of nki.isa.nc_matmul. */
static void cost_matmul(const vtrn_chip *chip, const vtrn_instr *instr, instr_cost *out) {
    const vtrn_ap *moving = &instr->ap[1];
    double m = instr->ap[0].n_partitions;
    double cycles = fmax(fmin(chip->cost.tensor_min_ii_cycles, m), elements(moving));
    cycles *= passes(chip, moving, chip->cost.fp32_passes) * stride_factor(chip, instr) *
              row_share(instr);
    out->kind = COST_KIND_MATMUL;
    /* fp32 is two instructions of half the passes each. */
    double n_instrs = moving->dtype == VTRN_DTYPE_FP32 ? 2 : 1;
    out->ii_ns = ns(cycles, chip->tensor_hz) + n_instrs * chip->cost.tensor_overhead_ns;
    out->latency_ns = ns(cycles, chip->tensor_hz) + result_latency_ns(chip, m);
}

/* The data are the weights, an identity of P columns moves: max(P, min(64, F)) cycles a pass. */
static void cost_pe_transpose(const vtrn_chip *chip, const vtrn_instr *instr, instr_cost *out) {
    const vtrn_ap *data = &instr->ap[1];
    double cycles = fmax(data->n_partitions, fmin(chip->cost.tensor_min_ii_cycles, elements(data)));
    double n_passes = passes(chip, data, chip->cost.fp32_transpose_passes);
    double load = data->dtype == VTRN_DTYPE_FP32
                      ? n_passes / chip->cost.ldweights_fp32_cols_per_cycle
                      : 1 / chip->cost.ldweights_cols_per_cycle;
    out->kind = COST_KIND_MATMUL;
    double stream_ns = ns(cycles * n_passes * stride_factor(chip, instr), chip->tensor_hz);
    out->ii_ns = stream_ns + chip->cost.tensor_overhead_ns;
    out->latency_ns = stream_ns + result_latency_ns(chip, instr->ap[0].n_partitions);
    out->weights_ns = ns(elements(data) * load, chip->tensor_hz);
}

/* No cost is published: its arithmetic or its traffic, whichever takes longer. */
custom_cost cost_custom(const vtrn_chip *chip, const vtrn_program *program,
                        const vtrn_instr *instr) {
    custom_cost out = {0};
    if (instr->arg[0] < 0 || (uint32_t)instr->arg[0] >= program->n_customs)
        return out;
    isa_access a;
    for (access_walk w = access_begin(instr, program->customs, program->n_customs);
         access_next(&w, &a);)
        if (a.slot < program->n_slots)
            *(a.is_written ? &out.write_bytes : &out.read_bytes) +=
                program->slots[a.slot].size_bytes;
    const vtrn_custom *custom = &program->customs[instr->arg[0]];
    double compute_s = (double)custom->flops / chip->custom.flops_per_s;
    double move_s = (double)(out.read_bytes + out.write_bytes) / chip->custom.bytes_per_s;
    double start_ns =
        program_is_callback(custom) ? chip->custom.callback_ns : chip->custom.start_ns;
    out.ns = start_ns + fmax(compute_s, move_s) * 1e9;
    return out;
}

/* The queue instruction of a DMA. The DGE takes commands of Sync, Scalar and the others; GpSimd
 * generates the descriptors of its own DMAs before they start, those of the next behind them.
 * Source: nki-dge; profiles of DMA_DIRECT2D on Trainium2. */
static void cost_trigger(const vtrn_chip *chip, const vtrn_instr *instr, instr_cost *out) {
    out->kind = COST_KIND_DMA;
    out->ii_ns = out->latency_ns = chip->dma.trigger_ns;
    if (!chip->dma.uses_dge)
        return;
    out->ii_ns = out->latency_ns = chip->dma.dge_trigger_ns;
    if (instr->engine == VTRN_ENGINE_GPSIMD) {
        double runs_ns = cost_runs(instr) * chip->dma.dge_gpsimd_run_ns;
        out->ii_ns = chip->dma.dge_gpsimd_ns + runs_ns;
        out->latency_ns = chip->dma.dge_gpsimd_latency_ns + runs_ns;
    }
}

static uint8_t shared_ports(const vtrn_chip *chip, const vtrn_instr *instr) {
    bool is_vector = instr->engine == VTRN_ENGINE_VECTOR;
    uint8_t ports = 0;
    for (int i = 0; i < VTRN_MAX_AP; i++) {
        if (is_in_sbuf(&instr->ap[i]) && chip->cost.vector_gpsimd_share_sbuf &&
            (is_vector || instr->engine == VTRN_ENGINE_GPSIMD))
            ports |= COST_PORT_SBUF;
        if (instr->ap[i].space == VTRN_SPACE_PSUM && chip->cost.vector_scalar_share_psum &&
            (is_vector || instr->engine == VTRN_ENGINE_SCALAR))
            ports |= COST_PORT_PSUM;
    }
    return ports;
}

instr_cost cost_instr(const vtrn_chip *chip, const vtrn_instr *instr) {
    const vtrn_op_info *info = isa_op_info(instr->opcode);
    instr_cost out = {.is_setup = info->is_setup};
    switch ((vtrn_cost_class)info->cost) {
    case COST_LDWEIGHTS:
        cost_ldweights(chip, instr, &out);
        return out;
    case COST_MATMUL:
        cost_matmul(chip, instr, &out);
        return out;
    case COST_PE_TRANSPOSE:
        cost_pe_transpose(chip, instr, &out);
        return out;
    case COST_ACT_TABLE_LOAD:
        out.ii_ns = out.latency_ns = chip->cost.act_table_load_ns;
        return out;
    case COST_EVENT_SEMAPHORE:
        out.ii_ns = out.latency_ns = chip->cost.event_semaphore_ns;
        return out;
    case COST_COLLECTIVE:
        out.kind = COST_KIND_COLLECTIVE;
        out.ii_ns = out.latency_ns = chip->dma.trigger_ns;
        return out;
    case COST_CUSTOM_OP:
        out.kind = COST_KIND_CUSTOM;
        return out;
    case COST_DMA:
    case COST_DMA_TRANSPOSE:
        cost_trigger(chip, instr, &out);
        return out;
    case COST_DMA_INDIRECT:
        out.kind = COST_KIND_DMA;
        out.ii_ns = out.latency_ns = chip->dma.trigger_ns + chip->dma.indirect_start_ns;
        return out;
    case COST_GPSIMD:
        cost_gpsimd(chip, instr, &out);
        break;
    default:
        cost_stream(chip, instr, info->cost, &out);
        break;
    }
    out.ports = shared_ports(chip, instr);
    return out;
}

double cost_block_end_ns(const vtrn_chip *chip, uint8_t end) {
    if (end == VTRN_END_STOP)
        return 0;
    double clear_ns = chip->control.semaphore_clear_ns;
    if (end == VTRN_END_JUMP)
        return clear_ns + chip->control.branch_ns;
    return clear_ns + chip->control.condition_load_ns + chip->control.compare_branch_ns;
}
