#!/bin/sh
# Runs the command of wheels for aarch64 in QEMU, with the C library of Debian's cross compiler: a product of matrices has to have
# the bits that the command of this host gives it.
# usage: cross/check_wheels.sh VTRN WHEEL...; VTRN is this host's command
set -eu
[ $# -gt 1 ] || { echo "usage: cross/check_wheels.sh VTRN WHEEL..." >&2; exit 2; }
vtrn=$1
shift
root=$(cd "$(dirname "$0")/.." && pwd)
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
awk '/^```vasm/ { found = 1; next } /^```/ && found { exit } found' "$root/docs/assembly.md" > "$scratch/matmul.vasm"
"$vtrn" run "$scratch/matmul.vasm" --random -o "$scratch/here"
for wheel in "$@"; do
    rm -rf "$scratch/wheel" "$scratch/there"
    python3 -m zipfile -e "$wheel" "$scratch/wheel"
    chmod +x "$scratch/wheel/vtrn/vtrn"
    # -R bounds the address space: each device reserves all of its HBM.
    qemu-aarch64 -R 0x1900000000 -L /usr/aarch64-linux-gnu "$scratch/wheel/vtrn/vtrn" run "$scratch/matmul.vasm" --random \
        -o "$scratch/there"
    cmp "$scratch/here/out0.npy" "$scratch/there/out0.npy"
    for file in "$scratch"/wheel/vtrn/libvtrn.so "$scratch"/wheel/vtrn/_nki.*-aarch64-linux-gnu.so; do
        readelf -h "$file" | grep -q AArch64 || { echo "$wheel: $file is not of aarch64" >&2; exit 1; }
    done
    echo "$wheel: runs"
done
