"""Other programs, which may crash or hang, are asked; an answer comes in time in any case."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

LIMIT_S = 20.0
MOST_BYTES = 64 * 1024


class Answer(NamedTuple):
    """What a program has said.

    Attributes
    ----------
    status : int or None
        Its exit status, negative for a signal; None if it has not ended in time.
    said, complained : str
        The ends of its standard output and its standard error.
    """

    status: int | None
    said: str
    complained: str

    @property
    def text(self) -> str:
        """All of it, with what has happened if that was no exit."""
        if self.status is None:
            return f"{self.complained}\nit has not ended in time"
        if self.status < 0:
            name = signal.Signals(-self.status).name
            return f"{self.said}{self.complained}\nit was ended by {name}"
        return f"{self.said}{self.complained}"


def ask(
    words: Sequence[str], limit_s: float = LIMIT_S, environ: Mapping[str, str] | None = None
) -> Answer:
    """Run a program and return what it has said. For the main thread.

    Parameters
    ----------
    words : sequence of str
        Program and arguments; one that is not there answers with status 127.
    limit_s : float
        It is killed then, with all that it has started, and not waited for: it may hang in the
        kernel.
    environ : mapping, optional
        Its environment.
    """
    # In memory: where answers would lie may be what is wrong. No pipes: children of a child keep
    # them open.
    said, complained = (os.memfd_create("acme_mpi_doctor", os.MFD_CLOEXEC) for _ in range(2))
    try:
        status = _run(words, said, complained, limit_s, environ)
        return Answer(status, _end_of(said), _end_of(complained))
    except OSError as error:
        return Answer(127, "", f"{words[0]}: {error.strerror}")
    finally:
        os.close(said)
        os.close(complained)


def ask_python(program: str, *arguments: str, limit_s: float = LIMIT_S) -> Answer:
    """Run a program of Python, in another process of this Python."""
    return ask([sys.executable, "-c", program, *arguments], limit_s)


def _run(
    words: Sequence[str],
    said: int,
    complained: int,
    limit_s: float,
    environ: Mapping[str, str] | None,
) -> int | None:
    process: subprocess.Popen[bytes] | None = None
    try:
        with _later_interrupts():
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=complained,
                env=environ,
                start_new_session=True,
            )
        return process.wait(limit_s)
    except subprocess.TimeoutExpired:
        return None
    finally:  # also when this process is interrupted
        if process is not None and process.returncode is None:
            _kill(process)


@contextlib.contextmanager
def _later_interrupts() -> Iterator[None]:
    """Context at whose end an interrupt is raised that has come in it, for the main thread."""
    come: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: come.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if come:
        raise KeyboardInterrupt


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)


def _end_of(descriptor: int) -> str:
    size = os.fstat(descriptor).st_size
    return os.pread(descriptor, MOST_BYTES, max(0, size - MOST_BYTES)).decode(errors="replace")
