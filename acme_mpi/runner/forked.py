"""What a task forks: a child that ends where it would come back into the code of this package.

Only one process speaks for a rank. Of a fork there are two that return from the user's function.
"""

from __future__ import annotations

import os
import sys
import threading
import traceback
from typing import Any, NoReturn

from acme_mpi.results.convert import ResultError
from acme_mpi.runner.streams import flush_standard_streams
from acme_mpi.tasks.frames import users_part

# Another object in every forked child: compared where calls have returned.
this_process = object()


# What is still to be called, for each loop of calls, the innermost last: a forked child calls
# nothing of it. So no call has to look, which would cost a short one a tenth of its time.
being_called: list[list[Any]] = []


def _become_another() -> None:
    global this_process
    this_process = object()
    for to_call in being_called:
        to_call.clear()


os.register_at_fork(after_in_child=_become_another)


class children_leave:
    """Context that a child forked in it does not leave, whatever it returns or raises."""

    def __enter__(self) -> None:
        self._own = this_process

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if this_process is not self._own:
            leave(error)


def leave(raised: BaseException | None = None) -> NoReturn:
    """End a forked child as `multiprocessing` ends its own.

    Its threads are waited for, its output is flushed, and nothing that was registered in its parent
    is done again.

    Parameters
    ----------
    raised : BaseException or None
        What has come out of the user's function. None, or a result that cannot be stored: it has
        returned.
    """
    status = 1
    try:
        status = _status_after(None if isinstance(raised, ResultError) else raised)
        threading._shutdown()  # type: ignore[attr-defined]
        flush_standard_streams()
    finally:
        os._exit(status)


def _status_after(raised: BaseException | None) -> int:
    if raised is None:
        return 0
    if not isinstance(raised, SystemExit):
        traceback.print_exception(raised.with_traceback(users_part(raised.__traceback__)))
        return 1
    if raised.code is None or isinstance(raised.code, int):
        return int(raised.code or 0) & 0xFF
    print(raised.code, file=sys.stderr)
    return 1
