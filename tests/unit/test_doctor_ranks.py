"""Ranks tell rank 0 what they see; one that is silent is named, and nobody waits for it."""

from __future__ import annotations

import json
import os
import queue
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from acme_mpi.comm.post import Post
from acme_mpi.doctor.finding import OK, WRONG, wrong
from acme_mpi.doctor.guard import Guard
from acme_mpi.doctor.rank_facts import facts_of_rank
from acme_mpi.doctor.ranks import (
    Seen,
    Way,
    dismiss,
    follow,
    hear_all,
    look_for,
    marked,
    measure,
)
from acme_mpi.doctor.report import Report
from acme_mpi.doctor.spread import (
    check_pythons,
    check_ranks,
    check_sharing,
    check_start,
    check_ways,
)

pytestmark = pytest.mark.once

LIMIT_S = 30.0
FACTS = facts_of_rank(0)


class ThreadPost(Post):
    """Letters between threads."""

    def __init__(self, rank: int, boxes: list[queue.SimpleQueue[tuple[int, Any]]]) -> None:
        self._rank, self._boxes = rank, boxes

    def send(self, dest: int, content: Any) -> None:
        self._boxes[dest].put((self._rank, content))

    def letters(self) -> Iterator[tuple[int, Any]]:
        while not self._boxes[self._rank].empty():
            yield self._boxes[self._rank].get()

    def is_due(self) -> bool:
        return True

    def descriptors(self) -> list[int]:
        return []

    def pause_s(self, waits_for: list[int]) -> float:
        return 1e-4

    def has_woken(self) -> None:
        pass


@pytest.fixture
def posts() -> list[ThreadPost]:
    """Return the posts of three ranks."""
    boxes: list[queue.SimpleQueue[tuple[int, Any]]] = [queue.SimpleQueue() for _ in range(3)]
    return [ThreadPost(rank, boxes) for rank in range(3)]


def start(post: ThreadPost, rank: int) -> threading.Thread:
    thread = threading.Thread(target=follow, args=(post, FACTS._replace(rank=rank)), daemon=True)
    thread.start()
    return thread


def test_all_ranks_are_heard(posts, tmp_path):
    threads = [start(posts[rank], rank) for rank in (1, 2)]

    with marked(str(tmp_path)) as folder:
        seen = hear_all(posts[0], [1, 2], folder, LIMIT_S)
    way = measure(posts[0], 2, LIMIT_S)
    dismiss(posts[0], [1, 2])

    assert {rank: (each.facts.rank, each.missed) for rank, each in seen.items()} == {
        1: (1, ""),
        2: (2, ""),
    }
    assert way is not None
    assert way.both_ways_s > 0
    assert abs(way.clock_s) <= way.both_ways_s
    for thread in threads:
        thread.join(LIMIT_S)
        assert not thread.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_a_rank_that_is_silent_is_named(posts):
    start(posts[1], 1)

    seen = hear_all(posts[0], [1, 2], "", 0.5)
    dismiss(posts[0], [1])
    found = check_ranks([FACTS, seen[1].facts], 3, 0.5)

    assert set(seen) == {1}
    assert measure(posts[0], 2, 0.01) is None
    assert (found[-1].check, found[-1].level) == ("silent ranks", WRONG)
    assert "rank(s) 2 of 3 have not answered within 0 s" in found[-1].evidence


def test_a_file_that_is_not_found_is_told(tmp_path):
    with marked(str(tmp_path)) as folder:
        assert look_for(folder) == ""
    assert look_for(folder) == "No such file or directory"
    assert look_for(str(tmp_path)) == "it is not there"
    with marked("/nowhere") as none:
        assert none == ""


def test_a_folder_that_not_all_ranks_see_is_named():
    here = FACTS._replace(host="n2")
    seen = {1: Seen(here, ""), 2: Seen(here, "No such file or directory")}

    (found,) = check_sharing(seen, "/o/x", "/o")

    assert (found.check, found.level) == ("one place for all", WRONG)
    assert "is not found by rank(s) 2 on n2: No such file" in found.evidence
    assert check_sharing({1: seen[1]}, "/o/x", "/o")[0].level == OK
    assert check_sharing({}, "/o/x", "/o") == []


def test_another_python_is_named():
    other = FACTS._replace(rank=1, host="n2", python="/usr/bin/python 3.9")
    older = FACTS._replace(rank=1, host="n2", versions={**FACTS.versions, "h5py": "2"})

    for each in (other, older):
        (found,) = check_pythons([FACTS, each])
        assert (found.check, found.level) == ("Python", WRONG)
        assert "on n2 (rank 1)" in found.evidence
    assert check_pythons([FACTS, FACTS])[0].level == OK


def test_clocks_that_differ_are_named():
    hosts = {1: "n1", 2: "n2"}

    found = check_ways([Way(1, 1e-4, 0.0), Way(2, 1e-3, -40.0)], hosts)

    assert "1.00 ms at most, for rank 2 on n2" in found[0].evidence
    assert (found[1].check, found[1].level) == ("one place for all", WRONG)
    assert "n2 differs from rank 0's by -40.0 s" in found[1].evidence
    assert [each.level for each in check_ways([Way(1, 1e-4, 1e-5)], hosts)] == [OK, OK]


def test_a_slow_start_is_told():
    slow = FACTS._replace(host="n2", ready_s=30.0)

    (found,) = check_start([FACTS, slow], 0.5)

    assert (found.check, found.level) == ("start", "note")
    assert "after 30.0 s on n2" in found.evidence


def test_who_hangs_is_ended_and_what_was_found_is_shown():
    """Also where no Python runs: the fork has a guard of its own."""
    shown, there = os.pipe()
    pid = os.fork()
    if pid == 0:
        guard = Guard(lambda report: os.write(there, json.dumps(report.as_json()).encode()))
        guard.expect(Report((), {"MPI": "x"}), wrong("silent ranks", "it hangs", ""), 0.2)
        threading.Event().wait(LIMIT_S)
        os._exit(0)
    os.close(there)

    _, status = os.waitpid(pid, 0)

    assert os.WTERMSIG(status) == 9
    with os.fdopen(shown) as file:
        said = json.load(file)
    assert said["facts"] == {"MPI": "x"}
    assert [each["evidence"] for each in said["findings"]] == ["it hangs"]


def test_who_does_not_hang_is_left_alone():
    guard = Guard(lambda report: os.write(1, b"never"))
    guard.expect(Report((), {}), wrong("silent ranks", "it hangs", ""), LIMIT_S)

    guard.dismiss()
