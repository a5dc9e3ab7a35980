"""The child's side of a runner: load the function, call its tasks, report."""

from __future__ import annotations

import _thread
import atexit
import contextlib
import errno
import gc
import io
import mmap
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from socket import gethostname
from types import FrameType
from typing import TYPE_CHECKING, Any

from acme_mpi.linux.interrupts import reset_after_fork
from acme_mpi.linux.offsets import begin_sync, reason, write_all
from acme_mpi.results.convert import ResultError
from acme_mpi.results.encoder import Encoder
from acme_mpi.runner import forked
from acme_mpi.runner.assigned import load_assignment, make_encoder, reason_unready
from acme_mpi.runner.base import Assignment
from acme_mpi.runner.changed import Baseline
from acme_mpi.runner.channel import Channel, Kind
from acme_mpi.runner.chunk import run_chunk
from acme_mpi.runner.failure import MediumError
from acme_mpi.runner.lifeline import BROKEN, PAGE_BYTES, arm_lifeline
from acme_mpi.runner.stack import show_stack_on_demand
from acme_mpi.runner.streams import flush_standard_streams
from acme_mpi.runner.surroundings import change_environment
from acme_mpi.runner.words import DRAIN
from acme_mpi.standing import Standing, become
from acme_mpi.tasks.hdf5_arguments import has_opened
from acme_mpi.tasks.scripts_main import begin_main
from acme_mpi.tasks.taskset import TaskSet, function_name

if TYPE_CHECKING:
    from acme_mpi.runner.calling import Caller

NAME = "acme_mpi runner"  # 15 characters at most
THREADS_S = 0.7  # for threads of the user's to end
IGNORED_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Serve the agent until it closes the channel or goes."""
    channel_fd, lifeline, page, stack = (int(text) for text in sys.argv[1:5])
    # A thread that has started this process may take no signals; tasks can be killed by them.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    arm_lifeline(lifeline, whole_group=True)
    leave_signals_to_the_agent()
    show_stack_on_demand(stack)
    volunteer_for_the_oom_killer()
    show_name()
    words = memoryview(mmap.mmap(page, PAGE_BYTES)).cast("q")
    os.close(page)
    sys.argv[:] = [""]
    show_lines()
    begin_main()
    channel = Channel.from_descriptor(channel_fd)
    os.set_inheritable(channel_fd, False)
    # What a task has printed so far is not printed again by what it forks.
    os.register_at_fork(before=flush_standard_streams, after_in_child=channel.close)
    n_open = n_descriptors()
    # The agent has gone, or user code has closed our descriptors: nobody is left to talk to.
    try:
        Server(channel, words).serve()
    except (EOFError, OSError):
        pass
    except BaseException:
        # A task has broken what this package needs, or Python: the agent finds out which one.
        words[0] = -1
        os._exit(BROKEN)
    end_what_users_began()
    if n_descriptors() <= n_open:
        os._exit(0)
    # A file is still open: Python's own end, which takes 30 ms, writes what it holds.


def leave_signals_to_the_agent() -> None:
    """Take the signals that end a job with handlers that do nothing; the agent decides.

    Handlers and not SIG_IGN, because programs started by the user's function would inherit that.
    """

    def nothing(number: int, frame: FrameType | None) -> None:
        pass

    for number in IGNORED_SIGNALS:
        signal.signal(number, nothing)

    def reset() -> None:
        for number in IGNORED_SIGNALS:
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            signal.signal(number, default)

    reset_after_fork(IGNORED_SIGNALS, reset)


def n_descriptors() -> int:
    """Return the number of files, pipes and sockets that this process has open, 0 if unknown."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except Exception:  # a task has lowered its limits, or changed its root
        return 0


def end_what_users_began() -> None:
    """Do what Python does at its end: wait for threads, call what is registered, flush.

    A thread that does not end keeps none of the rest from being done; the agent kills who takes
    too long.
    """
    ended = _thread.allocate_lock()
    ended.acquire()

    def end_threads() -> None:
        try:
            threading._shutdown()  # type: ignore[attr-defined]
        finally:
            ended.release()

    if threading.active_count() > 1:
        _thread.start_new_thread(end_threads, ())
        ended.acquire(timeout=THREADS_S)
    with contextlib.suppress(BaseException):
        atexit._run_exitfuncs()
    flush_standard_streams()


def volunteer_for_the_oom_killer() -> None:
    """Make the kernel prefer this process to the agent when memory runs out."""
    try:
        with open("/proc/self/oom_score_adj", "w") as file:
            file.write("500")
    except OSError:
        pass


def show_lines() -> None:
    """Have a line that a task prints leave this process at once: it may not live to do so later."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)


def show_name() -> None:
    """Let ``top`` and ``ps`` tell this process from its agent."""
    with contextlib.suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(NAME)


class Server:
    """Answers the agent's messages one after the other.

    Parameters
    ----------
    channel : Channel
        To the agent.
    words : memoryview
        Shared page, see `runner.words`.
    """

    def __init__(self, channel: Channel, words: memoryview) -> None:
        self._channel, self._words = channel, words
        self._process = forked.this_process
        self._waiting: deque[tuple[Kind, Any]] = deque()
        self._run: tuple[Callable[..., Any], str, TaskSet, Encoder] | None = None
        self._slowest: list[int] = []
        self._baseline = Baseline()
        self._habits: set[str] = set()  # to be accepted if they show at once
        # Of the tasks of the latest outcome: is one left out, see `run_chunk`; has one failed?
        self._is_one_left_out = self._has_failed = False
        self._is_left = False
        self._calling: Caller | None = None

    def serve(self) -> None:
        """Answer messages until the channel closes, or tasks have changed this process."""
        become(Standing.LOADING)
        while not self._is_left:
            kind, content = self._waiting.popleft() if self._waiting else self._receive()
            if kind == Kind.TASKS:
                self._load(content)
            elif kind == Kind.CHUNK and self._run is not None:
                self._call(range(*content))
            elif kind == Kind.FORGET:
                self._run = None
                if content:
                    gc.collect()  # a function and its globals refer to each other
                    self._channel.send(Kind.FORGOTTEN)
            elif kind == Kind.GIVE:
                self._caller().take(content)
            elif kind == Kind.LOAD:
                from acme_mpi.runner.loading import prepare_command

                become(Standing.LOADING)
                with forked.children_leave():
                    loaded = prepare_command(content)
                self._channel.send(Kind.LOADED, loaded)
            elif kind == Kind.SHOW:
                from acme_mpi.runner.loading import show_values

                with forked.children_leave():
                    shown = show_values(*content)
                flush_standard_streams()
                self._channel.send(Kind.SHOWN, shown)

    def _caller(self) -> Caller:
        """Return what calls the functions of streams, made for the first one."""
        if self._calling is None:
            from acme_mpi.runner.calling import Caller

            self._calling = Caller(partial(self._channel.send, Kind.GOT), self._words)
        return self._calling

    def _receive(self) -> tuple[Kind, Any]:
        message = None
        if self._calling is not None and self._calling.has_answers:
            # They go with those of what is there already, if anything is.
            try:
                message = self._channel.receive(wait=False)
            finally:
                if message is None:
                    self._calling.answer()
        message = message or self._channel.receive()
        assert message is not None
        return message

    def _load(self, assignment: Assignment) -> None:
        self._run = None
        become(Standing.LOADING)
        try:
            change_environment(assignment.variables)
            with forked.children_leave():
                func, tasks = load_assignment(assignment)
        except BaseException as error:
            reason = reason_unready(error, gethostname())
            self._channel.send(Kind.UNREADY, (assignment.number, reason))
            return
        encoder = make_encoder(assignment, self._place if assignment.can_place else None)
        become(Standing.IN_TASK)
        self._run = (func, function_name(func), tasks, encoder)
        self._slowest = []
        self._baseline, self._habits = Baseline(IGNORED_SIGNALS), set(assignment.habits)
        self._channel.send(Kind.READY, (assignment.number, has_opened()))

    def _call(self, chunk: range) -> None:
        done = chunk.start
        while done < chunk.stop and not self._words[DRAIN]:
            # Less than the chunk is done, too, where what a task has changed is then accepted.
            for stop in self._outcomes(range(done, chunk.stop)):
                done = stop
                if self._is_changed():
                    return
        if done < chunk.stop:
            self._channel.send(Kind.NOT_CALLED, (done, chunk.stop))

    def _outcomes(self, chunk: range) -> Iterator[int]:
        """Call the tasks of a chunk and send their outcomes; yield where each ends."""
        assert self._run is not None
        func, name, tasks, encoder = self._run
        for outcome in run_chunk(
            func,
            name,
            tasks,
            encoder,
            chunk,
            self._words,
            is_changed=self._leaves_out,
            slowest=self._slowest,
        ):
            flush_standard_streams()
            self._has_failed = bool(outcome.failures)
            self._channel.send(Kind.OUTCOME, outcome)
            yield outcome.stop

    def _leaves_out(self) -> bool:
        """Tell whether a task that fails is to be called again, as the process is a changed one."""
        self._is_one_left_out = bool(self._baseline.differences())
        return self._is_one_left_out

    def _is_changed(self) -> bool:
        """Tell whether tasks have changed this process, and the agent about that.

        What is seen again at once, after the first tasks of another process, is how this function
        works, and is accepted; but not beside a failure, nor where the first task there is one
        that was left out here: it may be one and the same task that makes the change.
        """
        found = self._baseline.differences_if_due()
        if not self._has_failed:
            self._baseline.accepted |= self._habits & {*found}
        self._habits.clear()
        found = [name for name in found if name not in self._baseline.accepted]
        if found:
            self._is_left = True
            may_be_habits = not (self._is_one_left_out or self._has_failed)
            self._channel.send(Kind.CHANGED, (found, may_be_habits))
        self._is_one_left_out = False
        return self._is_left

    def _place(
        self, index: int, k: int, shape: tuple[int, ...], dtype: str
    ) -> Callable[[Any], None] | None:
        """Ask the agent where an array goes; return the function that writes it there."""
        if forked.this_process is not self._process:
            forked.leave()
        self._channel.send(Kind.PLACE, (index, k, shape, dtype))
        while True:
            kind, content = self._receive()
            if kind == Kind.SITE:
                break
            self._waiting.append((kind, content))
        if content is None:
            return None
        path, offset = content
        return lambda array: self._write(path, offset, array)

    def _write(self, path: str, offset: int, array: Any) -> None:
        try:
            write_at(path, offset, array)
        except MediumError as error:
            if found := self._baseline.differences():
                what = f"a large array after {found[0]} of its process was changed"
                raise ResultError(f"{what}: {error}") from None
            raise


def write_at(path: str, offset: int, array: Any) -> None:
    """Write the bytes of `array` where the agent has made room for them.

    Raises
    ------
    MediumError
        The medium refused the data.
    ResultError
        There are none: the array is a map of a file that has become shorter.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            write_all(descriptor, array, offset)
            begin_sync(descriptor, offset, array.nbytes)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno == errno.EFAULT:
            raise ResultError("a map of a file that ends before the array does") from None
        raise MediumError(f"cannot write {path}: {reason(error, path)}") from None


if __name__ == "__main__":
    main()
