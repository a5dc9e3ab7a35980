"""Stores that cannot write, are asked again, or lose power."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import resource
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from storing import (
    FAILED,
    N_LARGE,
    Case,
    encode,
    every_kind,
    every_size,
    expected_content,
    large,
    make_layout,
    open_store,
    run_world,
)

from acme_mpi.comm import SerialWorld, ThreadWorld, World
from acme_mpi.errors import StoreError
from acme_mpi.history.journal import Block, pack_record, read_journal
from acme_mpi.history.layout import journal_name
from acme_mpi.history.records import read_history
from acme_mpi.results.parts import PLACED_BYTES
from acme_mpi.storage import Store, make_store
from acme_mpi.storage.committer import Committer


@every_kind
class TestRetry:
    """A runner died after it had asked for places: its task is called again, maybe elsewhere."""

    def place_and_die(self, store: Store, index: int, value: Any) -> None:
        """Ask for all places of a value and write garbage, but never report."""
        case = Case([FAILED] * index + [value], None if store.spec is None else self.shape)
        encode(store, case, range(index, index + 1))

    shape: Any = None

    @pytest.mark.parametrize(
        ("attempt", "value"),
        [
            (large(9), large(0)),
            (large(9), 0.5),
            (large(9), "text"),
            ((large(9), large(9)), (large(0), large(1))),
            ((large(9), large(9)), large(0)),
            ((large(9), large(9)), (0.5, large(0))),
            ((0.5, large(9)), (large(0), 0.5)),
            (large(9, 2 * N_LARGE), large(0)),
            (large(9, N_LARGE, "i8"), large(0)),
        ],
        ids=[
            "large-large",
            "large-small",
            "large-string",
            "two-two",
            "two-one",
            "two-second",
            "second-first",
            "longer-large",
            "integers-floats",
        ],
    )
    @pytest.mark.parametrize("n_attempts", [1, 3])
    def test_only_the_last_attempt_counts(
        self, kind, attempt, value, n_attempts, tmp_path, content_of
    ):
        case = Case([1, value, 3])
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        store.write(encode(store, case, range(1)))
        for _ in range(n_attempts):
            self.place_and_die(store, 1, attempt)
        store.write(encode(store, case, range(1, 3)))
        store.close()

        assert content_of(store.commit().container) == expected_content(case)

    @pytest.mark.parametrize("shape", [(None, N_LARGE), (N_LARGE, None), (None, np.inf)])
    def test_only_the_last_attempt_counts_among_rows(self, kind, shape, tmp_path, content_of):
        self.shape = shape
        case = Case([large(k) for k in range(3)], shape)
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        store.write(encode(store, case, range(1)))
        self.place_and_die(store, 1, large(9))
        self.place_and_die(store, 1, (large(9), large(8)))
        store.write(encode(store, case, range(1, 3)))
        store.close()

        assert content_of(store.commit().container) == expected_content(case)

    @pytest.mark.parametrize("shape", [None, (None, N_LARGE), (None, np.inf)])
    def test_a_task_that_dies_for_good_is_a_hole(self, kind, shape, tmp_path, content_of):
        self.shape = shape
        case = Case([large(0), FAILED, large(2)], shape)
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        store.write(encode(store, case, range(1)))
        self.place_and_die(store, 1, large(9))
        store.write(encode(store, case, range(1, 3)))
        store.close()

        assert content_of(store.commit().container) == expected_content(case)

    @pytest.mark.parametrize("shape", [None, (None, N_LARGE)])
    def test_another_rank_may_do_it(self, kind, shape, tmp_path, content_of):
        self.shape = shape
        case = Case([large(0), large(1), large(2)], shape)

        def write(world):
            store = open_store(world, kind, tmp_path / "out", case)
            if world.rank == 1:
                self.place_and_die(store, 1, large(9))
            world.barrier()
            if world.rank == 1:
                store.close()
            world.barrier()
            if world.rank == 0:
                store.write(encode(store, case, range(3)))
                store.close()
            return store.commit().container

        path = ThreadWorld.run(2, write)[0]
        assert content_of(path) == expected_content(case)


@contextlib.contextmanager
def full_disk(max_bytes: int = 200_000) -> Iterator[None]:
    """Let no file of this process grow beyond `max_bytes`, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def call_in_child(func: Callable[[], str]) -> str:
    """Return what `func` returns in a fork of this process, which has to end well.

    A library that cannot get rid of its data may crash the process, also later.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            faulthandler.disable()
            os.close(reader)
            text = func()
            gc.collect()
            os.write(writer, text.encode())
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    os.close(writer)
    with open(reader) as file:
        text = file.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, "the process has crashed"
    return text


def make_useless(path: Path) -> None:
    """Put a file in the place of a directory: whoever is asked, even root cannot write there."""
    shutil.rmtree(path)
    path.touch()


class TestRefusals:
    """A medium that refuses is a StoreError with the path, whatever refuses and when."""

    N_BYTES = 150_000

    def write_until_refused(self, kind, directory, case) -> str:
        """Return the text of the StoreError of a run on a full disk."""

        def write() -> None:
            store = open_store(SerialWorld(), kind, directory, case)
            try:
                for k in range(len(case.values)):
                    store.write(encode(store, case, range(k, k + 1)))
            finally:
                store.close()
            store.commit()

        def call() -> str:
            with full_disk(), pytest.raises(StoreError) as caught:
                write()
            return str(caught.value)

        return call_in_child(call)

    @pytest.mark.parametrize(
        "case",
        [
            Case([np.ones(N_BYTES // 8)] * 8),
            Case([np.ones(N_BYTES // 8)] * 8, (None, N_BYTES // 8)),
            Case([np.ones(N_BYTES // 8)] * 8, (None, np.inf)),
            Case([np.ones(1000)] * 100, (None, 1000)),
            Case([np.ones(1000)] * 100),
        ],
        ids=["large", "large rows", "ragged", "small rows", "small"],
    )
    @pytest.mark.parametrize("kind", ["rank", "single_file"])
    def test_a_full_disk(self, kind, case, tmp_path):
        text = self.write_until_refused(kind, tmp_path / "out", case)

        assert str(tmp_path / "out") in text
        assert "File too large" in text

    def test_a_full_disk_under_one_file_per_computation(self, tmp_path):
        text = self.write_until_refused("computation", tmp_path / "out", Case([np.ones(50_000)]))

        assert "f_payload/f_0.h5" in text
        assert "File too large" in text

    @pytest.mark.parametrize("kind", ["rank", "computation"])
    @pytest.mark.parametrize("value", [1, large(0)], ids=["small", "large"])
    def test_a_payload_folder_that_is_gone(self, kind, value, tmp_path):
        case = Case([value])
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        make_useless(tmp_path / "out" / "f_payload")

        with pytest.raises(StoreError, match="f_payload"):
            store.write(encode(store, case, range(1)))
        store.close()

    @every_kind
    def test_a_journal_that_cannot_be_written(self, kind, tmp_path):
        case = Case([1])
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        if kind == "single_file":
            (tmp_path / "out" / ".acme_mpi" / "f" / "run0_rank0.journal").mkdir()
        else:
            make_useless(tmp_path / "out" / ".acme_mpi" / "f")

        with pytest.raises(StoreError, match="journal"):
            self.write_and_close(store, case)

    def write_and_close(self, store, case):
        try:
            store.write(encode(store, case, range(1)))
        finally:
            store.close()

    @every_kind
    @every_size
    @pytest.mark.parametrize("shape", [None, (None, 2), (None, np.inf)])
    def test_a_failed_container_is_an_error_on_every_rank(self, kind, size, shape, tmp_path):
        """A container that cannot be made is an error on every rank."""
        case = Case([[1, 2], [3, 4]], shape)
        errors = []

        def write(world):
            store = open_store(world, kind, tmp_path / "out", case)
            if world.is_master:
                store.write(encode(store, case, range(2)))
            store.close()
            world.barrier()
            if world.is_master:
                (tmp_path / "out" / "f.h5").mkdir()
                (tmp_path / "out" / "f.h5" / "occupied").touch()
            world.barrier()
            try:
                store.commit()
            except StoreError as error:
                errors.append(str(error))

        run_world(size, write)

        assert len(errors) == size
        assert len(set(errors)) == 1
        assert str(tmp_path / "out") in errors[0]

    @every_size
    @pytest.mark.parametrize("is_full", [True, False])
    def test_a_failed_shared_file_is_an_error_on_every_rank(self, size, is_full, tmp_path):
        """A disk that is too small is found before any task has run."""
        case = Case([np.zeros(50_000)] * 3, (None, 50_000))
        errors = []

        def open_it(world: World) -> None:
            layout = world.bcast(
                make_layout("single_file", "f", str(tmp_path / "out"), os.getcwd())
                if world.is_master
                else None
            )
            store = make_store("single_file", world, layout, case.spec, 3)
            if world.is_master and not is_full:
                make_useless(Path(layout.dot_folder))
            world.barrier()
            try:
                store.open()
            except StoreError as error:
                errors.append(str(error))

        def call() -> str:
            with full_disk() if is_full else contextlib.nullcontext():
                run_world(size, open_it)
            return "\n".join(errors)

        texts = call_in_child(call).split("\n")
        assert len(texts) == size
        assert len(set(texts)) == 1
        assert "f.h5.partial" in texts[0]

    @every_kind
    def test_a_payload_that_has_vanished_before_the_commit(self, kind, tmp_path, content_of):
        """The container is made of what is there, or the error names the file."""
        case = Case([np.ones(2), np.ones(3)], (None, np.inf))
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        store.write(encode(store, case, range(2)))
        store.close()
        for path in (tmp_path / "out").rglob("f_*.h5"):
            path.unlink()

        with pytest.raises(StoreError, match=r"f_|payload|spool"):
            store.commit()

    @every_kind
    def test_what_was_recorded_before_is_safe(self, kind, tmp_path):
        """On a disk that is full in the middle and has room again at the end."""

        def call() -> str:
            store = open_store(SerialWorld(), kind, tmp_path / "out", Case([1, 2, FAILED]))
            store.write(encode(store, Case([1, 2]), range(2)))
            full = Case([FAILED, FAILED, np.ones(PLACED_BYTES // 8 - 1)])
            with full_disk(20_000), contextlib.suppress(StoreError):
                store.write(encode(store, full, range(2, 3)))
            with contextlib.suppress(StoreError):
                store.close()
            return store.commit().container

        with h5py.File(call_in_child(call)) as file:
            assert file["comp_0/result_0"][()].tolist() == [1]
            assert file["comp_1/result_0"][()].tolist() == [2]


@pytest.mark.parametrize("kind", ["rank", "computation"])
@pytest.mark.parametrize("shape", [None, (None,)])
def test_a_payload_that_is_deleted_before_it_is_linked_is_named(kind, shape, tmp_path):
    """The common dataset would read as if its tasks were missing."""
    case = Case([1.0, 2.0], shape)
    store = open_store(SerialWorld(), kind, tmp_path / "out", case)
    store.write(encode(store, case, range(2)))
    store.close()
    victim = min((tmp_path / "out" / "f_payload").iterdir())
    victim.unlink()

    with pytest.raises(StoreError, match=f"{victim.name} was deleted"):
        store.commit()


class TestDurability:
    @every_kind
    @pytest.mark.parametrize("shape", [None, (None,), (None, np.inf)])
    def test_what_is_closed_is_journalled(self, kind, shape, tmp_path):
        values = [np.ones(k) for k in (1, 2)] if shape == (None, np.inf) else [1.0, 2.0]
        case = Case([*values, FAILED], shape)
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        store.write(encode(store, case, range(3)))
        store.close()

        ((records, _),) = read_journal(store.layout.journal(0))
        ended = records[records["kind"] == Block.DONE]
        done = [i for r in ended for i in range(r["first"], r["first"] + r["count"])]
        assert done == [0, 1]

    def test_results_are_on_the_disk_before_the_journal_says_so(self, tmp_path, monkeypatch):
        calls = []
        real_sync, real_write = os.fdatasync, os.write
        monkeypatch.setattr(
            os, "fdatasync", lambda fd: calls.append(os.readlink(f"/proc/self/fd/{fd}"))
        )
        monkeypatch.setattr(
            os,
            "write",
            lambda fd, data: calls.append("record") or real_write(fd, data),
        )
        committer = Committer(str(tmp_path / "journal"))
        with open(tmp_path / "results", "wb") as file:
            committer.commit([file.fileno()], [pack_record(range(3))])
            committer.close()
        monkeypatch.undo()

        assert real_sync is os.fdatasync
        assert calls[:2] == ["record", str(tmp_path / "results")]
        assert calls[2:] == ["record", str(tmp_path / "journal")]

    def test_files_may_be_closed_as_soon_as_they_are_handed_over(self, tmp_path):
        committer = Committer(str(tmp_path / "journal"))
        before = len(os.listdir("/proc/self/fd"))
        for k in range(50):
            with open(tmp_path / f"results{k}", "wb") as file:
                committer.commit([file.fileno()], [pack_record(range(k, k + 1))])
        committer.close()

        ((records, _),) = read_journal(str(tmp_path / "journal"))
        assert records["first"][records["kind"] == Block.DONE].tolist() == list(range(50))
        assert len(os.listdir("/proc/self/fd")) == before

    def test_a_journal_deleted_after_its_last_record_is_an_error(self, tmp_path):
        """A journal that is deleted after its last record is an error."""
        committer = Committer(str(tmp_path / "journal"))
        with open(tmp_path / "results", "wb") as file:
            committer.commit([file.fileno()], [pack_record(range(3))])
            while not (tmp_path / "journal").exists():
                pass
            (tmp_path / "journal").unlink()

        with pytest.raises(StoreError, match=r"journal: No such file"):
            committer.close()

    def test_an_error_of_the_disk_is_raised_by_the_end(self, tmp_path, monkeypatch):
        """An error of the disk is raised at the latest at the end."""

        def refuse(descriptor):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(os, "fdatasync", refuse)
        committer = Committer(str(tmp_path / "journal"))
        with open(tmp_path / "results", "wb") as file:
            committer.commit([file.fileno()], [pack_record(range(3))])

        with pytest.raises(StoreError, match="Input/output error"):
            committer.close()

    def test_after_an_error_nothing_more_is_recorded(self, tmp_path, monkeypatch):
        """What the disk has refused after it was recorded does not count, either."""

        def refuse(descriptor):
            raise OSError(5, "Input/output error")

        committer = Committer(str(tmp_path / journal_name(0, 0)))
        with open(tmp_path / "results", "wb") as file:
            committer.commit([file.fileno()], [pack_record(range(3))])
            with monkeypatch.context() as patch:
                patch.setattr(os, "fdatasync", refuse)
                for _ in range(3):
                    try:
                        committer.commit([file.fileno()], [pack_record(range(3, 4))])
                    except StoreError:
                        break
                with pytest.raises(StoreError):
                    committer.close()

        assert not read_history(str(tmp_path)).is_done(4)[3]

    def test_a_committer_without_work_makes_no_file(self, tmp_path):
        Committer(str(tmp_path / "journal")).close()

        assert list(tmp_path.iterdir()) == []
