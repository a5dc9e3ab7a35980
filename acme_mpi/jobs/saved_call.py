"""A call in a file: what is called, for which tasks, and how; a job runs it later.

The file holds a header and labels, plain values that are read without running any code of others,
and behind them function and arguments as runners get them, which runners alone unpickle. A pickle
can run anything, so the file has to be the user's own, and nobody else may have been able to read
or write it.
"""

from __future__ import annotations

import os
import pickle
import secrets
import stat
import struct
import sys
from collections.abc import Mapping
from typing import NamedTuple

from acme_mpi.engine.call import Call, Options
from acme_mpi.errors import InputError, StoreError
from acme_mpi.history.journal import sync_folder
from acme_mpi.linux.offsets import read_all, write_all
from acme_mpi.linux.segment import Segment
from acme_mpi.runner.channel import ChannelError, load_plain
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.tasks.labels import Labels

MAGIC = b"acme_mpi call 2\n"
LENGTH = struct.Struct("<q")
ALIGNMENT = 4096  # bytes; function and arguments begin at a multiple of it
MOST_HEADER_BYTES = 64 * 1024**2
MODE = 0o600


class SavedCall(NamedTuple):
    """A call that a job makes.

    Attributes
    ----------
    options : Options
        Of the run.
    packed : Segment
        Function and arguments.
    surroundings : Surroundings
        Of the caller.
    fingerprint : mapping of str to str
        What makes it the same computation as another one.
    labels : Labels or None
        What the tasks are known by.
    """

    options: Options
    packed: Segment
    surroundings: Surroundings
    fingerprint: Mapping[str, str]
    labels: Labels | None

    def to_call(self, options: Options) -> Call:
        """Return what rank 0 brings into the run, with these options."""
        return Call(
            options,
            packed=self.packed,
            surroundings=self.surroundings,
            fingerprint=self.fingerprint,
            labels=self.labels,
        )

    def write(self, path: str) -> None:
        """Write the file, durably and whole, for this user alone.

        Raises
        ------
        StoreError
            The medium refused it.
        """
        version = list(sys.version_info[:2])
        labels = pickle.dumps(self.labels, protocol=5)
        plain = version, self.options, self.surroundings, dict(self.fingerprint), len(labels)
        header = pickle.dumps(plain, protocol=5)
        head = MAGIC + LENGTH.pack(len(header)) + header + labels
        head += bytes(-len(head) % ALIGNMENT)
        partial = f"{path}.{secrets.token_hex(8)}"
        try:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, MODE)
            try:
                os.fchmod(descriptor, MODE)  # whatever the umask takes away
                write_all(descriptor, head, 0)
                write_all(descriptor, self.packed.view(), len(head))
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            os.replace(partial, path)
            sync_folder(os.path.dirname(path))
        except OSError as error:
            raise StoreError(f"cannot write {path}: {error.strerror}") from None


def read_call(path: str) -> SavedCall:
    """Read a call that was written by this user.

    Raises
    ------
    InputError
        There is no such file, it may be another user's work, or another Python has written it.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise InputError(f"cannot read the call in {path}: {error.strerror}") from None
    try:
        _refuse_of_others(descriptor, path)
        try:
            return _read(descriptor, path)
        except OSError as error:
            raise InputError(f"cannot read the call in {path}: {error.strerror}") from None
    finally:
        os.close(descriptor)


def _refuse_of_others(descriptor: int, path: str) -> None:
    status = os.fstat(descriptor)
    why = ""
    if not stat.S_ISREG(status.st_mode):
        why = "is no regular file"
    elif status.st_uid != os.geteuid():
        why = f"belongs to the user with id {status.st_uid}, and not to you"
    elif stat.S_IMODE(status.st_mode) & 0o077:
        why = f"has the mode {stat.S_IMODE(status.st_mode):o}, so that others may have changed it"
    if why:
        raise InputError(
            f"{path} {why}; a saved call can run anything, so it is run only if it is your own and "
            "has the mode 600: submit the call again"
        )


def _read(descriptor: int, path: str) -> SavedCall:
    with open(os.dup(descriptor), "rb") as file:
        magic = file.read(len(MAGIC))
        raw = file.read(LENGTH.size)
        (n_header,) = LENGTH.unpack(raw) if len(raw) == LENGTH.size else (-1,)
        if magic != MAGIC or not 0 <= n_header <= MOST_HEADER_BYTES:
            raise InputError(f"{path} holds no call that this version has saved; submit it again")
        header = file.read(n_header)
    try:
        version, options, surroundings, fingerprint, n_labels = load_plain(header)
    except (ChannelError, TypeError, ValueError) as error:
        raise InputError(f"{path} is damaged: {error}; submit the call again") from None
    if version != list(sys.version_info[:2]):
        saved, own = (".".join(map(str, each)) for each in (version, sys.version_info[:2]))
        raise InputError(
            f"{path} was saved by Python {saved}, and this is Python {own}, which may not "
            "understand its functions; use the same one, or submit the call again"
        )
    start = len(MAGIC) + LENGTH.size + n_header
    labels = _read_labels(descriptor, start, n_labels, path)
    start += n_labels
    start += -start % ALIGNMENT
    n_bytes = os.fstat(descriptor).st_size - start
    if n_bytes <= 0:
        raise InputError(f"{path} has been cut short; submit the call again")
    packed = Segment.reserve(n_bytes)
    view = packed.view(writable=True)
    _read_into(view, descriptor, start, path)
    view.release()
    packed.seal()
    return SavedCall(options, packed, surroundings, fingerprint, labels)


def _read_labels(descriptor: int, start: int, n_bytes: int, path: str) -> Labels | None:
    if not 0 <= n_bytes <= os.fstat(descriptor).st_size - start:
        raise InputError(f"{path} has been cut short; submit the call again")
    data = bytearray(n_bytes)
    _read_into(memoryview(data), descriptor, start, path)
    try:
        labels: Labels | None = load_plain(data)
    except ChannelError as error:
        raise InputError(f"{path} is damaged: {error}; submit the call again") from None
    return labels


def _read_into(view: memoryview, descriptor: int, start: int, path: str) -> None:
    try:
        read_all(descriptor, view, start)
    except ValueError:
        raise InputError(f"{path} has been cut short; submit the call again") from None
