"""Memory and CPU time of processes, read from /proc."""

import os
import threading
import time
from pathlib import Path

MARKER = "ACME_MPI_BENCH"  # environment variable by which the processes of a measurement are known


def marked():
    """Return the folders in /proc of all processes of this measurement."""
    marker = f"{MARKER}={os.environ[MARKER]}".encode()
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                if marker in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(folder)
            except OSError:
                continue  # gone, or somebody else's
    return found


def total_bytes():
    """Return the memory of this measurement's processes; what several share counts once."""
    total = 0
    for folder in marked():
        try:
            lines = (folder / "smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(1024 * int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total


def peak_bytes(call):
    """Return the largest `total_bytes` during a call."""
    peak, is_over = total_bytes(), threading.Event()

    def watch():
        nonlocal peak
        while not is_over.wait(0.05):
            peak = max(peak, total_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        call()
    finally:
        is_over.set()
        watcher.join()
    return peak


def cpu_s():
    """Return the CPU time in seconds of this process and of its children that live."""
    children = Path("/proc/self/task").glob("*/children")
    pids = [pid for path in children for pid in path.read_text().split()]
    return time.process_time() + sum(map(child_cpu_s, pids))


def child_cpu_s(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def own_peak_bytes():
    """Return the largest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
