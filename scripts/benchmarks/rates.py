"""From calls to figures: how many tasks to take, how long they last, what would be ideal."""

import heapq
import time

from benchmarks import functions, processes

N_WORKERS = 2  # of every side, whatever it calls them
WARM_UP = 20  # tasks of the call before the measured one
TARGET_S = 1.2  # tasks are taken for so long; the fastest repetitions must still last a second
N_MOST = 50_000_000  # inputs fit into memory


def measured(run, func, n_tasks, target_s=TARGET_S, agree=int, measure=processes.used):
    """Return the rate of ``run(func, range(n))``, with as many tasks as last `target_s`.

    Parameters
    ----------
    run : callable
        ``run(func, inputs)`` calls `func` for all inputs.
    func : callable
        The function of one task.
    n_tasks : int or None
        Number of tasks; None finds it.
    agree : callable
        Makes one number of those that several ranks have found.
    measure : callable
        ``measure(run, func, inputs)``: makes the call that counts, and returns what it took, as
        `processes.used` does.
    """
    run(func, range(WARM_UP))
    if n_tasks is None:
        n_tasks = calibrated(lambda n: agree(1e9 * seconds(run, func, range(n))) / 1e9, target_s)
    figures = measure(run, func, range(n_tasks))
    return {"n_tasks": n_tasks, **per_task(figures, n_tasks), **own_of(func)}


def per_task(figures, n_tasks):
    """Return figures of a call with its rate, and its CPU time in microseconds per task."""
    rate, cpu_us = n_tasks / figures["seconds"], 1e6 * figures["cpu_s"] / n_tasks
    return {**figures, "rate": rate, "cpu_us": cpu_us}


def own_of(func, n_calls=1):
    """Return the CPU time in microseconds of the function itself, if it states any."""
    busy_s = functions.BUSY_S.get(getattr(func, "__name__", ""))
    return {} if busy_s is None else {"own_us": 1e6 * busy_s * n_calls}


def maps(run, func, n_tasks, n_maps):
    """Return the rate of maps of few tasks, and their CPU time per map."""

    def call(n):
        for _ in range(n):
            run(func, range(n_tasks))

    call(max(1, n_maps // 10))
    figures = processes.used(call, n_maps)
    return per_task(figures, n_maps) | own_of(func, n_tasks)


def seconds(call, *args):
    start_s = time.perf_counter()
    call(*args)
    return time.perf_counter() - start_s


def calibrated(time_of, target_s, n=WARM_UP):
    """Return how many tasks last about `target_s` seconds, where n of them last ``time_of(n)``.

    They have done so once: from less time, of which the beginning of a run takes a part, one
    could not tell.
    """
    while (elapsed_s := time_of(n)) < 0.85 * target_s and n < N_MOST:
        n = next_n(n, elapsed_s, target_s)
    if elapsed_s > 1.5 * target_s:  # few tasks are long, or something came between
        elapsed_s = min(elapsed_s, time_of(n))
        return next_n(n, elapsed_s, target_s)
    return n


def next_n(n, elapsed_s, target_s):
    """Return how many tasks to try after n of them have lasted `elapsed_s`."""
    factor = min(target_s / max(elapsed_s, 1e-9), 16)
    # Even numbers: two bare loops have the same to do.
    return min(N_MOST, N_WORKERS * max(1, round(n * factor / N_WORKERS)))


def list_schedule_s(durations, n_workers=N_WORKERS):
    """Return how long tasks last if each goes, in order, to the worker that is free first."""
    free_s = [0.0] * n_workers
    for duration in durations:
        heapq.heapreplace(free_s, free_s[0] + duration)
    return max(free_s)


def beyond_ideal(run, func, inputs, measure=processes.used):
    """Return a run's time, divided by ideal list scheduling of what its tasks have lasted.

    `func` uses as many seconds of CPU time as its input says, and returns when it has begun and
    ended.
    """
    run(func, inputs[:WARM_UP])
    spans = []
    figures = per_task(measure(lambda: spans.extend(run(func, inputs))), len(inputs))
    ideal_s = list_schedule_s([end - begin for begin, end in spans])
    own_us = 1e6 * sum(inputs) / len(inputs)
    return {**figures, "own_us": own_us, "ratio": figures["seconds"] / ideal_s}


def heavy_tail(n_tasks, task_s=0.005):
    """Return durations in seconds, of which the last is 100 x as long as the others.

    No two are alike: dask would call equal tasks once.
    """
    return [task_s * (1 + 1e-6 * k) for k in range(n_tasks - 1)] + [100 * task_s]
