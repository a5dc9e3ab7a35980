"""The key of ranks that stay: who has it may have them call any function."""

from __future__ import annotations

import os
import secrets
import stat

from acme_mpi.errors import LaunchError

NAME = "key"
KEY_BYTES = 32


def make_key(folder: str) -> None:
    """Write a new key into a folder, for this user alone.

    Raises
    ------
    OSError
        The medium refused it, or there is one.
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(os.path.join(folder, NAME), flags, 0o600), "wb") as file:
        file.write(secrets.token_bytes(KEY_BYTES))


def read_key(folder: str) -> bytes:
    """Return the key of a folder.

    Raises
    ------
    LaunchError
        There is none, or others than this user may have read or written it.
    """
    path = os.path.join(folder, NAME)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            status = os.fstat(file.fileno())
            key = file.read(KEY_BYTES + 1)
    except FileNotFoundError:
        raise LaunchError(
            f"{folder} has no key: the ranks have left, or were never there"
        ) from None
    except OSError as error:
        raise LaunchError(f"cannot read {path}: {error.strerror}") from None
    if status.st_uid != os.geteuid():
        raise LaunchError(f"{path} belongs to another user, and so do these ranks")
    if stat.S_IMODE(status.st_mode) & 0o077:
        mode = stat.S_IMODE(status.st_mode)
        raise LaunchError(
            f"others may read {path} (mode {mode:o}), and so use the ranks as you; stop them, and "
            "start new ones"
        )
    if len(key) != KEY_BYTES:
        raise LaunchError(
            f"{path} has {len(key)} bytes, and a key has {KEY_BYTES}; start new ranks"
        )
    return key
