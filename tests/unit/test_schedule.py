"""Sizes of chunks: every index exactly once, and chunks that last as long as promised."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from acme_mpi.engine.schedule import Factoring, FixedChunks, Schedule

pytestmark = pytest.mark.once

SCHEDULES = {
    "one at a time": FixedChunks,
    "chunks of 7": lambda n_tasks, n_workers: FixedChunks(n_tasks, n_workers, size=7),
    "factoring": Factoring,
}

every_schedule = pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES.keys())


def drain(schedule: Schedule, task_s: float = 0.01) -> list[range]:
    """Hand out everything, to the workers in turn, each task lasting `task_s`."""
    chunks, worker = [], 0
    while chunk := schedule.next_chunk(worker):
        chunks.append(chunk)
        schedule.record(len(chunk), len(chunk) * task_s)
        worker = (worker + 1) % schedule.n_workers
    return chunks


def indices(chunks) -> list[int]:
    return sorted(index for chunk in chunks for index in chunk)


@every_schedule
@pytest.mark.parametrize("n_workers", [1, 2, 3, 5, 200])
@pytest.mark.parametrize("n_tasks", [0, 1, 3, 100])
def test_each_index_is_handed_out_once(make, n_tasks, n_workers):
    schedule = make(n_tasks, n_workers)

    assert indices(drain(schedule)) == list(range(n_tasks))
    assert schedule.n_left == 0


@every_schedule
def test_nothing_left_gives_an_empty_chunk_again_and_again(make):
    schedule = make(3, 2)
    drain(schedule)

    assert [len(schedule.next_chunk(0)) for _ in range(3)] == [0, 0, 0]


@every_schedule
def test_what_is_given_back_is_handed_out_again_before_the_rest(make):
    schedule = make(100, 2)
    first = schedule.next_chunk(0)
    schedule.next_chunk(1)

    schedule.give_back(first)

    assert schedule.next_chunk(1).start == first.start


@every_schedule
def test_what_comes_back_after_the_end_is_handed_out_again(make):
    """What is given back after the end is handed out once more."""
    schedule = make(10, 2)
    drain(schedule)

    schedule.give_back(range(4, 7))

    assert schedule.n_left == 3
    assert indices(drain(schedule)) == [4, 5, 6]


@every_schedule
def test_giving_back_nothing_changes_nothing(make):
    schedule = make(10, 2)

    schedule.give_back(range(5, 5))

    assert indices(drain(schedule)) == list(range(10))


@every_schedule
@settings(deadline=None, max_examples=50)
@given(data=st.data())
def test_each_index_is_out_or_left_whatever_happens(make, data):
    """Random requests, returns of any part of a chunk, and durations from 1 ns to 100 s."""
    n_tasks, n_workers = data.draw(st.integers(0, 60)), data.draw(st.integers(1, 5))
    schedule, held, done = make(n_tasks, n_workers), [], []
    for _ in range(data.draw(st.integers(0, 40))):
        action = data.draw(st.sampled_from(["request", "finish", "give back"]))
        if action == "request":
            chunk = schedule.next_chunk(data.draw(st.integers(0, n_workers - 1)))
            held += [chunk] if chunk else []
        elif held:
            chunk = held.pop(data.draw(st.integers(0, len(held) - 1)))
            cut = data.draw(st.integers(chunk.start, chunk.stop))
            if action == "finish":
                cut = chunk.stop
            done.append(range(chunk.start, cut))
            schedule.record(cut - chunk.start, data.draw(st.floats(1e-9, 100)))
            schedule.give_back(range(cut, chunk.stop))
        assert schedule.n_left == n_tasks - len(indices(held + done))
    rest = drain(schedule)

    assert indices(held + done + rest) == list(range(n_tasks))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(1e-7, 10), min_size=300, max_size=300), st.integers(1, 8))
def test_random_durations_lose_no_index(durations, n_workers):
    schedule, chunks = Factoring(len(durations), n_workers), []
    while chunk := schedule.next_chunk(0):
        chunks.append(chunk)
        schedule.record(len(chunk), sum(durations[i] for i in chunk))

    assert indices(chunks) == list(range(len(durations)))


class TestFactoring:
    LONGEST_S, SHORTEST_S = 0.16, 0.002

    def make(self, n_tasks=100_000, n_workers=4, task_s=None):
        schedule = Factoring(n_tasks, n_workers, self.LONGEST_S, self.SHORTEST_S)
        if task_s is not None:
            for _ in range(n_workers):
                schedule.record(1, task_s)
        return schedule

    def test_chunks_hold_one_task_until_a_duration_is_known(self):
        schedule = self.make()

        assert [len(schedule.next_chunk(0)) for _ in range(10)] == [1] * 10

    def test_of_many_workers_the_first_to_report_do_not_decide(self):
        """They have the shortest tasks."""
        schedule = self.make(n_workers=1000)
        for _ in range(999):
            schedule.record(1, 1e-6)
        assert len(schedule.next_chunk(0)) == 1
        schedule.record(1, 1e-6)

        assert len(schedule.next_chunk(0)) > 1

    @pytest.mark.parametrize("task_s", [1e-9, 1e-6, 1e-4, 1e-3, 0.01, 0.159, 0.161, 1, 1000])
    def test_no_chunk_of_several_tasks_lasts_longer_than_the_bound(self, task_s):
        chunks = drain(self.make(20_000, task_s=task_s), task_s)

        several = [len(chunk) * task_s for chunk in chunks if len(chunk) > 1]
        assert all(duration <= self.LONGEST_S * (1 + 1e-9) for duration in several)

    @pytest.mark.parametrize("task_s", [1e-6, 1e-5, 1e-4, 0.0019])
    def test_no_chunk_but_the_last_is_too_short_for_its_messages(self, task_s):
        chunks = drain(self.make(20_000, task_s=task_s), task_s)

        # The chunk holds the greatest whole number of tasks that fits into the lower bound.
        assert all((len(chunk) + 1) * task_s > self.SHORTEST_S for chunk in chunks[:-1])

    @pytest.mark.parametrize("n_workers", [1, 2, 5, 16, 64])
    def test_the_tail_is_made_of_single_tasks(self, n_workers):
        sizes = [len(chunk) for chunk in drain(self.make(1000, n_workers, task_s=0.01), 0.01)]

        assert sizes[-1] == 1
        assert max(sizes[-n_workers:]) <= 2

    def test_sizes_never_grow_while_durations_stay_the_same(self):
        sizes = [len(chunk) for chunk in drain(self.make(3000, task_s=0.003), 0.003)]

        assert sizes == sorted(sizes, reverse=True)

    def test_no_batch_hands_out_more_than_half_of_what_is_left(self):
        schedule = self.make(1000, n_workers=4, task_s=0.003)
        batch = [len(schedule.next_chunk(worker)) for worker in range(4)]

        assert sum(batch) <= 500 + 4

    def test_many_short_tasks_take_few_chunks(self):
        """A million empty tasks are not a million messages."""
        assert len(drain(self.make(1_000_000, task_s=1e-7), 1e-7)) < 1000

    def test_an_immeasurably_short_task_is_no_division_by_zero(self):
        schedule = self.make(100, task_s=0.0)

        assert indices(drain(schedule, 0.0)) == list(range(100))

    def test_a_record_of_no_tasks_changes_nothing(self):
        schedule = self.make()
        schedule.record(0, 5.0)

        assert len(schedule.next_chunk(0)) == 1

    def test_chunks_shrink_when_tasks_turn_out_longer(self):
        schedule = self.make(task_s=1e-5)
        before = len(schedule.next_chunk(0))
        for _ in range(3):
            schedule.record(1, 1.0)

        assert before > 1
        assert len(schedule.next_chunk(0)) == 1
