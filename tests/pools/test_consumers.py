"""Packages that take a pool get the ranks: two of them, in script mode, one start for all."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.once]

PROGRAM = Path(__file__).parents[1] / "pool_consumers.py"
PACKAGES = ("emcee", "dynesty", "scipy", "sklearn", "joblib", "schwimmbad")
OWN = ("pypoolparty", "futures")  # need no package: it is their users' code that runs
TELESCOPE = '''
"""Observations of a telescope that does not exist: files of event sizes."""

import os

import numpy as np


def init(work_dir):
    os.makedirs(os.path.join(work_dir, "results"))
    for run in range(5):
        np.savetxt(os.path.join(work_dir, f"{run:06d}.txt"), np.arange(10 * (run + 1)), "%d")


def make_jobs(work_dir):
    return [
        {
            "work_dir": work_dir,
            "basename": name,
            "broken_events_to_be_skipped": np.array([9, 19]),
            "threshold_size": 5,
        }
        for name in sorted(os.listdir(work_dir))
        if name.endswith(".txt")
    ]


def run_job(job):
    sizes = np.loadtxt(os.path.join(job["work_dir"], job["basename"]))
    sizes = np.delete(sizes, [k for k in job["broken_events_to_be_skipped"] if k < len(sizes)])
    with open(os.path.join(job["work_dir"], "results", job["basename"]), "w") as file:
        file.write(str(np.count_nonzero(sizes >= job["threshold_size"])))
    return 0
'''


@pytest.fixture(scope="module")
def all_facts(mpiexec, tmp_path_factory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("consumers")
    program = folder / PROGRAM.name
    program.write_text(PROGRAM.read_text())
    (folder / "tutorial_for_pypoolparty.py").write_text(TELESCOPE)
    names = [*filter(importlib.util.find_spec, PACKAGES), *OWN]

    ran = mpiexec(2, "-m", "acme_mpi", program, *names, cwd=folder, timeout_s=200)

    assert ran.returncode == 0, ran.stderr
    facts: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    return facts


@pytest.fixture
def facts_of(request) -> Callable[[str], dict[str, Any]]:
    """Return the function that returns a consumer's facts; it skips what is not installed."""

    def find(name: str) -> dict[str, Any]:
        if name not in OWN and importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: scripts/setup --test")
        facts: dict[str, Any] = request.getfixturevalue("all_facts")[name]
        assert "error" not in facts, facts["error"]
        return facts

    return find


def test_emcee_gets_the_chain_of_a_serial_run(facts_of):
    assert facts_of("emcee") == {"same chain": True}


def test_dynesty_takes_the_size_from_the_pool(facts_of):
    facts = facts_of("dynesty")

    assert facts["size"] == 2
    assert facts["told"] == facts["found"] == facts["serial"]
    assert facts["told"][0] == 2


def test_scipy_takes_the_pools_map_as_workers(facts_of):
    facts = facts_of("scipy")

    assert facts == {"same evolution": True, "minimum": [1, 1], "same minimum": True}


def test_scikit_learn_scores_on_the_ranks(facts_of):
    assert facts_of("sklearn") == {
        "same best": True,
        "same scores": True,
        "same cross validation": True,
        "elsewhere": [1, 1, 1],
    }


@pytest.mark.parametrize("what", ["list", "generator", "unordered", "two at once", "several calls"])
def test_joblib_returns_values_as(what, facts_of):
    assert facts_of("joblib")[what] is True


def test_joblib_calls_on_the_ranks_that_there_are(facts_of):
    facts = facts_of("joblib")

    assert facts["jobs"] == [2, 2, 1, 2, 2, 1]
    assert facts["elsewhere"] == 1


def test_joblib_raises_what_a_task_has_raised(facts_of):
    assert facts_of("joblib")["raised"] == ["ValueError", "three", "RemoteTraceback"]


def test_joblib_hears_of_a_process_that_died(facts_of):
    assert facts_of("joblib")["crash"] == "WorkerDied"


def test_joblib_ends_what_is_over_its_timeout(facts_of):
    assert facts_of("joblib")["timeout"] is True


def test_joblib_inside_of_a_task_is_sequential(facts_of):
    assert facts_of("joblib")["nested"] == [["SequentialBackend", [1, 1]]] * 2


def test_schwimmbads_users_only_choose_another_pool(facts_of):
    facts = facts_of("schwimmbad")

    assert facts["ranks"] == facts["serial"] == [[1, 4, 9, 16], [1, 4, 9, 16]]


def test_batches_are_those_of_schwimmbad(facts_of):
    facts = facts_of("schwimmbad")

    assert facts["batches"] == [[[0, 3], [0, 1, 2]], [[3, 5], [3, 4]]]
    assert facts["same batches"] is True


def test_pypoolpartys_tutorial_runs(facts_of):
    facts = facts_of("pypoolparty")

    assert facts["first"] == 22.276669409945463
    assert facts["return codes"] == [0] * 5
    assert facts["sizes"] == [4, 13, 23, 33, 43]
    assert facts["none"] == [1, None]


def test_the_standard_library_waits_for_futures(facts_of):
    facts = facts_of("futures")

    assert (facts["done"], facts["not done"], facts["failed"]) == (10, 0, True)
    assert facts["completed"] == [x * x for x in range(10)]
    assert facts["asyncio"] == ["9", "16", "three"]


def test_without_joblib_the_error_says_what_to_install(mpiexec):
    hide = "import sys; sys.modules['joblib'] = None"

    ran = mpiexec(0, "-c", f"{hide}; import acme_mpi; acme_mpi.register_joblib()")

    assert ran.stderr.splitlines()[-1].strip() == "Install it: pip install joblib"
