/* The three files of a profile, side by side in one directory. */
#include "profile/profile.h"

#include "base/directory.h"
#include "profile/profile_explain.h"

#include <stdio.h>
#include <stdlib.h>

enum { MAX_MEMORY_SAMPLES = 2000 };

vtrn_status profile_write(const profile_input *input, const char *directory) {
    VTRN_RETURN_IF_ERROR(directory_make(directory));
    profile_input in = *input;
    profile_memory_sample *samples = NULL;
    if (!in.memory) {
        VTRN_RETURN_IF_ERROR(profile_memory(in.program, in.chip, in.timing, MAX_MEMORY_SAMPLES,
                                            &samples, &in.n_memory));
        in.memory = samples;
    }
    profile_explanation explanation = {0};
    vtrn_status status = NULL;
    if (!in.explanation) {
        status = profile_explain(&in, &explanation);
        in.explanation = &explanation;
    }
    static const struct {
        const char *file;
        vtrn_status (*write)(const profile_input *input, const char *path);
    } files[] = {{"profile.json", profile_write_json},
                 {"profile.pftrace", profile_write_perfetto},
                 {"profile.html", profile_write_html}};
    for (size_t i = 0; i < sizeof files / sizeof files[0] && !status; i++) {
        char path[DIRECTORY_PATH_MAX + 32];
        snprintf(path, sizeof path, "%s/%s", directory, files[i].file);
        status = files[i].write(&in, path);
    }
    profile_explanation_free(&explanation);
    free(samples);
    return status;
}
