/* The machine of a kernel and its tensors. */
#include "nki/nki_session.h"

#include "base/array.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    /* How much more on-chip memory than the chip has: a kernel's tiles live as long as Python holds
     * them, which is longer than they are used. It grows as far as the host may be
     * asked for, 4 GiB. */
    ROOMY_SBUF = 4,
    ROOMY_PSUM = 16,
    MAX_ROOMY_PARTITION_BYTES = 32 << 20,
    MAX_IDLE = 2,    /* machines that wait for the next kernel */
    MAX_ORPHANS = 4, /* destroyed machines whose results the user holds */
    /* Of released tiles that an epoch names: more would spread a loop's tiles over more memory than
     * caches have. */
    MAX_LATE_BYTES = 1 << 20,
    MAX_ROW_SHIFT =
        46, /* of bytes of a partition, or a tensor in HBM: sums of some stay in 64 bits */
    /* Of a result that is not copied: fewer are copied sooner than they are let out. */
    LEAST_KEPT_BYTES = 64 << 10,
};

static pthread_mutex_t idle_lock = PTHREAD_MUTEX_INITIALIZER;
static nki_machine *idle; /* of any chip */
static int n_machines;    /* that exist */
static int n_orphans;     /* that were destroyed while the user had results in their HBM */

static uint64_t bytes_in_use(const nki_machine *m) {
    hbm_stats stats;
    runtime_memory_stats(m->device->rt, 0, &stats);
    return stats.in_use_bytes;
}

static void machine_destroy(nki_machine *m) {
    pthread_mutex_lock(&idle_lock);
    n_machines--;
    n_orphans += m->device && bytes_in_use(m) > 0;
    pthread_mutex_unlock(&idle_lock);
    nki_queue_destroy(m->queue);
    engine_core_destroy(&m->core);
    vtrn_device_close(m->device);
    free(m);
}

static vtrn_status machine_init(const char *chip, nki_machine *m) {
    vtrn_device_options options = {.struct_size = sizeof options, .chip = chip};
    VTRN_RETURN_IF_ERROR(vtrn_device_open(&options, &m->device));
    runtime_device *rt = m->device->rt;
    m->roomy = rt->chip;
    m->roomy.sbuf_partition_bytes *= ROOMY_SBUF;
    m->roomy.psum_partition_bytes *= ROOMY_PSUM;
    uint8_t *hbm;
    VTRN_RETURN_IF_ERROR(runtime_hbm(rt, 0, &hbm));
    VTRN_RETURN_IF_ERROR(
        engine_core_create(&m->roomy, hbm, rt->chip.hbm_bytes, rt->team, &m->core));
    return nki_queue_create(&m->core, &m->queue);
}

/* An idle machine of the chip, not one of before a fork, or a new one. */
static vtrn_status machine_take(const char *chip, nki_machine **out) {
    pthread_mutex_lock(&idle_lock);
    for (nki_machine **at = &idle; chip && *at; at = &(*at)->next) {
        nki_machine *m = *at;
        vtrn_status status = runtime_device_check_process(m->device->rt);
        bool is_ours = !status && strcmp(m->roomy.name, chip) == 0;
        vtrn_status_free(status);
        if (!is_ours)
            continue;
        *at = m->next;
        pthread_mutex_unlock(&idle_lock);
        *out = m;
        return NULL;
    }
    pthread_mutex_unlock(&idle_lock);
    nki_machine *m = calloc(1, sizeof *m);
    if (!m)
        return VTRN_OUT_OF_MEMORY(sizeof *m);
    pthread_mutex_lock(&idle_lock);
    n_machines++;
    pthread_mutex_unlock(&idle_lock);
    vtrn_status status = machine_init(chip, m);
    if (status)
        machine_destroy(m);
    else
        *out = m;
    return status;
}

/* Few machines stay: each has address space for the HBM of an instance, terabytes of it on
 * Trainium3, and a process has 128 terabytes. */
static void machine_give(nki_machine *m) {
    pthread_mutex_lock(&idle_lock);
    int n = 0;
    for (const nki_machine *i = idle; i; i = i->next)
        n++;
    bool is_kept = n < MAX_IDLE && !m->has_grown; /* one that has grown no other kernel may need */
    if (is_kept) {
        m->next = idle;
        idle = m;
    }
    pthread_mutex_unlock(&idle_lock);
    if (!is_kept)
        machine_destroy(m);
}

static vtrn_status init(nki_session *s, const char *chip) {
    VTRN_RETURN_IF_ERROR(machine_take(chip, &s->machine));
    engine_kept_init(&s->machine->core.regs->kept); /* not what another kernel left */
    const vtrn_chip *roomy = &s->machine->roomy;
    VTRN_RETURN_IF_ERROR(nki_pool_init(&s->pool[VTRN_SPACE_SBUF], roomy->sbuf_partition_bytes));
    return nki_pool_init(&s->pool[VTRN_SPACE_PSUM], roomy->psum_partition_bytes);
}

vtrn_status vtrn_nki_create(const char *chip, nki_session **out) {
    *out = NULL;
    nki_session *s = calloc(1, sizeof *s);
    if (!s)
        return VTRN_OUT_OF_MEMORY(sizeof *s);
    s->program = -1;
    vtrn_status status = init(s, chip);
    if (status) {
        vtrn_nki_destroy(s);
        return status;
    }
    *out = s;
    return NULL;
}

vtrn_status nki_settle(nki_session *s) {
    return nki_queue_drain(s->machine->queue);
}

vtrn_status vtrn_nki_settle(nki_session *s) {
    return nki_settle(s);
}

static void forget(nki_session *s) {
    vtrn_status given_up; /* each error leaves what was issued behind it to the next call */
    while (s->machine && (given_up = nki_settle(s)))
        vtrn_status_free(given_up);
    for (uint32_t i = 0; i < s->n_records; i++) {
        nki_record *r = s->records[i];
        runtime_memory_release(r->memory);
        free(r->written.bytes);
        free(r->summed.bytes);
        free(r->valued.bytes);
        free(r->owned_name);
        nki_sharing_free(r->sharing);
        free(r);
    }
    s->n_records = s->n_slots = s->n_arguments = s->n_list = 0;
    vtrn_status_free(s->first_filled);
    vtrn_status_free(s->first_race);
}

void vtrn_nki_destroy(nki_session *s) {
    if (!s)
        return;
    forget(s);
    free(s->records);
    free(s->slots);
    free(s->slot_base);
    free(s->list);
    free(s->meets);
    free(s->turns);
    free(s->spills);
    free(s->pool[VTRN_SPACE_SBUF].gaps);
    free(s->pool[VTRN_SPACE_PSUM].gaps);
    free(s->late);
    free(s->kept);
    if (s->machine)
        machine_give(s->machine);
    free(s);
}

vtrn_status vtrn_nki_set_core(nki_session *s, int core) {
    if (core < 0 || core >= NKI_MAX_CORES)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "core %d; a kernel runs on cores 0 to %d", core,
                          NKI_MAX_CORES - 1);
    if (core == s->core)
        return NULL;
    VTRN_RETURN_IF_ERROR(nki_settle(s));
    if (!s->kept) {
        s->kept = malloc(NKI_MAX_CORES * sizeof *s->kept);
        if (!s->kept)
            return VTRN_OUT_OF_MEMORY(NKI_MAX_CORES * sizeof *s->kept);
        for (int i = 0; i < NKI_MAX_CORES; i++)
            engine_kept_init(&s->kept[i]);
    }
    engine_kept *running = &s->machine->core.regs->kept;
    s->kept[s->core] = *running;
    *running = s->kept[core];
    s->core = core;
    return NULL;
}

vtrn_status vtrn_nki_meet(nki_session *s, int core) {
    if (!array_grow((void **)&s->meets, s->n_meets, &s->cap_meets, sizeof *s->meets))
        return VTRN_OUT_OF_MEMORY(s->n_meets * sizeof *s->meets);
    s->meets[s->n_meets++] = (nki_meeting){.at = s->n_list, .core = (int8_t)core};
    s->n_barriers += core < 0;
    return NULL;
}

void vtrn_nki_compute_values(nki_session *s, bool computes) {
    s->has_no_values = !computes;
}

vtrn_status vtrn_nki_execute(nki_session *s, vtrn_executable *executable,
                             vtrn_buffer *const *inputs, int n_inputs, vtrn_buffer **outputs,
                             int n_outputs) {
    vtrn_device *device = s->machine->device;
    bool had_values = device->rt->has_values, was_checking = device->is_checking;
    if (s->has_no_values) /* what the checks look at is not there */
        device->rt->has_values = device->is_checking = false;
    engine_registers *regs = device->rt->cores[0].engine.regs;
    if (regs) /* generators are as the kernel found them, not as another program left them */
        engine_kept_init(&regs->kept);
    vtrn_status status = vtrn_execute(executable, 0, inputs, n_inputs, NULL, outputs, n_outputs);
    device->rt->has_values = had_values;
    device->is_checking = was_checking;
    return status;
}

void vtrn_nki_reuse_loads(nki_session *s) {
    s->reuses_loads = true;
}

vtrn_status vtrn_nki_mark_turn(nki_session *s, uint32_t loop) {
    if (!s->reuses_loads)
        return NULL;
    if (!array_grow((void **)&s->turns, s->n_turns, &s->cap_turns, sizeof *s->turns))
        return VTRN_OUT_OF_MEMORY(s->n_turns * sizeof *s->turns);
    s->turns[s->n_turns++] = (nki_turn){.at = s->n_list, .loop = loop};
    return NULL;
}

void vtrn_nki_refuse_spills(nki_session *s) {
    s->refuses_spills = true;
}

void vtrn_nki_fill_unwritten(nki_session *s, nki_fill fill) {
    s->fill = fill;
}

uint64_t vtrn_nki_filled(const nki_session *s, const char **first, uint32_t *source) {
    *first = s->first_filled ? vtrn_status_message(s->first_filled) : NULL;
    *source = s->first_filled_source;
    return s->n_filled;
}

static nki_limits limits_of(const vtrn_chip *chip) {
    return (nki_limits){.name = chip->name,
                        .barrier_ns = chip->cost.event_semaphore_ns,
                        .gen = chip->gen,
                        .n_partitions = chip->n_partitions,
                        .sbuf_bytes =
                            chip->sbuf_partition_bytes - chip->sbuf_reserved_partition_bytes,
                        .psum_bytes = chip->psum_partition_bytes,
                        .psum_bank_bytes = chip->psum_bank_bytes};
}

nki_limits vtrn_nki_limits(const nki_session *s) {
    return limits_of(nki_chip(s));
}

const char *vtrn_nki_name(int table, int i) {
    static const int counts[] = {VTRN_OP_COUNT, VTRN_ALU_COUNT, VTRN_ACT_COUNT, VTRN_DTYPE_COUNT};
    if (table < 0 || table > 3 || i < 0 || i >= counts[table])
        return NULL;
    switch (table) {
    case 0:
        return isa_ops[i].mnemonic;
    case 1:
        return isa_alu_name((vtrn_alu)i);
    case 2:
        return isa_act_name((vtrn_act)i);
    default:
        return dtype_name((vtrn_dtype)i);
    }
}

const vtrn_op_info *vtrn_nki_op_info(int opcode) {
    return isa_op_info((vtrn_opcode)opcode);
}

int64_t vtrn_nki_view_bytes(const nki_view *view) {
    return (int64_t)(nki_view_elements(view) * (uint64_t)nki_element_bytes(view));
}

vtrn_device *vtrn_nki_device(nki_session *s) {
    return s->machine->device;
}

uint32_t vtrn_nki_n_instrs(const nki_session *s) {
    return s->n_list;
}

uint32_t vtrn_nki_source(const nki_session *s, uint32_t instr_i) {
    return nki_source_of(s, &s->list[instr_i]);
}

vtrn_status nki_record_add(nki_session *s, nki_record **out) {
    if (!array_grow((void **)&s->records, s->n_records, &s->cap_records, sizeof *s->records))
        return VTRN_OUT_OF_MEMORY(sizeof *s->records);
    nki_record *r = calloc(1, sizeof *r);
    if (!r)
        return VTRN_OUT_OF_MEMORY(sizeof *r);
    r->storage.session = s;
    r->storage.id = s->n_records;
    r->first = UINT32_MAX;
    s->records[s->n_records++] = r;
    *out = r;
    return NULL;
}

/* Whether the caller's bytes serve as they lie: aligned as any element is. */
static bool is_lent(const nki_tensor_options *o) {
    enum { LARGEST_ELEMENT_BYTES = 16 };
    return o->data && o->kind == NKI_ARGUMENT && (uintptr_t)o->data % LARGEST_ELEMENT_BYTES == 0;
}

/* The slot's place is outside of HBM's mapping, as a number from its beginning. */
static void lend(nki_session *s, nki_record *r, const void *data) {
    r->host = (uint8_t *)(uintptr_t)data; /* not written: own_written() copies before that */
    s->slot_base[r->slot] = (uint64_t)((uintptr_t)data - (uintptr_t)s->machine->core.hbm);
}

/* Memory in HBM for the tensor; data: its bytes, or NULL. */
static vtrn_status take_hbm(nki_session *s, nki_record *r, const void *data) {
    VTRN_RETURN_IF_ERROR(
        runtime_memory_create(s->machine->device->rt, 0, r->storage.n_bytes, &r->memory));
    r->host = r->memory->host;
    r->storage.addr = (int64_t)r->memory->addr;
    s->slot_base[r->slot] = r->memory->addr;
    if (data)
        memcpy(r->host, data, r->storage.n_bytes);
    return NULL;
}

vtrn_status nki_own(nki_session *s, nki_record *r) {
    if (r->storage.space != VTRN_SPACE_HBM || r->memory)
        return NULL;
    return take_hbm(s, r, r->host);
}

static vtrn_status grow_slots(nki_session *s) {
    if (s->n_slots == s->cap_slots) {
        uint32_t cap = s->cap_slots ? s->cap_slots * 2 : 16;
        vtrn_slot *slots = realloc(s->slots, cap * sizeof *slots);
        if (slots)
            s->slots = slots;
        uint64_t *base = realloc(s->slot_base, cap * sizeof *base);
        if (base)
            s->slot_base = base;
        if (!slots || !base)
            return VTRN_OUT_OF_MEMORY(cap * sizeof *slots);
        s->cap_slots = cap;
    }
    return NULL;
}

vtrn_status nki_scratch_add(nki_session *s, const nki_storage *like, nki_record **out) {
    VTRN_RETURN_IF_ERROR(grow_slots(s));
    VTRN_RETURN_IF_ERROR(nki_record_add(s, out));
    nki_record *r = *out;
    r->storage.space = VTRN_SPACE_HBM;
    r->storage.dtype = like->dtype;
    r->storage.n_partitions = 1;
    r->storage.row_bytes = r->storage.n_bytes = like->row_bytes * like->n_partitions;
    r->is_released = r->is_spill = true;
    r->slot = s->n_slots;
    s->slot_base[s->n_slots] = 0;
    s->slots[s->n_slots++] = (vtrn_slot){
        .kind = VTRN_SLOT_SCRATCH, .dtype = like->dtype, .size_bytes = r->storage.n_bytes};
    return NULL;
}

static vtrn_status add_slot(nki_session *s, nki_record *r, const nki_tensor_options *o) {
    VTRN_RETURN_IF_ERROR(grow_slots(s));
    static const uint8_t kinds[] = {[NKI_LOCAL] = VTRN_SLOT_SCRATCH,
                                    [NKI_ARGUMENT] = VTRN_SLOT_ARGUMENT,
                                    [NKI_CONSTANT] = VTRN_SLOT_CONSTANT};
    r->slot = s->n_slots;
    if (is_lent(o))
        lend(s, r, o->data);
    else
        VTRN_RETURN_IF_ERROR(take_hbm(s, r, o->data));
    s->slots[s->n_slots++] = (vtrn_slot){
        .kind = kinds[o->kind], .dtype = (uint8_t)o->dtype, .size_bytes = r->storage.n_bytes};
    if (o->kind == NKI_ARGUMENT)
        s->slots[r->slot].index = (int32_t)s->n_arguments++;
    if (o->data || o->kind == NKI_ARGUMENT)
        r->written.n_set = r->written.n_bytes;
    return NULL;
}

/* Doubles SBUF or PSUM of the session's core until a tile of row_bytes has room. */
static vtrn_status grow(nki_session *s, vtrn_space space, uint64_t row_bytes) {
    nki_machine *m = s->machine;
    bool is_psum = space == VTRN_SPACE_PSUM;
    const vtrn_chip *chip = nki_chip(s);
    uint32_t *has = is_psum ? &m->roomy.psum_partition_bytes : &m->roomy.sbuf_partition_bytes;
    uint64_t chip_has =
        (uint64_t)(is_psum ? chip->psum_partition_bytes : chip->sbuf_partition_bytes);
    uint64_t before = (uint64_t)*has, after = 2 * before;
    while (after - before < row_bytes && after <= MAX_ROOMY_PARTITION_BYTES)
        after *= 2;
    if (after > MAX_ROOMY_PARTITION_BYTES)
        return VTRN_ERROR(VTRN_CAPACITY,
                          "the kernel holds %llu times the %s of %s in tiles; let go of tiles that "
                          "it no longer uses (lists of tiles above all)",
                          (unsigned long long)(before / chip_has), is_psum ? "PSUM" : "SBUF",
                          chip->name);
    VTRN_RETURN_IF_ERROR(engine_core_grow(&m->core, space, after));
    m->has_grown = true;
    *has = (uint32_t)after;
    return nki_pool_give(&s->pool[space], (int64_t)before, after - before);
}

/* Gives the pools back what epochs named that are over. Without memory for the list of gaps a tile
 * is never used again. */
static void give_late(nki_session *s) {
    uint32_t n = 0;
    for (; n < s->n_late && nki_queue_is_over(s->machine->queue, s->late[n].epoch); n++) {
        const nki_late *l = &s->late[n];
        vtrn_status_free(nki_pool_give(&s->pool[l->space], l->addr, l->size));
        s->late_bytes -= l->size * (uint64_t)nki_chip(s)->n_partitions;
    }
    if (n == 0)
        return; /* also where there is no list */
    s->n_late -= n;
    memmove(s->late, s->late + n, s->n_late * sizeof *s->late);
}

static vtrn_status take(nki_session *s, vtrn_space space, uint64_t row_bytes, int64_t *out_addr) {
    give_late(s);
    while (!nki_pool_take(&s->pool[space], row_bytes, out_addr)) {
        VTRN_RETURN_IF_ERROR(nki_settle(s)); /* also since memory that grows moves */
        if (s->n_late)
            give_late(s);
        else
            VTRN_RETURN_IF_ERROR(grow(s, space, row_bytes));
    }
    return NULL;
}

/* A released tile of SBUF or PSUM. Without memory for a list it is never used again. */
static vtrn_status give_tile(nki_session *s, const nki_record *r) {
    if (nki_queue_is_over(s->machine->queue, r->epoch))
        return nki_pool_give(&s->pool[r->storage.space], r->storage.addr, r->storage.row_bytes);
    if (!array_grow((void **)&s->late, s->n_late, &s->cap_late, sizeof *s->late))
        return VTRN_OUT_OF_MEMORY(sizeof *s->late);
    nki_released released = {r->storage.addr, r->storage.row_bytes, r->storage.space};
    nki_queue_release(s->machine->queue, r->epoch, &released);
    nki_late late = {r->storage.addr, r->storage.row_bytes, r->epoch, r->storage.space};
    uint32_t i = s->n_late++;
    for (; i > 0 && s->late[i - 1].epoch > late.epoch; i--)
        s->late[i] = s->late[i - 1];
    s->late[i] = late;
    s->late_bytes += late.size * (uint64_t)nki_chip(s)->n_partitions;
    if (s->late_bytes <= MAX_LATE_BYTES)
        return NULL;
    vtrn_status status = nki_queue_close(s->machine->queue);
    give_late(s);
    return status;
}

/* What kernels have of a partition of SBUF or PSUM, bytes. */
static uint64_t capacity(const vtrn_chip *chip, bool is_psum) {
    nki_limits l = limits_of(chip);
    return is_psum ? l.psum_bytes : l.sbuf_bytes;
}

/* CAPACITY: what was asked for, what there is, and the remedy. */
static vtrn_status too_much(const vtrn_chip *chip, bool is_psum, const char *asked,
                            const char *remedy) {
    char reserved[60] = "";
    if (!is_psum && chip->sbuf_reserved_partition_bytes)
        snprintf(reserved, sizeof reserved, " for kernels, %u being reserved",
                 chip->sbuf_reserved_partition_bytes);
    return VTRN_ERROR(VTRN_CAPACITY, "a %s bytes a partition; %s of %s has %u%s; %s", asked,
                      is_psum ? "PSUM" : "SBUF", chip->name, (unsigned)capacity(chip, is_psum),
                      reserved, remedy);
}

static vtrn_status take_tile(nki_session *s, nki_record *r, const nki_tensor_options *o) {
    const vtrn_chip *chip = nki_chip(s);
    bool is_psum = o->space == VTRN_SPACE_PSUM;
    char asked[80];
    uint64_t limit = capacity(chip, is_psum);
    if (r->storage.n_partitions > (uint32_t)chip->n_partitions)
        return VTRN_ERROR(
            VTRN_CAPACITY, "a tile of %u partitions; %s of %s has %d; split its first dimension",
            r->storage.n_partitions, is_psum ? "PSUM" : "SBUF", chip->name, chip->n_partitions);
    uint32_t n_blocks = o->n_blocks ? o->n_blocks : 1;
    if (r->storage.row_bytes / n_blocks > limit) {
        snprintf(asked, sizeof asked, "%s of %llu", o->n_blocks > 1 ? "block" : "tile",
                 (unsigned long long)r->storage.row_bytes / n_blocks);
        return too_much(chip, is_psum, asked, "split its free dimensions");
    }
    r->is_placed = o->is_placed;
    r->placed_addr = o->addr;
    if (o->is_placed && (o->addr < 0 || (uint64_t)o->addr + r->storage.row_bytes > limit)) {
        snprintf(asked, sizeof asked, "tile placed at byte %lld with %llu", (long long)o->addr,
                 (unsigned long long)r->storage.row_bytes);
        return too_much(chip, is_psum, asked, "place it lower, or make it smaller");
    }
    if (is_psum && o->is_placed && o->addr % chip->psum_bank_bytes)
        return VTRN_ERROR(VTRN_UNDEFINED,
                          "a tile of PSUM placed at byte %lld; placed tiles begin at a bank, a "
                          "multiple of %u",
                          (long long)o->addr, chip->psum_bank_bytes);
    if (!o->is_placed)
        return take(s, o->space, r->storage.row_bytes, &r->storage.addr);
    if (!s->placed[s->core][o->space].is_there)
        VTRN_RETURN_IF_ERROR(take(s, o->space, limit, &s->placed[s->core][o->space].addr));
    s->placed[s->core][o->space].is_there = true;
    r->storage.addr = s->placed[s->core][o->space].addr + o->addr;
    return NULL;
}

static void dense(const nki_tensor_options *o, nki_view *out) {
    out->n_dims = (uint8_t)o->n_dims;
    int64_t step = 1;
    for (int i = o->n_dims - 1; i >= 0; i--) {
        out->shape[i] = o->shape[i];
        out->step[i] = step;
        step *= o->shape[i];
    }
}

vtrn_status vtrn_nki_tensor(nki_session *s, const nki_tensor_options *options, nki_view *out) {
    const nki_tensor_options *o = options;
    bool is_hbm = o->space == VTRN_SPACE_HBM;
    uint64_t row = dtype_size(o->dtype), n = 0;
    for (int i = 0; i < o->n_dims; i++) {
        if (!o->shape[i])
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "a tensor without elements: dimension %d is 0; leave out what "
                              "computes on it",
                              i);
        bool is_row = is_hbm || i > 0;
        if (o->shape[i] < 0 || (!is_row && o->shape[i] > UINT32_MAX) ||
            (is_row && (__builtin_mul_overflow(row, (uint64_t)o->shape[i], &row) ||
                        row > (UINT64_C(1) << MAX_ROW_SHIFT))))
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "a tensor whose dimension %d is %lld: dimensions are positive, and a "
                              "partition of a tile or a tensor in HBM has at most 2^%d bytes; make "
                              "it smaller",
                              i, (long long)o->shape[i], MAX_ROW_SHIFT);
    }
    uint64_t n_partitions = is_hbm ? 1 : (uint64_t)o->shape[0];
    n = row * n_partitions;
    nki_record *r;
    VTRN_RETURN_IF_ERROR(nki_record_add(s, &r));
    r->storage.space = (uint8_t)o->space;
    r->storage.dtype = (uint8_t)o->dtype;
    r->storage.n_partitions = (uint32_t)n_partitions;
    r->storage.row_bytes = row;
    r->storage.n_bytes = r->written.n_bytes = r->summed.n_bytes = r->valued.n_bytes = n;
    r->kind = (uint8_t)o->kind;
    r->is_kept_there = o->is_kept_there;
    r->n_blocks = o->n_blocks;
    if (o->name && *o->name) {
        r->name = r->owned_name = strdup(o->name);
        if (!r->name)
            return VTRN_OUT_OF_MEMORY(strlen(o->name) + 1);
    }
    r->core = is_hbm ? 0 : (uint8_t)s->core;
    r->is_released = true; /* until it has memory */
    VTRN_RETURN_IF_ERROR(is_hbm ? add_slot(s, r, o) : take_tile(s, r, o));
    r->is_released = false;
    *out = (nki_view){.storage = &r->storage, .dtype = (uint8_t)o->dtype};
    dense(o, out);
    return NULL;
}

void vtrn_nki_release(nki_storage *storage) {
    nki_record *r = (nki_record *)storage;
    nki_queue *q = storage->session->machine->queue;
    if (r->is_released)
        return;
    if (r->epoch == NKI_NOT_PLACED)
        nki_queue_keep_error(q, nki_queue_place(q));
    r->is_released = true;
    free(r->written.bytes);
    free(r->summed.bytes);
    free(r->valued.bytes);
    r->written.bytes = r->summed.bytes = r->valued.bytes = NULL;
    if (storage->space == VTRN_SPACE_HBM) {
        if (!nki_queue_is_over(storage->session->machine->queue, r->epoch))
            nki_queue_keep_error(storage->session->machine->queue, nki_settle(storage->session));
        if (r->kind == NKI_LOCAL) {
            runtime_memory_release(r->memory);
            r->memory = NULL;
        }
        return;
    }
    if (r->is_placed)
        return;
    nki_queue_keep_error(storage->session->machine->queue, give_tile(storage->session, r));
}

uint32_t vtrn_nki_n_writes(const nki_storage *storage) {
    return ((const nki_record *)storage)->n_writes;
}

/* Host address of a storage's byte. */
static uint8_t *host_of(const nki_record *r, int64_t byte) {
    const engine_core *core = &r->storage.session->machine->core;
    const engine_memory *m = r->storage.space == VTRN_SPACE_PSUM ? &core->psum : &core->sbuf;
    int64_t row = (int64_t)r->storage.row_bytes;
    if (r->storage.space == VTRN_SPACE_HBM)
        return r->host + byte;
    return m->base + (size_t)(byte / row) * m->stride + r->storage.addr + byte % row;
}

vtrn_status nki_view_fill(const nki_view *view, uint64_t *n_filled) {
    nki_record *r = nki_record_of(view);
    int64_t size = nki_element_bytes(view), index[NKI_MAX_DIMS] = {0};
    uint64_t n = nki_view_elements(view), first;
    VTRN_RETURN_IF_ERROR(nki_settle(r->storage.session));
    bool is_zero = r->storage.session->fill == NKI_FILL_ZERO;
    uint8_t filler[16] = {is_zero ? 0 : 4};
    if (!is_zero && dtype_is_float((vtrn_dtype)view->dtype)) {
        float nan = NAN;
        dtype_store_fp32((vtrn_dtype)view->dtype, &nan, filler, 1);
    }
    nki_view one = {
        .storage = view->storage, .dtype = view->dtype, .n_dims = 1, .shape = {1}, .step = {1}};
    one.offset = view->offset;
    for (uint64_t i = 0; i < n; i++) {
        if (nki_map_count(&r->written, &one, &first) < (uint64_t)size) {
            memcpy(host_of(r, one.offset * size), filler, (size_t)size);
            VTRN_RETURN_IF_ERROR(nki_map_mark(&r->written, &one));
            ++*n_filled;
        }
        for (int d = view->n_dims - 1; d >= 0; d--) {
            one.offset += view->step[d];
            if (++index[d] < view->shape[d])
                break;
            one.offset -= view->step[d] * view->shape[d];
            index[d] = 0;
        }
    }
    return NULL;
}

vtrn_status vtrn_nki_zero_unwritten(const nki_view *view) {
    nki_session *s = nki_record_of(view)->storage.session;
    nki_fill before = s->fill;
    uint64_t n_filled = 0;
    VTRN_RETURN_IF_ERROR(nki_view_check(view));
    s->fill = NKI_FILL_ZERO;
    vtrn_status status = nki_view_fill(view, &n_filled);
    s->fill = before;
    return status;
}

vtrn_status vtrn_nki_written(const nki_view *view, uint8_t *is_written, uint64_t *n_unwritten) {
    const nki_record *r = nki_record_of(view);
    const uint64_t size = (uint64_t)nki_element_bytes(view), n = nki_view_elements(view);
    uint64_t first;
    VTRN_RETURN_IF_ERROR(nki_view_check(view));
    *n_unwritten = n - nki_map_count(&r->written, view, &first) / size;
    for (uint64_t i = 0; i < n; i++) {
        is_written[i] = true;
        if (!*n_unwritten)
            continue;
        nki_view one = nki_element_of(view, i);
        is_written[i] = nki_map_count(&r->written, &one, &first) == size;
    }
    return NULL;
}

vtrn_status vtrn_nki_read(const nki_view *view, void *out, uint64_t *n_unwritten) {
    const nki_record *r = nki_record_of(view);
    int64_t size = nki_element_bytes(view);
    uint64_t n = nki_view_elements(view), first = 0;
    if (r->storage.session->has_no_values)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "a value is looked at where there is none: JAX traces the kernel, or "
                          "only its time is computed; look at it in a call of the kernel by "
                          "itself");
    VTRN_RETURN_IF_ERROR(nki_view_check(view));
    VTRN_RETURN_IF_ERROR(nki_settle(r->storage.session));
    *n_unwritten = n - nki_map_count(&r->written, view, &first) / (uint64_t)size;
    bool is_hbm = r->storage.space == VTRN_SPACE_HBM;
    int64_t index[NKI_MAX_DIMS] = {0}, at = view->offset;
    uint8_t *to = out;
    int inner = view->n_dims - 1;
    bool is_run =
        view->n_dims && view->step[inner] == 1; /* the elements of a run are in one partition */
    uint64_t run = is_run && (is_hbm || inner > 0) ? (uint64_t)view->shape[inner] : 1;
    int last = run > 1 ? inner - 1 : inner;
    for (uint64_t done = 0; done < n; done += run) {
        memcpy(to, host_of(r, at * size), run * (uint64_t)size);
        to += run * (uint64_t)size;
        for (int i = last; i >= 0; i--) {
            at += view->step[i];
            if (++index[i] < view->shape[i])
                break;
            at -= view->step[i] * view->shape[i];
            index[i] = 0;
        }
    }
    return NULL;
}

/* Whether elements of the view are adjacent and in order. */
static bool is_run(const nki_view *view) {
    int64_t adjacent = 1;
    for (int i = view->n_dims - 1; i >= 0; i--) {
        if (view->shape[i] != 1 && view->step[i] != adjacent)
            return false;
        adjacent *= view->shape[i];
    }
    return true;
}

/* Whether results may be in the machine's HBM. A device exists as long as they do, with its threads
 * and its address space: so only of a machine that waits for the next kernel when this one is over,
 * and of none where that has turned out otherwise. */
static bool may_lend(const nki_machine *m) {
    pthread_mutex_lock(&idle_lock);
    bool stays = !m->has_grown && n_machines <= MAX_IDLE && n_orphans < MAX_ORPHANS;
    pthread_mutex_unlock(&idle_lock);
    return stays;
}

vtrn_status vtrn_nki_keep(const nki_view *view, nki_memory **out, void **out_bytes) {
    nki_record *r = nki_record_of(view);
    const nki_machine *m = r->storage.session->machine;
    const uint64_t n_bytes = (uint64_t)vtrn_nki_view_bytes(view);
    uint64_t first = 0;
    *out = NULL;
    *out_bytes = NULL;
    if (r->storage.session->has_no_values || r->kind != NKI_LOCAL || !r->memory ||
        n_bytes < LEAST_KEPT_BYTES || 2 * n_bytes < r->storage.n_bytes || !may_lend(m) ||
        !is_run(view))
        return NULL;
    VTRN_RETURN_IF_ERROR(nki_view_check(view));
    VTRN_RETURN_IF_ERROR(nki_settle(r->storage.session));
    if (nki_map_count(&r->written, view, &first) < n_bytes)
        return NULL;
    hbm_stats stats;
    runtime_memory_stats(m->device->rt, 0, &stats);
    if (stats.in_use_bytes > stats.capacity_bytes / 4) /* the next kernel needs room, too */
        return NULL;
    runtime_memory_retain(r->memory);
    *out = (nki_memory *)r->memory;
    *out_bytes = r->host + view->offset * nki_element_bytes(view);
    return NULL;
}

void vtrn_nki_memory_release(nki_memory *memory) {
    runtime_memory_release((runtime_memory *)memory);
}

void nki_list_drop(nki_session *s, const bool *is_dropped) {
    uint32_t n = 0, meet = 0, turn = 0;
    for (uint32_t k = 0; k < s->n_list; k++) {
        for (; meet < s->n_meets && s->meets[meet].at == k; meet++)
            s->meets[meet].at = n;
        for (; turn < s->n_turns && s->turns[turn].at == k; turn++)
            s->turns[turn].at = n;
        if (!is_dropped[k])
            s->list[n++] = s->list[k];
    }
    for (; meet < s->n_meets; meet++)
        s->meets[meet].at = n;
    for (; turn < s->n_turns; turn++)
        s->turns[turn].at = n;
    s->n_list = n;
}
