"""Turns a text file into a C array, so that the library carries it: embed.py IN OUT SYMBOL."""

import sys

source, target, symbol = sys.argv[1:]
with open(source, "rb") as f:
    data = f.read()
with open(target, "w") as f:
    f.write(f"#include <stddef.h>\nextern const char {symbol}[];\nextern const size_t {symbol}_size;\n")
    f.write(f"const char {symbol}[] = {{\n")
    for i in range(0, len(data), 20):
        f.write(",".join(str(b if b < 128 else b - 256) for b in data[i : i + 20]) + ",\n")
    f.write(f"}};\nconst size_t {symbol}_size = {len(data)};\n")
