"""Memory and CPU time of processes, read from /proc."""

import contextlib
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
    return time.process_time() + sum(process_cpu_s(int(pid)) for pid in pids)


def process_cpu_s(pid):
    """Return the CPU time in seconds of a process.

    The clock is that of clock_getcpuclockid(3): it counts nanoseconds, where /proc has hundredths
    of a second, of which hundreds of idle processes take less than one.
    """
    return time.clock_gettime(~pid << 3 | 2)


def used(call, *args):
    """Return the seconds of a call, and how many cores this measurement's processes kept busy.

    What starts or ends in between does not count.
    """
    pids = [int(folder.name) for folder in marked()]
    before_s = cpu_by_process(pids)
    start_s = time.perf_counter()
    call(*args)
    elapsed_s = time.perf_counter() - start_s
    after_s = cpu_by_process(pids)
    spent_s = sum(after_s[pid] - before_s[pid] for pid in after_s if pid in before_s)
    return {"seconds": elapsed_s, "cores": spent_s / elapsed_s}


def cpu_by_process(pids):
    """Return the CPU time in seconds of those processes that live."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):  # gone
            found[pid] = process_cpu_s(pid)
    return found


def own_peak_bytes():
    """Return the largest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
