"""What the kernel says of a process's memory; 0 where it cannot be had."""

from __future__ import annotations

import math


def forget_peak() -> None:
    """Let the peak memory of this process start again, as far as the kernel allows it."""
    try:
        with open("/proc/self/clear_refs", "wb", buffering=0) as file:
            file.write(b"5")  # proc(5): 5 resets VmHWM
    except OSError:
        pass


def peak_bytes() -> int:
    """Return the peak resident memory of this process since `forget_peak`."""
    return kilobytes_field("/proc/self/status", "VmHWM") or 0


def status_bytes(pid: int, field: str) -> int:
    """Return a figure of ``/proc/<pid>/status`` in bytes."""
    return kilobytes_field(f"/proc/{pid}/status", field) or 0


def kilobytes_field(path: str, field: str) -> int | None:
    """Return the bytes behind ``field:`` in a file of /proc; None if it is not there."""
    try:
        with open(path, "rb", buffering=0) as file:
            _, found, rest = file.read().partition(b"\n" + field.encode() + b":")
    except OSError:
        return None
    return int(rest.split(None, 1)[0]) * 1024 if found else None


def size_text(n_bytes: float) -> str:
    """Return a number of bytes for people: ``512 bytes``, ``1.3 GB``."""
    if n_bytes < 1000:
        return f"{n_bytes:.0f} bytes"
    power = min(4, int(math.log10(n_bytes * 1.00005) // 3))  # 999 990 bytes are 1.0 MB
    return f"{n_bytes / 1000**power:.1f} {('kB', 'MB', 'GB', 'TB')[power - 1]}"
