"""What people and programs are told of a run, from its journals alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import fields

import pytest
from journalling import START_S, Folder, done, failed, long, slow

from acme_mpi.cli.status_text import status_text
from acme_mpi.errors import InputError
from acme_mpi.history import journal
from acme_mpi.history.joblog import exit_codes, joblog_lines
from acme_mpi.history.journal import Block, append_at_once, pack_death, pack_record
from acme_mpi.history.layout import journal_name
from acme_mpi.history.lease import LEASE, Lease
from acme_mpi.history.status import Status, read_status, status_json
from acme_mpi.history.told import runs_in
from acme_mpi.report.words import duration_text

pytestmark = pytest.mark.once


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def running(folder):
    """Return a folder in which this process works."""
    lease = Lease.take(str(folder.path), notify=pytest.fail)
    yield folder
    lease.release()


class TestRunsIn:
    def test_names_every_function_with_a_description(self, tmp_path):
        Folder(tmp_path, "g").describe()
        Folder(tmp_path, "f").describe()
        Folder(tmp_path, "empty")

        assert runs_in(str(tmp_path)) == ["f", "g"]

    def test_a_directory_without_runs_has_none(self, tmp_path):
        assert runs_in(str(tmp_path)) == []
        assert runs_in(str(tmp_path / "nowhere")) == []

    def test_what_cannot_be_read_is_named(self, tmp_path, monkeypatch):
        def refuse(path):
            raise PermissionError(13, "Permission denied", path)

        monkeypatch.setattr(os, "listdir", refuse)

        with pytest.raises(InputError, match=r"cannot read .*\.acme_mpi: Permission denied"):
            runs_in(str(tmp_path))


class TestCounts:
    def test_every_task_is_done_failed_or_open(self, folder):
        folder.describe(n_tasks=10, n_ranks=3)
        folder.write(done(0, 4), failed(4))
        folder.write(done(7, 9), rank=2)

        status = folder.status()

        assert (status.n_done, status.n_failed, status.n_open) == (6, 1, 3)
        assert (status.name, status.kind, status.n_ranks, status.n_runs) == ("f", "rank", 3, 1)
        assert status.directory == str(folder.path.parent.parent)

    def test_runs_add_up_whatever_their_numbers_of_ranks(self, folder):
        folder.describe(0, n_ranks=4)
        folder.write(done(0, 2), rank=3)
        folder.describe(1, n_ranks=2, start_s=START_S + 100)
        folder.write(done(2, 4, 100), run=1)

        status = folder.status()

        assert (status.n_done, status.n_runs, status.n_ranks) == (4, 2, 2)
        assert status.started_s == START_S + 100

    def test_a_failure_that_was_called_again_is_none(self, folder):
        folder.describe(n_tasks=2)
        folder.write(failed(0, is_final=False), done(0, 1, attempt=2), failed(1, is_final=False))

        status = folder.status()

        assert (status.n_done, status.n_failed, status.n_open) == (1, 0, 1)

    def test_what_a_later_run_has_lost_is_open(self, folder):
        folder.describe(0)
        folder.write(done(0, 10))
        folder.describe(1)
        folder.write(pack_record(range(3, 5), Block.LOST), run=1, rank=0)

        assert (folder.status().n_done, folder.status().n_open) == (8, 2)

    def test_what_is_beyond_the_last_runs_tasks_does_not_count(self, folder):
        """What is beyond the tasks of the last run does not count."""
        folder.describe(n_tasks=9)
        folder.write(done(0, 8), failed(8))
        folder.describe(run=1, n_tasks=3)

        assert (folder.status().n_done, folder.status().n_failed) == (3, 0)

    def test_a_run_without_tasks_is_finished(self, folder):
        folder.describe(n_tasks=0)
        folder.end()

        assert folder.status().state == "finished"
        assert "0 of 0 tasks done (100 %)" in status_text(folder.status())


class TestState:
    def test_a_run_with_a_live_holder_is_running(self, running):
        running.describe()
        running.write(done(0, 10))

        status = running.status()

        assert status.state == "running"
        assert status.holder.startswith(f"process {os.getpid()} on ")

    def test_a_run_is_finished_when_no_task_is_open(self, folder):
        folder.describe()
        folder.write(done(0, 9), failed(9))
        folder.end()

        assert (folder.status().state, folder.status().reached_end) == ("finished", True)

    def test_a_run_with_open_tasks_that_nobody_works_on_is_stopped(self, folder):
        folder.describe()
        folder.write(done(0, 9))

        assert (folder.status().state, folder.status().holder) == ("stopped", "")

    def test_the_holder_of_a_killed_run_is_told(self, running):
        """A dead lease stays; here it is one of a process that has never been."""
        running.describe()
        claim = json.loads((running.path / LEASE).read_text())
        (running.path / LEASE).write_text(json.dumps({**claim, "started": 1}))

        assert running.status().state == "stopped"
        assert f"left by process {os.getpid()} on" in status_text(running.status())

    def test_a_run_killed_while_linking_is_to_be_resumed(self, folder):
        folder.describe(command="run it")
        folder.write(done(0, 10))

        status = folder.status()

        assert (status.state, status.reached_end, status.command) == ("finished", False, "run it")
        assert "did not come to its regular end" in status_text(status)


class TestCommand:
    @pytest.mark.parametrize(
        ("blocks", "command"),
        [
            ([done(0, 9)], "run it"),
            ([done(0, 8), failed(8)], "run it"),
            ([done(0, 9), failed(9)], "run it --retry-failed"),
            ([done(0, 10)], ""),
        ],
    )
    def test_it_resumes_what_is_left(self, folder, blocks, command):
        folder.describe(command="run it")
        folder.write(*blocks)
        folder.end()

        assert folder.status().command == command
        assert ("resume with: " in status_text(folder.status())) == bool(command)

    @pytest.mark.parametrize(("n_done", "resume"), [(8, True), (9, "failed")])
    def test_a_script_is_told_the_option(self, folder, n_done, resume):
        folder.describe()
        folder.write(done(0, n_done), failed(9))
        folder.end()

        way = f"resume with: resume={resume!r}, output_dir={folder.status().directory!r}"
        assert way in status_text(folder.status())
        assert folder.status().command == ""

    def test_a_run_that_goes_on_is_not_to_be_started_again(self, running):
        running.describe(command="run it")

        assert "run it" not in status_text(running.status())


class TestSpeed:
    def test_the_rate_of_a_running_run_counts_until_now(self, running):
        running.describe(n_tasks=100)
        running.write(done(0, 9, 0, 5.0), failed(9), failed(10, is_final=False))

        status = running.status(after_s=20)

        assert (status.elapsed_s, status.tasks_per_s) == (20.0, 0.5)
        assert status.eta_s == 90 / 0.5

    def test_that_of_a_stopped_run_counts_until_its_last_record(self, folder):
        folder.describe(n_tasks=100)
        folder.write(done(0, 10, 0, 5.0))
        folder.write(done(10, 20, 15, 5.0), rank=2)

        status = folder.status(after_s=1e6)

        assert (status.elapsed_s, status.tasks_per_s, status.eta_s) == (20.0, 1.0, None)

    def test_only_the_last_run_counts(self, running):
        running.describe(0)
        running.write(done(0, 5))
        running.describe(1, start_s=START_S + 100)
        running.write(done(5, 7, 100), run=1)

        assert running.status(after_s=110).tasks_per_s == 2 / 10

    def test_nothing_is_known_before_the_first_task(self, running):
        running.describe()

        status = running.status(after_s=5)

        assert (status.elapsed_s, status.tasks_per_s, status.eta_s) == (5.0, None, None)

    def test_a_clock_that_is_late_does_not_make_time_negative(self, running):
        running.describe()
        running.write(done(0, 1))

        assert running.status(after_s=-7).elapsed_s == 0.0
        assert running.status(after_s=-7).tasks_per_s is None

    def test_the_first_record_has_the_start_if_nothing_else_has(self, folder):
        """Without a start in the description the first record has it."""
        folder.describe(start_s=0.0)
        folder.write(failed(5, start=9, message="x" * 300), done(0, 5, 7, 3.0))

        assert (folder.status().started_s, folder.status().elapsed_s) == (START_S + 7, 3.0)


class TestCosts:
    def test_all_calls_of_all_runs_add_up(self, folder):
        folder.describe(0)
        folder.write(done(0, 2, busy_s=1.0), slow(0, 0, 0.9), long(1, 0), failed(2, busy_s=2.0))
        folder.describe(1)
        folder.write(done(2, 3, busy_s=4.0), run=1)

        assert folder.status().busy_s == 7.0

    def test_results_have_a_size(self, folder):
        folder.describe()
        folder.write(done(0, 2, n_bytes=100), done(2, 3, n_bytes=7), failed(5))

        assert folder.status().results_bytes == 107

    def test_the_largest_process_is_found(self, folder):
        folder.describe()
        folder.write(done(0, 2, peak_bytes=10))
        folder.write(done(2, 5, peak_bytes=30), rank=2)

        peak = folder.status().peak

        assert peak is not None
        assert (peak.peak_bytes, peak.first, peak.stop, peak.host, peak.rank) == (
            30,
            2,
            5,
            "node1",
            2,
        )

    def test_the_median_weighs_records_by_their_tasks(self, folder):
        folder.describe()
        folder.write(done(0, 7, busy_s=7.0), done(7, 8, busy_s=50.0), done(8, 9, busy_s=60.0))

        assert folder.status().median_s == 1.0


class TestSlowest:
    def test_the_five_slowest_come_first(self, folder):
        folder.describe(n_tasks=100)
        folder.write(*(slow(i, i, float(i)) for i in range(1, 10)), done(0, 100, busy_s=45.0))
        folder.write(slow(20, 0, 7.5, stop=24), rank=2)

        found = [(each.first, each.stop, each.busy_s) for each in folder.status().slowest]

        assert found == [(9, 10, 9.0), (8, 9, 8.0), (20, 24, 7.5), (7, 8, 7.0), (6, 7, 6.0)]

    def test_without_slow_blocks_single_tasks_are_known(self, folder):
        folder.describe()
        folder.write(done(0, 5, busy_s=9.0), done(5, 6, busy_s=2.0), done(6, 7, busy_s=3.0))

        assert [(each.first, each.busy_s) for each in folder.status().slowest] == [
            (6, 3.0),
            (5, 2.0),
        ]

    def test_a_short_task_is_not_blamed_for_one_that_failed(self, folder):
        """The record of task 0 has half of the time of its chunk, in which task 1 has failed."""
        folder.describe()
        folder.write(slow(1, 0, 10.0), failed(1), done(0, 1, busy_s=5.0))

        assert [each.first for each in folder.status().slowest] == [1]


class TestStragglers:
    def test_what_was_noted_and_has_not_ended_is_still_running(self, running):
        running.describe()
        running.write(done(0, 4, 0, 8.0), long(4, 10))

        (straggler,) = running.status(after_s=50).stragglers

        assert (straggler.index, straggler.running_s, straggler.n_medians) == (4, 40.0, 20.0)
        assert (straggler.host, straggler.rank) == ("node1", 1)

    @pytest.mark.parametrize(
        "end", [done(3, 6), failed(4), failed(4, is_final=False), slow(4, 0, 30.0)]
    )
    def test_what_has_ended_is_none(self, running, end):
        running.describe()
        running.write(long(4, 10), end)

        assert running.status().stragglers == []

    def test_a_second_attempt_runs_though_the_first_has_ended(self, running):
        """A second attempt is running although the first has ended."""
        running.describe()
        running.write(long(4, 10), failed(4, is_final=False), long(4, 100))

        (straggler,) = running.status(after_s=150).stragglers

        assert (straggler.index, straggler.running_s) == (4, 50.0)

    @pytest.mark.parametrize("end", [done(4, 5), failed(4)])
    def test_what_another_rank_has_ended_is_none(self, running, end):
        running.describe()
        running.write(long(4, 10), rank=2)
        running.write(end, rank=1)

        assert running.status().stragglers == []

    def test_what_two_ranks_have_noted_runs_on_the_later_one(self, running):
        running.describe()
        running.write(long(4, 90), rank=1)
        running.write(long(4, 10), rank=2)

        (straggler,) = running.status(after_s=100).stragglers

        assert (straggler.rank, straggler.running_s) == (1, 10.0)

    def test_the_longest_comes_first_on_any_number_of_ranks(self, running):
        running.describe()
        running.write(done(0, 1), long(1, 30), rank=1)
        running.write(done(2, 3), rank=2)
        running.write(long(3, 10), rank=3)
        running.write(long(5, 20), long(6, 40), rank=4)

        assert [each.index for each in running.status(after_s=99).stragglers] == [3, 1, 6]

    def test_earlier_runs_and_runs_that_have_ended_have_none(self, folder):
        folder.describe(0)
        folder.write(long(4, 10))

        assert folder.status().stragglers == []
        folder.describe(1)
        lease = Lease.take(str(folder.path), notify=pytest.fail)
        try:
            assert folder.status().state == "running"
            assert folder.status().stragglers == []
        finally:
            lease.release()


def test_a_run_may_have_any_number_of_tasks(folder):
    n_tasks = 2**40
    folder.describe(n_tasks=n_tasks)
    folder.write(done(0, 5), done(n_tasks - 2, n_tasks), failed(7))

    status = folder.status()

    assert (status.n_done, status.n_failed, status.n_open) == (7, 1, n_tasks - 8)


class TestLost:
    def test_a_rank_that_another_has_seen_die_is_named_with_host_and_times(self, folder):
        folder.describe()
        folder.write(done(0, 1, 0, 2), rank=0)
        folder.write(done(1, 2, 3, 4), rank=1)
        death = pack_death(1, "node2")
        folder.write(death, death, rank=2)
        folder.write(pack_death(5, "node3"), rank=4)

        status = folder.status()

        assert [(each.rank, each.host) for each in status.lost] == [(1, "node2"), (5, "node3")]
        assert [each.heard_s for each in status.lost] == [START_S + 7, None]
        assert status.damages == []
        assert "node2, rank 1: last heard at " in status_text(status)
        assert "node3, rank 5: never heard, found lost at " in status_text(status)

    def test_the_first_one_for_which_all_were_ended_is_the_first(self, folder, monkeypatch):
        folder.describe()
        monkeypatch.setattr(journal.time, "time", iter([START_S + 2, START_S + 1]).__next__)
        deaths = pack_death(0, "node1"), pack_death(1, "node1")
        monkeypatch.undo()
        folder.write(deaths[0], rank=2)
        folder.write(deaths[1], rank=0)

        assert [each.rank for each in folder.status().lost] == [1, 0]

    def test_a_later_run_has_lost_none(self, folder):
        folder.describe()
        folder.write(pack_death(1, "node2"), rank=2)
        folder.describe(run=1)

        assert folder.status().lost == []

    def test_it_is_recorded_beside_what_the_rank_writes_itself(self, folder):
        path = folder.path / journal_name(0, 2)
        append_at_once(str(path), pack_death(1, "node2"))
        append_at_once(str(path), pack_death(3, "node2"))

        folder.describe()
        assert [each.rank for each in folder.status().lost] == [1, 3]


class TestFailures:
    def test_like_ones_are_one_group_and_the_largest_comes_first(self, folder):
        folder.describe(n_tasks=20, debug="debug {index}")
        folder.write(
            failed(0, type="killed", message="by SIGKILL", location=""),
            *(failed(i, message=f"no {i}") for i in range(3, 11)),
        )

        large, small = folder.status().failures

        assert (large.type, large.location, large.message) == ("ValueError", "f.py:3", "no 3")
        assert (large.n_tasks, large.first_indices) == (8, [3, 4, 5, 6, 7])
        assert large.reproduce == "debug 3"
        assert (small.type, small.n_tasks) == ("killed", 1)

    def test_long_texts_are_read_whole(self, folder):
        folder.describe()
        folder.write(failed(1, message="m" * 500, traceback="t" * 3000, call="f(1)"))

        (group,) = folder.status().failures

        assert (group.message, group.reproduce) == ("m" * 500, "f(1)")


class TestUnusualFolders:
    def test_a_description_alone_will_do(self, folder):
        folder.describe()

        status = folder.status()

        assert (status.state, status.n_open, status.peak) == ("stopped", 10, None)
        assert folder.joblog() == []
        assert status_text(status).count("\n") <= 3

    def test_a_torn_journal_tells_what_is_whole(self, folder):
        folder.describe()
        path = folder.write(done(0, 2), done(2, 4), failed(5, message="m" * 300))
        os.truncate(path, path.stat().st_size - 150)

        status = folder.status()

        assert (status.n_done, status.n_failed) == (4, 1)
        assert status.failures[0].type == "unknown"
        assert sorted(row[0] for row in folder.joblog()) == ["1", "2", "3", "4", "6"]

    def test_a_folder_without_a_description_is_refused(self, folder):
        with pytest.raises(InputError, match="holds no description of a run"):
            folder.status()

    @pytest.mark.parametrize("read", [read_status, joblog_lines])
    def test_what_cannot_be_read_is_named(self, folder, read, monkeypatch):
        folder.describe()
        path = folder.write(done(0, 2))

        def refuse(name, *args, **more):
            if name == str(path):
                raise PermissionError(13, "Permission denied", name)
            return real(name, *args, **more)

        real = os.open
        monkeypatch.setattr(os, "open", refuse)  # root may read everything
        with pytest.raises(InputError, match=r"cannot read .*rank1.journal: Permission denied"):
            read(str(folder.path))

    def test_a_folder_that_is_not_there_is_named(self, tmp_path):
        with pytest.raises(InputError, match=r"cannot read .*/nowhere: No such file"):
            read_status(str(tmp_path / "nowhere"))

    def test_a_description_that_is_damaged_is_named(self, folder):
        (folder.path / "run0.json").write_text("{")

        with pytest.raises(InputError, match=f"damaged: {folder.path}/run0.json: it is no JSON"):
            folder.status()


def fill(folder: Folder) -> None:
    """Write a run of which everything can be told."""
    folder.describe(0, n_tasks=1000)
    folder.write(done(0, 10, n_bytes=800, peak_bytes=2**30))
    folder.describe(1, n_tasks=1000, n_ranks=4, start_s=START_S + 50, debug="debug {index}")
    folder.write(
        *(done(i, i + 10, i, 20.0, n_bytes=80) for i in range(10, 200, 10)),
        *(slow(i, i, 2.0) for i in range(200)),
        *(failed(i, location=f"f.py:{i}") for i in range(200, 300)),
        run=1,
    )
    for rank in range(2, 20):
        folder.write(long(300 + rank, 60), run=1, rank=rank)


class TestForms:
    def test_json_keeps_every_value(self, running):
        fill(running)

        content = status_json(running.status(after_s=550))

        assert json.loads(json.dumps(content, allow_nan=False)) == content
        assert set(content) == {each.name for each in fields(Status)}
        assert content["peak"] == {
            "peak_bytes": 2**30,
            "first": 0,
            "stop": 10,
            "host": "node1",
            "rank": 1,
        }
        assert set(content["slowest"][0]) == {"first", "stop", "busy_s", "host", "rank", "call"}
        assert set(content["stragglers"][0]) == {
            "index",
            "running_s",
            "n_medians",
            "host",
            "rank",
        }
        assert set(content["failures"][0]) == {
            "type",
            "location",
            "message",
            "n_tasks",
            "first_indices",
            "reproduce",
            "traceback",
        }

    def test_the_text_says_everything_in_25_lines(self, running):
        fill(running)

        lines = status_text(running.status(after_s=550)).splitlines()

        assert len(lines) <= 25
        assert lines[0] == "f: running, 200 of 1000 tasks done (20 %), 100 failed, 700 open"
        assert "4 ranks, run 2 on these results, process" in lines[1]
        assert "running for 8 min 20 s, 34.8 tasks/min, about 20 min 07 s left" in lines[2]
        assert lines[3] == (
            "  6 min 21 s in tasks (median 2 s), 2.3 kB of results, at most 1.1 GB of memory "
            "(tasks 0-9, node1, rank 1)"
        )
        assert "    task 302: 8 min 10 s, 245 x the median (node1, rank 2)" in lines
        assert "    1 x ValueError at f.py:200: no (tasks 200)" in lines
        assert "    ... and 96 more" in lines
        assert "  reproduce the first: debug 200" in lines

    def test_nothing_is_said_of_what_is_not_there(self, folder):
        folder.describe(n_tasks=2)
        folder.write(done(0, 2, 0, busy_s=0.002))
        folder.end()

        _, *lines = status_text(folder.status()).splitlines()

        assert [line.split()[0] for line in lines] == ["in", "started", "2"]

    def test_a_share_is_rounded_down(self, folder):
        folder.describe(n_tasks=10**6)
        folder.write(done(1, 10**6))

        assert "(99.9 %)" in status_text(folder.status())

    def test_a_message_cannot_break_the_lines(self, folder):
        folder.describe(n_tasks=1)
        folder.write(failed(0, message="a\n\x1b[2J\tb " + "word " * 100))

        text = status_text(folder.status())

        assert text.replace("\n", "").isprintable()
        assert max(map(len, text.splitlines()[4:-1])) < 180

    @pytest.mark.parametrize(
        ("seconds", "text"),
        [
            (0.0032, "3.2 ms"),
            (0.9999, "1 s"),
            (12.345, "12.3 s"),
            (59.97, "1 min 00 s"),
            (245, "4 min 05 s"),
            (3599.7, "1 h 00 min"),
            (7500, "2 h 05 min"),
            (86399, "1 d 00 h"),
            (100 * 3600, "4 d 04 h"),
        ],
    )
    def test_durations_have_sensible_units(self, seconds, text):
        assert duration_text(seconds) == text


class TestJoblog:
    def test_a_line_has_the_nine_columns(self, folder):
        folder.describe(debug="debug it --task {index} '{{}}'")
        folder.write(done(3, 4, 1.5, 2.25, n_bytes=64))

        assert list(joblog_lines(str(folder.path))) == [
            "Seq\tHost\tStarttime\tJobRuntime\tSend\tReceive\tExitval\tSignal\tCommand",
            "4\tnode1\t1700000001.500\t     2.250\t0\t64\t0\t0\tdebug it --task 3 '{}'",
        ]

    def test_tasks_of_one_record_share_its_time_and_bytes(self, folder):
        folder.describe()
        folder.write(done(0, 4, 0, 2.0, n_bytes=41))

        rows = folder.joblog()

        assert [row[0] for row in rows] == ["1", "2", "3", "4"]
        assert [float(row[2]) - START_S for row in rows] == [0.0, 0.5, 1.0, 1.5]
        assert {(row[3].strip(), row[5]) for row in rows} == {("0.500", "10")}

    def test_a_slow_task_has_its_own_time(self, folder):
        """A slow task has its own time and the others share the rest."""
        folder.describe()
        folder.write(slow(2, 0.004, 5.0), slow(8, 0, 1.0), done(0, 4, 0, 5.006))

        rows = folder.joblog()

        assert [row[3].strip() for row in rows] == ["0.002", "0.002", "5.000", "0.002"]
        assert [row[2][-6:] for row in rows] == ["00.000", "00.002", "00.004", "05.004"]

    def test_a_slow_block_of_several_tasks_is_not_taken_for_one(self, folder):
        folder.describe()
        folder.write(slow(0, 0, 5.0, stop=2), done(0, 4, 0, 6.0))

        assert {row[3].strip() for row in folder.joblog()} == {"1.500"}

    def test_each_attempt_run_and_rank_has_its_own_times(self, folder):
        folder.describe(0)
        folder.write(
            slow(1, 0, 1.0),
            failed(1, is_final=False),
            slow(1, 10, 2.0, attempt=2),
            done(1, 2, 10, 2.0, attempt=2),
            slow(5, 20, 3.0),
            failed(5),
        )
        folder.write(slow(7, 25, 4.5), done(7, 8, 25, 4.5), rank=2)
        folder.describe(1)
        folder.write(slow(5, 30, 4.0), done(5, 6, 30, 4.0), run=1)

        columns = [(row[0], float(row[3]), row[6]) for row in folder.joblog()]

        assert columns == [
            ("2", 1.0, "1"),
            ("2", 2.0, "0"),
            ("6", 3.0, "1"),
            ("8", 4.5, "0"),
            ("6", 4.0, "0"),
        ]

    def test_lines_are_in_the_order_of_the_ends(self, folder):
        folder.describe()
        folder.write(slow(1, 0.001, 9.0), done(0, 2, 0, 9.001))
        folder.write(done(2, 4, 0, 8.0), rank=2)

        assert [row[0] for row in folder.joblog()] == ["1", "3", "4", "2"]

    def test_a_command_stays_in_its_column(self, folder):
        folder.describe(debug="run -c 'a\n\tb' {index}")
        folder.write(done(0, 1))

        assert folder.joblog()[0][8] == "run -c 'a  b' 0"

    def test_without_a_command_the_task_is_named(self, folder):
        folder.describe()
        folder.write(done(7, 8))

        assert folder.joblog()[0][8] == "f(task 7)"

    @pytest.mark.parametrize(
        ("kind", "message", "codes"),
        [
            ("ValueError", "exit code 7", (1, 0)),
            ("exit", "the function called sys.exit(3)", (3, 0)),
            ("exit", "the function called sys.exit('gone')", (1, 0)),
            ("exit", "the function called sys.exit(0)", (1, 0)),
            ("exit", "the function called sys.exit(-1)", (255, 0)),
            ("exit", "the process that ran the task ended with exit code 5 (os._exit?)", (5, 0)),
            ("killed", "the process that ran the task ended by SIGSEGV (a segmentation)", (0, 11)),
            ("killed", "the process that ran the task ended by signal 40 (killed)", (0, 40)),
            ("killed", "nobody knows how", (1, 0)),
            ("timeout", "still running after 3 s (limit 2 s)", (-1, 0)),
            ("memory", "used 3.0 GB of memory (limit 2.0 GB)", (-1, 0)),
            ("protocol", "the process that ran the task closed its channel", (1, 0)),
        ],
    )
    def test_failures_have_the_codes_that_parallel_gives(self, folder, kind, message, codes):
        folder.describe()
        folder.write(failed(0, type=kind, message=message, traceback="t" * 500))

        ((*_, receive, exitval, number, _),) = folder.joblog()

        assert exit_codes({"type": kind, "message": message}) == codes
        assert (receive, int(exitval), int(number)) == ("0", *codes)


@pytest.mark.slow
def test_a_million_tasks_are_counted_and_listed(folder):
    """They take about 0.3 s and 1.3 s; the limits are for a busy machine."""
    folder.describe(n_tasks=10**6, debug="python -m acme_mpi f.py:f --debug-task {index}")
    for rank in range(10):
        firsts = range(rank * 10, 10**6, 100)
        folder.write(
            *(done(i, i + 10, i / 1e3, 0.1) for i in firsts),
            *(slow(i, i / 1e3, 0.05) for i in firsts),
            rank=rank,
        )
    script = (
        "import sys; from acme_mpi.history.joblog import joblog_lines\n"
        "from acme_mpi.history.status import read_status; folder = sys.argv[1]\n"
        "print(read_status(folder).n_done, sum(1 for _ in joblog_lines(folder)))\n"
        "print(sorted({'h5py', 'mpi4py.MPI'} & sys.modules.keys()))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, folder.path],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )

    assert ended.stdout.splitlines() == [f"{10**6} {10**6 + 1}", "[]"]
