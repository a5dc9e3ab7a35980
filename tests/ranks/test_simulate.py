"""`scripts/simulate`: what it takes for granted, and what it finds with requests of known cost."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from acme_mpi.comm import TAG_REPORT
from acme_mpi.engine import master as master_module
from acme_mpi.engine.protocol import CallChunk, from_ints, to_ints

pytestmark = pytest.mark.once

SCRIPT = Path(__file__).parents[2] / "scripts" / "simulate"
REQUEST_S = 50e-6  # three times what was measured


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = importlib.machinery.SourceFileLoader("simulate_script", str(SCRIPT))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[loader.name] = module  # dataclasses look their module up
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("durations", "n_ranks", "expected_s"),
    [([1, 1, 1, 1], 2, 2), ([3, 1, 1, 1], 2, 3), ([1, 1, 1, 3], 2, 4), ([5], 10, 5)],
    ids=str,
)
def test_ideal_is_list_scheduling_in_index_order(script, durations, n_ranks, expected_s):
    assert script.ideal_s(np.array(durations, float), n_ranks) == expected_s


@pytest.mark.parametrize("arrived_s", [0.0, 5e-5, 2.5e-4, 0.05, 7.0])
def test_who_looks_with_growing_pauses_sees_it_soon(script, arrived_s):
    seen_s = script.next_look(0.0, arrived_s, 0.01)

    assert arrived_s <= seen_s <= arrived_s + max(1e-4, min(0.01, arrived_s))


@pytest.mark.parametrize("spread", ["constant", "normal", "exponential", "heavy"])
def test_durations_have_the_mean_that_was_asked_for(script, spread):
    assert script.draw(spread, 100_000, 2.0).mean() == pytest.approx(2.0, rel=0.05)


def test_a_worker_begins_its_reserve_when_its_chunk_ends(script):
    """Two chunks of 0.04 and 0.03 seconds, ordered at once, are reported 0.03 seconds apart."""
    clock = script.Clock()
    ranks = script.Ranks(1, np.full(7, 0.01), clock, 0.0)
    ranks.poll(TAG_REPORT)
    ranks.send(0, 0, to_ints(CallChunk(0, 4)))
    ranks.send(0, 0, to_ints(CallChunk(4, 7)))
    ended_s, messages = [], []
    while len(messages) < 2:
        clock.now_s = ranks.next_arrival_s()
        ended_s.append(clock.now_s)
        messages.append(from_ints(ranks.poll(TAG_REPORT)[1]))

    assert [message[:3] for message in messages] == [(0, 4, 1), (4, 7, 1)]
    assert ended_s[1] - ended_s[0] == pytest.approx(0.03)


def test_what_costs_nothing_is_ideal(script):
    cell = script.simulate("constant", 10, 1.0, 100, 0.0)

    assert cell.load == 0.0
    assert 0.98 < cell.efficiency <= 1.0  # rank 0 and the workers look now and then


def test_the_load_is_that_of_the_requests(script):
    cell = script.simulate("constant", 10, 1.0, 100, 0.01)

    assert cell.n_requests == 10 + 100
    assert cell.load == pytest.approx(cell.n_requests * 0.01 / cell.makespan_s)
    assert master_module.time is time


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spread", "n_ranks", "task_s"),
    [
        ("constant", 1000, 0.1),
        ("exponential", 1000, 0.1),
        ("constant", 10_000, 1.0),
        ("exponential", 10_000, 1.0),
        ("heavy", 100, 1.0),
    ],
)
def test_one_master_feeds_so_many_ranks(script, spread, n_ranks, task_s):
    cell = script.simulate(spread, n_ranks, task_s, 20 * n_ranks, REQUEST_S)

    assert cell.efficiency >= 0.95
    assert cell.load < 0.8


@pytest.mark.slow
def test_the_script_writes_what_it_has_found(tmp_path):
    path = tmp_path / "figures.json"
    options = ["--quick", "--request", "15", "--ranks", "10", "100", "--tasks", "1"]
    command = [sys.executable, str(SCRIPT), *options, "--json", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=100, check=True)

    cells = json.loads(path.read_text())["cells"]
    assert [(cell["spread"], cell["n_ranks"], cell["n_tasks"]) for cell in cells] == [
        (spread, n, 10 * n) for n in (10, 100) for spread in ("constant", "exponential")
    ]
    assert "one master feeds 100 ranks of 1 s tasks at >= 95%" in told.stdout
