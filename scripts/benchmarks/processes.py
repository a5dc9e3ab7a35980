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
    return time.process_time() + sum(map(process_cpu_s, children_of("self")))


def process_cpu_s(pid):
    """Return the CPU time in seconds of a process.

    The clock is that of clock_getcpuclockid(3): it counts nanoseconds, where /proc has hundredths
    of a second, of which hundreds of idle processes take less than one.
    """
    return time.clock_gettime(~pid << 3 | 2)


def used(call, *args, meet=lambda: None):
    """Return what a call takes: seconds, CPU time of this measurement's processes, cores kept busy.

    Processes that start or end in between count. Looking for them is no part of the call.

    Parameters
    ----------
    call : callable
        Called with `args`.
    meet : callable
        Waits for others who make the same call, before and after it.
    """
    known = family()
    before_s = spent_s(known)
    meet()
    start_s = time.perf_counter()
    call(*args)
    elapsed_s = time.perf_counter() - start_s
    meet()
    # Those that were known come first: who polls goes on while /proc is searched for the others.
    after_s = spent_s(known)
    after_s += spent_s(family() - known)
    cpu_s = after_s - before_s
    return {"seconds": elapsed_s, "cpu_s": cpu_s, "cores": cpu_s / elapsed_s}


def spent_so_far_s():
    """Return the CPU time in seconds that this measurement has taken since its start."""
    return spent_s(family())


def family():
    """Return the process ids of this measurement, of ended ones that nobody waited for as well."""
    pids = {int(folder.name) for folder in marked()}
    return pids.union(*map(children_of, pids))


def children_of(pid):
    """Return the ids of a process's children; of none if it is gone."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for path in Path(f"/proc/{pid}/task").glob("*/children"):
            found.update(map(int, path.read_text().split()))
    return found


def spent_s(pids):
    """Return the CPU time in seconds of processes, and of all that have ended below them."""
    while True:
        ended = sum(map(ended_s, pids))
        living = sum(cpu_by_process(pids).values())
        # One that has ended in between would be in neither, or in both.
        if ended == sum(map(ended_s, pids)):
            return ended + living


def cpu_by_process(pids):
    """Return the CPU time in seconds of those processes that live."""
    found = {}
    for pid in pids:
        with contextlib.suppress(OSError):  # gone
            found[pid] = process_cpu_s(pid)
    return found


def ended_s(pid):
    """Return the CPU time in seconds of a process's children that it has waited for.

    That of their own children is in it. The kernel tells hundredths of a second.
    """
    try:
        content = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # gone: it counts for who has waited for it
        return 0.0
    fields = content.rpartition(")")[2].split()  # its name may have spaces
    return (int(fields[13]) + int(fields[14])) / os.sysconf("SC_CLK_TCK")


def own_peak_bytes():
    """Return the largest resident memory of this process so far."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
