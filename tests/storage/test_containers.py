"""Containers and payload files: holes, links, returned paths, many files."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
from pathlib import Path

import h5py
import numpy as np
import pytest
from storing import (
    CASES,
    FAILED,
    RAGGED,
    Case,
    encode,
    every_kind,
    every_size,
    expected_content,
    grid,
    large,
    make_layout,
    open_store,
    run_world,
    store_case,
    write_case,
)

from acme_mpi.comm import SerialWorld
from acme_mpi.engine.call import Options, Output, Work
from acme_mpi.errors import InputError
from acme_mpi.history.beginning import NewRun, begin
from acme_mpi.history.description import Description
from acme_mpi.history.journal import RECORD, Block
from acme_mpi.history.records import read_history
from acme_mpi.session.values import values_of
from acme_mpi.storage import (
    Layout,
    MemoryStore,
    container,
    linked,
    make_store,
    packed_rows,
    payload_file,
    recorded,
)
from acme_mpi.storage.faults import faults


@every_kind
class TestContainer:
    @pytest.mark.parametrize("n_chunk", [1, 2, 7, 100])
    @every_size
    def test_it_does_not_depend_on_the_chunks(self, kind, size, n_chunk, tmp_path, content_of):
        case = CASES["rows-further values"]
        path = store_case(kind, size, tmp_path / "out", case, n_chunk=n_chunk)

        assert content_of(path) == expected_content(case)

    def test_its_groups_come_in_task_order(self, kind, tmp_path):
        """Also where ranks, chunks and the alphabet have another one."""
        case = Case([k if k % 7 else FAILED for k in range(30)])
        path = store_case(kind, 3, tmp_path / "out", case)

        with h5py.File(path) as file:
            assert list(file) == [f"comp_{k}" for k in range(30) if k % 7]

    def test_a_task_without_a_result_is_a_hole(self, kind, tmp_path):
        """A task without a result is a hole and nothing else is there."""
        path = store_case(kind, 1, tmp_path / "out", Case([FAILED, 1, FAILED]))

        with h5py.File(path) as file:
            assert list(file) == ["comp_1"]
            assert dict(file.attrs) == {}

    @pytest.mark.parametrize("shape", [(None, 2), (2, None), (None, np.inf)])
    def test_missing_rows_are_listed_and_nan(self, kind, shape, tmp_path):
        case = Case([[1, 2], FAILED, [3, 4], FAILED], shape)
        path = store_case(kind, 3, tmp_path / "out", case, n_chunk=1)

        with h5py.File(path) as file:
            rows = np.moveaxis(file["result_0"][()], shape.index(None), 0)
            assert file["result_0"].attrs["missing"].tolist() == [1, 3]
        np.testing.assert_array_equal(rows, [[1, 2], [np.nan] * 2, [3, 4], [np.nan] * 2])

    def test_without_missing_rows_there_is_no_such_attribute(self, kind, tmp_path):
        path = store_case(kind, 1, tmp_path / "out", Case([1.0, 2.0], (None,)))

        with h5py.File(path) as file:
            assert dict(file["result_0"].attrs) == {}

    def test_thousands_of_missing_rows_are_listed(self, kind, tmp_path):
        """An attribute above 64 KiB needs another place in the file."""
        case = Case([1.0] + [FAILED] * 9000, (None,))
        path = store_case(kind, 1, tmp_path / "out", case, n_chunk=5000)

        with h5py.File(path) as file:
            assert file["result_0"].attrs["missing"].tolist() == list(range(1, 9001))

    @pytest.mark.parametrize("name", ["free-mixed", "rows-further values", "ragged-one axis"])
    @every_size
    def test_it_works_in_another_directory(self, kind, size, name, tmp_path, content_of):
        path = store_case(kind, size, tmp_path / "out", CASES[name])
        (tmp_path / "elsewhere").mkdir()
        shutil.move(tmp_path / "out", tmp_path / "elsewhere" / "moved")

        assert content_of(tmp_path / "elsewhere" / "moved" / path.name) == expected_content(
            CASES[name]
        )

    def test_it_works_from_any_working_directory(self, kind, tmp_path, content_of, monkeypatch):
        store_case(kind, 1, tmp_path / "out", CASES["free-mixed"])
        monkeypatch.chdir(tmp_path)

        assert content_of(Path("out") / "f.h5") == expected_content(CASES["free-mixed"])

    @pytest.mark.parametrize("name", ["free-mixed", "rows-further values", "ragged-further values"])
    def test_h5dump_reads_all_of_it(self, kind, name, tmp_path):
        if shutil.which("h5dump") is None:
            pytest.skip("h5dump is not installed")
        path = store_case(kind, 3, tmp_path / "out", CASES[name])

        for each in [path, *path.parent.rglob("*_payload/*.h5")]:
            done = subprocess.run(
                ["h5dump", "--enable-error-stack", str(each)],
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert done.returncode == 0, done.stderr
            assert "unable" not in done.stderr
            assert "result_" in done.stdout

    def test_long_doubles_keep_their_value(self, kind, tmp_path):
        """Not their bytes: some of the 16 belong to no number."""
        values = np.ones((2, 3), np.longdouble) / 3
        path = store_case(kind, 1, tmp_path / "out", Case(list(values)))

        with h5py.File(path) as file:
            assert file["comp_1/result_0"].dtype == values.dtype
            np.testing.assert_array_equal(file["comp_1/result_0"][()], values[1])

    def test_bytes_that_nobody_wrote_are_nowhere(self, kind, tmp_path, content_of):
        """Datasets are created without a fill: every byte has to come from somewhere."""
        case = Case([np.zeros(k * 1000) for k in range(1, 9)])
        path = store_case(kind, 3, tmp_path / "out", case)

        for _, shape, data in content_of(path).values():
            assert data == bytes(8 * shape[0])

    def test_its_folder_holds_nothing_that_a_user_need_not_see(self, kind, tmp_path):
        path = store_case(kind, 3, tmp_path / "out", CASES["free-mixed"])

        visible = {each.name for each in path.parent.iterdir() if not each.name.startswith(".")}
        assert visible == {"f.h5"} | (set() if kind == "single_file" else {"f_payload"})

    def test_functions_share_a_directory(self, kind, tmp_path, content_of):
        first_path = store_case(kind, 1, tmp_path / "out", Case([1, 2]))
        layout = make_layout(kind, "g", str(tmp_path / "out"), os.getcwd())
        store = make_store(kind, SerialWorld(), layout, None, 1)
        store.open()
        store.write(encode(store, Case([3]), range(1)))
        store.close()
        store.commit()

        assert content_of(first_path) == expected_content(Case([1, 2]))
        assert content_of(tmp_path / "out" / "g.h5") == expected_content(Case([3]))

    def test_a_name_and_a_directory_outside_ascii_work(self, kind, tmp_path, content_of):
        layout = make_layout(kind, "größe", str(tmp_path / "Ø aus"), os.getcwd())
        for case in (Case([1, "a"]),):
            store = make_store(kind, SerialWorld(), layout, None, 2)
            store.open()
            store.write(encode(store, case, range(2)))
            store.close()
            assert content_of(store.commit().container) == expected_content(case)

    def test_an_existing_container_is_never_overwritten(self, kind, tmp_path):
        store_case(kind, 1, tmp_path / "out", Case([1]))

        new = NewRun(Description("f", 1, kind), str(tmp_path / "out"), os.getcwd())
        with pytest.raises(InputError, match=r"f\.h5 exists and is never overwritten"):
            begin(new, print)

    def test_other_programs_may_hold_it_open(self, kind, tmp_path):
        """No lock stays behind, and none is asked for by a reader."""
        path = store_case(kind, 1, tmp_path / "out", Case([1.0], (None,)))

        with h5py.File(path) as one, h5py.File(path) as other:
            assert one["result_0"][0] == other["result_0"][0] == 1.0


class TestReturned:
    def paths(self, kind, directory, case, size=3):
        def write(world):
            return write_case(world, kind, directory, case).paths

        ranks = run_world(size, write)
        assert all(each == ranks[0] for each in ranks)
        return ranks[0]

    @pytest.mark.parametrize("kind", ["rank", "single_file"])
    def test_it_is_the_container(self, kind, tmp_path):
        assert self.paths(kind, tmp_path / "out", Case([1, 2])) == [str(tmp_path / "out" / "f.h5")]

    def test_with_a_file_per_task_it_is_their_paths_in_order(self, tmp_path):
        """With a file per computation it is their paths in task order."""
        paths = self.paths("computation", tmp_path / "out", Case([1, FAILED, 3, 4]))

        folder = tmp_path / "out" / "f_payload"
        assert paths == [str(folder / "f_0.h5"), None, *(str(folder / f"f_{k}.h5") for k in (2, 3))]
        with h5py.File(paths[2]) as file:
            assert file["result_0"][()].tolist() == [3]

    @every_size
    @pytest.mark.parametrize("root", [None, 0, 2])
    def test_in_memory_it_is_the_results_on_every_rank_or_on_one(self, root, size):
        case = Case([1, "a", FAILED, np.ones(2)])

        def write(world):
            store = MemoryStore(world, Layout("", "f"), None, 4)
            for index in range(world.rank, 4, world.size):
                chunk = range(index, index + 1)
                store.write(encode(store, case, chunk, in_memory=True))
            assert store.meet(f"end of {world.rank}") == [f"end of {k}" for k in range(world.size)]
            return store.commit(root)

        if root is not None and root >= size:
            return
        for rank, stored in enumerate(run_world(size, write)):
            if root in (None, rank):
                values, _ = values_of(stored, Options(Work("f", 4), Output("memory")))
                assert repr(values) == repr([1, "a", None, np.ones(2)])
            else:
                assert stored.pieces == []


@pytest.mark.parametrize("kind", ["rank", "computation"])
class TestUnequalRows:
    """ACME shows ``is_virtual`` and ``maxshape`` of an unlimited axis."""

    @pytest.mark.parametrize("name", RAGGED)
    def test_they_are_mapped_without_a_limit(self, kind, name, tmp_path):
        case = RAGGED[name]
        path = store_case(kind, 2, tmp_path / "out", case)

        with h5py.File(path) as file:
            rows = file["result_0"]
            assert rows.is_virtual == (rows.size > 0)
            at = case.shape.index(None)
            wanted = [*case.shape[:at], *(case.grid or [None]), *case.shape[at + 1 :]]
            limits = [None if w == np.inf else n for n, w in zip(rows.shape, wanted, strict=True)]
            assert rows.maxshape == tuple(limits)

    def test_very_many_are_copied(self, kind, tmp_path, monkeypatch, content_of):
        monkeypatch.setattr(linked, "MAX_MAPPINGS", 3)
        case = RAGGED["one axis"]
        path = store_case(kind, 2, tmp_path / "out", case)

        with h5py.File(path) as file:
            assert not file["result_0"].is_virtual
        assert content_of(path) == expected_content(case)

    def test_each_is_read_once_to_be_copied(self, kind, tmp_path, monkeypatch):
        """How long it is shows without that."""
        monkeypatch.setattr(linked, "MAX_MAPPINGS", 0)
        store = open_store(SerialWorld(), kind, tmp_path / "out", RAGGED["one axis"])
        store.write(encode(store, RAGGED["one axis"], range(4)))
        store.close()
        n_read, read = [0], h5py.Dataset.__getitem__

        def count(dataset, *where):
            n_read[0] += 1
            return read(dataset, *where)

        monkeypatch.setattr(h5py.Dataset, "__getitem__", count)
        store.commit()

        assert n_read == [4]

    def found(self, kind: str, path: Path, case: Case) -> list[str]:
        """Return what `check` says."""
        store = make_store(kind, SerialWorld(), Layout(str(path.parent), "f"), case.spec, 4)
        return list(faults(store, read_history(store.layout.dot_folder).done))

    def test_copies_of_an_earlier_version_are_compared(self, kind, tmp_path, monkeypatch):
        case = RAGGED["one axis"]
        with monkeypatch.context() as earlier:
            earlier.setattr(linked, "MAX_MAPPINGS", 0)
            path = store_case(kind, 2, tmp_path / "out", case)

        assert self.found(kind, path, case) == []
        with h5py.File(path, "r+") as file:
            file["result_0"][2, 1] = 7
        assert self.found(kind, path, case) == [f"{path}: rows 2 to 2 of result_0 differ"]

    def test_another_mapping_is_found(self, kind, tmp_path):
        case = RAGGED["one axis"]
        path = store_case(kind, 2, tmp_path / "out", case)
        with h5py.File(path, "r+") as file:
            other = h5py.VirtualLayout((4, 5), "f8", maxshape=(4, None))
            other[0, :2] = h5py.VirtualSource("f_payload/f_0.h5", "result_0", (2,))
            del file["result_0"]
            file.create_virtual_dataset("result_0", other, fillvalue=np.nan)

        assert f"{path}: result_0 is not what journals say" in self.found(kind, path, case)

    @pytest.mark.parametrize("damage", [os.remove, lambda path: path.write_bytes(b"")])
    def test_a_payload_that_is_damaged_is_named(self, kind, damage, tmp_path):
        case = RAGGED["one axis"]
        path = store_case(kind, 1, tmp_path / "out", case)
        (damaged,) = (tmp_path / "out" / "f_payload").glob("f_*0.h5")
        damage(damaged)

        said = self.found(kind, path, case)

        assert said
        assert all(str(damaged) in each for each in said)

    def test_a_directory_can_be_moved(self, kind, tmp_path, monkeypatch, content_of):
        case = RAGGED["further values"]
        store_case(kind, 1, tmp_path / "out", case)
        (tmp_path / "out").rename(tmp_path / "moved")
        monkeypatch.chdir("/")

        assert content_of(tmp_path / "moved" / "f.h5") == expected_content(case)


class TestManyFiles:
    @pytest.fixture
    def n_descriptors(self):
        """Few descriptors: a virtual dataset over many files would read NaN without an error."""
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        n = max(len(os.listdir("/proc/self/fd")) + 60, 320)
        resource.setrlimit(resource.RLIMIT_NOFILE, (n, limits[1]))
        yield n
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)

    @pytest.mark.parametrize(
        ("kind", "size", "shape"),
        [
            ("rank", 1, (None,)),
            ("rank", 3, (2, None)),
            ("computation", 1, (None, 2)),
            ("computation", 3, (None,)),
            ("rank", 3, (None, np.inf)),
            ("computation", 1, (np.inf, None)),
        ],
    )
    def test_more_than_256_files_with_rows_are_read_completely(
        self, kind, size, shape, tmp_path, monkeypatch, n_descriptors, content_of
    ):
        monkeypatch.setattr(payload_file, "MAX_BYTES", 1)  # every outcome gets a new file
        row = [0.5] * (len(shape) - 1) * 2 or 0.5
        case = Case([row if k % 100 != 7 else FAILED for k in range(300)], shape)
        path = store_case(kind, size, tmp_path / "out", case, n_chunk=1)

        assert len(list((tmp_path / "out" / "f_payload").iterdir())) > 256
        with h5py.File(path) as file:
            assert not file["result_0"].is_virtual
        assert content_of(path) == expected_content(case)

    @every_kind
    @every_size
    def test_payload_files_are_changed_after_so_many_groups(
        self, kind, size, tmp_path, monkeypatch, content_of
    ):
        monkeypatch.setattr(payload_file, "MAX_GROUPS", 4)
        case = Case([(k, large(k)) if k % 5 == 0 else k for k in range(40)])
        path = store_case(kind, size, tmp_path / "out", case)

        assert content_of(path) == expected_content(case)
        if kind == "rank":
            files = sorted(p.name for p in (tmp_path / "out" / "f_payload").iterdir())
            assert len(files) > size
            assert files[:2] == ["f_rank0_0.h5", "f_rank0_1.h5"]
            for name in files:
                with h5py.File(tmp_path / "out" / "f_payload" / name) as file:
                    assert len(file) <= 4 + 2  # the chunk that fills a file ends in it

    @pytest.mark.parametrize("name", ["rows-axis 1", "rows-large", "rows-further values"])
    @every_size
    def test_payload_files_are_changed_after_so_many_bytes(
        self, name, size, tmp_path, monkeypatch, content_of
    ):
        monkeypatch.setattr(payload_file, "MAX_BYTES", 1)
        path = store_case("rank", size, tmp_path / "out", CASES[name], n_chunk=1)

        assert len(list((tmp_path / "out" / "f_payload").iterdir())) > size
        assert content_of(path) == expected_content(CASES[name])

    def test_payload_files_are_changed_after_so_many_large_rows(
        self, tmp_path, monkeypatch, content_of
    ):
        monkeypatch.setattr(payload_file, "MAX_GROUPS", 2)
        path = store_case("rank", 1, tmp_path / "out", CASES["rows-large"], n_chunk=1)

        assert len(list((tmp_path / "out" / "f_payload").iterdir())) == 3
        assert content_of(path) == expected_content(CASES["rows-large"])

    @pytest.mark.parametrize(
        ("shape", "chunk"),
        [
            ((None, 20_001), (1, 10_001)),
            ((20_001, None), (10_001, 1)),
            ((3, None, 1, 20_001), (1, 1, 1, 10_001)),  # do not lie in one piece
            ((3, None, 1, 20_000), (1, 1, 1, 10_000)),
            ((5, None, 4_000), (3, 1, 4_000)),
            ((None, 9_000), (1, 9_000)),
        ],
        ids=str,
    )
    def test_rows_larger_than_a_chunk_of_hdf5_may_be(
        self, shape, chunk, tmp_path, monkeypatch, content_of
    ):
        monkeypatch.setattr(packed_rows, "MAX_CHUNK_BYTES", 100_000)
        row_shape = [n for n in shape if n is not None]
        case = Case([FAILED if k == 1 else grid(k, *row_shape) for k in range(4)], shape)
        path = store_case("rank", 1, tmp_path / "out", case)

        assert content_of(path) == expected_content(case)
        with h5py.File(tmp_path / "out" / "f_payload" / "f_rank0_0.h5") as file:
            assert file["result_0"].chunks == chunk

    @pytest.mark.parametrize("max_runs", [1, 2, 3])
    @pytest.mark.parametrize("name", ["rows-axis 0", "rows-axis 1", "rows-failed"])
    def test_rows_in_many_pieces_are_mapped_in_several_steps(
        self, name, max_runs, tmp_path, monkeypatch, content_of
    ):
        monkeypatch.setattr(container, "MAX_RUNS", max_runs)
        path = store_case("rank", 3, tmp_path / "out", CASES[name], n_chunk=1)

        assert content_of(path) == expected_content(CASES[name])

    @every_kind
    def test_rows_written_out_of_order_stand_in_task_order(self, kind, tmp_path, content_of):
        """A worker gets tasks that another has given back."""
        case = Case([float(k) for k in range(20)], (None,))
        store = open_store(SerialWorld(), kind, tmp_path / "out", case)
        for start in (15, 0, 10, 5):
            store.write(encode(store, case, range(start, start + 5)))
        store.close()

        assert content_of(store.commit().container) == expected_content(case)


def test_a_death_is_noted_though_the_medium_does_not_answer(tmp_path, monkeypatch):
    monkeypatch.setattr(recorded, "DEATH_S", 0.01)
    store = make_store("rank", SerialWorld(), Layout(str(tmp_path), "f"), None, 1)
    journal = Path(store.layout.journal(0))
    journal.parent.mkdir(parents=True)
    os.mkfifo(journal)  # whoever opens it waits for a reader

    store.note_death(3, "node2")

    with open(journal, "rb") as file:
        (block,) = np.frombuffer(file.read(), RECORD)
    assert (block["kind"], block["payload"], block["host"]) == (Block.DEATH, 3, b"node2")
