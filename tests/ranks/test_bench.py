"""scripts/bench: how many tasks it takes, what is ideal, what it says; and that it runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from benchmarks import processes, rates, sampling, showing  # noqa: E402
from benchmarks.measuring import Measured  # noqa: E402
from benchmarks.stored import read_results, write_results  # noqa: E402
from benchmarks.together import self_scheduled, together  # noqa: E402
from benchmarks.workload import Line, Side, Target, Workload  # noqa: E402
from benchmarks.workloads import WORKLOADS  # noqa: E402


def make_measured(*values, figure="rate"):
    return Measured([None if value is None else {figure: value} for value in values])


def make_workload(*targets, unit="tasks/s"):
    sides = (
        Side("ours", "ours.rate"),
        Side("slow", "peers.rate"),
        Side("fast", "peers.rate"),
        Side("loop", "limits.rate"),
    )
    return Workload("key", sides, (Line("calls", "rate", unit, targets, limit="loop"),))


def cells(workload, **measured):
    return showing.cells_of(measured, workload, workload.lines[0])


# --- Figures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("task_s", [1e-7, 0.001, 0.1, 5])
def test_as_many_tasks_are_taken_as_last_the_wanted_time(task_s):
    n = rates.calibrated(lambda n: 0.05 + n * task_s, target_s=1)

    assert n == rates.N_WORKERS or 0.75 <= 0.05 + n * task_s <= 1.5
    assert n % rates.N_WORKERS == 0


def test_calls_that_cost_nothing_have_a_largest_number():
    assert rates.calibrated(lambda n: 0.0, target_s=1) == rates.N_MOST


def test_the_measured_run_is_not_one_that_found_the_number():
    calls = []
    figures = rates.measured(lambda func, inputs: calls.append(len(inputs)), abs, 6)

    assert calls == [rates.WARM_UP, 6]
    assert figures["rate"] == pytest.approx(6 / figures["seconds"])


@pytest.mark.parametrize(
    ("durations", "ideal_s"), [([], 0), ([1, 1, 1], 2), ([1, 1, 1, 1, 10], 12), ([3, 1, 1, 1], 3)]
)
def test_ideal_list_scheduling_feeds_who_is_free_first(durations, ideal_s):
    """Ideal list scheduling gives each task to who is free first."""
    assert rates.list_schedule_s(durations, n_workers=2) == ideal_s


def test_the_heavy_tail_comes_last_and_no_two_tasks_are_equal():
    durations = rates.heavy_tail(50)

    assert len(set(durations)) == 50
    assert durations[-1] == pytest.approx(100 * durations[0])


def test_bare_processes_share_all_indices(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def work(func, tasks):
        Path(str(tasks[0])).write_text(" ".join(str(func(x)) for x in tasks))

    assert together(work, int, 5) > 0
    parts = [path.read_text() for path in sorted(tmp_path.iterdir())]
    assert parts == ["0 1", "2 3 4"]
    assert self_scheduled(str, range(5)) == ["0", "1", "2", "3", "4"]


def test_many_maps_are_counted_after_a_few(monkeypatch):
    monkeypatch.setenv(processes.MARKER, "none has it")
    calls = []
    figures = rates.maps(lambda func, inputs: calls.append(list(inputs)), abs, 3, 20)

    assert calls == 22 * [[0, 1, 2]]
    assert figures["rate"] == pytest.approx(20 / figures["seconds"])


def test_processor_time_is_of_processes_that_live():
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    before_s = time.process_time()
    found = processes.cpu_by_process([os.getpid(), gone.pid])

    assert list(found) == [os.getpid()]
    assert before_s <= found[os.getpid()] <= time.process_time()


def test_each_step_maps_both_halves_of_the_walkers(monkeypatch):
    monkeypatch.setattr(sampling, "CALL_S", 0)
    data = sampling.make_data()
    sampling.keep(data)
    maps = []

    def run(func, inputs):
        maps.append((getattr(func, "args", None), len(inputs)))
        return list(map(func, inputs))

    sampling.closure(run, data, n_steps=1)

    half = sampling.N_WALKERS // 2
    each_round = [((data,), half)] * 2 + [((), half)] * 2
    assert maps == [(None, 2 * half), *(sampling.N_ROUNDS * each_round)]


# --- What is said -------------------------------------------------------------------------------


def test_ratios_are_those_within_repetitions():
    """A machine that is ten times slower in one repetition changes no ratio."""
    mine, theirs = make_measured(200, 20, 200), make_measured(100, 10, None)

    assert showing.ratio(mine, theirs, "rate") == 2
    assert showing.ratio(make_measured(None), make_measured(1), "rate") is None


@pytest.mark.parametrize(
    ("unit", "best", "ratio"), [("tasks/s", "fast: 4", "0.5"), ("s", "slow: 1", "2")]
)
def test_the_best_peer_is_the_fastest(unit, best, ratio):
    workload = make_workload(unit=unit)
    line = cells(
        workload,
        ours=make_measured(2),
        slow=make_measured(1),
        fast=make_measured(4),
        loop=make_measured(8),
    )

    assert line == ["calls", f"2 {unit}", best, ratio, "loop: 8", "0.25", "", ""]


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ([Target(">=", 2)], "met"),
        ([Target("<", 2)], "MISSED"),
        ([Target(">=", 2, ("slow",))], "met"),
        ([Target(">=", 1, ("slow", "fast"))], "MISSED"),
        ([Target(">=", 0.25, ("loop",)), Target(">=", 3)], "MISSED"),
        ([Target(">=", 2), Target(">=", 1, ("slow", "gone"))], "not known"),
        ([Target(">=", 3), Target(">=", 1, ("gone",))], "MISSED"),
        ([], ""),
    ],
)
def test_a_target_is_met_against_the_best_of_its_sides(targets, expected):
    measured = {
        "ours": make_measured(2),
        "slow": make_measured(1),
        "fast": make_measured(4),
        "loop": make_measured(8),
        "gone": make_measured(None),
    }

    assert showing.verdict(measured, make_workload(*targets).lines[0]) == expected


def test_what_failed_is_shown_and_meets_nothing():
    workload = make_workload(Target(">=", 0))
    gone = Measured([None, {"rate": 1.0}], "ImportError: no peer")
    none = make_measured(None, None)
    line = cells(workload, ours=none, slow=gone, fast=none, loop=none)

    assert line == ["calls", "failed", "slow: 1", "", "loop: failed", "", ">= 0", "MISSED"]
    assert showing.troubles({"key": {"slow": gone}}) == [
        "- key, slow, failed 1 of 2 times: ImportError: no peer"
    ]


def test_figures_are_read_as_they_were_written(tmp_path):
    results = {"key": {"ours": make_measured(1.5, None), "peer": Measured([None], "gone")}}
    write_results(tmp_path / "figures.json", {"cores": 2}, results)

    assert read_results(tmp_path / "figures.json") == ({"cores": 2}, results)


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.key)
def test_every_line_and_target_names_sides_that_are_measured(workload):
    names = [side.name for side in workload.sides]

    assert len(set(names)) == len(names)
    for line in workload.lines:
        assert {line.ours, line.limit or line.ours} <= set(names)
        assert all(set(target.against) <= set(names) for target in line.targets)


# --- The program --------------------------------------------------------------------------------


@pytest.fixture
def checkout(tmp_path):
    """Return a checkout without the peers' environment."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/bench", tmp_path / "scripts")
    for name in ("scripts/benchmarks", "acme_mpi"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv").symlink_to(sys.prefix)
    return tmp_path


def run_bench(checkout, *options):
    return subprocess.run(
        [checkout / ".venv/bin/python", checkout / "scripts/bench", *options],
        text=True,
        capture_output=True,
        timeout=100,
        cwd=checkout,
        env={k: v for k, v in os.environ.items() if not k.startswith(("OMPI_", "PMIX_", "PMI_"))},
    )


@pytest.mark.slow
def test_without_peers_ours_alone_is_measured(checkout):
    """Without peers ours is measured and the missing are named."""
    ended = run_bench(checkout, "--quick", "--only", "startup", "--json", "figures.json")

    assert ended.returncode == 0, ended.stderr
    assert "there is no .venv-bench, so no peers; call scripts/setup --bench" in ended.stderr
    assert "- startup, joblib, failed 1 of 1 times: no .venv-bench" in ended.stdout
    figures = read_results(checkout / "figures.json")[1]["startup"]
    assert figures["ours, files"].repetitions[0]["seconds"] > 0
    assert figures["Pool"].repetitions == [None]
    again = run_bench(checkout, "--from-json", "figures.json")
    assert again.stdout == ended.stdout


@pytest.mark.slow
def test_ranks_serve_the_script_of_a_pool(checkout):
    """Pools are measured in a script that ranks serve."""
    ended = run_bench(checkout, "--quick", "--only", "submit", "--json", "figures.json")

    assert ended.returncode == 0, ended.stderr
    figures = read_results(checkout / "figures.json")[1]["submit"]["ours"].repetitions[0]
    assert figures["rate"] > 0
    assert figures["cores"] > 0


@pytest.mark.slow
def test_an_unknown_workload_is_refused_with_the_known_ones(checkout):
    """A workload that is not there is refused with those that are."""
    ended = run_bench(checkout, "--only", "nothing")

    assert ended.returncode == 2
    assert "no workload has 'nothing' in its key; there are startup, empty, 1ms" in ended.stderr
