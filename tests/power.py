"""What a disk holds after a loss of power: what was synchronised, and any part of the rest.

A run is recorded by strace: each system call by which it changes files, whoever makes it. The
record can be stopped at any call. What was brought to the disk by then is there, whole; of what was
written since, each page holds what it held at any moment after that, each file has any size that it
had since, and of the names in each folder the last changes may be missing.
"""

from __future__ import annotations

import os
import random
import re
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PAGE_BYTES = 4096
CHANGES = ("pwrite64", "pwritev", "write", "writev", "ftruncate", "fallocate")
NAMES = (
    *("rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat"),
    *("mkdir", "mkdirat", "rmdir", "symlink", "symlinkat"),
)
SYNCS = ("fsync", "fdatasync", "syncfs", "sync_file_range")
# By these bytes would come into files that the record does not show.
UNSEEN = ("open", "creat", "truncate", "sendfile", "copy_file_range", "pwritev2", "splice")

_CALL = re.compile(r"(\d+) +(?:<\.\.\. (\w+) resumed>)?(.*)", re.DOTALL)
_UNFINISHED = " <unfinished ...>"
_DESCRIPTOR = re.compile(r"(-?\w+)<((?:\\x[0-9a-f]{2})*)>(\(deleted\))?")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def is_traceable() -> bool:
    """Tell whether there is strace, and processes may be traced here."""
    try:
        return not subprocess.run(
            ["strace", "-f", "-y", "-o", os.devnull, "true"], capture_output=True, check=False
        ).returncode
    except FileNotFoundError:
        return False


def traced(log: Path) -> list[str]:
    """Return the start of a command whose changes of files are noted in `log`."""
    calls = ",".join(f"?{name}" for name in ("openat", *CHANGES, *NAMES, *SYNCS, *UNSEEN))
    # All strings in hexadecimal, whole, and paths behind descriptors.
    options = ["-f", "-y", "-xx", "-s", str(2**26), "-e", f"trace={calls}"]
    return ["strace", *options, "-e", "signal=none", "-o", str(log)]


@dataclass
class Call:
    """A system call that has succeeded.

    Attributes
    ----------
    name : str
        Of the call.
    text : str
        Its arguments, as strace shows them.
    result : str
        What it has returned; of a descriptor the path, too.
    begin : int
        How many calls had ended when this one began.
    """

    name: str
    text: str
    result: str
    begin: int

    @cached_property
    def path(self) -> str:
        """Of the first descriptor; empty if its file has no name any more."""
        return _path_of(self.text)

    @cached_property
    def opened(self) -> str:
        """Path of the descriptor that was returned."""
        return _path_of(self.result)

    @cached_property
    def strings(self) -> list[bytes]:
        """All that stands in quotes."""
        return [_unescaped(text) for text in _TEXT.findall(self.text)]

    @cached_property
    def named(self) -> list[str]:
        """Absolute paths of what is named."""
        bases = [_unescaped(each[1]).decode() for each in _DESCRIPTOR.findall(self.text)]
        names = [os.fsdecode(name) for name in self.strings]
        bases = (bases or [""]) * len(names)
        return [os.path.join(base, name) for base, name in zip(bases, names, strict=False)]

    @cached_property
    def last_numbers(self) -> list[int]:
        """The plain numbers behind the last string or descriptor."""
        rest = re.split(r'["\]>]', self.text)[-1]
        return [int(number) for number in re.findall(r"(?<=, )\d+", rest)]


def _path_of(text: str) -> str:
    found = _DESCRIPTOR.match(text)
    path = "" if found is None or found[3] else _unescaped(found[2]).decode()
    return "" if path.endswith(" (deleted)") else path


def _unescaped(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def read_calls(log: Path) -> list[Call]:
    """Return the calls that have succeeded, in the order in which they have ended."""
    calls: list[Call] = []
    begun: dict[str, tuple[str, int]] = {}
    for line in log.read_text().splitlines():
        match = _CALL.fullmatch(line)
        assert match is not None, line
        pid, resumed, text = match.groups()
        begin = len(calls)
        if resumed:
            before, begin = begun.pop(pid)
            text = before + text
        if text.endswith(_UNFINISHED):
            begun[pid] = text.removesuffix(_UNFINISHED), begin
            continue
        found = re.fullmatch(r"(\w+)\((.*)\) += (\d+.*)", text, re.DOTALL)
        if found:
            calls.append(Call(found[1], found[2], found[3], begin))
    return calls


def moments(root: str, calls: Sequence[Call], name: str) -> list[int]:
    """Return how many calls had ended when files in a folder changed, or were synchronised.

    From the first change of a file on whose name ends so.
    """
    inside = [k for k, call in enumerate(calls) if call.path.startswith(root + "/")]
    first = next(k for k in inside if calls[k].path.endswith(name))
    return [k + 1 for k in inside if k >= first]


@dataclass
class Inode:
    """A file, whatever its name: all that was done to it, and up to where it is on the disk."""

    writes: list[tuple[int, int, bytes]] = field(default_factory=list)  # call, offset, bytes
    sizes: list[tuple[int, int]] = field(default_factory=list)  # call, size
    position: int = 0
    n_synced: int = 0  # calls that had ended when the last sync began

    @property
    def size(self) -> int:
        return self.sizes[-1][1] if self.sizes else 0

    def write(self, number: int, offset: int, data: bytes) -> None:
        self.writes.append((number, offset, data))
        self.resize(number, max(self.size, offset + len(data)))

    def resize(self, number: int, n_bytes: int) -> None:
        if n_bytes != self.size:
            self.sizes.append((number, n_bytes))

    def synced(self) -> bytes:
        """Return what is on the disk for sure."""
        return self._content(self.n_synced, lambda: self.n_synced)

    def torn(self, draw: random.Random) -> bytes:
        """Return what may be on the disk."""
        last = 1 + max([self.n_synced, *(w[0] for w in self.writes), *(s[0] for s in self.sizes)])
        if draw.random() < 0.3:  # all of it, or nothing
            limit = draw.choice([last, self.n_synced])
            return self._content(limit, lambda: limit)
        moments = draw.choice([(self.n_synced, last), range(self.n_synced, last + 1)])
        return self._content(draw.choice(moments), lambda: draw.choice(moments))

    def _content(self, n_calls_of_size: int, n_calls_of_page: Callable[[], int]) -> bytes:
        size = next((n for k, n in reversed(self.sizes) if k < n_calls_of_size), 0)
        n_pages = -(-size // PAGE_BYTES)
        content = bytearray(n_pages * PAGE_BYTES)
        limits = [n_calls_of_page() for _ in range(n_pages)]
        for number, offset, data in self.writes:
            first, stop = offset // PAGE_BYTES, -(-(offset + len(data)) // PAGE_BYTES)
            for page in range(first, min(stop, n_pages)):
                if number < limits[page]:
                    start = max(offset, page * PAGE_BYTES)
                    piece = data[start - offset : (page + 1) * PAGE_BYTES - offset]
                    content[start : start + len(piece)] = piece
        return bytes(content[:size])


@dataclass
class Naming:
    """A name that a folder gets; or loses, without a node."""

    number: int
    path: str
    node: Inode | None
    is_folder: bool = False
    moved_to: str = ""  # a file that is moved has always one of the names

    @property
    def folder(self) -> str:
        """In which it has to be on the disk."""
        return os.path.dirname(self.moved_to or self.path)


class Disk:
    """The files below one folder, after some of the calls of a record.

    Parameters
    ----------
    root : str
        The folder; nothing else is looked at.
    calls : sequence of Call
        From `read_calls`.
    before : Path, optional
        What was in the folder before, on the disk.
    """

    def __init__(self, root: str, calls: Sequence[Call], before: Path | None = None) -> None:
        self._root = root
        self.names: dict[str, Inode] = {}
        self._folders: set[str] = {root}
        self._namings: list[Naming] = []
        self._n_synced: dict[str, int] = {}  # calls, of folders
        if before is not None:
            self._begin_with(before)
        for number, call in enumerate(calls):
            self._follow(number, call)

    def _begin_with(self, before: Path) -> None:
        for path in sorted(before.rglob("*")):
            place = os.path.join(self._root, path.relative_to(before))
            node = Inode()
            if path.is_file():
                node.write(-1, 0, path.read_bytes())
            self._give(-1, place, node, path.is_dir())

    def _follow(self, number: int, call: Call) -> None:
        if call.name == "syncfs":
            for node in self._nodes():
                node.n_synced = call.begin
            self._n_synced = dict.fromkeys(self._folders, call.begin)
        elif call.name in ("fsync", "fdatasync"):
            if call.path in self._folders:
                self._n_synced[call.path] = call.begin
            elif call.path in self.names:
                self.names[call.path].n_synced = call.begin
        elif call.name in NAMES:
            if any(self._is_inside(path) for path in call.named):
                self._rename(number, call)
        elif call.name == "openat":
            if self._is_inside(call.opened) and call.opened not in self._folders:
                self._open(number, call)
        elif self._is_inside(call.path) and call.name not in SYNCS:
            self._change(number, call, self.names[call.path])

    def _is_inside(self, path: str) -> bool:
        return path.startswith(self._root + "/")

    def _nodes(self) -> Iterator[Inode]:
        return (each.node for each in self._namings if each.node is not None)

    def _open(self, number: int, call: Call) -> None:
        path = call.opened
        if path not in self.names:
            assert "O_CREAT" in call.text, call
            self._give(number, path, Inode())
        if "O_WRONLY" in call.text or "O_RDWR" in call.text:
            node = self.names[path]
            if "O_TRUNC" in call.text:
                node.resize(number, 0)
            node.position = node.size if "O_APPEND" in call.text else 0

    def _give(self, number: int, path: str, node: Inode, is_folder: bool = False) -> None:
        self._namings.append(Naming(number, path, node, is_folder))
        if is_folder:
            self._folders.add(path)
        else:
            self.names[path] = node

    def _rename(self, number: int, call: Call) -> None:
        path, *others = call.named
        if call.name.startswith("mkdir"):
            self._give(number, path, Inode(), is_folder=True)
        elif call.name.startswith("rename"):
            self._give(number, others[0], self.names.pop(path))
            self._namings.append(Naming(number, path, None, moved_to=others[0]))
        elif call.name.startswith("link"):
            self._give(number, others[0], self.names[path])
        elif call.name.startswith("unlink") and path in self.names:
            del self.names[path]
            self._namings.append(Naming(number, path, None))

    def _change(self, number: int, call: Call, node: Inode) -> None:
        assert call.name in CHANGES, f"{call.name} is not followed: {call.path}"
        numbers, n_bytes = call.last_numbers, int(call.result)
        if call.name == "ftruncate":
            node.resize(number, numbers[-1])
        elif call.name == "fallocate":
            node.resize(number, max(node.size, sum(numbers[-2:])))
        elif call.name in ("pwrite64", "pwritev"):
            node.write(number, numbers[-1], b"".join(call.strings)[:n_bytes])
        else:
            node.write(number, node.position, b"".join(call.strings)[:n_bytes])
            node.position += n_bytes

    def write_synced(self, folder: Path) -> None:
        """Write into an empty folder what is on the disk for sure."""
        self._write(folder, lambda parent: self._n_synced.get(parent, 0), Inode.synced)

    def write_torn(self, folder: Path, draw: random.Random) -> None:
        """Write into an empty folder what may be on the disk."""

        def limit(parent: str) -> int:
            n_synced = self._n_synced.get(parent, 0)
            later = [n.number + 1 for n in self._namings if n.folder == parent]
            return draw.choice([n_synced, *(number for number in later if number > n_synced)])

        self._write(folder, limit, lambda node: node.torn(draw))

    def _write(
        self, folder: Path, limit: Callable[[str], int], content: Callable[[Inode], bytes]
    ) -> None:
        limits = {parent: limit(parent) for parent in sorted({n.folder for n in self._namings})}
        there: dict[str, Naming] = {}
        for naming in self._namings:
            if naming.number < limits[naming.folder]:
                there.pop(naming.path, None)
                if naming.node is not None:
                    there[naming.path] = naming
        for path in sorted(there):
            target = folder / os.path.relpath(path, self._root)
            if not target.parent.is_dir():
                continue  # its folder has no name
            if there[path].is_folder:
                target.mkdir()
            else:
                node = there[path].node
                assert node is not None
                target.write_bytes(content(node))
