"""Why a file of arguments cannot be read, whatever the library that tried has raised."""

from __future__ import annotations

import traceback

from acme_mpi.errors import InputError
from acme_mpi.linux.memory import size_text
from acme_mpi.linux.segment import available_bytes

MAX_REASON = 300  # characters


def reason(error: BaseException) -> str:
    """Return what an exception says, in one line of `MAX_REASON` characters at most."""
    text = " ".join(" ".join(traceback.format_exception_only(error)).split())
    if isinstance(error, (ValueError, OSError)):
        text = text.partition(": ")[2] or text  # without the type, which says nothing more
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


def refuse_if_too_large(n_bytes: int, what: str) -> None:
    """Raise for what says that it is larger than this node's memory, before it is read.

    Raises
    ------
    InputError
        It is; its size may be wrong.
    """
    if n_bytes > (available := available_bytes()):
        raise InputError(
            f"{what} says that it has {size_text(n_bytes)}, and there are {size_text(available)} "
            "of memory; it is damaged, or has to be opened inside the function"
        )
