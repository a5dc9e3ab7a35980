"""Results as pickles, the records of all ranks, and the removal of old directories."""

from __future__ import annotations

import os
import pickle
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acme_mpi.comm import SerialWorld, ThreadWorld
from acme_mpi.errors import StoreError
from acme_mpi.history.folders import choose_layout, make_folders, mark_finished, remove_old_runs
from acme_mpi.history.journal import AS_GROUPS, AS_PICKLES, AS_ROWS, Journal, pack_record
from acme_mpi.history.layout import Layout
from acme_mpi.history.records import (
    indices_of,
    missing_tasks,
    n_sources,
    share_records,
    tasks_with_groups,
)
from acme_mpi.results.content import Content
from acme_mpi.runner.base import Outcome
from acme_mpi.storage.pickles import PickleStore, emergency_pickles
from acme_mpi.tasks.pickling import pickle_result


def make_layout(*where: Any) -> Layout:
    """Make the directories of a run; kind, name, output directory and base as `choose_layout`."""
    layout = choose_layout(*where)
    make_folders(where[0], layout)
    return layout


@pytest.fixture
def layout(tmp_path) -> Layout:
    """Return a new place for pickles of a function called f."""
    return make_layout("pickle", "f", "out", str(tmp_path))


def pickled(start: int, stop: int, *values: Any, failed: tuple[int, ...] = ()) -> Outcome:
    """Return the outcome of the tasks in [start, stop) that returned `values`."""
    failures = [{"index": index, "type": "ValueError", "message": ""} for index in failed]
    return Outcome(start, stop, failures, Content(parts=[pickle_result(each) for each in values]))


class TestPickleStore:
    def test_every_result_is_one_pickle_that_plain_pickle_reads(self, layout):
        values = {0: {"x": 1}, 1: None, 2: [np.arange(3)]}

        def write(world: ThreadWorld) -> Any:
            store = PickleStore(world, layout, None, 4)
            store.open()
            if world.rank == 1:
                store.write(pickled(0, 2, values[0], values[1]))
            else:
                store.write(pickled(2, 4, values[2], failed=(3,)))
            store.close()
            world.barrier()  # everybody's records are on the disk
            return store.commit().paths

        paths = [layout.pickle(index) for index in range(3)]
        assert ThreadWorld.run(2, write) == [[*paths, None]] * 2
        read = [pickle.loads(Path(path).read_bytes()) for path in paths]
        assert repr(read) == repr(list(values.values()))
        shown = {path.name for path in Path(layout.directory).iterdir()}
        assert shown == {".acme_mpi", "f_0.pickle", "f_1.pickle", "f_2.pickle"}

    def test_a_second_attempt_replaces_the_first(self, layout):
        store = PickleStore(SerialWorld(), layout, None, 1)
        store.open()
        store.write(pickled(0, 1, "a long text " * 100))
        store.write(pickled(0, 1, "short"))
        store.close()

        assert Path(layout.pickle(0)).read_bytes() == pickle_result("short")

    def test_a_directory_that_is_gone_is_an_error_with_the_file(self, layout):
        """A directory that is gone is a storage error that names the file."""
        store = PickleStore(SerialWorld(), layout, None, 1)
        store.open()
        os.rename(layout.directory, layout.directory + "-moved")

        with pytest.raises(StoreError, match=re.escape(layout.pickle(0))):
            store.write(pickled(0, 1, 3))
        store.close()


@pytest.fixture
def records(layout) -> Any:
    """Return the records of three ranks, the second of which has none."""
    journals = {
        0: [
            pack_record(range(6, 9), form=AS_ROWS),
            pack_record(range(1), payload=1, form=AS_GROUPS),
            pack_record(range(11, 12), form=AS_PICKLES),
        ],
        2: [
            pack_record(range(1, 4), form=AS_ROWS | AS_GROUPS),
            pack_record(range(9, 10), payload=1, form=AS_ROWS),
            pack_record(range(4, 5), form=AS_PICKLES),
        ],
    }
    for rank, packed in journals.items():
        journal = Journal(layout.journal(rank))
        journal.append(packed)
        journal.close()
    first, *others = ThreadWorld.run(3, lambda world: share_records(world, layout))
    assert all(np.array_equal(first, other) for other in others)
    return first


class TestRecords:
    def test_all_ranks_share_them_in_task_order(self, records):
        found = records[["first", "count", "rank"]].tolist()

        assert found == [(0, 1, 0), (1, 3, 2), (4, 1, 2), (6, 3, 0), (9, 1, 2), (11, 1, 0)]

    def test_tasks_done_and_missing(self, records):
        assert list(indices_of(records)) == [0, 1, 2, 3, 4, 6, 7, 8, 9, 11]
        assert missing_tasks(records, 13).tolist() == [5, 10, 12]

    def test_each_file_with_rows_is_one_source(self, records):
        assert n_sources(records) == 3

    def test_groups_are_where_their_rank_has_put_them(self, records):
        found = [(tuple(place), index) for place, index in tasks_with_groups(records)]

        assert found == [((0, 1), 0), ((2, 0), 1), ((2, 0), 2), ((2, 0), 3)]

    def test_emergency_pickles_are_named_in_task_order(self, records, layout):
        folder = Path(layout.directory) / "f_payload"

        paths = [str(folder / f"f_{index}.pickle") for index in (4, 11)]
        assert emergency_pickles(layout, records) == paths


MADE_UP = [f"ACME_20260101-000000-{k:06}" for k in range(4)]


def make_run(base: Path, folder: str, days: float | None, name: str = "f") -> Path:
    """Make the directory of a run that has ended `days` days ago; None: that has not ended."""
    layout = make_layout("rank", name, folder, str(base))
    if days is not None:
        mark_finished(layout)
        ended_s = time.time() - days * 86400
        os.utime(Path(layout.dot_folder) / "finished", (ended_s, ended_s))
    return Path(layout.directory)


class TestOldRuns:
    def test_those_that_ended_before_the_limit_are_removed(self, tmp_path):
        """Those that ended before the limit are removed and returned."""
        old, older = make_run(tmp_path, MADE_UP[1], 8), make_run(tmp_path, MADE_UP[2], 30)
        young = make_run(tmp_path, MADE_UP[3], 6)

        assert remove_old_runs(str(tmp_path), 7) == [str(old), str(older)]
        assert list(tmp_path.iterdir()) == [young]

    def test_zero_days_are_all_that_have_ended(self, tmp_path):
        ended, running = make_run(tmp_path, MADE_UP[1], 0), make_run(tmp_path, MADE_UP[2], None)

        assert remove_old_runs(str(tmp_path), 0) == [str(ended)]
        assert list(tmp_path.iterdir()) == [running]

    def test_the_last_run_of_a_directory_counts(self, tmp_path):
        make_run(tmp_path, MADE_UP[1], 30, "f")
        make_run(tmp_path, MADE_UP[1], 1, "g")

        assert remove_old_runs(str(tmp_path), 7) == []

    def test_a_run_that_has_not_ended_keeps_its_directory(self, tmp_path):
        make_run(tmp_path, MADE_UP[1], 30, "f")
        make_run(tmp_path, MADE_UP[1], None, "g")

        assert remove_old_runs(str(tmp_path), 7) == []

    def test_what_does_not_carry_the_mark_is_kept(self, tmp_path):
        (tmp_path / MADE_UP[1]).mkdir()
        (tmp_path / "ACME_notes").write_text("not ours")
        elsewhere = make_run(tmp_path, "results", 30)
        (tmp_path / MADE_UP[2]).symlink_to(elsewhere)
        (tmp_path / MADE_UP[3] / ".acme_mpi").mkdir(parents=True)
        before = set(tmp_path.rglob("*"))

        assert remove_old_runs(str(tmp_path), 0) == []
        assert set(tmp_path.rglob("*")) == before

    def test_a_name_that_a_user_has_chosen_is_kept(self, tmp_path):
        make_run(tmp_path, "ACME_study", 30)

        assert remove_old_runs(str(tmp_path), 0) == []

    def test_the_directory_in_use_is_kept(self, tmp_path):
        used = make_run(tmp_path, MADE_UP[1], 30)

        assert remove_old_runs(str(tmp_path), 0, keep=str(used)) == []

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give directories away")
    def test_what_belongs_to_others_is_kept(self, tmp_path):
        os.chown(make_run(tmp_path, MADE_UP[1], 30), 65534, 65534)

        assert remove_old_runs(str(tmp_path), 0) == []

    def test_the_base_is_taken_literally(self, tmp_path):
        """Not as a pattern."""
        (tmp_path / "[a]").mkdir()
        ours = make_run(tmp_path / "[a]", MADE_UP[1], 30)
        others = make_run(tmp_path / "a", MADE_UP[1], 30)

        assert remove_old_runs(str(tmp_path / "[a]"), 0) == [str(ours)]
        assert others.exists()
