"""Runs that resume what earlier ones have left: only the rest is done, and all is there."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import by_stacks
from resume_runs import FAILED, N_TASKS, STOPPED, STORES, Place

from acme_mpi.cli.commands import run_command
from acme_mpi.history.records import read_history

pytestmark = pytest.mark.slow

# Stores between which builds of h5py differ: in how files are written, and in HDF5's version.
OF_EACH_BUILD = ("rank", "single file, rows")


@pytest.fixture
def place(tmp_path, mpiexec) -> Place:
    return Place(tmp_path, mpiexec)


class Undisturbed(dict[str, Any]):
    """The content of the container of a run without trouble, by store; made when asked for."""

    def __init__(self, place: Place, content_of: Callable[[Path], Any]) -> None:
        super().__init__()
        self._place, self._content_of = place, content_of
        self._folders: dict[str, Path] = {}

    def __missing__(self, store: str) -> Any:
        func, *options = STORES[store]
        folder = self._folders[store] = self._place.path / f"out{len(self)}"
        # Of a single file nothing is left that tells how many ranks have written it.
        n = 2 if store in OF_EACH_BUILD or not store.startswith("single file") else 0
        ran = self._place.run(n, func, *options, "--output-dir", str(folder))
        assert ran.returncode == 0, ran.stderr
        self[store] = self._content_of(folder / f"{func}.h5")
        return self[store]

    def copy_to(self, path: Path, store: str) -> Path:
        """Leave what that run has left, of 2 ranks but for single files: in a folder's ``out``."""
        assert self[store]
        return Path(shutil.copytree(self._folders[store], path / "out"))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, mpiexec, content_of) -> Undisturbed:
    return Undisturbed(Place(tmp_path_factory.mktemp("undisturbed"), mpiexec), content_of)


def stop_early(place: Place, store: str, n: int = 2, *more: str) -> Any:
    """Have a run halted when the task in its middle fails; the last ones never end."""
    func, *options = STORES[store]
    hang = {f"_{index}": "hang" for index in range(N_TASKS - 10, N_TASKS)}
    place.order(**{f"_{N_TASKS // 2}": "fail"}, **hang)
    halt = ("--halt", "now,fail=1", "--output-dir", "out", *more)
    ran = place.run(n, func, *options, *halt)
    place.order()
    return ran


@pytest.mark.parametrize("store", by_stacks(STORES, twice=OF_EACH_BUILD))
def test_the_rest_is_done_and_nothing_else(place, store, undisturbed, content_of):
    """By other numbers of ranks: 3, then 2, then 1; or 2, then 1."""
    func, *options = STORES[store]
    command = (*options, "--output-dir", "out")
    ran = stop_early(place, store, 3 if store in OF_EACH_BUILD else 2)
    assert ran.returncode == FAILED, ran.stderr
    first = place.take_calls()
    assert 0 < len(first) < N_TASKS

    rest = place.run(2 if store in OF_EACH_BUILD else 0, func, *command)
    assert rest.returncode == FAILED, rest.stderr
    second = place.take_calls()
    # What was running when the run ended is called again; nothing that had ended is.
    assert set(first) | set(second) == set(range(N_TASKS))
    assert N_TASKS // 2 not in second
    assert max(second.values()) == 1

    failed = place.run(0, func, *command, "--retry-failed")
    assert failed.returncode == 0, failed.stderr
    assert place.take_calls() == {N_TASKS // 2: 1}
    container = place.path / "out" / f"{func}.h5"
    assert content_of(container) == undisturbed[store]

    # Now there is nothing left to do, and nothing is done.
    before = container.stat().st_mtime_ns
    assert place.run(0, func, *command).returncode == 0
    assert not place.take_calls()
    assert container.stat().st_mtime_ns == before


@pytest.mark.parametrize("store", by_stacks(STORES, twice=OF_EACH_BUILD))
def test_recover_leaves_a_finished_run_as_it_is(place, store, undisturbed, content_of):
    """As a copy, and if it is not known whether the container is its own."""
    func = STORES[store][0]
    out = undisturbed.copy_to(place.path, store)
    shutil.copytree(out, place.path / "unknown")
    (place.path / "unknown" / ".acme_mpi" / func / "linked").unlink()

    for name in ("out", "unknown"):
        assert run_command(["recover", str(place.path / name)]) == 0
        assert content_of(place.path / name / f"{func}.h5") == undisturbed[store]
        assert run_command(["check", str(place.path / name)]) == 0


@pytest.mark.parametrize(
    "store",
    by_stacks(
        [store for store in STORES if store.startswith("single file")],
        twice=OF_EACH_BUILD,
    ),
)
def test_inputs_can_be_added_to_what_has_been_merged(place, store, undisturbed, content_of):
    """What was spooled is gone: it is taken from the container itself."""
    func, *options = STORES[store]
    command = (*options, "--output-dir", "out")
    np.savez(place.path / "args.npz", x=np.arange(N_TASKS - 5))
    assert place.run(0, func, *command).returncode == 0
    np.savez(place.path / "args.npz", x=np.arange(N_TASKS))
    place.take_calls()

    n = 2 if store in OF_EACH_BUILD else 0
    ran = place.run(n, func, *command, "--force-resume")

    assert ran.returncode == 0, ran.stderr
    assert set(place.take_calls()) == set(range(N_TASKS - 5, N_TASKS))
    assert content_of(place.path / "out" / f"{func}.h5") == undisturbed[store]
    assert not list((place.path / "out").rglob("spool"))


@pytest.mark.once
def test_tasks_that_had_ended_are_not_called_again(place):
    """Those of the first run that are journalled, and no others, are missing in the second."""
    assert stop_early(place, "rank").returncode == FAILED
    with h5py.File(place.path / "out" / "f.h5") as file:
        kept = {int(name.removeprefix("comp_")) for name in file}
    place.take_calls()

    place.run(2, "f", "--output-dir", "out")

    assert set(place.take_calls()) == set(range(N_TASKS)) - kept - {N_TASKS // 2}


def printed_command(ran: Any) -> str:
    (command,) = re.findall(r"resume with: (.*)", ran.stderr)
    return command


@pytest.mark.parametrize("n", by_stacks([0, 2], every=[2]))
def test_the_command_that_is_printed_goes_on(place, n, tmp_path_factory):
    from conftest import start_environment

    ran = stop_early(place, "rank, rows", n)
    place.take_calls()

    command = shlex.split(printed_command(ran))
    subprocess.run(command, cwd=place.path, env=start_environment(), timeout=60, check=False)

    called = place.take_calls()
    assert called
    assert max(called.values()) == 1
    status = subprocess.run(
        [*command, "--retry-failed"],
        cwd=place.path,
        env=start_environment(),
        timeout=60,
        check=False,
    )
    assert status.returncode == 0
    assert set(place.take_calls()) == {N_TASKS // 2}


@pytest.mark.once
def test_status_prints_a_command_that_can_be_typed(place, capsys):
    """Also where the directory has a blank in its name."""
    place.order(_7="fail", _39="hang")
    place.run(1, "f", "--halt", "now,fail=1", "--output-dir", "a folder")
    capsys.readouterr()

    assert run_command(["status", str(place.path / "a folder")]) == 0

    (command,) = re.findall(r"resume with: (.*)", capsys.readouterr().out)
    assert str(place.path / "a folder") in shlex.split(command)


@pytest.mark.once
class TestOtherComputations:
    @pytest.fixture
    def stopped(self, place) -> Place:
        assert stop_early(place, "rank, rows").returncode == FAILED
        place.take_calls()
        return place

    def run(self, place: Place, *more: str, options: tuple[str, ...] = (), n: int = 0) -> Any:
        func, *usual = STORES["rank, rows"]
        return place.run(n, func, *(options or usual), "--output-dir", "out", *more)

    def change_source(self, place: Place) -> None:
        path = place.path / "mymod.py"
        path.write_text(path.read_text().replace("* scale", "* scale * 2"))

    def test_a_changed_function_is_refused_with_the_ways_to_resume(self, stopped):
        self.change_source(stopped)

        ran = self.run(stopped, n=2)

        assert ran.returncode == 2
        assert "the source of `g` has changed" in ran.stderr
        assert "--force-resume" in ran.stderr
        assert "--overwrite" in ran.stderr
        assert ran.stderr.count("has changed") == 1  # said once, not once per rank
        assert not stopped.take_calls()

    def test_changed_arguments_are_named(self, stopped):
        np.savez(stopped.path / "args.npz", x=np.arange(N_TASKS) + 1)
        assert "argument `x` has changed" in self.run(stopped).stderr

        ran = self.run(stopped, "--set", "scale=2.5")
        assert "argument `scale`" in ran.stderr
        np.savez(stopped.path / "args.npz", x=np.arange(N_TASKS + 3))
        assert f"the number of tasks is {N_TASKS + 3} and was {N_TASKS}" in self.run(stopped).stderr

    def test_another_form_of_results_cannot_be_forced(self, stopped):
        ran = self.run(stopped, "--force-resume", options=("--single-file",))

        assert ran.returncode == 2
        assert "in another form" in ran.stderr
        assert "--overwrite" in ran.stderr
        assert "with --force-resume" not in ran.stderr

    def test_it_resumes_regardless_where_that_is_asked_for(self, stopped):
        self.change_source(stopped)

        ran = self.run(stopped, "--force-resume")

        assert ran.returncode == FAILED
        assert ran.stderr.count("resuming regardless: the source of `g` has changed") == 1
        called = stopped.take_calls()
        assert 0 < len(called) < N_TASKS
        with h5py.File(stopped.path / "out" / "g.h5") as file:
            rows = file["result_0"][()]
        for index in range(N_TASKS):
            factor = 2 if index in called else 1
            expected = np.array([index, -index]) * float(factor)
            if index == N_TASKS // 2:
                expected = np.full(2, np.nan)
            np.testing.assert_array_equal(rows[index], expected)

    def test_more_inputs_can_be_added(self, stopped):
        np.savez(stopped.path / "args.npz", x=np.arange(N_TASKS + 3))

        ran = self.run(stopped, "--force-resume", "--retry-failed")
        assert ran.returncode == STOPPED, ran.stderr
        ran = self.run(stopped)

        assert ran.returncode == 0, ran.stderr
        with h5py.File(stopped.path / "out" / "g.h5") as file:
            assert file["result_0"][:, 0].tolist() == list(range(N_TASKS + 3))

    def test_fewer_inputs_leave_the_others_out(self, stopped):
        np.savez(stopped.path / "args.npz", x=np.arange(5))

        ran = self.run(stopped, "--force-resume")

        assert ran.returncode == 0, ran.stderr
        with h5py.File(stopped.path / "out" / "g.h5") as file:
            assert file["result_0"][:, 0].tolist() == list(range(5))

    def test_it_begins_anew_where_that_is_asked_for(self, stopped):
        self.change_source(stopped)

        ran = self.run(stopped, "--overwrite", n=2)

        assert ran.returncode == 0, ran.stderr
        assert stopped.take_calls() == dict.fromkeys(range(N_TASKS), 1)
        with h5py.File(stopped.path / "out" / "g.h5") as file:
            assert file["result_0"][3].tolist() == [6.0, -6.0]
        folder = stopped.path / "out" / ".acme_mpi" / "g"
        assert not [path for path in folder.iterdir() if path.name.startswith("run1")]

    def test_other_functions_in_the_directory_are_not_touched(self, stopped):
        assert stopped.run(0, "f", "--output-dir", "out").returncode == 0
        assert stopped.run(0, "f", "--output-dir", "out", "--overwrite").returncode == 0
        stopped.take_calls()

        self.run(stopped)

        assert 0 < len(stopped.take_calls()) < N_TASKS


@pytest.mark.once
class TestWithoutADirectory:
    def test_resume_goes_on_with_the_newest_unfinished_run(self, place):
        place.order(_7="fail", _39="hang")  # so that one is open, whatever comes first
        for _ in range(2):
            ran = place.run(1, "f", "--halt", "now,fail=1")
            assert ran.returncode == FAILED, ran.stderr
        place.order()
        older, newer = sorted(path.name for path in place.path.glob("ACME_*"))
        place.take_calls()

        ran = place.run(0, "f", "--resume", "--retry-failed")
        assert place.take_calls() == {7: 1}, ran.stderr
        ran = place.run(2, "f", "--resume")
        assert ran.returncode == 0, ran.stderr
        place.take_calls()
        assert (place.path / newer / ".acme_mpi" / "f" / "finished").exists()
        assert not (place.path / older / ".acme_mpi" / "f" / "finished").exists()
        assert sorted(path.name for path in place.path.glob("ACME_*")) == [older, newer]

    def test_with_nothing_to_resume_it_begins(self, place):
        ran = place.run(2, "g", "--resume")

        assert ran.returncode == 0, ran.stderr
        assert len(list(place.path.glob("ACME_*"))) == 1

    def test_without_it_each_run_is_a_new_one(self, place):
        for _ in range(2):
            assert place.run(0, "g").returncode == 0

        assert len(list(place.path.glob("ACME_*"))) == 2


@pytest.mark.once
class TestRetryFailed:
    def test_exactly_the_failed_are_called(self, place):
        place.order(_3="fail", _17="die", _20="fail")
        ran = place.run(2, "f", "--output-dir", "out")
        assert ran.returncode == FAILED
        place.take_calls()
        place.order(_20="fail")

        ran = place.run(3, "f", "--output-dir", "out", "--retry-failed")

        assert ran.returncode == FAILED
        assert place.take_calls() == {3: 1, 17: 1, 20: 1}
        assert f"1 of {N_TASKS} tasks failed, first: task 20" in ran.stderr

    def test_without_it_they_stay_failed_and_are_told_again(self, place):
        place.order(_3="fail")
        place.run(0, "f", "--output-dir", "out")
        place.take_calls()

        ran = place.run(2, "f", "--output-dir", "out")

        assert ran.returncode == FAILED
        assert not place.take_calls()
        assert "task 3 on rank" in ran.stderr
        assert "no result for 3" in ran.stderr
        assert printed_command(ran).endswith("--retry-failed")


LOSSES = {
    "removed": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: os.truncate(path, path.stat().st_size // 2),
    "overwritten": lambda path: path.write_bytes(b"\x5a" * path.stat().st_size),
}


def tasks_in(place: Place, func: str, name: str) -> set[int]:
    """Return the tasks whose results are journalled in a payload file."""
    done = read_history(str(place.path / "out" / ".acme_mpi" / func)).done
    return {
        index
        for record in done
        for index in range(record["first"], record["first"] + record["count"])
        if name in (f"{func}_rank{record['rank']}_{record['payload']}.h5", f"{func}_{index}.h5")
    }


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize(
    "store", by_stacks(["rank", "computation", "rank, rows"], twice=OF_EACH_BUILD)
)
def test_lost_payloads_are_computed_again(place, store, loss, undisturbed, content_of):
    func, *options = STORES[store]
    command = (*options, "--output-dir", "out")
    out = undisturbed.copy_to(place.path, store)
    victim = max((out / f"{func}_payload").iterdir())
    lost = tasks_in(place, func, victim.name)
    LOSSES[loss](victim)

    ran = place.run(0, func, *command)

    assert ran.returncode == 0, ran.stderr
    assert "missing or damaged and are computed again" in ran.stderr
    assert str(victim) in ran.stderr
    assert place.take_calls() == dict.fromkeys(lost, 1)
    assert content_of(out / f"{func}.h5") == undisturbed[store]
    if loss == "removed":
        assert place.run(0, func, *command).returncode == 0
        assert not place.take_calls()


@pytest.mark.once
def test_a_run_on_many_ranks_whose_work_is_done_does_nothing(place):
    assert place.run(0, "f", "--output-dir", "out").returncode == 0
    place.take_calls()

    ran = place.run(3, "f", "--output-dir", "out")

    assert ran.returncode == 0, ran.stderr
    assert "SUCCESS! 40 tasks done" in ran.stderr
    assert not place.take_calls()


@pytest.mark.once
def test_a_directory_can_be_moved_between_two_runs(place, undisturbed, content_of):
    assert stop_early(place, "rank").returncode == FAILED
    shutil.move(place.path / "out", place.path / "elsewhere")

    ran = place.run(0, "f", "--output-dir", "elsewhere")
    ran = place.run(0, "f", "--output-dir", "elsewhere", "--retry-failed")

    assert ran.returncode == 0, ran.stderr
    assert content_of(place.path / "elsewhere" / "f.h5") == undisturbed["rank"]


SCRIPT = """
import json, os, sys
import acme_mpi
from mymod import f

def call(**options):
    {call}

try:
    found = call(**json.loads(sys.argv[1]) if len(sys.argv) > 1 else {options})
    text = json.dumps(["results", len(found)])
except acme_mpi.AcmeMpiError as error:
    text = json.dumps([type(error).__name__, str(error)])
with open("said.json", "w") as file:
    file.write(text)
"""
CALLS = {
    "map": "return acme_mpi.map(f, range(40), **options)",
    "ParallelMap": "return acme_mpi.ParallelMap(f, range(40), **options).compute()",
}


class TestPython:
    # Dialects have their keywords in common, whoever calls: each is called in one way.
    @pytest.mark.parametrize(("n", "dialect"), [(0, "map"), (2, "ParallelMap")])
    @pytest.mark.once
    def test_resume_goes_on(self, place, dialect, n):
        def call(**options: Any) -> tuple[str, Any]:
            text = SCRIPT.format(call=CALLS[dialect], options=options)
            ran = place.script(n, text)
            assert ran.returncode == 0, ran.stderr
            kind, what = json.loads((place.path / "said.json").read_text())
            return kind, what

        place.order(_13="fail")
        kind, text = call(output_dir="out")
        assert kind == "TaskError"
        assert "resume='failed', output_dir=" in text
        place.order()
        place.take_calls()

        kind, text = call(output_dir="out")
        assert kind == "PlaceError"
        assert "resume=True" in text
        assert call(output_dir="out", resume="failed")[0] == "results"
        assert place.take_calls() == {13: 1}
        assert call(output_dir="out", resume=True)[0] == "results"
        assert not place.take_calls()

    def test_resume_finds_its_directory(self, place):
        def call(**options: Any) -> Any:
            place.script(1, SCRIPT.format(call=CALLS["map"], options=options))
            return json.loads((place.path / "said.json").read_text())

        assert call(resume=True)[0] == "results"
        place.take_calls()
        assert call(resume=True)[0] == "results"

        assert not place.take_calls()
        assert len(list(place.path.glob("ACME_*"))) == 1

    @pytest.mark.parametrize("dialect", CALLS)
    @pytest.mark.once
    def test_wrong_values_are_refused(self, place, dialect):
        for options, words in (
            ({"resume": "maybe"}, "'failed' or 'force'"),
            ({"resume": 1.5}, "`resume` has to be"),
            ({"rules": "5m"}, "acme_mpi.Rules"),
            ({"resume": True, "write_worker_results": False}, "`resume` needs results in files"),
        ):
            place.script(0, SCRIPT.format(call=CALLS[dialect], options=options))
            kind, text = json.loads((place.path / "said.json").read_text())
            assert kind in ("InputError", "InputTypeError")
            assert words in text
