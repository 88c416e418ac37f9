/* The three files of a profile, side by side in one directory. */
#include "profile/profile.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_MEMORY_SAMPLES = 2000, PATH_MAX_BYTES = 4096 };

static vtrn_status make_directory(const char *directory) {
    char path[PATH_MAX_BYTES];
    size_t length = strlen(directory);
    if (length == 0 || length + 32 > sizeof path)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "profile: a directory path has 1..%zu bytes, not %zu",
                          sizeof path - 32, length);
    memcpy(path, directory, length + 1);
    for (size_t i = 1; i <= length; i++) {
        if (path[i] != '/' && path[i] != 0)
            continue;
        path[i] = 0;
        if (mkdir(path, 0777) != 0 && errno != EEXIST)
            return VTRN_ERROR(VTRN_RESOURCE, "profile: cannot make directory %s: %s", path,
                              strerror(errno));
        if (i < length)
            path[i] = '/';
    }
    return NULL;
}

vtrn_status profile_write(const profile_input *input, const char *directory) {
    VTRN_RETURN_IF_ERROR(make_directory(directory));
    profile_input in = *input;
    profile_memory_sample *samples = NULL;
    if (!in.memory) {
        VTRN_RETURN_IF_ERROR(profile_memory(in.program, in.chip, in.timing, MAX_MEMORY_SAMPLES,
                                            &samples, &in.n_memory));
        in.memory = samples;
    }
    static const struct {
        const char *file;
        vtrn_status (*write)(const profile_input *input, const char *path);
    } files[] = {{"profile.json", profile_write_json},
                 {"profile.pftrace", profile_write_perfetto},
                 {"profile.html", profile_write_html}};
    vtrn_status status = NULL;
    for (size_t i = 0; i < sizeof files / sizeof files[0] && !status; i++) {
        char path[PATH_MAX_BYTES];
        snprintf(path, sizeof path, "%s/%s", directory, files[i].file);
        status = files[i].write(&in, path);
    }
    free(samples);
    return status;
}
