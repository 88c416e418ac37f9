/* mkdir -p. */
#include "base/directory.h"

#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

vtrn_status directory_make(const char *path) {
    char partial[DIRECTORY_PATH_MAX];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof partial)
        return VTRN_ERROR(VTRN_BAD_ARGUMENT, "a directory's path has 1..%d bytes, not %zu",
                          DIRECTORY_PATH_MAX - 1, len);
    memcpy(partial, path, len + 1);
    int error = 0;
    for (size_t i = 1; i <= len; i++) {
        if (path[i] != '/' && path[i] != 0)
            continue;
        partial[i] = 0;
        /* a parent that exists may refuse for other reasons than EEXIST: the last one decides */
        error = mkdir(partial, 0777) == 0 || errno == EEXIST ? 0 : errno;
        partial[i] = path[i];
    }
    struct stat st;
    if (!error && stat(path, &st) == 0 && !S_ISDIR(st.st_mode))
        error = ENOTDIR;
    if (!error && access(path, W_OK | X_OK) != 0)
        error = errno;
    if (error)
        return VTRN_ERROR(VTRN_RESOURCE,
                          "cannot write to directory %s: %s; name another, or mend this one", path,
                          strerror(error));
    return NULL;
}
