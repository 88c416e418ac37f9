"""Reads the profile that VTRN_PROFILE wrote: python -m vtrn.profile DIR."""

import atexit
import ctypes
import json
import os
import signal
import sys
import threading


def _flush(library: ctypes.CDLL) -> str | None:
    """What went wrong, or None."""
    library.vtrn_profile_flush.restype = ctypes.c_void_p
    library.vtrn_error_message.argtypes, library.vtrn_error_message.restype = [ctypes.c_void_p], ctypes.c_char_p
    library.vtrn_error_free.argtypes = [ctypes.c_void_p]
    error = library.vtrn_profile_flush()
    if not error:
        return None
    message = library.vtrn_error_message(error).decode(errors="replace")
    library.vtrn_error_free(error)
    return message


def flush() -> None:
    """Has the library of this process write its profiles now instead of at its end. OSError when it cannot."""
    import vtrn

    if message := _flush(ctypes.CDLL(vtrn.library_path())):
        raise OSError(message)


def write_at_end(library: ctypes.CDLL) -> None:
    """Where VTRN_PROFILE is set: the profile is written when Python ends, which says so when it fails, and before the
    process dies of SIGTERM."""
    if not os.environ.get("VTRN_PROFILE") or not hasattr(library, "vtrn_profile_is_running"):
        return
    library.vtrn_profile_is_running.restype = ctypes.c_bool

    owner = os.getpid()  # a fork of it has nothing to write

    def write():
        if os.getpid() == owner and (message := _flush(library)):
            print(f"vtrn: the profile is not complete: {message}", file=sys.stderr, flush=True)

    def terminate(signum, _):
        if os.getpid() == owner and library.vtrn_profile_is_running():
            callbacks.raise_when_stopped(signum)
            raise KeyboardInterrupt  # stops the program of this thread, and the signal arrives again
        signal.signal(signum, signal.SIG_DFL)  # another one ends the process at once
        write()
        os.kill(os.getpid(), signum)

    from vtrn import callbacks

    atexit.register(write)
    if threading.current_thread() is threading.main_thread() and \
            signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, terminate)


def load(directory: str) -> dict:
    """The summary of the heaviest program: the keys of profile.json."""
    with open(os.path.join(directory, "profile.json"), encoding="utf-8") as f:
        return json.load(f)


def _scaled(value: float, base: int, units: str) -> str:
    names = units.split()
    i = 0
    while value >= base and i < len(names) - 1:
        value /= base
        i += 1
    return f"{value:.4g} {names[i]}"


def _bytes(value: float) -> str:
    return _scaled(value, 1024, "B KiB MiB GiB TiB")


def _seconds(value: float) -> str:
    return _scaled(value * 1e9, 1000, "ns us ms s")


def _on_chip(p: dict, memory: str) -> str:
    """Where tiles are placed, and most of what is live; older profiles have the first alone, under another name."""
    placed, live = p.get(f"{memory}_placed_peak_bytes", p.get(f"{memory}_peak_bytes", 0)), p.get(f"{memory}_live_peak_bytes", 0)
    figures = [f"{kind} {_bytes(n)}" for kind, n in (("placed", placed), ("live", live)) if n]
    return f"{memory.upper()} {' and '.join(figures) or '0 B'} of {_bytes(p[f'{memory}_capacity_bytes'])}"


def text(p: dict, seconds_per_step: float | None = None) -> str:
    """The report for people. seconds_per_step: host time as the caller measured it, else that of
    the profile's last execution."""
    host = seconds_per_step if seconds_per_step is not None else p["host_seconds"]
    active = ", ".join(f"{name} {100 * e['active']:.1f} %" for name, e in p["engines"].items())
    where = " / ".join(filter(None, [p["chip"], p["core"], p["instance"]]))
    rows = [("step time", f"{_seconds(p['step_ns'] * 1e-9)} on one NeuronCore ({where})")]
    if p["samples_per_second"] > 0:
        rows.append(("samples/s", f"{p['samples_per_second']:,.0f} ({p['samples_per_step']} a step)"))
    rows += [
        ("MFU", f"{100 * p['mfu']:.3g} % of the core's bf16 peak"),
        ("active", f"{active}, DMA {100 * p['dma_active']:.1f} %"),
        ("HBM moved", f"{_bytes(p['hbm_read_bytes'])} read, {_bytes(p['hbm_write_bytes'])} written"),
        (
            "peak",
            f"HBM {_bytes(p['hbm_peak_bytes'])}, {_on_chip(p, 'sbuf')}, {_on_chip(p, 'psum')}",
        ),
    ]
    if p.get("spill_save_bytes", 0) + p.get("spill_reload_bytes", 0):
        rows.append(("spilled", f"{_bytes(p['spill_save_bytes'])} saved to HBM and {_bytes(p['spill_reload_bytes'])} reloaded: "
                     "SBUF has no room for all tiles that live together"))
    if p["dollars_per_million_samples"] > 0:
        rows.append(
            (
                "price",
                f"${p['dollars_per_million_samples']:.4g} a million samples: {p['instance']} at "
                f"${p['dollars_per_hour']}/h, one of {p['instance_cores']} cores at work",
            )
        )
    reference = f"{100 * p['reference_time_share']:.3g} % of the work"
    if p["n_reference_ops"]:
        names = sorted(set(p["reference_ops"]))
        reference += f": {p['n_reference_ops']} ops ({', '.join(names[:6])})"
    assumed = p.get("assumed")
    if assumed and assumed["n_constants"]:
        value = (
            f"{assumed['n_constants']} numbers of {p['chip']}@{p['chip_version']} are assumed: 10 % more of all "
            f"changes the step by {100 * assumed['ten_percent_more']:+.2g} %"
        )
        if assumed["constants"]:
            value += ", most by " + ", ".join(c["name"] for c in assumed["constants"][:3])
        rows.append(("rests on", value))
    rows += [("reference ops", reference), ("host time", f"{_seconds(host)} a step")]
    return "\n".join(
        ["What the chip would have done:"] + [f"  {name:<14}{value}" for name, value in rows]
    )


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        print(text(load(sys.argv[1])))
    except OSError as error:
        print(f"vtrn.profile: {error.filename}: {error.strerror}", file=sys.stderr)
        return 1
    except (ValueError, KeyError) as error:
        print(f"vtrn.profile: {sys.argv[1]}/profile.json is no whole profile ({error}); write it again", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
