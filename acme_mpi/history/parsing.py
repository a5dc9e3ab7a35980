"""What is read from a dot folder: every field is checked before anybody relies on it.

Disks flip bits, people edit, copy and exchange files, and a folder may come from somebody else. So
nothing is believed: type, range and size of each field are looked at here, and here alone, and what
is wrong has one form of words, ``damaged: FILE, record N: what``. Numbers are bounded by the size
of the run or of the file, so that nobody takes memory or time for a number that is nonsense.
"""

from __future__ import annotations

import errno
import json
import math
import os
import stat
import string
import struct
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

MOST_TASKS = 2**40
MOST_RUNS = 10**6
MOST_RANKS = 2**24
MOST_BYTES = 2**50  # of the results of one record
LATEST_S = 1e11  # Unix time; what lies behind it has no date
SMALL_BYTES = 16 * 1024**2  # of files with a few words in them
REDO_BYTES = 1024**3

Check = Callable[[Any], bool]
Piece = tuple[int, bytes]


class Damaged(ValueError):
    """What is written in a dot folder is not as it was written.

    Attributes
    ----------
    path : str
        The file.
    what : str
        What is wrong with it.
    record : int or None
        Number of the record, from 0 on.
    """

    def __init__(self, path: str, what: str, record: int | None = None) -> None:
        super().__init__(path, what, record)
        self.path, self.what, self.record = path, what, record

    def __str__(self) -> str:
        """Return the damage in one line."""
        where = "" if self.record is None else f", record {self.record}"
        return f"damaged: {self.path}{where}: {self.what}"


def open_file(path: str) -> int:
    """Return a descriptor of a regular file, open for reading.

    Raises
    ------
    Damaged
        Something else has its name.
    OSError
        It is not there, or the system refuses to open it, which says nothing of its content.
    """
    try:
        # A pipe would be waited for.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOENT and os.path.islink(path):
            raise Damaged(path, "it is a link that leads nowhere") from None
        if error.errno == errno.ELOOP:
            raise Damaged(path, "it is a link that leads to itself") from None
        if error.errno in (errno.ENXIO, errno.ENODEV):
            raise Damaged(path, "it is no regular file") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    is_folder = stat.S_ISDIR(mode)
    raise Damaged(path, os.strerror(errno.EISDIR) if is_folder else "it is no regular file")


def read_file(path: str, n_most: int = SMALL_BYTES) -> bytes:
    """Return the content of a file of at most `n_most` bytes.

    Raises
    ------
    Damaged
        It is larger, or something else; see `open_file`.
    OSError
        As `open_file`.
    """
    with open(open_file(path), "rb") as file:
        content = file.read(n_most + 1)
    if len(content) > n_most:
        raise Damaged(path, f"it has more than {n_most} bytes")
    return content


# Values of JSON objects.


def is_text(value: Any) -> bool:
    """Tell whether a value is text."""
    return isinstance(value, str)


def is_count(least: int, most: int) -> Check:
    """Return the check for an integer from `least` to `most`."""
    return lambda value: type(value) is int and least <= value <= most


def is_time(value: Any) -> bool:
    """Tell whether a value is a Unix time that has a date."""
    return type(value) in (int, float) and 0 <= value < LATEST_S


def _constant(name: str, may_be_infinite: bool = False) -> float:
    if may_be_infinite and name == "Infinity":
        return math.inf
    raise ValueError(f"{name} is no number")


# `json.loads` would make one for each text, and there may be a million.
_FINITE = json.JSONDecoder(parse_constant=_constant)
_WITH_INFINITY = json.JSONDecoder(parse_constant=partial(_constant, may_be_infinite=True))


def parse_object(
    data: str | bytes, path: str, record: int | None = None, may_be_infinite: bool = False
) -> dict[str, Any]:
    """Return a JSON object.

    Raises
    ------
    Damaged
        It is something else, or no JSON.
    """
    decoder = _WITH_INFINITY if may_be_infinite else _FINITE
    try:
        text = data if isinstance(data, str) else data.decode(json.detect_encoding(data))
        said = decoder.decode(text)
    except (ValueError, RecursionError) as error:
        what = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Damaged(path, f"it is no JSON ({what})", record) from None
    if not isinstance(said, dict):
        raise Damaged(path, f"it is no JSON object but {_shown(said)}", record)
    return said


def check_fields(
    said: Mapping[str, Any],
    fields: Mapping[str, Check],
    path: str,
    record: int | None = None,
    optional: Collection[str] = (),
) -> None:
    """Raise Damaged unless all fields are there, no others are, and each has a fit value."""
    for name in said:
        if name not in fields:
            raise Damaged(path, f"{_shown(name)} is no known field", record)
    for name, is_fit in fields.items():
        if name not in said and name not in optional:
            raise Damaged(path, f"`{name}` is missing", record)
        if name in said and not is_fit(said[name]):
            raise Damaged(path, f"`{name}` is {_shown(said[name])}", record)


def _shown(value: Any) -> str:
    try:
        text = json.dumps(value)
    except RecursionError:
        return "nested too deeply"
    return text if len(text) <= 60 else f"{text[:60]}..."


# The description of a run.


def _is_spec(value: Any) -> bool:
    return value is None or _is_form(value)


def _is_form(value: Any) -> bool:
    if not isinstance(value, list) or len(value) not in (3, 4):
        return False
    shape, axis, dtype, *rare = value
    if not all(map(_is_rare, rare)):
        return False
    if not isinstance(shape, list) or not all(map(_is_length, shape)) or not is_text(dtype):
        return False
    is_open = not dtype and any(said.get("is_auto") for said in rare)
    return (is_open or _is_dtype(dtype)) and type(axis) is int and 0 <= axis <= len(shape)


def _is_dtype(text: str) -> bool:
    try:
        np.dtype(text)
    except (TypeError, ValueError, SyntaxError):
        return False
    return True


def _is_rare(said: Any) -> bool:
    """Tell whether this is what few forms have besides shape, axis and dtype."""
    return isinstance(said, dict) and all(
        name in _RARE and _RARE[name](value) for name, value in said.items()
    )


def _is_list_of(check: Check) -> Check:
    return lambda value: isinstance(value, list) and all(map(check, value))


def _is_flag(value: Any) -> bool:
    return type(value) is bool


_RARE: Mapping[str, Check] = {
    "grid": _is_list_of(is_count(1, MOST_TASKS)),
    "name": is_text,
    "further": _is_list_of(_is_form),
    "is_bare": _is_flag,
    "is_auto": _is_flag,
}


def _is_length(value: Any) -> bool:
    return value == math.inf or (type(value) is int and 0 <= value <= MOST_BYTES)


def _is_debug(value: Any) -> bool:
    """Tell whether a value is a text in which nothing but ``{index}`` is to be filled in."""
    try:
        parts = list(string.Formatter().parse(value))
    except (TypeError, ValueError):
        return False
    return all(name in (None, "index") and not form and not how for _, name, form, how in parts)


def _is_fingerprint(value: Any) -> bool:
    return isinstance(value, dict) and all(map(is_text, value.values()))


DESCRIPTION: Mapping[str, Check] = {
    "name": is_text,
    "n_tasks": is_count(0, MOST_TASKS),
    "kind": is_text,
    "spec": _is_spec,
    "n_ranks": is_count(1, MOST_RANKS),
    "start_s": is_time,
    "command": is_text,
    "debug": _is_debug,
    "fingerprint": _is_fingerprint,
    "memory_bytes": is_count(0, MOST_BYTES),
    "job": is_text,
}
_OPTIONAL = ("spec", "n_ranks", "start_s", "command", "debug", "fingerprint", "memory_bytes", "job")
CRC_FIELD = "crc32"


def sealed(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a description, and one by which they are known to be unchanged."""
    return {**fields, CRC_FIELD: _crc32(fields)}


def _crc32(fields: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(fields, sort_keys=True).encode())


def parse_description(data: bytes, path: str) -> dict[str, Any]:
    """Return the fields of a description of a run; older ones have no checksum.

    Raises
    ------
    Damaged
        It is no description, or not what was written.
    """
    said = parse_object(data, path, may_be_infinite=True)
    if CRC_FIELD in said:
        if said.pop(CRC_FIELD) != _crc32(said):
            raise Damaged(path, "its checksum differs")
        # One of a later version may say more.
        said = {name: value for name, value in said.items() if name in DESCRIPTION}
    check_fields(said, DESCRIPTION, path, optional=_OPTIONAL)
    return said


# The lease.

CLAIM: Mapping[str, Check] = {
    "host": is_text,
    "boot_id": is_text,
    "pid_namespace": is_count(0, 2**63),
    "pid": is_count(1, 2**31 - 1),
    "started": is_count(0, 2**63),
    "token": is_text,
    "taken_s": is_time,
}


def parse_claim(text: str, path: str = "lease") -> dict[str, Any]:
    """Return the fields of a lease, or raise Damaged."""
    said = parse_object(text, path)
    check_fields(said, CLAIM, path)
    return said


# What is told of a failure.


def parse_failures(
    texts: Sequence[str], fields: tuple[str, ...], path: str, records: Sequence[int]
) -> Iterator[dict[str, Any] | Damaged]:
    """Yield what is recorded of failed tasks: texts, but a traceback may be a task's index.

    Parameters
    ----------
    texts : sequence of str
        A JSON object each.
    fields : tuple of str
        Those that there may be.
    path : str
        Of the journal.
    records : sequence of int
        Numbers of their records.

    Yields
    ------
    dict or Damaged
        The second for a text that is something else.
    """
    if (found := _parse_at_once(texts, fields)) is not None:
        yield from found
        return
    for text, record in zip(texts, records, strict=True):
        try:
            said = parse_object(text, path, record)
            check_fields(said, _checks_of_failure(fields), path, record, optional=fields)
            yield said
        except Damaged as damage:
            yield damage


def _parse_at_once(texts: Sequence[str], fields: tuple[str, ...]) -> list[dict[str, Any]] | None:
    """Return the objects that texts are, as a million of them may be; None if one is none.

    In what is flat nothing reaches from one text into the next: JSON's strings hold no line ends.
    """
    try:
        found = _FINITE.decode("[" + ",\n".join(texts) + "]")
    except (ValueError, RecursionError):
        return None
    checks = _checks_of_failure(fields)
    is_fit = len(found) == len(texts) and all(
        type(said) is dict
        and said.keys() <= checks.keys()
        and all([checks[name](value) for name, value in said.items()])
        for said in found
    )
    return found if is_fit else None


@cache
def _checks_of_failure(fields: tuple[str, ...]) -> dict[str, Check]:
    checks: dict[str, Check] = dict.fromkeys(fields, is_text)
    if "traceback" in checks:
        is_index = is_count(0, MOST_TASKS)
        checks["traceback"] = lambda value: is_text(value) or is_index(value)
    return checks


# Records of journals.


def faults_of_records(blocks: Any, n_tasks: int | None) -> dict[int, str]:
    """Return what is wrong with records, by their positions.

    Parameters
    ----------
    blocks : (n,) ndarray of `journal.RECORD`
        Whole by their checksums, without texts.
    n_tasks : int or None
        The most that any run had which has recorded them; None if that is not known.
    """
    most = _ANY_INDEX if n_tasks is None else n_tasks
    first, count = blocks["first"], blocks["count"]
    start_s, busy_s = blocks["start_s"], blocks["busy_s"]
    wrong = {
        "kind": ~np.isin(blocks["kind"], _KINDS),
        # Not their sum, which may be too large for its type.
        "first": (first < 0) | (first >= most),
        "count": (count < 1) | (count > most - first.clip(0, most)),
        "attempt": blocks["attempt"] < 1,
        "payload": blocks["payload"] < -1,
        "digest": (blocks["digest"] < 0) | (blocks["digest"] > 99),
        "offset": (blocks["offset"] < 0) | (blocks["offset"] > MOST_BYTES),
        "n_bytes": (blocks["n_bytes"] < 0) | (blocks["n_bytes"] > MOST_BYTES),
        # Neither NaN nor infinite; a clock may have been set back in between.
        "start_s": ~((start_s >= 0) & (start_s < LATEST_S)),
        "busy_s": ~(np.abs(busy_s) < LATEST_S),
        "peak_bytes": (blocks["peak_bytes"] < 0) | (blocks["peak_bytes"] > MOST_BYTES),
    }
    is_one = np.isin(blocks["kind"], _OF_ONE_TASK)
    wrong["count"] |= is_one & (count != 1)
    found: dict[int, str] = {}
    for name, is_wrong in wrong.items():
        for at in np.flatnonzero(is_wrong).tolist():
            found.setdefault(at, f"`{name}` is {blocks[name][at]}")
    return found


# As `journal.Block` numbers them: all but texts, and those that speak of one task.
_KINDS = (1, 2, 3, 4, 6, 7, 8, 9)
_OF_ONE_TASK = (3, 4, 7, 8, 9)
_ANY_INDEX = 2**61

# The log of changes that have still to be made to a file.

REDO_MAGIC = b"ACMEREDO"  # the whole log of an earlier version, whose new bytes were on the disk
SECTION_MAGIC = b"ACMELOG2"
SEAL_MAGIC = b"ACMESEAL"
REDO_HEADER = struct.Struct("<8sQQ")  # magic, size of the file, number of pieces
REDO_PIECE = struct.Struct("<QQ")  # offset, length; before the bytes of each piece
REDO_COUNT = struct.Struct("<Q")  # of stretches of new bytes
REDO_NEW = struct.Struct("<QQQ")  # offset, length, xxh3
REDO_SEAL = struct.Struct("<8sQ")  # magic, bytes of the log before it
REDO_CRC = struct.Struct("<I")  # of all of the section, or of the seal, that comes before it


class New(NamedTuple):
    """A stretch of new bytes, to which changes may point."""

    offset: int
    length: int
    checksum: int


class Section(NamedTuple):
    """What has to be done to a file at once.

    Attributes
    ----------
    n_bytes : int
        Size of the file then.
    pieces : list of (int, bytes)
        Offsets, and what belongs there.
    new : list of New
        What has to be in the file already.
    stop : int
        Where the section ends in the log.
    """

    n_bytes: int
    pieces: list[Piece]
    new: list[New]
    stop: int


class RedoLog(NamedTuple):
    """Changes that have still to be made to a file.

    Attributes
    ----------
    sections : list of Section
        In their order, up to the first that is torn.
    is_sealed : bool
        All new bytes were on the disk, and changes may have been begun.
    """

    sections: list[Section]
    is_sealed: bool


def parse_redo(text: bytes, path: str, n_most: int) -> RedoLog:
    """Return what a log says.

    Parameters
    ----------
    text : bytes
        The log.
    path : str
        Where it was read.
    n_most : int
        Size that the file can have at most.

    Raises
    ------
    Damaged
        It is whole, and says what cannot be.
    """
    sections: list[Section] = []
    at, is_sealed = 0, False
    while not is_sealed and (section := _parse_section(text, at)) is not None:
        _check_section(section, path, len(sections))
        sections.append(section)
        # A longer log may have stood there before: its end is not looked at.
        is_sealed = text[at : at + len(REDO_MAGIC)] == REDO_MAGIC
        at = section.stop
    is_sealed = is_sealed or _is_seal(text, at)
    # Of the file of a log that is not sealed, a loss of power may have left less.
    n_bytes = max((each.n_bytes for each in sections), default=0) if is_sealed else 0
    if n_bytes > n_most:
        raise Damaged(path, f"its file would have {n_bytes} bytes, and can have {n_most}")
    return RedoLog(sections, is_sealed)


def _parse_section(text: bytes, start: int) -> Section | None:
    """Return the section that begins at `start`; None if it is torn, or there is none."""
    if len(text) - start < REDO_HEADER.size:
        return None
    magic, n_bytes, n_pieces = REDO_HEADER.unpack_from(text, start)
    if magic not in (REDO_MAGIC, SECTION_MAGIC):
        return None
    pieces: list[Piece] = []
    at = start + REDO_HEADER.size
    for _ in range(n_pieces):
        if at + REDO_PIECE.size > len(text):
            return None
        offset, length = REDO_PIECE.unpack_from(text, at)
        at += REDO_PIECE.size + length
        if not 0 < length <= len(text) - REDO_CRC.size:
            return None
        pieces.append((offset, text[at - length : at]))
    new: list[New] = []
    if magic == SECTION_MAGIC:
        if at + REDO_COUNT.size > len(text):
            return None
        (n_new,) = REDO_COUNT.unpack_from(text, at)
        first, at = at + REDO_COUNT.size, at + REDO_COUNT.size + n_new * REDO_NEW.size
        if at > len(text):
            return None
        new = [New(*each) for each in REDO_NEW.iter_unpack(memoryview(text)[first:at])]
    crc = zlib.crc32(memoryview(text)[start:at])
    if at + REDO_CRC.size > len(text) or REDO_CRC.unpack_from(text, at)[0] != crc:
        return None
    return Section(n_bytes, pieces, new, at + REDO_CRC.size)


def _check_section(section: Section, path: str, number: int) -> None:
    n_bytes = section.n_bytes
    for what, offset, length in (
        *(("changes", offset, len(data)) for offset, data in section.pieces),
        *(("speaks of", each.offset, each.length) for each in section.new),
    ):
        if offset + length > n_bytes:
            raise Damaged(path, f"it {what} byte {offset} of {n_bytes}", number)


def _is_seal(text: bytes, at: int) -> bool:
    """Tell whether a whole seal stands at an offset of a log."""
    size = REDO_SEAL.size
    if at + size + REDO_CRC.size > len(text):
        return False
    is_whole = REDO_CRC.unpack_from(text, at + size)[0] == zlib.crc32(text[at : at + size])
    return is_whole and REDO_SEAL.unpack_from(text, at) == (SEAL_MAGIC, at)


def pack_section(n_bytes: int, pieces: Collection[Piece], new: Collection[New]) -> bytes:
    """Return a section of a log, see `Section`."""
    parts = [REDO_HEADER.pack(SECTION_MAGIC, n_bytes, len(pieces))]
    for offset, data in pieces:
        parts += [REDO_PIECE.pack(offset, len(data)), data]
    parts += [REDO_COUNT.pack(len(new)), *(REDO_NEW.pack(*each) for each in new)]
    return _with_crc(b"".join(parts))


def pack_seal(n_bytes: int) -> bytes:
    """Return the seal of a log of so many bytes."""
    return _with_crc(REDO_SEAL.pack(SEAL_MAGIC, n_bytes))


def _with_crc(text: bytes) -> bytes:
    return text + REDO_CRC.pack(zlib.crc32(text))
