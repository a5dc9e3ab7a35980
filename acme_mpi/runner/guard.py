"""What a task may take, and the agent's watch over the process that runs it: what it dies of."""

from __future__ import annotations

import errno
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from acme_mpi.linux.footprint import Footprint
from acme_mpi.linux.memory import size_text, status_bytes
from acme_mpi.linux.oom import oom_kills, oom_remark
from acme_mpi.runner.channel import ChannelError, Kind
from acme_mpi.runner.lifeline import BROKEN
from acme_mpi.runner.process import Child, Ending, ending_text
from acme_mpi.runner.stack import read_stack
from acme_mpi.runner.watch import Watch

LONGEST_LOOK_S, SHORTEST_LOOK_S = 0.25, 0.01
MEMORY_LOOK_S = 0.05
DYING_S = 0.5  # between the end of a channel and that of its process


class Limits(NamedTuple):
    """What one task may take; 0 stands for no limit.

    Attributes
    ----------
    seconds : float
        Wall time.
    n_bytes : int
        Memory, see `Footprint`.
    """

    seconds: float = 0.0
    n_bytes: int = 0

    @property
    def look_s(self) -> float | None:
        """Longest time in seconds between two looks at what runs; None: nothing to look at."""
        pauses_s = []
        if self.seconds > 0:
            pauses_s.append(max(SHORTEST_LOOK_S, min(LONGEST_LOOK_S, self.seconds / 10)))
        if self.n_bytes > 0:
            pauses_s.append(MEMORY_LOOK_S)
        return min(pauses_s, default=None)

    def breach(self, seconds: float, footprint: Footprint) -> tuple[str, str] | None:
        """Return type and message of the failure of a task that is over a limit, else None."""
        if 0 < self.seconds < seconds:
            limit = _seconds_text(self.seconds)
            return "timeout", f"still running after {_seconds_text(seconds)} (limit {limit})"
        if self.n_bytes > 0 and (used := footprint.above(self.n_bytes)):
            return "memory", f"used {size_text(used)} of memory (limit {size_text(self.n_bytes)})"
        return None


class Gone(NamedTuple):
    """A child is there no longer, or of no use any more.

    Attributes
    ----------
    misdeed : str or None
        What it did wrong; None: it has ended.
    """

    misdeed: str | None = None


@dataclass(frozen=True)
class OverLimit:
    """A task over a limit, for which its child is being killed.

    Attributes
    ----------
    index : int
        The task that is over a limit.
    ending : Ending
        What is told of it.
    peak_bytes : int
        Peak memory of the child while the task ran.
    """

    index: int
    ending: Ending
    peak_bytes: int


class Guard:
    """Watches one child, and kills it if its task is over a limit.

    Parameters
    ----------
    child : Child
        May be dead.

    Attributes
    ----------
    over_limit : OverLimit or None
        Why the child is being killed. What it has said since counts no more: the signal that asks
        for its stack may have ended what the task was waiting for.
    """

    def __init__(self, child: Child) -> None:
        self._child = child
        self._watch = Watch(child.words)
        self._footprint = Footprint(child.pid)
        self._oom_kills = oom_kills()
        self.over_limit: OverLimit | None = None
        self._seen_bytes = 0

    def descriptors(self) -> list[int]:
        """Return what to select on for reading: there is something for `listen` then."""
        child = self._child
        return [child.pidfd] if self.over_limit else [child.channel.fileno(), child.pidfd]

    def listen(self, take: Callable[[Kind, Any], None]) -> Gone | bool:
        """Have the next message of the child taken, if it has said something.

        Parameters
        ----------
        take : callable
            Gets kind and content; it raises TypeError or ValueError for what the child may not say.

        Returns
        -------
        Gone or bool
            True: there may be more; False: it has said nothing more yet.
        """
        has_said, has_ended = self._child.look()
        if self.over_limit is not None:
            return has_ended and Gone()
        try:
            message = self._child.channel.receive(wait=False) if has_said else None
            if message is not None:
                take(*message)
                return True
        except EOFError:
            # A process on its way out closes its channel first, and is gone soon after.
            has_ended = self._child.has_ended(wait_s=DYING_S)
            return Gone(None if has_ended else "closed its channel")
        except (ChannelError, TypeError, ValueError, OSError, MemoryError) as error:
            return Gone(_misdeed(error))
        # Ended before the last look, and nothing is left to read.
        return has_ended and Gone()

    def running(self) -> tuple[int, float] | None:
        """Return the task that runs and for how many seconds that has been seen."""
        return self._watch.running()

    def begin_looks(self) -> None:
        """Note that there are limits from now on."""
        self._watch.begin_looks()

    def look(self, limits: Limits) -> None:
        """Kill the child if its task is over a limit; does not wait for its end."""
        task = self._watch.look()
        if task is None or self.over_limit is not None:
            return
        found = limits.breach(task[1], self._footprint)
        self.note_memory(self._footprint.last_bytes)
        # What it has said comes first: it may wait for an answer, or have ended.
        if found is not None and not any(self._child.look()):
            self._kill_for_limit(task[0], *found)

    def _kill_for_limit(self, index: int, kind: str, message: str) -> None:
        text, location = read_stack(self._child.stack())
        ending = Ending(kind, message, text, location)
        self.over_limit = OverLimit(index, ending, status_bytes(self._child.pid, "VmHWM"))
        self._child.send_kill()

    def note_memory(self, n_bytes: int) -> None:
        """Remember that the child was seen with so much memory."""
        self._seen_bytes = max(self._seen_bytes, n_bytes)

    def note_answer(self) -> None:
        """Give the task that has waited for an answer its time anew."""
        self._watch.restart()

    def ending(self, status: int, misdeed: str | None) -> tuple[int, Ending]:
        """Return the task that the child was running when it ended, and what is told of it.

        Parameters
        ----------
        status : int
            As of `Child.kill`.
        misdeed : str or None
            What the child did wrong, if it was killed for that.

        Returns
        -------
        index : int
            -1: none, as far as is known.
        ending : Ending
        """
        if self.over_limit is not None:
            return self.over_limit.index, self.over_limit.ending
        index: int = self._child.words[0]
        if misdeed is None and index < 0:
            misdeed = {
                0: "lost its channel (closed descriptors?)",
                BROKEN: "could not go on (has it replaced or removed parts of Python?)",
            }.get(status)
        if misdeed is not None:
            # It may have happened long before it was seen.
            return -1, Ending("protocol", f"the process that ran the task {misdeed}")
        return index, ending_text(status, self._remark() if status == -signal.SIGKILL else "")

    def _remark(self) -> str:
        seen = f"; last seen with {size_text(self._seen_bytes)}" if self._seen_bytes else ""
        return oom_remark(self._oom_kills, oom_kills()) + seen

    @property
    def task_start_s(self) -> float:
        """Unix time of the start of the latest task, as well as the runner knew it; 0: of none."""
        start_ns = self._child.words[1]
        return time.time() - (time.monotonic_ns() - start_ns) / 1e9 if start_ns else 0.0

    @property
    def task_peak_bytes(self) -> int:
        """Peak memory of the child while its last task ran; 0 if it was not killed for that."""
        return self.over_limit.peak_bytes if self.over_limit is not None else 0


def _misdeed(error: Exception) -> str:
    if isinstance(error, MemoryError) or getattr(error, "errno", 0) == errno.ENOMEM:
        return "returned more than its rank has memory for (ulimit -v?)"
    return f"wrote garbage into its channel ({error})"


def _seconds_text(seconds: float) -> str:
    """Return a duration in seconds with at least three digits."""
    return f"{seconds:.3g} s" if seconds < 100 else f"{seconds:.0f} s"
