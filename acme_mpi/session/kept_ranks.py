"""Ranks that a launcher has started and that stay: this process is their client for a while."""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import select
import signal
import socket
import time
from typing import Any, Self

from acme_mpi.comm.background import start_thread
from acme_mpi.errors import InputError, LaunchError
from acme_mpi.launchers.environment import clean_environment
from acme_mpi.links.bridge import Bridge, End
from acme_mpi.links.endpoint import this_process
from acme_mpi.links.key import read_key
from acme_mpi.links.reaching import reach
from acme_mpi.linux.interrupts import signal_name
from acme_mpi.runner.channel import Channel
from acme_mpi.session.current import outside
from acme_mpi.session.kernel import ends_within
from acme_mpi.session.local import LocalSession
from acme_mpi.session.ranks import Ranks
from acme_mpi.session.script import GoesOnError
from acme_mpi.session.starting import RanksFolder
from acme_mpi.session.values import finish

WELCOMED_S = 30.0  # within which rank 0 has said whether this process is welcome
STOPPED_S = 15.0  # within which ranks have left that were told to; then their job is cancelled
LOOK_S = 0.05
RESTARTED_S = 0.5  # between the interrupt of a kernel and its end, if it is restarted
_BEFORE_THE_END = (signal.SIGUSR1, signal.SIGUSR2)

logger = logging.getLogger("acme_mpi")


class KeptRanks(Ranks):
    """Ranks that serve this process, and stay for a while when it ends; see `launch`.

    Attributes
    ----------
    ranks : list of (str, int)
        Host and process id of each rank, by its number.
    directory : str
        Absolute path of the folder by which `connect` finds them.
    """

    title = "the ranks that served this process"
    what_next = (
        "launch others, `connect` again if only the connection broke, or stop() these to go on "
        "without"
    )

    def __init__(self, found: RanksFolder, bridge: Bridge) -> None:
        self.directory, self.environment = found.folder, _shared_environment(found)
        self.ranks: list[tuple[str, int]] = []
        self._found, self._bridge, self._pid = found, bridge, os.getpid()
        self._job_id = found.job_id
        self._leaves_because, self._last_words = 0, ""
        self._is_gone = self._is_stopped = False
        own, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel, self._end = Channel(theirs), End(own)
        self._ears, self._mouth = socket.socketpair()
        self._ears.setblocking(False)
        self._mouth.setblocking(False)
        self._has_last = False
        try:
            self._introduce()
        except BaseException:
            self._close()
            self._channel.close()
            raise
        bridge.join(self._end)
        start_thread("bridge", self._serve)

    @classmethod
    def meet(cls, found: RanksFolder, time_s: float | None = None) -> Self:
        """Wait until the ranks have begun, and have them serve this process.

        Raises
        ------
        LaunchError
            They cannot be reached, or serve another process.
        TimeoutError
            They have not begun within that time.
        """
        rank_0 = found.wait(time_s)
        bridge = reach(found.folder, read_key(found.folder), rank_0, found.ports)
        kept = cls(found, bridge)
        n, hosts = len(kept.ranks), ", ".join(kept.hosts)
        logger.info("Connected to %d ranks on %s by %s", n, hosts, kept.way)
        return kept

    def _introduce(self) -> None:
        self._bridge.say(this_process())
        give_up_s = time.monotonic() + WELCOMED_S
        while not self._bridge.words:
            try:
                self._work_once(LOOK_S)
            except EOFError:
                if not self._bridge.words:
                    raise LaunchError("rank 0 has gone before it has said anything") from None
            if time.monotonic() > give_up_s:
                raise LaunchError("rank 0 does not say whether this process is welcome")
        words = self._bridge.words.popleft()
        if "refused" in words:
            raise LaunchError(str(words["refused"]))
        self.ranks = [(str(host), int(pid)) for host, pid in words["ranks"]]
        self._has_last = bool(words["has_last"])

    def _work_once(self, pause_s: float | None) -> None:
        pauses = [each for each in (pause_s, self._bridge.transport.pause_s) if each is not None]
        reading = [*self._bridge.reading(), self._ears.fileno()]
        select.select(reading, self._bridge.writing(), [], min(pauses, default=None))
        with contextlib.suppress(BlockingIOError):
            self._ears.recv(4096)
        self._bridge.work()

    def _serve(self) -> None:
        try:
            while True:
                self._work_once(None)
                while self._bridge.words:
                    words = self._bridge.words.popleft()
                    self._leaves_because = words.get("leaving", self._leaves_because)
        except EOFError:
            pass
        except (LaunchError, OSError) as error:  # it has been forged; there is no memory for it
            self._last_words = f"; {error}"
        finally:
            self._is_gone = True
            self._close()

    def _say(self, words: dict[str, Any]) -> None:
        self._bridge.say(words)
        with contextlib.suppress(OSError):  # it will be heard anyway, or never
            self._mouth.send(b"!")

    def _close(self) -> None:
        self._bridge.close()
        for sock in (self._end.sock, self._ears, self._mouth):
            sock.close()

    @property
    def channel(self) -> Channel:
        """To rank 0's agent, by way of a thread."""
        return self._channel

    @property
    def way(self) -> str:
        """By what they are reached, for people."""
        return self._bridge.transport.title

    @property
    def job_id(self) -> str:
        """By what their launcher knows their job: Slurm's number, or host and process."""
        return self._job_id

    def status(self) -> str:
        """Return ``"running"`` or ``"ended"``."""
        return "ended" if self._is_gone or self._is_stopped else "running"

    def show_printed(self) -> None:
        """Do nothing: what tasks print is in the log of the job."""

    @property
    def is_missed(self) -> bool:
        """Whether they have gone by themselves: on a login node, nobody wants ranks instead."""
        return self._is_gone and not self._is_stopped

    def said(self) -> str:
        """Return why they have gone, and what their job has said at last; end of a sentence."""
        why = self._last_words
        if self._leaves_because:
            why += f"; they were asked to leave by {signal_name(self._leaves_because)}"
        if self._leaves_because in _BEFORE_THE_END:
            why += ", as Slurm does before the end of their time"
        return f"{why}; {self._found.how_it_is()}"

    def hear_signal(self) -> None:
        """Have the call go on if the signal has come with the end of a notebook's kernel.

        Raises
        ------
        GoesOnError
            The kernel ends.
        """
        if ends_within(RESTARTED_S):
            raise GoesOnError("the call goes on: `connect` and `last_result` give its result")

    @property
    def log(self) -> str:
        """Path of the file with all that the ranks print."""
        return self._found.path("log")

    def last_result(self) -> Any:
        """Return what the last call returned whose result the process before this one has not got.

        That call goes on when its process ends; this waits for its end. Ctrl-C ends only the
        waiting. A call of this process ends it, so this comes first.

        Returns
        -------
        list
            What `acme_mpi.map` would have returned: paths, or values.

        Raises
        ------
        InputError
            There is no such call, or its values were taken, or another call has come after it.
        TaskError, StoppedError, LaunchError
            As `acme_mpi.map`.
        """
        session = outside().of_call()
        if not (isinstance(session, LocalSession) and session.local is self and self._has_last):
            raise InputError("no call of a process before this one waits for its result here")
        if session.has_asked:
            raise InputError(
                "the result of the last call is that of this process now; `last_result` comes "
                "before other calls, and gives values once"
            )
        self._say({"last": True})
        result = session.take_last()
        return None if result is None else finish(result)

    def stop(self) -> None:
        """End the ranks and their job; what runs on them is dropped. Twice does nothing."""
        if self._is_stopped or self._pid != os.getpid():
            return
        self._is_stopped = True
        atexit.unregister(self.stop)
        self._say({"stop": True})
        try:
            if not self._has_ended():
                self._cancel()
        except BaseException:  # an interrupt: nobody waits, and nobody would use them
            self._cancel()
            raise
        finally:
            self._found.remove()
        self._channel.close()

    def _cancel(self) -> None:
        try:
            self._found.cancel()
        except LaunchError as error:
            logger.warning("Job %s could not be ended: %s", self._job_id, error)

    def _has_ended(self) -> bool:
        give_up_s = time.monotonic() + STOPPED_S
        while not self._found.state().is_over:
            if time.monotonic() > give_up_s:
                return False
            time.sleep(LOOK_S)
        return True

    def let_go(self) -> None:
        """Have no part in them in a process that was forked from theirs."""
        self._is_stopped = True
        self._bridge.let_go()
        for each in (self._end.sock, self._ears, self._mouth, self._channel):
            each.close()

    def __repr__(self) -> str:
        return (
            f"<acme_mpi.KeptRanks: {len(self.ranks)} ranks of job {self.job_id}, {self.status()}, "
            f"in {self.directory}>"
        )


def _shared_environment(found: RanksFolder) -> dict[str, str]:
    """Return the variables that ranks have, and, as if they had, those of a job of this process."""
    own = clean_environment()
    of_job = {name: value for name, value in os.environ.items() if name not in own}
    return {**found.environment, **of_job}
