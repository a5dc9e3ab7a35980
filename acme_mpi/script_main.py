"""The child of rank 0 that runs a user's script, or module, as ``__main__``."""

from __future__ import annotations

import io
import os
import runpy
import sys
import traceback
from types import ModuleType, TracebackType

from acme_mpi.runner.channel import Channel
from acme_mpi.runner.process import arm_lifeline
from acme_mpi.script import connect


def main() -> None:
    """Run the script; its calls go to the agent."""
    channel_fd, lifeline, page, stack = (int(text) for text in sys.argv[1:5])
    arm_lifeline(lifeline, whole_group=False)
    os.close(page)
    os.close(stack)
    os.set_inheritable(channel_fd, False)
    connect(Channel.from_descriptor(channel_fd))
    command = sys.argv[5:]
    sys.excepthook = print_without_own_frames
    if command[0] == "-m":
        sys.argv[:] = command[1:]
        sys.path[0] = os.getcwd()
        _run_module(command[1])
    else:
        sys.argv[:] = command
        _run_script(os.path.abspath(command[0]))


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
