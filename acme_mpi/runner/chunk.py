"""The loop in which every runner calls the user's function."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from time import monotonic_ns, time
from typing import Any

from acme_mpi.linux.memory import forget_peak, peak_bytes
from acme_mpi.results.content import Content
from acme_mpi.results.encoder import Encoder
from acme_mpi.runner import forked
from acme_mpi.runner.base import Outcome
from acme_mpi.runner.failure import call_text, describe_failure
from acme_mpi.runner.words import DRAIN, Words
from acme_mpi.tasks.taskset import TaskSet

REPORT_NS = 200_000_000  # results leave the runner at least this often between two tasks
REPORT_BYTES = 8 * 1024 * 1024
CLOCK_NS = 200_000  # the start of a task is known this well
SLOW_NS = 10_000_000  # tasks from here on are listed with their times
# The slowest tasks of a runner, if they take so long, are told with their arguments.
N_SLOWEST, TOLD_NS = 20, 100_000_000


def run_chunk(
    func: Callable[..., Any],
    name: str,
    tasks: TaskSet,
    encoder: Encoder,
    chunk: range,
    words: Words,
    swallow: tuple[type[BaseException], ...] = (BaseException,),
    is_changed: Callable[[], bool] = bool,
    slowest: list[int] | None = None,
    report_ns: int | None = None,
) -> Iterator[Outcome]:
    """Call the tasks of one chunk and yield their outcomes.

    They reach to the end of the chunk, or less far if the agent wishes it or this is no place to
    call more tasks. A process that a task forks ends where it would come back here.

    Parameters
    ----------
    func, name : callable, str
        The user's function and what it is called.
    tasks : TaskSet
        Its arguments.
    encoder : Encoder
        Takes the return values.
    chunk : range
        Indices of the tasks.
    words : memoryview or list of int
        What the agent sees: the index of the running task (-1:
        none); its start in nanoseconds of `time.monotonic_ns`, or that of the tasks that share a
        look at the clock with it; and, written by the agent, whether no further task is to be
        started (`DRAIN`).
    swallow : tuple of exception types
        What a task may raise without ending this process.
    is_changed : callable
        Tells whether tasks have changed this process since the last outcome. A task that fails
        after others in such a process is left out: it is to be called in another one.
    slowest : list of int, optional
        How long the slowest tasks of earlier chunks took, a heap; it is changed.
    report_ns : int, optional
        An outcome is yielded at least so often between two tasks, in nanoseconds.
    """
    report_ns = REPORT_NS if report_ns is None else report_ns
    slowest = [] if slowest is None else slowest
    clock, own = monotonic_ns, forked.this_process
    plain, append = encoder.plain
    outcome, begin_ns = _begin(chunk.start), clock()
    now_ns = begin_ns
    call, rows = tasks.bound(func), tasks.rows(chunk.start, chunk.stop)
    index, n_between, is_over = chunk.start, 1, False
    while not is_over and index < chunk.stop and not words[DRAIN]:
        # Tasks of a few microseconds share one look at the clock.
        block = range(index, min(index + n_between, chunk.stop))
        to_call = [*block]
        words[1] = block_ns = now_ns
        index -= 1
        forked.being_called.append(to_call)
        # The only places where exceptions of user code are caught: the call and the check of what
        # it returned, and around them the arguments, which may be read from a file.
        try:
            for index, row in zip(to_call, rows, strict=False):
                words[0] = index
                try:
                    value = call(row)
                    if type(value) in plain:
                        append(value)
                    elif forked.this_process is own:
                        encoder.add(index, value)
                        plain, append = encoder.plain
                except swallow as error:
                    if forked.this_process is not own:
                        raise
                    if index > outcome.start and is_changed():
                        is_over = True
                        break
                    outcome.failures.append(describe_failure(error, index, name, tasks))
            else:
                index = block.stop
            if forked.this_process is not own:
                forked.leave()
        except BaseException as error:
            if forked.this_process is not own:
                forked.leave(error)
            if not isinstance(error, swallow) or index + 1 not in block:
                raise
            outcome.failures.append(describe_failure(error, index + 1, name, None))
            index += 2
            rows = tasks.rows(index, chunk.stop)
        finally:
            forked.being_called.pop()
        now_ns = clock()
        if now_ns - block_ns >= SLOW_NS:
            start_s = outcome.start_s + (block_ns - begin_ns) / 1e9
            n_called = index - block.start
            outcome.slow.append((block.start, n_called, start_s, (now_ns - block_ns) / 1e9))
            if n_called == 1 and _is_among(slowest, now_ns - block_ns):
                words[0] = -1  # the task has ended: its limits do not count any more
                outcome.calls[block.start] = call_text(block.start, name, tasks)
                now_ns = clock()
        n_between = max(1, min(2 * len(block), CLOCK_NS * len(block) // (now_ns - block_ns + 1)))
        if now_ns - begin_ns > report_ns or encoder.n_bytes > REPORT_BYTES:
            words[0] = -1
            yield _end(outcome, index, encoder.take(), now_ns - begin_ns)
            plain, append = encoder.plain
            outcome, begin_ns = _begin(index), clock()
            now_ns = begin_ns
    words[0] = -1
    if outcome.start < index:
        yield _end(outcome, index, encoder.take(), now_ns - begin_ns)


def _begin(start: int) -> Outcome:
    """Return the outcome of tasks that are about to be called."""
    forget_peak()
    return Outcome(start, start, start_s=time())


def _is_among(slowest: list[int], took_ns: int) -> bool:
    """Tell whether a task is among the slowest of all so far, of which it then is one."""
    if took_ns < TOLD_NS or (len(slowest) == N_SLOWEST and took_ns <= slowest[0]):
        return False
    heapq.heappush(slowest, took_ns)
    if len(slowest) > N_SLOWEST:
        heapq.heappop(slowest)
    return True


def _end(outcome: Outcome, stop: int, content: Content, busy_ns: int) -> Outcome:
    """Complete the outcome of tasks that have been called."""
    outcome.stop, outcome.content, outcome.busy_ns = stop, content, busy_ns
    outcome.peak_bytes = peak_bytes()
    return outcome
