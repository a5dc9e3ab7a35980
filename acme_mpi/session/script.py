"""A script whose calls are served by ranks: its process is a client of rank 0's agent."""

from __future__ import annotations

import contextlib
import itertools
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Self

from acme_mpi.comm import SerialWorld, World, pack_error, unpack_error
from acme_mpi.engine.call import Call, Result
from acme_mpi.errors import AcmeMpiError, LaunchError
from acme_mpi.linux.processes import image_of
from acme_mpi.linux.terminal import ask
from acme_mpi.runner.channel import Channel, Kind
from acme_mpi.session.base import Session
from acme_mpi.session.values import deliver

if TYPE_CHECKING:
    from acme_mpi.session.stream_client import ClientStream


class GoesOnError(KeyboardInterrupt):
    """The ranks go on with a request of this process, which is about to end."""


class ScriptSession(Session):
    """A client's end of its channel to rank 0's agent.

    Parameters
    ----------
    channel : Channel
        To rank 0's agent.
    ranks : list of (str, int)
        Host and process id of every rank.
    start : mapping
        Environment variables that the ranks have, but for what their launcher has told them.
    """

    bar: bool | None = None

    def __init__(
        self, channel: Channel, ranks: list[tuple[str, int]], start: Mapping[str, str]
    ) -> None:
        super().__init__()
        self._channel, self._ranks, self._environment_at_start = channel, ranks, dict(start)
        self._is_launched = False
        self._lock = threading.RLock()
        # Ranks that stay may have a request that a client before this one has made.
        self._numbers = itertools.count(int.from_bytes(os.urandom(6)))
        self._stream: ClientStream | None = None
        self._waiting: set[int] = set()  # numbers of the requests that are not answered
        self.has_asked = False  # this process has made a request

    @classmethod
    def of_script(cls, channel: Channel) -> Self:
        """Return the session of rank 0's child, to whom the agent says first what there is.

        The child answers with its image, see `image_of`: the agent knows it again by that.
        """
        message = channel.receive()
        assert message is not None
        channel.send(Kind.HELLO, image_of(os.getpid()))
        ranks, level, is_launched = message[1]
        session = cls(channel, ranks, os.environ)
        session.level, session._is_launched = level, is_launched
        return session

    @property
    def is_waiting(self) -> bool:
        """Whether a call of this process is being served."""
        return bool(self._waiting)

    def callers(self, comm: Any = None) -> World:
        """Return the script alone."""
        return SerialWorld()

    def job_ranks(self, world: World, error: AcmeMpiError | None = None) -> list[tuple[str, int]]:
        """Return host and process id of every rank that serves. Independent."""
        super().job_ranks(world, error)
        return self._ranks

    @property
    def is_speaker(self) -> bool:
        """Whether this process speaks for the job: no other runs the script."""
        return True

    def ask(self, question: str) -> bool | None:
        """Ask on the terminal of the launcher, which is the parent of this process's agent."""
        return ask(question, 2 if self._is_launched else 0)

    def needs_pickles(self, isolate: bool) -> bool:
        """Tell that the function is called in other processes whatever happens."""
        return True

    def run(self, world: World, call: Call, wants_values: bool = True) -> Result:
        """Have the ranks run the call, and load its values here. Independent."""
        assert call.surroundings is not None  # this process makes the call
        surroundings = call.surroundings.beside(self._environment_at_start)
        error = pack_error(call.error)
        fingerprint = dict(call.fingerprint)
        wanted = call.options, call.packed, surroundings, fingerprint, call.labels, error
        with self._lock:
            kind, answer = self._ask_agent(Kind.CALL, wanted)
            if kind == "error":
                raise unpack_error(answer)
            result: Result = answer
            if not result.options.output.store.writes_files:
                self._take_values(world, result)
        return result

    def take_last(self) -> Result | None:
        """Wait for the answer to the last call of a client before this one, which is on its way.

        Returns
        -------
        Result or None
            None: it was no call.
        """
        with self._lock:
            try:
                content = self._answer(None)
            except (EOFError, ConnectionError):
                raise LaunchError(self._have_gone()) from None
            if content is None:
                return None
            kind, answer = content
            if kind == "error":
                raise unpack_error(answer)
            result: Result = answer
            if not result.options.output.store.writes_files:
                self._take_values(SerialWorld(), result)
        return result

    def _take_values(self, world: World, result: Result) -> None:
        """Load the values of a run in memory, and say what became of that."""
        reasons = None
        try:
            reasons = deliver(world, result)
        finally:
            self._tell_taken(result, reasons)

    def _tell_taken(self, result: Result, reasons: dict[int, str] | None) -> None:
        """Say what became of the values, and wait until rank 0 has said how the run has ended."""
        self._ask_agent(Kind.TAKEN, reasons)

    def stream(self) -> ClientStream:
        """Return the stream of this script, whose chunks the ranks call between other calls."""
        from acme_mpi.session.stream_client import ClientStream

        with self._lock:
            if self._stream is None:
                own, theirs = Channel.pair()
                self._ask_agent(Kind.STREAM, theirs)
                theirs.close()
                hosts = [host for host, _ in self._ranks]
                environment = self._environment_at_start
                self._stream = ClientStream(own, hosts, environment, self._last_words)
            return self._stream

    def release(self) -> None:
        """Have the ranks end their runners. Independent."""
        self._ask_agent(Kind.RELEASE, None)

    def _ask_agent(self, kind: Kind, wanted: Any) -> Any:
        """Send one request and return its answer; one thread at a time.

        An exception while this waits, a timeout or an interrupt, cancels the request. Its answer
        may still come: it is known by its number, and dropped.
        """
        with self._lock:
            number, self.has_asked = next(self._numbers), True
            try:
                self._channel.send(kind, (number, wanted))
                self._waiting.add(number)
                return self._answer(number)
            except (EOFError, ConnectionError):
                raise LaunchError(self._have_gone()) from None
            except GoesOnError:
                raise
            except BaseException:
                self._cancel()
                raise
            finally:
                self._waiting.discard(number)

    def _answer(self, number: int | None) -> Any:
        """Wait for the answer to a request; None: to any, of a client before this one."""
        while True:
            message = self._channel.receive()
            assert message is not None
            answered, answer = message[1]
            if number in (None, answered):
                return answer

    def _cancel(self) -> None:
        """Tell rank 0's agent that nobody waits for the answer any more."""
        with contextlib.suppress(OSError):  # it has gone
            self._channel.send(Kind.CANCEL)

    def _have_gone(self) -> str:
        """Return what to say when nobody answers."""
        return f"the ranks that served this script have gone{self._last_words()}"

    def _last_words(self) -> str:
        """Return what is known of ranks that have gone, as the end of a sentence."""
        return ""
