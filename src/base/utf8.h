/* UTF-8: which bytes are text. */
#ifndef VTRN_BASE_UTF8_H
#define VTRN_BASE_UTF8_H

#include <stdbool.h>

/* Length of the well-formed sequence at s, which ends with a NUL; 0 when it is none. */
static inline int utf8_length(const unsigned char *s) {
    int n = s[0] < 0x80   ? 1
            : s[0] < 0xc2 ? 0
            : s[0] < 0xe0 ? 2
            : s[0] < 0xf0 ? 3
            : s[0] < 0xf5 ? 4
                          : 0;
    for (int i = 1; i < n; i++)
        if ((s[i] & 0xc0) != 0x80)
            return 0;
    bool is_wrong = (s[0] == 0xe0 && s[1] < 0xa0) || (s[0] == 0xed && s[1] > 0x9f) ||
                    (s[0] == 0xf0 && s[1] < 0x90) || (s[0] == 0xf4 && s[1] > 0x8f);
    return is_wrong ? 0 : n;
}

#endif
