"""The child of rank 0 that runs a user's script, or module, as ``__main__``."""

from __future__ import annotations

import os
import runpy
import sys
import traceback
from types import TracebackType

from acme_mpi.runner.channel import Channel
from acme_mpi.runner.process import arm_lifeline
from acme_mpi.script import connect


def main() -> None:
    """Run the script; its calls go to the agent."""
    channel_fd, lifeline, page = (int(text) for text in sys.argv[1:4])
    arm_lifeline(lifeline, whole_group=False)
    os.close(page)
    os.set_inheritable(channel_fd, False)
    connect(Channel.from_descriptor(channel_fd))
    command = sys.argv[4:]
    sys.excepthook = print_without_own_frames
    if command[0] == "-m":
        sys.argv[:] = command[1:]
        sys.path[0] = os.getcwd()
        runpy.run_module(command[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv[:] = command
        sys.path[0] = os.path.dirname(os.path.abspath(command[0]))
        runpy.run_path(command[0], run_name="__main__")


def print_without_own_frames(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print an uncaught exception as Python does, without the frames of this package."""
    own = os.path.dirname(os.path.abspath(__file__)) + os.sep
    hidden = (own, "<frozen runpy>", "<string>")
    report = traceback.TracebackException(kind, error, trace)
    report.stack = traceback.StackSummary.from_list(
        [frame for frame in report.stack if not frame.filename.startswith(hidden)]
    )
    sys.stderr.write("".join(report.format()))


if __name__ == "__main__":
    main()
