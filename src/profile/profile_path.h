/* Why each instruction of a step started when it did, and the chain of such causes that ends last:
 * the critical path. Worked out from the program and the intervals, without the timing model. */
#ifndef VTRN_PROFILE_PROFILE_PATH_H
#define VTRN_PROFILE_PROFILE_PATH_H

#include "isa/program.h"
#include "timing/timing.h"

typedef enum profile_cause {
    PROFILE_CAUSE_LAUNCH,    /* nothing ran before it */
    PROFILE_CAUSE_QUEUE,     /* the instruction before it on its engine */
    PROFILE_CAUSE_SEMAPHORE, /* what raised a semaphore that it waited for */
    PROFILE_CAUSE_TRIGGER,   /* a transfer: the instruction that queued it */
    PROFILE_CAUSE_TRANSFER,  /* a transfer: one queued before it, which held the DMA engines */
    PROFILE_CAUSE_MEETING,   /* the last of the block before it, at whose end all engines meet */
    PROFILE_CAUSE_COUNT
} profile_cause;

enum { PROFILE_NO_INTERVAL = 0xffffffff };

/* What let an interval start: another interval (PROFILE_NO_INTERVAL: the launch), and how. */
typedef struct profile_link {
    uint32_t interval;
    uint8_t cause;      /* profile_cause */
    uint16_t semaphore; /* of PROFILE_CAUSE_SEMAPHORE */
} profile_link;

/* A stretch of the critical path: an interval at work until the next one starts, and the time
 * between its cause's end and its own start. */
typedef struct profile_step {
    uint32_t interval;
    profile_link link;
    double gap_ns, work_ns;
} profile_step;

typedef struct profile_path {
    profile_link *links; /* [n_intervals] */
    profile_step *steps; /* in order of time */
    size_t n_steps;
    double start_ns, end_ns; /* of the whole path; gaps and works of its steps add up to it */
} profile_path;

/* RESOURCE when the host is out of memory. A step without intervals has an empty path. */
vtrn_status profile_path_create(const vtrn_program *program, const timing_result *timing,
                                profile_path *out);
void profile_path_free(profile_path *path);

#endif
