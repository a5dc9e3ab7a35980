"""One forked process per worker, that begin together: the least there is to a farm."""

import multiprocessing
import time
from typing import Any

from benchmarks.rates import N_WORKERS

FORK = multiprocessing.get_context("fork")


def together(work, func, n_tasks):
    """Return what it takes that every process does ``work(func, its share of indices)``.

    Returns
    -------
    dict
        "seconds" from the first begin to the last end, and "cpu_s", the CPU time in between.
    """
    gate, spans = FORK.Barrier(N_WORKERS), FORK.SimpleQueue()

    def be_one(tasks):
        gate.wait()
        begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
        work(func, tasks)
        spans.put((begin_s, time.perf_counter(), time.process_time() - begin_cpu_s))

    edges = [n_tasks * k // N_WORKERS for k in range(N_WORKERS + 1)]
    shares = [range(*edges[k : k + 2]) for k in range(N_WORKERS)]
    processes = [FORK.Process(target=be_one, args=(share,)) for share in shares]
    for process in processes:
        process.start()
    end_all(processes)
    begins, ends, cpu_s = zip(*(spans.get() for _ in processes), strict=True)
    return {"seconds": max(ends) - min(begins), "cpu_s": sum(cpu_s)}


def self_scheduled(func, inputs):
    """Return the results of processes that take the next index from a common counter."""
    counter, gathered = FORK.Value("q", 0), FORK.SimpleQueue()

    def be_one():
        mine = {}
        while True:
            with counter.get_lock():
                x = counter.value
                counter.value += 1
            if x >= len(inputs):
                break
            mine[x] = func(inputs[x])
        gathered.put(mine)

    processes = [FORK.Process(target=be_one) for _ in range(N_WORKERS)]
    for process in processes:
        process.start()
    results: dict[int, Any] = {}
    for _ in processes:
        results |= gathered.get()
    end_all(processes)
    return [results[x] for x in range(len(inputs))]


def end_all(processes):
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise RuntimeError("a process has failed (see above)")
