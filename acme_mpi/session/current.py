"""The session of this moment: the only place where one is kept."""

from __future__ import annotations

import os

from acme_mpi.session.base import Session
from acme_mpi.session.inside import LoadingSession, TaskSession
from acme_mpi.session.plain import PlainSession
from acme_mpi.standing import Standing, standing

_inside: dict[Standing, Session] = {
    Standing.IN_TASK: TaskSession(),
    Standing.LOADING: LoadingSession(),
}
_outside: Session = PlainSession()


def current() -> Session:
    """Return the session of a call that this thread makes now."""
    inside = _inside.get(standing())
    return _outside.of_call() if inside is None else inside


def outside() -> Session:
    """Return the session of this process, wherever this thread is at the moment."""
    return _outside


def enter(session: Session) -> None:
    """Have the calls of this process go to `session`; a process that it forks has no part in it."""
    global _outside
    _outside = session
    os.register_at_fork(after_in_child=_leave)


def _leave() -> None:
    global _outside
    _outside = PlainSession()
    _outside.stay_alone()
