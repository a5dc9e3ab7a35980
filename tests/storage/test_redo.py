"""Payload files are whole whenever their writer is killed: between any two writes, and within one.

HDF5 changes a file in place. Before there was a log, a kill in one of six writes took all that the
file had held with it.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storing import Case, encode, open_store

from acme_mpi.comm import SerialWorld
from acme_mpi.errors import StoreError
from acme_mpi.history.journal import FileKey
from acme_mpi.history.parsing import parse_redo
from acme_mpi.history.records import read_history
from acme_mpi.storage import Layout, make_store, payload_file
from acme_mpi.storage.redo import AtomicFile, merged, redo
from acme_mpi.storage.verify import damaged_bytes

N_TASKS, N_CHUNK = 12, 2
CASES = {
    "groups": Case([(np.arange(k % 5) + k, f"text {k}") for k in range(N_TASKS)]),
    "rows": Case([np.array([k, -k]) for k in range(N_TASKS)], (None, 2)),
    "rows, last axis": Case([np.array([k, -k]) for k in range(N_TASKS)], (2, None)),
    "large": Case([np.full(9000, float(k)) for k in range(N_TASKS)]),
    "large rows": Case([np.full(9000, float(k)) for k in range(N_TASKS)], (None, 9000)),
    "ragged": Case([np.arange(k % 7, dtype=float) for k in range(N_TASKS)], (None, np.inf)),
    "more": Case([(np.array([k, k]), f"more {k}") for k in range(N_TASKS)], (None, 2)),
}
CHANGING = ("pwrite", "write", "ftruncate", "unlink")  # of `os`: all by which files change


def write_all_tasks(kind: str, directory: Path, case: Case, sync_s: float = 60) -> None:
    store = open_store(SerialWorld(), kind, directory, case)
    store.sync_every(sync_s)
    for start in range(0, N_TASKS, N_CHUNK):
        store.write(encode(store, case, range(start, start + N_CHUNK)))
    store.close()


def in_child(func: Callable[[], None]) -> int:
    """Call a function in a fork of this process; return its status as `os.waitpid` does."""
    pid = os.fork()
    if pid == 0:
        try:
            func()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def die_at(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have this process killed at so many changes of files, in the middle of what is written."""
    lock, left = threading.Lock(), [number]

    def patched(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def change(*args: Any) -> Any:
            with lock:
                left[0] -= 1
                if left[0] == 0:
                    if name in ("pwrite", "write"):
                        half = memoryview(args[1]).cast("B")
                        real(args[0], half[: len(half) // 2], *args[2:])
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args)

        return change

    for name in CHANGING:
        monkeypatch.setattr(os, name, patched(name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "case", "sync_s"),
    [
        *(("rank", case, 60) for case in CASES),
        ("single_file", "more", 60),
        ("rank", "groups", 0),
        ("rank", "rows", 0),
    ],
)
def test_what_is_recorded_survives_a_kill_at_any_point(kind, case, sync_s, tmp_path, monkeypatch):
    """What is recorded can be read wherever the writer is killed."""
    lost, n_done = [], []
    for number in range(1, 1000):
        directory = tmp_path / f"out{number}"

        def write(number: int = number, directory: Path = directory) -> None:
            die_at(number, monkeypatch)
            write_all_tasks(kind, directory, CASES[case], sync_s)

        status = in_child(write)
        layout = Layout(str(directory), "f", 1)
        done = read_history(layout.dot_folder).done
        n_done.append(int(done["count"].sum()))
        if os.path.isdir(layout.dot_folder):
            store = make_store(kind, SerialWorld(), layout, CASES[case].spec, N_TASKS)
            store.restore()
            lost += [(number, each) for each in damaged_bytes(store, done)]
            assert not list(Path(layout.dot_folder).glob("*.redo"))
        if not os.WIFSIGNALED(status):
            assert status == 0
            break

    assert lost == []
    assert len(n_done) > 10
    assert set(n_done) > {0, N_TASKS}


@pytest.mark.slow
def test_a_reader_before_the_rest_is_written_reads_all(tmp_path, monkeypatch):
    """HDF5 forgets what it has read and written, and reads it again; the log is far behind."""
    monkeypatch.setattr(payload_file, "MAX_GROUPS", 10**6)
    hold = threading.Event()
    real = AtomicFile.make_changes
    monkeypatch.setattr(
        AtomicFile, "make_changes", lambda self, changes: hold.wait(60) and real(self, changes)
    )
    n_tasks = 8000
    case = Case([float(k) for k in range(n_tasks)])
    store = open_store(SerialWorld(), "rank", tmp_path / "out", case)
    for start in range(0, n_tasks, 500):
        store.write(encode(store, case, range(start, start + 500)))
    read = [store._current._file[f"comp_{k}/result_0"][()] for k in range(0, n_tasks, 100)]
    hold.set()
    store.close()

    np.testing.assert_array_equal(np.ravel(read), np.arange(0, n_tasks, 100.0))
    assert list(damaged_bytes(store, read_history(store.layout.dot_folder).done)) == []


def test_a_file_that_is_refused_more_keeps_what_is_recorded(tmp_path, monkeypatch):
    case = CASES["groups"]
    store = open_store(SerialWorld(), "rank", tmp_path / "out", case)
    store.write(encode(store, case, range(N_CHUNK)))

    def refuse(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("acme_mpi.storage.redo.write_all", refuse)
    with pytest.raises(StoreError, match=r"f_rank0_0.h5: No space left on device"):
        store.write(encode(store, case, range(N_CHUNK, N_TASKS)))
    monkeypatch.undo()
    store.close()

    done = read_history(store.layout.dot_folder).done
    assert done["count"].sum() == N_CHUNK
    assert list(damaged_bytes(store, done)) == []
    assert not list(Path(store.layout.dot_folder).glob("*.redo"))


class TestLog:
    def make_file(self, folder: Path, *pieces: tuple[int, bytes]) -> AtomicFile:
        """Return a file of 16 bytes, and pieces that have still to be written."""
        file = AtomicFile(str(folder / "file"), str(folder / "log"), FileKey())
        file.put(0, b"0123456789abcdef")
        file.make_changes([file.take_change()])
        for piece in pieces:
            file.put(*piece)
        return file

    def test_new_bytes_are_written_at_once_and_others_after_the_log(self, tmp_path):
        file = self.make_file(tmp_path, (2, b"XY"), (16, b"new"))

        change = file.take_change()
        assert (tmp_path / "file").read_bytes() == b"0123456789abcdefnew"
        assert file.read(4) == b"01XY"
        file.write_log([change])
        assert (tmp_path / "file").read_bytes() == b"0123456789abcdefnew"
        file.make_changes([change])
        assert (tmp_path / "file").read_bytes() == b"01XY456789abcdefnew"
        file.finish()
        file.close()
        assert not (tmp_path / "log").exists()

    @pytest.mark.parametrize("n_times", [1, 2])
    def test_it_can_be_carried_out_by_others_and_twice(self, tmp_path, n_times):
        file = self.make_file(tmp_path, (2, b"XY"), (30, b"far"))
        file.write_log([file.take_change()])
        file.close()
        text = (tmp_path / "log").read_bytes()

        for _ in range(n_times):
            (tmp_path / "log").write_bytes(text)
            redo(str(tmp_path / "log"), str(tmp_path / "file"))

        assert (tmp_path / "file").read_bytes() == b"01XY456789abcdef" + bytes(14) + b"far"
        assert not (tmp_path / "log").exists()

    def test_a_torn_one_changes_nothing(self, tmp_path):
        file = self.make_file(tmp_path, (2, b"XY"), (0, b"Z"))
        file.write_log([file.take_change()])
        file.close()
        text = (tmp_path / "log").read_bytes()
        before = (tmp_path / "file").read_bytes()
        assert parse_redo(text + b"the end of a longer one", "log", 99).sections

        for n_bytes in range(len(text)):
            (tmp_path / "log").write_bytes(text[:n_bytes] + bytes(len(text) - n_bytes - 1))
            redo(str(tmp_path / "log"), str(tmp_path / "file"))
            assert (tmp_path / "file").read_bytes() == before
            assert not (tmp_path / "log").exists()

    def test_what_points_to_bytes_that_are_gone_is_not_done(self, tmp_path):
        """A loss of power leaves any of the bytes that were not synchronised."""
        file = self.make_file(tmp_path, (2, b"XY"), (30, b"first"))
        file.write_log([file.take_change()])
        file.put(4, b"Z")
        file.put(40, b"second")
        file.write_log([file.take_change()])
        file.close()
        log, path = tmp_path / "log", tmp_path / "file"
        log_text, text = log.read_bytes(), path.read_bytes()
        assert text[46:] == b""

        for lost, first in ((42, b"01XY45"), (31, b"012345"), (45, b"01XY45")):
            log.write_bytes(log_text)
            path.write_bytes(text[:lost] + (b"\0" + text[lost + 1 :] if lost < 45 else b""))
            redo(str(log), str(path))
            assert path.read_bytes()[:6] == first
            assert not log.exists()

    def test_once_it_is_sealed_it_is_done_whatever_is_there(self, tmp_path):
        """What was new may have been changed since, by what follows in the log."""
        file = self.make_file(tmp_path, (2, b"XY"), (30, b"first"))
        changes = [file.take_change()]
        file.put(31, b"IRS")
        changes.append(file.take_change())
        for change in changes:
            file.write_log([change])
        file.seal_log()
        log_text = (tmp_path / "log").read_bytes()
        file.make_changes(changes)
        file.close()
        before = (tmp_path / "file").read_bytes()

        for torn in (before, before[:2] + b"23" + before[4:]):
            (tmp_path / "log").write_bytes(log_text)
            (tmp_path / "file").write_bytes(torn)
            redo(str(tmp_path / "log"), str(tmp_path / "file"))
            assert (tmp_path / "file").read_bytes() == before

    def test_one_of_a_file_that_is_gone_is_removed(self, tmp_path):
        file = self.make_file(tmp_path, (2, b"XY"))
        file.write_log([file.take_change()])
        file.close()
        (tmp_path / "file").unlink()

        redo(str(tmp_path / "log"), str(tmp_path / "file"))

        assert list(tmp_path.iterdir()) == []

    def test_what_is_written_at_once_is_never_in_it(self, tmp_path):
        """Else it would come back when the log is carried out."""
        file = self.make_file(tmp_path)
        file.put(32, bytes(32))
        file.free(32, 32)
        change = file.take_change()
        file.put(30, b"XY")
        file.put(32, b"Z" * 32)
        later = file.take_change()

        assert later.pieces == [(30, b"XY")]
        assert (tmp_path / "file").read_bytes()[32:] == b"Z" * 32
        file.make_changes([change, later])
        file.close()

    def test_space_that_is_given_away_again_is_not_free(self, tmp_path):
        file = self.make_file(tmp_path)

        assert not file.is_free(8)
        assert file.is_free(16)
        file.close()

    def test_what_was_written_later_counts(self):
        def joined(*pieces: tuple[int, bytes]) -> list[tuple[int, bytes]]:
            return merged(pieces)

        assert joined((4, b"ab"), (0, b"xy"), (2, b"cd"), (9, b"z")) == [(0, b"xycdab"), (9, b"z")]
        assert joined((0, b"ab"), (0, b"xy")) == [(0, b"xy")]
        assert joined((0, b"abcd"), (2, b"xy"), (0, b"z")) == [(0, b"zbxy")]
        assert joined((0, b"abcd"), (2, b"xy"), (0, b"ABCD")) == [(0, b"ABCD")]


def test_everything_that_changes_a_payload_is_known_here(tmp_path, monkeypatch):
    """`CHANGING` are all the ways: what HDF5 writes itself would not be noticed."""
    written: list[str] = []
    real = os.pwrite

    def note(descriptor: int, *args: Any) -> int:
        written.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        return real(descriptor, *args)

    monkeypatch.setattr(os, "pwrite", note)
    write_all_tasks("rank", tmp_path / "out", CASES["groups"])

    assert {"f_rank0_0.h5", "rank0_0.redo"} <= set(written)
