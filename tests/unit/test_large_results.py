"""Large arrays, which a child writes to the file itself."""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest
from running import (
    LARGE,
    LIMIT_S,
    events_of,
    failures_by_index,
    indices_of,
    make_assignment,
    only_event,
    run_tasks,
)

from acme_mpi.results.parts import PLACED_BYTES, is_placed
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.base import Outcome, PlaceRequest, Ready
from acme_mpi.runner.failure import MEDIUM

pytestmark = pytest.mark.once

# A function that crashes travels by value, with all it calls.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class TestPlacing:
    @pytest.fixture
    def file(self, tmp_path) -> Path:
        path = tmp_path / "data"
        path.write_bytes(bytes(1000))
        return path

    def run(self, runner, func, n, answer, spec=None):
        runner.prepare(
            make_assignment(func, list(range(n)), in_memory=False, can_place=True, spec=spec)
        )
        return run_tasks(runner, [range(n)], answer)

    def test_a_large_array_is_written_where_the_agent_says(self, lasting_child, file):
        requests = []

        def answer(request):
            requests.append(request)
            return str(file), 1000 + request.index * LARGE.nbytes

        outcomes = self.run(lasting_child, lambda x: LARGE + x, 3, answer)

        asked = [(each.index, each.k, each.shape, each.dtype) for each in requests]
        assert asked == [(k, 0, LARGE.shape, "<f8") for k in range(3)]
        assert file.read_bytes() == bytes(1000) + b"".join((LARGE + k).tobytes() for k in range(3))
        assert all(is_placed(p) for o in outcomes for each in o.content.parts for p in each)

    def test_the_bytes_are_those_in_c_order(self, lasting_child, file):
        outcomes = self.run(
            lasting_child,
            lambda x: np.asfortranarray(np.arange(PLACED_BYTES // 8).reshape(2, -1)),
            1,
            lambda request: (str(file), 0),
        )

        assert failures_by_index(outcomes) == {}
        assert file.read_bytes() == np.arange(PLACED_BYTES // 8).tobytes()

    def test_without_a_place_it_travels(self, lasting_child):
        outcomes = self.run(lasting_child, lambda x: LARGE + x, 2, lambda request: None)

        arrays = [each[0] for o in outcomes for each in o.content.parts]
        np.testing.assert_array_equal(arrays, [LARGE, LARGE + 1])

    def test_rows_are_placed_too(self, lasting_child, file):
        outcomes = self.run(
            lasting_child,
            lambda x: LARGE,
            1,
            lambda request: (str(file), 0),
            spec=RowSpec((len(LARGE),), 0, "<f8"),
        )

        assert [is_placed(row) for o in outcomes for row in o.content.rows] == [True]
        assert file.read_bytes() == LARGE.tobytes()

    def test_a_medium_that_refuses_is_the_storage_and_not_the_task(self, lasting_child):
        """A full disk ends the run; it is not a mistake of the function."""
        outcomes = self.run(lasting_child, lambda x: LARGE, 1, lambda request: ("/dev/full", 0))

        (failure,) = failures_by_index(outcomes).values()
        assert failure["type"] == MEDIUM
        assert "/dev/full" in failure["message"]
        assert "No space left" in failure["message"]

    def test_chunks_that_come_in_while_it_waits_are_run_afterwards(self, lasting_child, file):
        lasting_child.prepare(
            make_assignment(lambda x: LARGE, [1, 2, 3, 4], in_memory=False, can_place=True)
        )
        lasting_child.submit(range(2))
        outcomes, is_submitted = list[Outcome](), False
        for event in events_of(lasting_child):
            if isinstance(event, PlaceRequest):
                if not is_submitted:
                    lasting_child.submit(range(2, 4))
                    is_submitted = True
                lasting_child.answer(event, (str(file), 0))
            elif isinstance(event, Outcome):
                outcomes.append(event)
                if event.stop == 4:
                    break

        assert indices_of(outcomes) == [0, 1, 2, 3]

    def prepare_large(self, runner, n):
        tasks = list(range(n))
        runner.prepare(make_assignment(lambda x: LARGE + x, tasks, in_memory=False, can_place=True))
        assert isinstance(only_event(runner), Ready)
        for k in tasks:
            runner.submit(range(k, k + 1))

    def test_a_grant_to_a_dead_child_does_not_reach_the_next(self, start_runner, file):
        """What is granted to a dead child does not reach the next."""
        runner = start_runner()
        self.prepare_large(runner, 2)
        of_the_dead = only_event(runner)
        os.kill(runner.pid, signal.SIGKILL)

        answered, events = False, list[Any]()
        for event in events_of(runner):
            events.append(event)
            if isinstance(event, PlaceRequest):
                if not answered:
                    runner.answer(of_the_dead, (str(file), 1000 + LARGE.nbytes))
                    answered = True
                runner.answer(event, (str(file), 1000))
            if isinstance(event, Outcome) and event.stop == 2:
                break

        assert [type(event) for event in events] == [Outcome, Ready, PlaceRequest, Outcome]
        assert file.read_bytes() == bytes(1000) + (LARGE + 1).tobytes()

    def test_what_a_dead_child_asks_is_not_told(self, start_runner):
        runner = start_runner()
        self.prepare_large(runner, 2)
        channel, process = runner.descriptors()
        select.select([channel], [], [], LIMIT_S)
        os.kill(runner.pid, signal.SIGKILL)
        assert select.select([process], [], [], LIMIT_S)[0]

        assert [type(event) for event in runner.poll()] == [Outcome]

    def test_a_crash_after_placing_costs_its_task_alone(self, start_runner, file):
        def f(x):
            if x == 1:
                # The array is on its way, and then the process dies before it has reported.
                real = os.pwrite

                def write_half(descriptor, data, offset):
                    real(descriptor, data[: len(data) // 2], offset)
                    os._exit(1)

                os.pwrite = write_half
            return LARGE

        runner = start_runner()
        outcomes = self.run(runner, f, 3, lambda request: (str(file), request.index * LARGE.nbytes))

        assert set(failures_by_index(outcomes)) == {1}
        assert sorted(i for o in outcomes for r in o.succeeded() for i in r) == [0, 2]
