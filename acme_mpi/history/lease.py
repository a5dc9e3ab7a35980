"""Who may write a run's folder: one job at a time, the one that holds its lease.

The lease is a file that names its holder, who touches it every few seconds. On the holder's own
node its process is looked for; from elsewhere the lease is dead when it has not been touched for a
while. Nobody has to remove the lease of a job that was killed.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import NamedTuple

from acme_mpi.errors import StoreError
from acme_mpi.history.parsing import Damaged, open_file, parse_claim
from acme_mpi.linux.processes import start_of, this_machine

LEASE = "lease"  # name of the file in the folder
MOST_BYTES = 64 * 1024  # that are read of it
RENEW_S = 5.0  # between two signs of life
SILENT_S = 30.0  # without one, the holder is dead
POLL_S = 1.0
VANISHED_S = 0.5  # before a second look for a lease that is not there
GOING_S, GLANCE_S = 2.0, 0.05  # a process that has been killed takes a moment to go
N_ATTEMPTS = 60  # of POLL_S at most, so more than SILENT_S together

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS)


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes
    ----------
    host : str
        Name of its node; ``"?"`` if the lease cannot be understood.
    pid : int
        Id of its process there; 0 if unknown.
    since : float
        When it took the lease, Unix time in seconds.
    is_alive : bool
        Whether it still works on the run, as far as is known without waiting.
    """

    host: str
    pid: int
    since: float
    is_alive: bool

    def __str__(self) -> str:
        """Return the holder in a few words."""
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.since))
        return f"process {self.pid or '?'} on {self.host} (since {since})"


class Lease:
    """The right to write a folder; from `take`.

    Attributes
    ----------
    lost : str
        Empty while the right lasts; then how it was lost. Set by the thread that renews the lease:
        look at it before anything that must not happen twice.
    """

    def __init__(self, folder: str, claim: _Claim, clock: Callable[[], float]) -> None:
        self.lost = ""
        self._folder, self._path, self._claim = folder, os.path.join(folder, LEASE), claim
        self._clock, self._renewed_s = clock, clock()
        self._has_vanished = False
        self._has_ended = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="lease", daemon=True)
        self._thread.start()

    @classmethod
    def take(
        cls,
        folder: str,
        notify: Callable[[str], None],
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> Lease:
        """Take the lease of a folder, from a dead holder if need be. Independent, rank 0 only.

        Parameters
        ----------
        folder : str
            An existing directory.
        notify : callable
            Gets a text once, if the holder can only be known to live by waiting for a sign.
        sleep, clock : callable
            As in `time`; a test has its own.

        Raises
        ------
        StoreError
            Another live job holds it, or the medium refuses.
        """
        path = os.path.join(folder, LEASE)
        try:
            for _ in range(N_ATTEMPTS):
                seen = _read(path)
                if seen is not None:
                    _wait_until_dead(folder, seen, notify, sleep)
                claim = _claim()
                if seen is None:
                    is_taken = _put(path, claim)
                else:
                    is_taken = _take_over(path, seen, claim, sleep)
                if is_taken:
                    _sweep(path)
                    return cls(folder, claim, clock)
        except OSError as error:
            if isinstance(error, StoreError):
                raise
            raise StoreError(f"cannot take the lease {path}: {error.strerror}") from error
        raise StoreError(f"cannot take the lease {path}: others are about to; try again")

    def renew(self) -> None:
        """Give a sign of life, or find out that the lease is lost. Independent, any thread.

        A lease that is not there is lost the second time only: network drives lose sight of files
        for a moment.
        """
        if self.lost:
            return
        try:
            holder = _touch(self._path, self._claim.token)
        except FileNotFoundError:
            if self._has_vanished:
                self.lost = f"the lease {self._path} is gone: somebody has removed it or its folder"
            self._has_vanished = True
        except OSError as error:
            silent_s = self._clock() - self._renewed_s
            if silent_s >= SILENT_S:
                self.lost = (
                    f"the lease {self._path} could not be renewed for {silent_s:.0f} s: "
                    f"{error.strerror}"
                )
        else:
            self._has_vanished, self._renewed_s = False, self._clock()
            if holder is not None:
                self.lost = f"{self._folder} has been taken over by {holder}"

    def release(self) -> None:
        """Give the lease back. Independent; never raises, and does nothing the second time."""
        # A forked child has a copy of this object, but not the lease.
        if self._has_ended.is_set() or self._claim.pid != os.getpid():
            return
        self._has_ended.set()
        self._thread.join(RENEW_S)  # not for ever: the file system may hang
        with contextlib.suppress(OSError):
            seen = _read(self._path)
            if seen is not None and seen.token == self._claim.token:
                _remove(self._path, seen)

    def _serve(self) -> None:
        while not self.lost:
            if self._has_ended.wait(VANISHED_S if self._has_vanished else RENEW_S):
                return
            self.renew()


def holder(folder: str) -> Holder | None:
    """Return who holds the lease of a folder, None if nobody does. Independent, any process.

    Parameters
    ----------
    folder : str
        Need not exist.

    Raises
    ------
    StoreError
        The lease cannot be read.
    """
    path = os.path.join(folder, LEASE)
    try:
        seen = _read(path)
        if seen is None:
            return None
        is_there = _is_there(seen)
        return seen.holder(_age_s(folder, seen) < SILENT_S if is_there is None else is_there)
    except StoreError:
        raise
    except OSError as error:
        raise StoreError(f"cannot read the lease {path}: {error.strerror}") from error


@dataclass(frozen=True)
class _Claim:
    """What a lease says."""

    host: str
    boot_id: str
    pid_namespace: int
    pid: int
    started: int  # clock ticks after the boot
    token: str
    taken_s: float


def _claim() -> _Claim:
    """Return a new claim of this process."""
    machine = this_machine()
    pid, started, token = os.getpid(), 0, os.urandom(16).hex()
    with contextlib.suppress(OSError):
        started = start_of(pid) or 0
    return _Claim(*machine, pid, started, token, time.time())


class _Seen(NamedTuple):
    """A lease at one moment; equal if it is the same one and nobody has renewed it in between."""

    text: str
    inode: int
    mtime_ns: int

    @property
    def claim(self) -> _Claim | None:
        """What it says; None for a torn or foreign file, which only its age can judge."""
        try:
            return _Claim(**parse_claim(self.text))
        except Damaged:
            return None

    @property
    def token(self) -> str:
        """What no other lease has."""
        return self.claim.token if self.claim else ""

    def holder(self, is_alive: bool) -> Holder:
        """Return the holder."""
        claim = self.claim
        if claim is None:
            return Holder("?", 0, self.mtime_ns / 1e9, is_alive)
        return Holder(claim.host, claim.pid, claim.taken_s, is_alive)


def _read(path: str) -> _Seen | None:
    """Return the lease as it is now; None if there is none."""
    try:
        # To open a file is what makes NFS ask the server for its times.
        descriptor = open_file(path)
    except FileNotFoundError:
        return None
    except Damaged as damage:
        raise StoreError(f"{damage}; remove it if no job is running here") from None
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        text = file.read(MOST_BYTES).decode(errors="replace")
        return _Seen(text, status.st_ino, status.st_mtime_ns)


def _touch(path: str, token: str) -> Holder | None:
    """Renew a lease; return its holder instead if that is somebody else.

    Raises
    ------
    FileNotFoundError
        There is no lease.
    OSError
        The medium refuses.
    """
    with open(path, encoding="utf-8", errors="replace") as file:
        seen = _Seen(file.read(MOST_BYTES), 0, os.fstat(file.fileno()).st_mtime_ns)
        if seen.token != token:
            return seen.holder(True)
        os.utime(file.fileno())
    return None


def _is_there(seen: _Seen) -> bool | None:
    """Tell whether the process of the holder exists; None if that cannot be known from here."""
    claim = seen.claim
    if claim is None or not claim.boot_id or not claim.started:
        return None
    if (claim.host, claim.boot_id, claim.pid_namespace) != this_machine():
        return None
    try:
        return start_of(claim.pid) == claim.started
    except OSError:
        return None


def _age_s(folder: str, seen: _Seen) -> float:
    """Return how long ago a lease was renewed, in seconds.

    By the clock of the file system, since those of nodes need not agree.
    """
    probe = os.path.join(folder, f"{LEASE}.{os.urandom(16).hex()}")
    try:
        descriptor = os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError:
        return time.time() - seen.mtime_ns / 1e9  # whoever only looks need not be able to write
    try:
        return (os.fstat(descriptor).st_mtime_ns - seen.mtime_ns) / 1e9
    finally:
        os.close(descriptor)
        os.unlink(probe)


def _wait_until_dead(
    folder: str, seen: _Seen, notify: Callable[[str], None], sleep: Callable[[float], None]
) -> None:
    """Return once the holder of a lease is known to be dead, or another has taken it.

    Raises
    ------
    StoreError
        It is alive.
    """
    is_there, left_s = _is_there(seen), GOING_S
    while is_there and left_s > 0:
        sleep(GLANCE_S)
        left_s -= GLANCE_S
        is_there = _is_there(seen)
    if is_there:
        raise _taken(folder, seen)
    # A lease of the future does not make the waiting longer.
    left_s = 0.0 if is_there is False else SILENT_S - max(0.0, _age_s(folder, seen))
    if left_s > 0:
        notify(
            f"{folder} is held by {seen.holder(True)}, which cannot be looked at from here: "
            f"waiting up to {left_s:.0f} s for it to show a sign of life"
        )
    while left_s > 0:
        sleep(min(POLL_S, left_s))
        left_s -= POLL_S
        now = _read(os.path.join(folder, LEASE))
        if now is None or now.text != seen.text:
            return
        if now != seen:
            raise _taken(folder, seen)


def _taken(folder: str, seen: _Seen) -> StoreError:
    who = seen.holder(True)
    return StoreError(
        f"{folder} is being written by {who}; wait until that has ended, or end it, or choose "
        "another output directory (--output-dir, output_dir=...)"
    )


def _take_over(path: str, dead: _Seen, claim: _Claim, sleep: Callable[[float], None]) -> bool:
    """Replace the lease of a dead holder; tell whether nobody else has done so or is about to."""
    # One at a time: between the look and the replacement nobody else may do the same.
    turn = f"{path}.turn"
    if not _put(turn, claim):
        if (other := _read(turn)) is not None and _is_stale(path, other):
            _remove(turn, other)
        else:
            sleep(POLL_S)
        return False
    try:
        if _read(path) != dead:
            return False
        with _written(path, claim) as aside:
            os.replace(aside, path)
        return True
    finally:
        if (own := _read(turn)) is not None and own.token == claim.token:
            _remove(turn, own)


def _is_stale(path: str, turn: _Seen) -> bool:
    """Tell whether somebody was killed while it took a lease over."""
    is_there = _is_there(turn)
    return _age_s(os.path.dirname(path), turn) >= SILENT_S if is_there is None else not is_there


@contextlib.contextmanager
def _written(path: str, claim: _Claim) -> Iterator[str]:
    """Context in which a claim is a whole file beside `path`, whose name nobody else has."""
    aside = f"{path}.{claim.token}"
    try:
        with open(aside, "x", encoding="utf-8") as file:
            file.write(json.dumps(asdict(claim)))
        yield aside
    finally:
        with contextlib.suppress(OSError):
            os.unlink(aside)


def _put(path: str, claim: _Claim) -> bool:
    """Make a claim the lease, whole or not at all; tell whether there was none."""
    try:
        with _written(path, claim) as aside:
            _link(aside, path)
    except FileExistsError:
        # An NFS server may do it twice, and answer the second time.
        seen = _read(path)
        return seen is not None and seen.token == claim.token
    except FileNotFoundError:
        if not os.path.isdir(os.path.dirname(path)):
            raise
        return False  # it was taken for what a killed process has left
    return True


def _sweep(path: str) -> None:
    """Remove what processes have left that were killed while they took or gave back a lease."""
    folder = os.path.dirname(path)
    for name in os.listdir(folder):
        if not name.startswith(f"{LEASE}."):
            continue
        beside = os.path.join(folder, name)
        with contextlib.suppress(OSError):
            seen = _read(beside)
            if seen is not None and (seen.claim is None or _is_stale(path, seen)):
                os.unlink(beside)


def _link(source: str, path: str) -> None:
    """Give a file a second name.

    Raises
    ------
    FileExistsError
        Something else has it.
    """
    try:
        os.link(source, path)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # No hard links here (FAT, some network drives). Until it is whole, the lease is judged
        # by its age.
        with open(source, encoding="utf-8") as original, open(path, "x", encoding="utf-8") as copy:
            copy.write(original.read())


def _remove(path: str, seen: _Seen) -> None:
    """Remove a lease that is still as it was seen, else leave or put it back."""
    if _read(path) != seen:
        return
    aside = f"{path}.{os.urandom(16).hex()}"
    try:
        os.rename(path, aside)
    except FileNotFoundError:
        return
    # Between the look and the renaming another may have come. If a third has come since, too, the
    # second finds out when it renews its lease.
    if _read(aside) != seen:
        with contextlib.suppress(FileExistsError):
            _link(aside, path)
    os.unlink(aside)
