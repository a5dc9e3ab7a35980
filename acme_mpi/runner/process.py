"""Start a child process that cannot outlive this one, and end it."""

from __future__ import annotations

import contextlib
import mmap
import os
import select
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import NamedTuple

from acme_mpi.linux.descriptors import for_child
from acme_mpi.linux.processes import children_of
from acme_mpi.linux.threads import THREAD_VARIABLES
from acme_mpi.runner.channel import Channel
from acme_mpi.runner.fork import Fork
from acme_mpi.runner.launched import without_launcher
from acme_mpi.runner.lifeline import PAGE_BYTES
from acme_mpi.runner.stack import ask_for_stack
from acme_mpi.runner.surroundings import changed
from acme_mpi.standing import VARIABLE, mark_of

# The package is found where this process found it, which takes the place of the working directory.
_BOOT = (
    "import sys; sys.path[: not sys.flags.safe_path] = [sys.argv.pop(1)]; "
    "from {module} import main; main()"
)
LEAVING_S = 1.5  # for a child that is asked to leave, and for its own children
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.realpath(__file__))))


def child_environment(
    n_threads: int, variables: Mapping[str, str | None] | None = None
) -> dict[str, str]:
    """Return the environment of a runner.

    Parameters
    ----------
    n_threads : int
        For the numerical libraries, unless it is set.
    variables : mapping, optional
        What the caller has changed, see `Surroundings`.
    """
    environment = changed(without_launcher(os.environ), variables or {})
    for name in THREAD_VARIABLES:
        environment.setdefault(name, str(n_threads))
    environment[VARIABLE] = mark_of(environment)
    return environment


def interpreter_flags() -> list[str]:
    """Return the options with which this Python was started, for another one."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]
    for name, value in sys._xoptions.items():
        text = name if value is True else f"{name}={value}"
        if text not in flags:
            flags += ["-X", text]
    return flags


def python_command(module: str) -> list[str]:
    """Return the command that calls ``main`` of a module of this package in another Python."""
    boot = ("-c", _BOOT.format(module=module), _ROOT)
    return [sys.executable, *interpreter_flags(), *boot]


class Child:
    """A Python child with a channel, a shared page, a file for its stack, and a lifeline.

    The lifeline is a pipe whose only write end is here. When this process goes, however it goes,
    the kernel kills the child and all that the child has started.

    Parameters
    ----------
    module : str
        Its ``main`` finds the descriptors of channel, lifeline, page and stack as the first
        arguments.
    arguments : sequence of str
        Further arguments.
    environment : mapping
        Its environment.
    has_terminal : bool
        Whether the child belongs to the terminal (a user's script), with its standard input and
        signals; otherwise it leads a session of its own.
    is_forked : bool
        Whether it is a copy of this process.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        has_terminal: bool = False,
        is_forked: bool = False,
    ) -> None:
        self.channel, remote = Channel.pair()
        lifeline, self._lifeline = os.pipe2(os.O_CLOEXEC)
        page = os.memfd_create("acme_mpi_page", os.MFD_CLOEXEC)
        self._stack = os.memfd_create("acme_mpi_stack", os.MFD_CLOEXEC)
        try:
            os.ftruncate(page, PAGE_BYTES)
            self.words = memoryview(mmap.mmap(page, PAGE_BYTES)).cast("q")
            self.words[0] = -1
            inherited = (remote.fileno(), lifeline, page, self._stack)
            words = [*map(str, inherited), *arguments]
            self._process: Fork | subprocess.Popen[bytes]
            if is_forked:
                main = import_module(module).main
                self._process = Fork(main, words, inherited, environment)
            else:
                self._process = subprocess.Popen(
                    [*python_command(module), *words],
                    stdin=for_child("stdin") if has_terminal else subprocess.DEVNULL,
                    stdout=for_child("stdout"),
                    stderr=for_child("stderr"),
                    pass_fds=inherited,
                    env=environment,
                    start_new_session=not has_terminal,
                )
        except OSError:
            os.close(self._lifeline)
            os.close(self._stack)
            raise
        finally:
            remote.close()
            os.close(lifeline)
            os.close(page)
        _CHILDREN.add(self)
        self._has_group = not has_terminal
        # Readable as soon as the child has ended, even if its own children keep the channel open.
        self.pidfd = os.pidfd_open(self._process.pid)

    def let_go(self) -> None:
        """Keep no end of it in a process that this one has forked: it is its parent's alone."""
        with contextlib.suppress(OSError):
            os.close(self._lifeline)
        self.channel.close()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    def has_ended(self, wait_s: float = 0.0) -> bool:
        """Tell whether the child is gone, or goes within `wait_s` seconds."""
        return bool(select.select([self.pidfd], [], [], wait_s)[0])

    def look(self) -> tuple[bool, bool]:
        """Tell whether there is something to read, and whether the child is gone."""
        channel = self.channel.fileno()
        found = select.select([channel, self.pidfd], [], [], 0)[0]
        return channel in found, self.pidfd in found

    def stack(self) -> str:
        """Return the stacks of the child's threads, see `ask_for_stack`."""
        return ask_for_stack(self.pidfd, self._stack)

    def send_kill(self) -> None:
        """Kill the child and all its processes; does not wait for that."""
        # A forked child may have died, or been killed here, before it led a group.
        with contextlib.suppress(ProcessLookupError):
            if self._has_group:
                os.killpg(self._process.pid, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGKILL)

    def end(self) -> int:
        """Let the child leave by itself, as Python ends, and then do what `kill` does.

        It is waited for `LEAVING_S`, and so are its own children, `multiprocessing`'s tracker of
        shared memory above all: that tidies up once the child has gone. Those who stay are killed.
        """
        waited_for = [self.pidfd, *_open_children(self.pid)]
        self.channel.hang_up()
        give_up_s = time.monotonic() + LEAVING_S
        for pidfd in waited_for:
            select.select([pidfd], [], [], max(0.0, give_up_s - time.monotonic()))
        for pidfd in waited_for[1:]:
            os.close(pidfd)
        return self.kill()

    def kill(self) -> int:
        """Kill the child and all its processes, free everything, and return its wait status.

        The status is that of `subprocess`: an exit code, or minus the signal.
        """
        self.send_kill()
        status = self._process.wait()
        for descriptor in (self.pidfd, self._lifeline, self._stack):
            os.close(descriptor)
        self.channel.close()
        _CHILDREN.discard(self)
        return status


_CHILDREN: weakref.WeakSet[Child] = weakref.WeakSet()


def _let_go_of_all() -> None:
    for child in [*_CHILDREN]:
        child.let_go()
    # Once: in a process that this one forks, their descriptors' numbers may be those of others.
    _CHILDREN.clear()


os.register_at_fork(after_in_child=_let_go_of_all)


def _open_children(pid: int) -> list[int]:
    """Return a descriptor for each child of a process."""
    found = []
    for child in children_of(pid):
        with contextlib.suppress(ProcessLookupError):
            found.append(os.pidfd_open(child))
    return found


class Ending(NamedTuple):
    """What is told of the task that a runner was running when it ended: fields of a `Failure`."""

    type: str
    message: str
    traceback: str = ""
    location: str = ""
    is_from_outside: bool = False  # by a SIGKILL, which nobody can tell from the task's own


def ending_text(status: int, remark: str = "") -> Ending:
    """Return what is told of a task whose runner ended with `status`.

    Parameters
    ----------
    status : int
        As of `subprocess`.
    remark : str
        Added to the words for a runner that was killed from outside.
    """
    if status < 0:
        try:
            name = signal.Signals(-status).name
        except ValueError:
            name = f"signal {-status}"
        reason = {
            "SIGSEGV": "a segmentation fault",
            "SIGKILL": f"killed from outside, probably out of memory{remark}",
            "SIGABRT": "aborted",
            "SIGBUS": "a bus error",
            "SIGFPE": "an arithmetic fault",
        }.get(name, "killed")
        message = f"the process that ran the task ended by {name} ({reason})"
        return Ending("killed", message, is_from_outside=name == "SIGKILL")
    message = f"the process that ran the task ended with exit code {status} (os._exit?)"
    return Ending("exit", message)
