"""One large argument for all: how fast it arrives, and what it takes of memory."""

import time

from benchmarks import processes, rates

N_RANKS = 4


def delivered(deliver, n_bytes, measure=processes.used):
    """Return how fast an array gets to `N_RANKS` processes.

    Parameters
    ----------
    deliver : callable
        ``deliver(array)``: has `arrive` called once by each process and returns what it returns.
    n_bytes : int
        Size of the array.
    measure : callable
        ``measure(call)``: makes the call that counts, and returns what it takes.
    """
    array = ones(n_bytes)
    deliver(array[:8])
    start_s, arrivals = 0.0, []

    def deliver_all():
        nonlocal start_s
        start_s = time.monotonic()
        arrivals.extend(deliver(array))

    figures = measure(deliver_all)
    n_arrived = len({pid for pid, _ in arrivals})
    if n_arrived < N_RANKS:
        raise RuntimeError(f"only {n_arrived} of {N_RANKS} processes have called a task")
    elapsed_s = max(arrived_s for _, arrived_s in arrivals) - start_s
    n_gb = n_bytes / 1e9
    return {**rates.per_task(figures, n_gb), "seconds": elapsed_s, "rate": n_gb / elapsed_s}


def ones(n_bytes):
    import numpy as np

    return np.ones(n_bytes // 8)


def memory(deliver, n_bytes):
    """Return the peak of memory above that of delivering little, in sizes of the array."""
    array = ones(n_bytes)
    base = processes.peak_bytes(lambda: deliver(array[:8]))
    return {"memory": (processes.peak_bytes(lambda: deliver(array)) - base) / n_bytes}
