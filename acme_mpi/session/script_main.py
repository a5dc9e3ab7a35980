"""The child of rank 0 that runs a user's script, or module, as ``__main__``."""

from __future__ import annotations

import builtins
import os
import pkgutil
import runpy
import signal
import sys
import traceback
from collections.abc import Iterable
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from types import FrameType, ModuleType, TracebackType
from typing import Any

from acme_mpi.errors import StoppedError
from acme_mpi.linux.interrupts import PASSED_ON, reset_after_fork
from acme_mpi.runner.channel import Channel
from acme_mpi.runner.lifeline import arm_lifeline
from acme_mpi.runner.trace import keep_frames
from acme_mpi.session.current import enter, outside
from acme_mpi.session.script import ScriptSession
from acme_mpi.tasks.frames import is_own

AGENTS_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Run the script; its calls go to the agent."""
    share_signals_with_the_agent()
    channel_fd, lifeline, page, stack = (int(text) for text in sys.argv[1:5])
    arm_lifeline(lifeline, whole_group=False)
    os.close(page)
    os.close(stack)
    os.set_inheritable(channel_fd, False)
    enter(ScriptSession.of_script(Channel.from_descriptor(channel_fd)))
    command = sys.argv[5:]
    sys.excepthook = print_without_own_frames
    try:
        if command[0] == "-m":
            sys.argv[:] = ["-m", *command[2:]]
            _run_module(command[1])
        else:
            sys.argv[:] = command
            _run_path(command[0])
    except StoppedError as error:
        # As Python ends, but with the status that says that the same command resumes the run.
        sys.excepthook(type(error), error, error.__traceback__)
        sys.exit(error.exit_code)


def share_signals_with_the_agent() -> None:
    """Take the signals by which a job is ended so that a call can be ended in good order.

    Slurm sends them to every process of a step, and so to this one. It goes on, as the agents have
    got them, too: a call that is served raises `StoppedError`, and so does the next one. SIGTERM
    ends the script, unless a call is served, which ends first. The script may take them otherwise.
    """
    for number in AGENTS_SIGNALS:
        signal.signal(number, _leave_to_the_agent)
    signal.signal(signal.SIGTERM, _end_with_the_call)
    reset_after_fork({*AGENTS_SIGNALS, signal.SIGTERM}, _reset_signals)


def _leave_to_the_agent(number: int, frame: FrameType | None) -> None:
    pass


def _end_with_the_call(number: int, frame: FrameType | None) -> None:
    signal.signal(number, signal.SIG_DFL)  # the second one ends this process at once
    session = outside()
    if isinstance(session, ScriptSession) and session.is_waiting:
        os.kill(os.getppid(), PASSED_ON)  # this process may be the only one that has got it
    else:
        os.kill(os.getpid(), number)


def _reset_signals() -> None:
    own = {**dict.fromkeys(AGENTS_SIGNALS, _leave_to_the_agent), signal.SIGTERM: _end_with_the_call}
    for number, handler in own.items():
        if signal.getsignal(number) is handler:
            signal.signal(number, signal.SIG_DFL)


def _run_path(path: str) -> None:
    """Run a script, or a folder or an archive that holds a ``__main__.py``."""
    module = _new_main()
    full = os.path.join(os.getcwd(), path)  # as Python makes it, with what `path` has of dots
    if pkgutil.get_importer(full) is not None:
        _set_first_path(full)
        _run_found("__main__", alter_argv=False)
        return
    _set_first_path(os.path.dirname(os.path.realpath(path)))
    loader: Any = SourceFileLoader("__main__", full)
    if full.endswith(".pyc"):
        loader = SourcelessFileLoader("__main__", full)
        code = loader.get_code("__main__")
    else:
        code = loader.source_to_code(loader.get_data(full), full)
    module.__file__, module.__loader__ = full, loader
    module.__dict__["__cached__"] = None
    exec(code, module.__dict__)


def _run_module(name: str) -> None:
    _new_main()
    _set_first_path(os.getcwd())
    _run_found(name, alter_argv=True)


def _run_found(name: str, alter_argv: bool) -> None:
    # What Python itself calls; `runpy.run_module` would take the module away at its end, before
    # threads and exit handlers have ended.
    runpy._run_module_as_main(name, alter_argv)  # type: ignore[attr-defined]


def _new_main() -> ModuleType:
    module = ModuleType("__main__")
    module.__dict__.update(__builtins__=builtins, __annotations__={})
    sys.modules["__main__"] = module
    return module


def _set_first_path(path: str) -> None:
    """Have modules be found where the script is, in the place that this package has held."""
    sys.path[:1] = [] if sys.flags.safe_path else [path]


def print_without_own_frames(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an uncaught exception as Python does, without the frames of this package."""
    report = traceback.TracebackException(kind, error, trace)
    keep_frames(report, _not_hidden)
    sys.stderr.write("".join(report.format()))


def _not_hidden(frames: Iterable[traceback.FrameSummary]) -> list[traceback.FrameSummary]:
    hidden = ("<frozen ", "<string>")  # of runpy and of importlib, as Python does
    return [f for f in frames if not is_own(f.filename) and not f.filename.startswith(hidden)]


if __name__ == "__main__":
    main()
