"""Where the calls of this process go, and how their results come back.

There is one session at a time, and it decides: see `current`. A new kind of session is one class in
one file of this folder; whatever makes calls only uses what `Session` declares.
"""

from acme_mpi.session.base import Session
from acme_mpi.session.current import current

__all__ = ["Session", "current"]
