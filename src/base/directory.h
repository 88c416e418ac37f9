/* Directories of the host. */
#ifndef VTRN_BASE_DIRECTORY_H
#define VTRN_BASE_DIRECTORY_H

#include "base/status.h"

enum { DIRECTORY_PATH_MAX = 4096 }; /* bytes, with the NUL */

/* Makes the directory and its parents where absent. BAD_ARGUMENT: an empty or too long path.
 * RESOURCE names the path and the reason. */
vtrn_status directory_make(const char *path);

#endif
