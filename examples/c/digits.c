/* Trains the digits network from C: digits DIR [STEPS], where examples/digits/export.py wrote DIR.
 * No Python at run time. */
#include "vtrn.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    N_TRAIN = 1500,
    N_TEST = 297,
    N_PIXELS = 64,
    N_CLASSES = 10,
    BATCH = 50,
    N_PARAMS = 6,
    N_STATE = 2 * N_PARAMS, /* parameters and velocities */
};

static void fail(const char *what, vtrn_status status) {
    fprintf(stderr, "%s: %s\n", what, vtrn_error_message(status));
    int code = vtrn_error_category(status);
    vtrn_error_free(status);
    exit(code ? 1 : 4);
}

#define TRY(call)                                                                                  \
    do {                                                                                           \
        vtrn_status status_ = (call);                                                              \
        if (status_)                                                                               \
            fail(#call, status_);                                                                  \
    } while (0)

static void *read_file(const char *directory, const char *name, size_t *size) {
    char path[4096];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *f = fopen(path, "rb");
    long length = -1;
    if (f && fseek(f, 0, SEEK_END) == 0)
        length = ftell(f);
    char *data = length >= 0 ? malloc((size_t)length + 1) : NULL;
    if (!data || fseek(f, 0, SEEK_SET) || fread(data, 1, (size_t)length, f) != (size_t)length) {
        fprintf(stderr, "%s: %s\n", path, errno ? strerror(errno) : "cannot read");
        exit(1);
    }
    fclose(f);
    *size = (size_t)length;
    return data;
}

/* The images and labels of a file; exits when it is not of n digits. */
static const float *read_digits(const char *directory, const char *name, int n,
                                const int32_t **labels) {
    size_t size;
    float *images = read_file(directory, name, &size);
    if (size != (size_t)n * (N_PIXELS * sizeof(float) + sizeof(int32_t))) {
        fprintf(stderr, "%s/%s: not %d digits\n", directory, name, n);
        exit(1);
    }
    *labels = (const int32_t *)(images + (size_t)n * N_PIXELS);
    return images;
}

static vtrn_executable *compile_file(vtrn_device *device, const char *directory, const char *name,
                                     int n_inputs, int n_outputs) {
    size_t size;
    void *artifact = read_file(directory, name, &size);
    vtrn_executable *executable;
    TRY(vtrn_compile(device, artifact, size, &executable));
    free(artifact);
    if (vtrn_executable_n_inputs(executable) != n_inputs ||
        vtrn_executable_n_outputs(executable) != n_outputs) {
        fprintf(stderr, "%s/%s: not the artifact that export.py writes\n", directory, name);
        exit(1);
    }
    return executable;
}

/* A buffer for input i of the executable. */
static vtrn_buffer *make_input(vtrn_device *device, const vtrn_executable *executable, int i,
                               const void *data) {
    int dtype, rank;
    int64_t dims[VTRN_MAX_RANK];
    vtrn_buffer *buffer;
    vtrn_executable_input_type(executable, i, &dtype, &rank, dims);
    TRY(vtrn_buffer_create(device, 0, dtype, rank, dims, data, &buffer));
    return buffer;
}

static void load_state(vtrn_device *device, const vtrn_executable *step, const char *directory,
                       vtrn_buffer **state) {
    size_t size, at = 0;
    char *bytes = read_file(directory, "state.bin", &size);
    for (int i = 0; i < N_STATE; i++) {
        state[i] = make_input(device, step, i, NULL);
        size_t need = vtrn_buffer_size(state[i]);
        if (need > size - at) {
            fprintf(stderr, "%s/state.bin: too short\n", directory);
            exit(1);
        }
        TRY(vtrn_buffer_write(state[i], bytes + at, need));
        at += need;
    }
    free(bytes);
}

/* A shuffled order of the training set: Fisher and Yates, over a small generator. */
static void shuffle(int *order, uint64_t *seed) {
    for (int i = 0; i < N_TRAIN; i++)
        order[i] = i;
    for (int i = N_TRAIN - 1; i > 0; i--) {
        *seed = *seed * 6364136223846793005u + 1442695040888963407u;
        int j = (int)((*seed >> 33) % (uint64_t)(i + 1));
        int tmp = order[i];
        order[i] = order[j];
        order[j] = tmp;
    }
}

/* One step: state becomes the new state. Returns the loss. */
static float train_step(vtrn_device *device, vtrn_executable *step, vtrn_buffer **state,
                        const float *images, const int32_t *labels) {
    vtrn_buffer *inputs[N_STATE + 2], *outputs[N_STATE + 1];
    memcpy(inputs, state, N_STATE * sizeof *inputs);
    inputs[N_STATE] = make_input(device, step, N_STATE, images);
    inputs[N_STATE + 1] = make_input(device, step, N_STATE + 1, labels);
    TRY(vtrn_execute(step, 0, inputs, N_STATE + 2, NULL, outputs, N_STATE + 1));
    for (int i = 0; i < N_STATE + 2; i++)
        vtrn_buffer_destroy(inputs[i]);
    memcpy(state, outputs, N_STATE * sizeof *state);
    float loss;
    TRY(vtrn_buffer_read(outputs[N_STATE], &loss, sizeof loss));
    vtrn_buffer_destroy(outputs[N_STATE]);
    return loss;
}

static double held_out_accuracy(vtrn_device *device, const char *directory, vtrn_buffer **state) {
    static float logits[N_TEST][N_CLASSES];
    vtrn_executable *forward = compile_file(device, directory, "logits.vhlo", N_PARAMS + 1, 1);
    const int32_t *labels;
    const float *images = read_digits(directory, "test.bin", N_TEST, &labels);
    vtrn_buffer *inputs[N_PARAMS + 1], *output;
    memcpy(inputs, state, N_PARAMS * sizeof *inputs);
    inputs[N_PARAMS] = make_input(device, forward, N_PARAMS, images);
    TRY(vtrn_execute(forward, 0, inputs, N_PARAMS + 1, NULL, &output, 1));
    TRY(vtrn_buffer_read(output, logits, sizeof logits));
    vtrn_buffer_destroy(inputs[N_PARAMS]);
    vtrn_buffer_destroy(output);
    vtrn_executable_destroy(forward);
    int n_right = 0;
    for (int i = 0; i < N_TEST; i++) {
        int best = 0;
        for (int c = 1; c < N_CLASSES; c++)
            best = logits[i][c] > logits[i][best] ? c : best;
        n_right += best == labels[i];
    }
    free((void *)images);
    return (double)n_right / N_TEST;
}

static void train(vtrn_device *device, vtrn_executable *step, vtrn_buffer **state,
                  const char *directory, int n_steps) {
    static int order[N_TRAIN];
    const int32_t *labels;
    const float *images = read_digits(directory, "train.bin", N_TRAIN, &labels);
    uint64_t seed = 1;
    for (int i = 0; i < n_steps; i++) {
        float batch[BATCH][N_PIXELS];
        int32_t batch_labels[BATCH];
        int first = i % (N_TRAIN / BATCH) * BATCH;
        if (first == 0)
            shuffle(order, &seed);
        for (int k = 0; k < BATCH; k++) {
            memcpy(batch[k], images + (size_t)order[first + k] * N_PIXELS, sizeof batch[k]);
            batch_labels[k] = labels[order[first + k]];
        }
        float loss = train_step(device, step, state, batch[0], batch_labels);
        if ((i + 1) % 50 == 0 || i + 1 == n_steps)
            printf("step %d  loss %.4f\n", i + 1, loss);
    }
    free((void *)images);
}

int main(int argc, char **argv) {
    int n_steps = argc == 3 ? atoi(argv[2]) : 600;
    if (argc < 2 || argc > 3 || n_steps < 1) {
        fprintf(stderr, "usage: digits DIR [STEPS]; examples/digits/export.py writes DIR\n");
        return 2;
    }
    vtrn_device_options options = {.struct_size = sizeof options};
    vtrn_device *device;
    TRY(vtrn_device_open(&options, &device));
    vtrn_executable *step = compile_file(device, argv[1], "step.vhlo", N_STATE + 2, N_STATE + 1);
    vtrn_buffer *state[N_STATE];
    load_state(device, step, argv[1], state);
    train(device, step, state, argv[1], n_steps);
    printf("held-out accuracy %.2f %%\n", 100 * held_out_accuracy(device, argv[1], state));
    vtrn_profile profile = {.struct_size = sizeof profile};
    TRY(vtrn_executable_profile(step, &profile));
    printf("one step on %s: %.1f us, MFU %.2f %%\n", vtrn_device_chip_name(device),
           profile.step_ns / 1000, 100 * profile.mfu);
    for (int i = 0; i < N_STATE; i++)
        vtrn_buffer_destroy(state[i]);
    vtrn_executable_destroy(step);
    vtrn_device_close(device);
    return 0;
}
