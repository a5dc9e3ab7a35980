"""scripts/bench: how many tasks it takes, what is ideal, what it says; and that it runs."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from benchmarks import functions, processes, rates, sampling, showing  # noqa: E402
from benchmarks.added import tell_added  # noqa: E402
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


@pytest.fixture
def unmarked(monkeypatch):
    """Have no process belong to the measurement."""
    monkeypatch.setenv(processes.MARKER, "none has it")


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


@pytest.mark.usefixtures("unmarked")
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

    figures = together(work, int, 5)
    assert figures["seconds"] > 0
    assert figures["cpu_s"] > 0
    parts = [path.read_text() for path in sorted(tmp_path.iterdir())]
    assert parts == ["0 1", "2 3 4"]
    assert self_scheduled(str, range(5)) == ["0", "1", "2", "3", "4"]


@pytest.mark.usefixtures("unmarked")
def test_many_maps_are_counted_after_a_few():
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


COUNTED = """
import json, os, resource, time
from benchmarks import processes

def burn():
    while time.process_time() < 0.2:  # a fork begins with 0
        pass

def child(work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    return pid

def ended():
    os.waitpid(child(burn), 0)

def left_alone():
    os.waitid(os.P_PID, child(burn), os.WEXITED | os.WNOWAIT)

def of_a_child():
    os.waitpid(child(ended), 0)

def living():
    reader, writer = os.pipe()

    def work():
        burn()
        os.write(writer, b"x")
        os.read(os.pipe()[0], 1)

    global kept
    kept = child(work)
    os.read(reader, 1)

def all_s():
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)

kept, before_s = None, all_s()
cpu_s = processes.used({call})["cpu_s"]
if kept:
    os.kill(kept, 9)
if {call} is not ended and {call} is not of_a_child:
    os.wait()
print(json.dumps([cpu_s, all_s() - before_s]))
"""
TICKS_S = 0.04  # of children that were waited for /proc tells user and system time in 0.01 s


@pytest.mark.slow
@pytest.mark.parametrize("call", ["ended", "left_alone", "of_a_child", "living"])
def test_processes_that_begin_and_end_in_a_call_count_once(call):
    """The CPU time of processes that begin, or end, during a call counts, and counts once."""
    counted = subprocess.run(
        [sys.executable, "-c", COUNTED.replace("{call}", call)],
        capture_output=True,
        check=True,
        timeout=100,
        env={**os.environ, processes.MARKER: uuid.uuid4().hex, "PYTHONPATH": str(ROOT / "scripts")},
    )

    cpu_s, all_s = json.loads(counted.stdout)
    assert 0.2 - TICKS_S <= cpu_s <= all_s + TICKS_S


RANKS = """
import os, time
from benchmarks import processes, ranks

def call():
    if os.fork() == 0:
        while time.process_time() < 0.1:
            pass
        os._exit(0)
    os.wait()

figures = ranks.used(call)
if ranks.is_rank_0():
    print("counted", figures["cpu_s"])
"""


@pytest.mark.slow
def test_rank_0_counts_for_all_ranks(mpiexec, write_script):
    env = {processes.MARKER: uuid.uuid4().hex, "PYTHONPATH": str(ROOT / "scripts")}
    ran = mpiexec(2, write_script(RANKS), env=env)

    assert ran.returncode == 0, ran.stderr
    assert float(ran.stdout.split("counted")[1]) >= 2 * 0.1 - 2 * TICKS_S


@pytest.mark.usefixtures("unmarked")
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


def added(workload, **figures):
    names = [side.name for side in workload.sides]
    told = {name: figures.get(name) for name in names}
    tell_added(workload, told)
    return [each and each.get("added_us") for each in told.values()]


@pytest.mark.parametrize(
    ("loop", "expected"),
    [
        ({"cpu_us": 5.0, "own_us": 5.0}, [7.0, 15.0, None, 0.0]),
        ({"rate": 1.0}, [8.0, 20.0, None, None]),
        (None, [8.0, None, None, None]),
    ],
)
def test_the_own_is_that_of_the_bare_loop_if_there_is_one(loop, expected):
    """Without one counts what the function states; if it has failed, the rest is not known."""
    ours, slow = {"cpu_us": 12.0, "own_us": 4.0}, {"cpu_us": 20.0}

    assert added(make_workload(), ours=ours, slow=slow, loop=loop) == expected


def test_a_busy_function_states_what_it_takes():
    assert rates.own_of(functions.burn_5ms, 3) == {"own_us": pytest.approx(15_000)}
    assert rates.own_of(functions.empty) == {}


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


@pytest.mark.parametrize(
    ("value_us", "text"),
    [(0.0523, "52.3 ns"), (-12.3456, "-12.3 us"), (1500, "1.5 ms"), (2e6, "2 s"), (0, "0 ns")],
)
def test_small_times_have_small_units(value_us, text):
    assert showing.duration(value_us) == text


def test_what_ours_adds_stands_beside_the_least_of_peers():
    workload = make_workload()
    measured = {
        "ours": make_measured(2, 4, 6, figure="added_us"),
        "slow": make_measured(3, 2, 1, figure="added_us"),
        "fast": make_measured(8, 8, 8, figure="added_us"),
        "loop": make_measured(1),
    }

    line = (measured, workload, workload.lines[0])
    assert showing.has_added(*line)
    assert showing.added_cells(*line) == [
        "calls (per task)",
        "4 us",
        "2 us",
        "6 us",
        "slow: 2 us",
        "2",
    ]


@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.key)
def test_figures_of_older_versions_are_shown_without_cpu_time(workload):
    """Figures of versions that did not count CPU time are shown without it."""
    for line in workload.lines:
        measured = {side.name: make_measured(1, figure=line.figure) for side in workload.sides}

        assert not showing.has_added(measured, workload, line)
        lines = showing.lines_of_all(measured, workload, line)
        assert all(cells[-1] == "" for cells in lines)


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
    assert figures["ours, files"].repetitions[0]["added_us"] > 0
    assert "start-up, 4 trivial tasks, files (per start)" in ended.stdout
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
    assert figures["added_us"] == figures["cpu_us"] > 0


@pytest.mark.slow
def test_an_unknown_workload_is_refused_with_the_known_ones(checkout):
    """A workload that is not there is refused with those that are."""
    ended = run_bench(checkout, "--only", "nothing")

    assert ended.returncode == 2
    assert "no workload has 'nothing' in its key; there are startup, empty, 1ms" in ended.stderr
