/* Opening a machine, its memory, and what its cores need before they can run. */
#include "runtime/device.h"

#include "base/cpu.h"
#include "base/process.h"
#include "collective/collective.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* Large pages make a core some percent faster, and have the host keep all of its SBUF where a
 * program uses a part of each partition: of dozens of cores that is gigabytes. */
enum { MAX_LARGE_PAGED_CORES = 8 };

static const char default_instance[] = "trn1.2xlarge";

static vtrn_status choose_machine(const char *chip, const char *instance, runtime_device *d) {
    bool has_chip = chip && *chip, has_instance = instance && *instance;
    if (has_instance || !has_chip) {
        VTRN_RETURN_IF_ERROR(
            chip_instance_load(has_instance ? instance : default_instance, &d->instance));
        VTRN_RETURN_IF_ERROR(chip_load(has_chip ? chip : d->instance.chip, &d->chip));
        if (has_chip && !strchr(chip, '/') && strcmp(d->chip.name, d->instance.chip) != 0)
            return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                              "instance %s has %s chips, but the chip asked for is %s; leave one "
                              "of VTRN_CHIP and VTRN_INSTANCE out",
                              d->instance.name, d->instance.chip, d->chip.name);
        return NULL;
    }
    VTRN_RETURN_IF_ERROR(chip_load(chip, &d->chip));
    vtrn_instance all[CHIP_MAX_INSTANCES];
    int n = 0;
    VTRN_RETURN_IF_ERROR(chip_instances(all, CHIP_MAX_INSTANCES, &n));
    const vtrn_instance *smallest = chip_smallest_instance(all, n, d->chip.name);
    if (smallest) {
        d->instance = *smallest;
        return NULL;
    }
    d->instance = (vtrn_instance){.n_chips = 1};
    memcpy(d->instance.name, d->chip.name, sizeof d->instance.name);
    memcpy(d->instance.chip, d->chip.name, sizeof d->instance.chip);
    return NULL;
}

static vtrn_status check_machine(const runtime_device *d) {
    const vtrn_chip *c = &d->chip;
    if (!c->is_executable)
        return VTRN_ERROR(VTRN_UNSUPPORTED,
                          "chip %s: too few of its numbers are published to simulate it; "
                          "choose another with VTRN_CHIP",
                          c->name);
    if (c->n_cores < 1 || c->n_hbm_stacks < 1 || d->instance.n_chips < 1 ||
        c->cores_per_stack < 1 || c->n_cores > c->n_hbm_stacks * c->cores_per_stack ||
        c->hbm_bytes / (uint64_t)c->n_hbm_stacks <= c->hbm_reserved_stack_bytes)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT,
                          "chip %s: %d cores, %d HBM stacks of %d cores, %llu bytes of HBM with "
                          "%llu reserved a stack do not make a machine",
                          c->name, c->n_cores, c->n_hbm_stacks, c->cores_per_stack,
                          (unsigned long long)c->hbm_bytes,
                          (unsigned long long)c->hbm_reserved_stack_bytes);
    return NULL;
}

/* Address space of the chip's real size; the host commits pages only as they are written. */
static vtrn_status reserve_hbm(uint64_t size_bytes, uint8_t **out) {
    void *p = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return VTRN_ERROR(VTRN_RESOURCE, "host: cannot reserve %llu bytes of address space for HBM",
                          (unsigned long long)size_bytes);
    /* a tile of 128 rows lies in 128 small pages: more than a first-level TLB has */
    madvise(p, size_bytes, MADV_HUGEPAGE);
    *out = p;
    return NULL;
}

/* Of a chip when it is first used: a process has room for some hundred chips, and an instance of 64
 * of them may be opened for a kernel of one core. The caller holds memory_lock. */
static vtrn_status reserve_chip(runtime_device *d, int chip_i) {
    uint8_t **hbm = &d->chip_hbm[chip_i];
    return *hbm ? NULL : reserve_hbm(d->chip.hbm_bytes, hbm);
}

vtrn_status runtime_hbm(runtime_device *device, int core_i, uint8_t **out) {
    int chip_i = device->cores[core_i].chip_i;
    pthread_mutex_lock(&device->memory_lock);
    vtrn_status status = reserve_chip(device, chip_i);
    *out = device->chip_hbm[chip_i];
    pthread_mutex_unlock(&device->memory_lock);
    return status;
}

static vtrn_status open_memory(runtime_device *d) {
    const vtrn_chip *c = &d->chip;
    d->chip_hbm = calloc((size_t)d->n_chips, sizeof *d->chip_hbm);
    d->stacks = calloc((size_t)d->n_stacks, sizeof(hbm_heap *));
    d->cores = calloc((size_t)d->n_cores, sizeof *d->cores);
    if (!d->chip_hbm || !d->stacks || !d->cores)
        return VTRN_OUT_OF_MEMORY(sizeof *d->cores * (size_t)d->n_cores);
    uint64_t stack_bytes = c->hbm_bytes / (uint64_t)c->n_hbm_stacks;
    for (int i = 0; i < d->n_stacks; i++) {
        uint64_t base = (uint64_t)(i % c->n_hbm_stacks) * stack_bytes;
        VTRN_RETURN_IF_ERROR(hbm_heap_create(base + c->hbm_reserved_stack_bytes,
                                             stack_bytes - c->hbm_reserved_stack_bytes,
                                             &d->stacks[i]));
    }
    for (int i = 0; i < d->n_cores; i++) {
        runtime_core *core = &d->cores[i];
        core->chip_i = i / c->n_cores;
        core->core_in_chip = i % c->n_cores;
        core->stack_i = core->chip_i * c->n_hbm_stacks + core->core_in_chip / c->cores_per_stack;
    }
    return NULL;
}

static void device_destroy(runtime_device *d) {
    for (int i = 0; d->cores && i < d->n_cores; i++) {
        if (d->cores[i].is_ready)
            engine_core_destroy(&d->cores[i].engine);
        free(d->cores[i].scratch); /* its block dies with the heap */
    }
    for (int i = 0; d->stacks && i < d->n_stacks; i++)
        hbm_heap_destroy(d->stacks[i]);
    for (int i = 0; d->chip_hbm && i < d->n_chips; i++)
        if (d->chip_hbm[i])
            munmap(d->chip_hbm[i], d->chip.hbm_bytes);
    collective_topology_destroy(d->topology);
    transport_close(d->transport);
    free(d->core_process);
    free(d->value_ranks);
    if (d->team)
        team_destroy(d->team);
    pthread_mutex_destroy(&d->run_lock);
    pthread_mutex_destroy(&d->memory_lock);
    free(d->cores);
    free(d->stacks);
    free(d->chip_hbm);
    free(d);
}

vtrn_status runtime_device_open(const char *chip, const char *instance, int n_threads,
                                runtime_device **out) {
    VTRN_RETURN_IF_ERROR(cpu_level_check());
    runtime_device *d = calloc(1, sizeof *d);
    if (!d)
        return VTRN_OUT_OF_MEMORY(sizeof *d);
    atomic_init(&d->refs, 1);
    d->n_forks = process_n_forks();
    d->is_timed = d->has_values = true;
    pthread_mutex_init(&d->run_lock, NULL);
    pthread_mutex_init(&d->memory_lock, NULL);
    vtrn_status status = choose_machine(chip, instance, d);
    if (!status)
        status = check_machine(d);
    if (!status) {
        d->n_chips = d->instance.n_chips;
        d->n_cores = d->n_chips * d->chip.n_cores;
        d->n_stacks = d->n_chips * d->chip.n_hbm_stacks;
        status = team_create(n_threads, &d->team);
    }
    if (!status)
        status = open_memory(d);
    if (status) {
        device_destroy(d);
        return status;
    }
    *out = d;
    return NULL;
}

void runtime_device_join(runtime_device *device, transport *t, int *core_process) {
    device->transport = t;
    device->core_process = core_process;
}

vtrn_status runtime_device_check_process(const runtime_device *device) {
    if (device->n_forks == process_n_forks())
        return NULL;
    return VTRN_ERROR(VTRN_UNSUPPORTED,
                      "device: this process is a fork of the one that opened it, and has none of "
                      "its threads; start processes by spawn, as "
                      "multiprocessing.set_start_method(\"spawn\") does, or fork before the first "
                      "use");
}

void runtime_device_retain(runtime_device *device) {
    atomic_fetch_add_explicit(&device->refs, 1, memory_order_relaxed);
}

void runtime_device_release(runtime_device *device) {
    if (device && atomic_fetch_sub_explicit(&device->refs, 1, memory_order_acq_rel) == 1)
        device_destroy(device);
}

/* The caller counts the bytes of the scratch, which no reference of the device may keep alive. */
static vtrn_status memory_new(runtime_device *device, int core_i, uint64_t size_bytes,
                              runtime_memory **out) {
    runtime_memory *m = malloc(sizeof *m);
    if (!m)
        return VTRN_OUT_OF_MEMORY(sizeof *m);
    runtime_core *core = &device->cores[core_i];
    hbm_block *block = NULL;
    pthread_mutex_lock(&device->memory_lock);
    vtrn_status status = reserve_chip(device, core->chip_i);
    if (!status)
        status = hbm_alloc(device->stacks[core->stack_i], size_bytes, &block);
    if (!status) {
        core->in_use_bytes += hbm_block_bytes(block);
        if (core->in_use_bytes > core->peak_bytes)
            core->peak_bytes = core->in_use_bytes;
    }
    pthread_mutex_unlock(&device->memory_lock);
    if (status) {
        free(m);
        return vtrn_status_annotate(status, "core %d (%s, chip %d, stack %d)", core_i,
                                    device->chip.core_name, core->chip_i,
                                    core->stack_i % device->chip.n_hbm_stacks);
    }
    atomic_init(&m->refs, 1);
    m->core_i = core_i;
    m->device = device;
    m->block = block;
    m->addr = hbm_block_addr(block);
    m->size_bytes = size_bytes;
    m->lacks_values = false;
    m->host = device->chip_hbm[core->chip_i] + m->addr;
    *out = m;
    return NULL;
}

/* Gives whole host pages inside the range back, once the host is short of memory: a step that
 * returns its gradients and allocates them again would spend a third of its time in pages being
 * cleared. Until then they count as resident. */
static void trim_pages(const uint8_t *start, uint64_t n_bytes) {
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t lo = ((uintptr_t)start + page - 1) & ~(page - 1);
    uintptr_t hi = ((uintptr_t)start + n_bytes) & ~(page - 1);
    if (hi > lo && madvise((void *)lo, hi - lo, MADV_FREE))
        madvise((void *)lo, hi - lo, MADV_DONTNEED); /* a kernel before 4.5 */
}

static void memory_free(runtime_memory *m) {
    runtime_device *device = m->device;
    if (!m->block) {
        free(m->host);
        free(m);
        return;
    }
    runtime_core *core = &device->cores[m->core_i];
    uint64_t trim_addr, trim_bytes;
    pthread_mutex_lock(&device->memory_lock);
    core->in_use_bytes -= hbm_block_bytes(m->block);
    hbm_free(device->stacks[core->stack_i], m->block, &trim_addr, &trim_bytes);
    /* Under the lock: nobody may get the range before its pages are gone. */
    if (trim_bytes)
        trim_pages(device->chip_hbm[core->chip_i] + trim_addr, trim_bytes);
    pthread_mutex_unlock(&device->memory_lock);
    free(m);
}

static vtrn_status check_core(const runtime_device *device, int core_i) {
    if (core_i < 0 || core_i >= device->n_cores)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "core %d: %s has cores 0..%d", core_i,
                          device->instance.name, device->n_cores - 1);
    if (runtime_core_is_remote(device, core_i))
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "core %d belongs to %s; only that process reaches it",
                          core_i,
                          device->core_process[core_i] < 0
                              ? "no process"
                              : transport_name(device->transport, device->core_process[core_i]));
    return NULL;
}

vtrn_status runtime_host_memory_create(runtime_device *device, int core_i, uint64_t size_bytes,
                                       runtime_memory **out) {
    VTRN_RETURN_IF_ERROR(check_core(device, core_i));
    uint64_t room = (size_bytes / HBM_ALIGN_BYTES + 1) * HBM_ALIGN_BYTES;
    runtime_memory *m = calloc(1, sizeof *m);
    uint8_t *host = m ? aligned_alloc(HBM_ALIGN_BYTES, room) : NULL;
    if (!host) {
        free(m);
        return VTRN_OUT_OF_MEMORY(room);
    }
    atomic_init(&m->refs, 1);
    m->core_i = core_i;
    m->device = device;
    m->size_bytes = size_bytes;
    m->host = host;
    runtime_device_retain(device);
    *out = m;
    return NULL;
}

vtrn_status runtime_memory_create(runtime_device *device, int core_i, uint64_t size_bytes,
                                  runtime_memory **out) {
    VTRN_RETURN_IF_ERROR(check_core(device, core_i));
    VTRN_RETURN_IF_ERROR(memory_new(device, core_i, size_bytes, out));
    runtime_device_retain(device);
    return NULL;
}

void runtime_memory_release(runtime_memory *m) {
    if (!m || atomic_fetch_sub_explicit(&m->refs, 1, memory_order_acq_rel) != 1)
        return;
    runtime_device *device = m->device;
    memory_free(m);
    runtime_device_release(device);
}

void runtime_memory_stats(runtime_device *device, int core_i, hbm_stats *out) {
    pthread_mutex_lock(&device->memory_lock);
    const runtime_core *core = &device->cores[core_i];
    hbm_heap_stats(device->stacks[core->stack_i], out);
    out->in_use_bytes = core->in_use_bytes;
    out->peak_bytes = core->peak_bytes;
    pthread_mutex_unlock(&device->memory_lock);
}

void runtime_memory_reset_peak(runtime_device *device, int core_i) {
    pthread_mutex_lock(&device->memory_lock);
    device->cores[core_i].peak_bytes = device->cores[core_i].in_use_bytes;
    pthread_mutex_unlock(&device->memory_lock);
}

vtrn_status runtime_core_ready(runtime_device *device, int core_i) {
    runtime_core *core = &device->cores[core_i];
    if (core->is_ready)
        return NULL;
    uint8_t *hbm;
    VTRN_RETURN_IF_ERROR(runtime_hbm(device, core_i, &hbm));
    VTRN_RETURN_IF_ERROR(engine_core_create(&device->chip, hbm, device->chip.hbm_bytes,
                                            device->team, &core->engine));
    if (device->n_ready >= MAX_LARGE_PAGED_CORES)
        engine_core_use_small_pages(&core->engine);
    device->n_ready++;
    core->is_ready = true;
    return NULL;
}

vtrn_status runtime_core_scratch(runtime_device *device, int core_i, uint64_t size_bytes) {
    runtime_core *core = &device->cores[core_i];
    if (core->scratch && core->scratch->size_bytes >= size_bytes)
        return NULL;
    if (core->scratch)
        memory_free(core->scratch);
    core->scratch = NULL;
    core->scratch_generation++;
    return memory_new(device, core_i, size_bytes, &core->scratch);
}
