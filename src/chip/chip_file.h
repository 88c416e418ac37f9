/* Finding and reading the text of a file of chips/. Private to this folder. */
#ifndef VTRN_CHIP_CHIP_FILE_H
#define VTRN_CHIP_CHIP_FILE_H

#include "base/status.h"

#include <stddef.h>

enum { CHIP_PATH_MAX = 1024 };

/* Finds `<name>.toml` in the search order of chip_load and reads it. *text is NUL-terminated and
 * the caller's to free. A name with a '/' is a path. BAD_ARGUMENT when there is none: the message
 * lists the chips there are. RESOURCE when a file cannot be read. */
vtrn_status chip_file_read(const char *name, char path[CHIP_PATH_MAX], char **text);

#endif
