"""The child of rank 0 that runs a user's script, or module, as ``__main__``."""

from __future__ import annotations

import io
import os
import runpy
import signal
import sys
import traceback
from types import FrameType, ModuleType, TracebackType

from acme_mpi.errors import StoppedError
from acme_mpi.interrupts import PASSED_ON, reset_after_fork
from acme_mpi.runner.channel import Channel
from acme_mpi.runner.process import arm_lifeline
from acme_mpi.script import connect, is_waiting

AGENTS_SIGNALS = (signal.SIGUSR1, signal.SIGUSR2)


def main() -> None:
    """Run the script; its calls go to the agent."""
    share_signals_with_the_agent()
    channel_fd, lifeline, page, stack = (int(text) for text in sys.argv[1:5])
    arm_lifeline(lifeline, whole_group=False)
    os.close(page)
    os.close(stack)
    os.set_inheritable(channel_fd, False)
    connect(Channel.from_descriptor(channel_fd))
    command = sys.argv[5:]
    sys.excepthook = print_without_own_frames
    try:
        if command[0] == "-m":
            sys.argv[:] = command[1:]
            sys.path[0] = os.getcwd()
            _run_module(command[1])
        else:
            sys.argv[:] = command
            _run_script(os.path.abspath(command[0]))
    except StoppedError as error:
        # As Python ends, but with the status that says that the same command goes on.
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
    if is_waiting():
        os.kill(os.getppid(), PASSED_ON)  # this process may be the only one that has got it
    else:
        os.kill(os.getpid(), number)


def _reset_signals() -> None:
    own = {**dict.fromkeys(AGENTS_SIGNALS, _leave_to_the_agent), signal.SIGTERM: _end_with_the_call}
    for number, handler in own.items():
        if signal.getsignal(number) is handler:
            signal.signal(number, signal.SIG_DFL)


def _run_script(path: str) -> None:
    # As Python does it: the code knows its full path, and sys.argv keeps what was typed, which
    # runpy.run_path would replace.
    sys.path[0] = os.path.dirname(path)
    module = ModuleType("__main__")
    module.__file__ = path
    sys.modules["__main__"] = module
    with io.open_code(path) as file:
        code = compile(file.read(), path, "exec")
    exec(code, module.__dict__)


def _run_module(name: str) -> None:
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except ImportError as error:
        # Python's own line, and no traceback, for a module that is not there.
        if traceback.extract_tb(error.__traceback__)[-1].filename != "<frozen runpy>":
            raise
        sys.exit(f"{sys.executable}: {error}")


def print_without_own_frames(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an uncaught exception as Python does, without the frames of this package."""
    report = traceback.TracebackException(kind, error, trace)
    _drop_own_frames(report)
    sys.stderr.write("".join(report.format()))


def _drop_own_frames(report: traceback.TracebackException) -> None:
    own = os.path.dirname(os.path.abspath(__file__)) + os.sep
    hidden = (own, "<frozen runpy>", "<string>")
    report.stack = traceback.StackSummary.from_list(
        [frame for frame in report.stack if not frame.filename.startswith(hidden)]
    )
    for other in (report.__cause__, report.__context__, *(report.exceptions or ())):
        if other is not None:
            _drop_own_frames(other)


if __name__ == "__main__":
    main()
