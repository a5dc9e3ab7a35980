"""What is drawn of a run is what its journals tell, whatever the number of tasks and ranks."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest
from journalling import START_S, Folder, done, failed, long, slow, synced, write_run

import acme_mpi
from acme_mpi.cli.command_call import _options_of
from acme_mpi.cli.commands import run_command
from acme_mpi.cli.options import check_options, make_parser
from acme_mpi.engine import run as engine
from acme_mpi.engine.new_run import batch_job
from acme_mpi.history.folders import remove_results
from acme_mpi.history.journal import Block, pack_death
from acme_mpi.history.layout import Layout
from acme_mpi.history.lease import Lease
from acme_mpi.history.status import read_status
from acme_mpi.history.told import read_told
from acme_mpi.report import written
from acme_mpi.report.cell import status_html
from acme_mpi.report.charts import nice_above
from acme_mpi.report.figures import Figures, figures_of
from acme_mpi.report.page import page_of
from acme_mpi.report.sections import body_of
from acme_mpi.report.timeline import MOST_ROWS, N_BINS, in_bins
from acme_mpi.report.written import report_at_end, write_report

pytestmark = pytest.mark.once

MOST_BYTES, MOST_S = 2_000_000, 5.0
XSS = "<script>document.title='taken'</script><img src=x onerror=alert(1)>\x1b[31m"


@pytest.fixture
def folder(tmp_path) -> Folder:
    return Folder(tmp_path)


@pytest.fixture
def running(folder):
    """Return a folder in which this process works."""
    lease = Lease.take(str(folder.path), notify=pytest.fail)
    yield folder
    lease.release()


def figures(folder: Folder, after_s: float = 0.0) -> Figures:
    return figures_of(read_told(str(folder.path)), str(folder.path), START_S + after_s)


def page(folder: Folder, after_s: float = 0.0) -> str:
    return page_of([body_of(figures(folder, after_s))], "f")


def near(value: float) -> object:
    return pytest.approx(value, abs=1e-6)


def test_tasks_running_are_those_whose_time_it_is(folder):
    folder.describe(n_tasks=3, n_ranks=2)
    folder.write(done(0, 1, 0, 4), rank=0)
    folder.write(done(1, 2, 2, 2), done(2, 3, 6, 2), rank=1)

    found = figures(folder)

    assert found.span_s == near(8)
    assert found.running.reshape(8, -1).mean(1).tolist() == near([1, 1, 2, 2, 0, 0, 1, 1])
    assert [each.busy_s for each in found.ranks] == near([4, 4])


def test_curves_end_at_the_counts(folder):
    folder.describe(n_tasks=10, n_ranks=1)
    folder.write(done(0, 4, 0, 1), failed(4, start=1, busy_s=1), failed(5, False, 2), done(5, 6, 3))

    found = figures(folder)

    assert (found.done[-1], found.failed[-1]) == (5, 1)
    assert (np.diff(found.done) >= 0).all()
    assert found.timeline.has_failed.sum() == 1


def test_the_last_run_that_has_called_tasks_is_shown(folder):
    folder.describe(0, n_tasks=4)
    folder.write(done(0, 2, 0, 1))
    folder.describe(1, n_tasks=4, start_s=START_S + 1000)
    folder.write(done(2, 4, 1010, 2), run=1)
    folder.describe(2, n_tasks=4, start_s=START_S + 9000)

    found = figures(folder)

    assert (found.start_s, found.span_s) == (near(START_S + 1010), near(2))
    assert found.done[-1] == 2


def test_where_the_time_went_adds_up(folder):
    folder.describe(n_tasks=4, n_ranks=3)
    folder.write(done(0, 1, 1, 4), done(1, 2, 6, 4), rank=0)
    folder.write(done(2, 3, 2, 5), rank=1)

    cost = figures(folder).cost

    assert cost.total_s == near(30)
    parts = (cost.busy_s, cost.before_s, cost.between_s, cost.after_s, cost.unused_s)
    assert parts == near((13, 3, 1, 3, 10))
    assert cost.writing_s == 0


class TestWriting:
    """When ranks were busy with results and called no task."""

    def test_of_what_is_idle_so_much_may_be_for_results(self, folder):
        folder.describe(n_tasks=4, n_ranks=2)
        folder.write(done(0, 1, 0, 4), done(1, 2, 8, 2), synced(0, 3), synced(5, 4.9), rank=0)
        folder.write(done(2, 3, 0, 2), done(3, 4, 6, 4), rank=1)

        found = figures(folder)

        writing = found.timeline.writing.reshape(2, 10, -1).mean(2)
        share = 4.9 / 5
        assert writing[0].tolist() == near([0, 0, 0, 0, 0.6, share, share, share, 0, 0])
        assert not writing[1].any()
        cost = found.cost
        assert cost.writing_s == near(0.6 + 3 * share)
        assert cost.writing_s + cost.between_s == near(8)
        assert "Violet" in page(folder)

    def test_it_is_never_more_than_the_idle_time_between_tasks(self, folder):
        folder.describe(n_tasks=2, n_ranks=1)
        folder.write(done(0, 1, 5, 2), done(1, 2, 7, 3), synced(0, 10))

        assert figures(folder).cost.writing_s == near(0)

    def test_journals_that_do_not_tell_it_have_none(self, folder):
        folder.describe(n_tasks=2, n_ranks=1)
        folder.write(done(0, 1, 0, 2), done(1, 2, 7, 3), synced(0, 0), synced(-START_S, 0))

        found = figures(folder)

        assert not found.timeline.writing.any()
        assert "Violet" not in page(folder)

    def test_runs_record_it(self, tmp_path):
        acme_mpi.map(np.ones, [3] * 20, output_dir=str(tmp_path), isolate=False)

        blocks = read_told(str(tmp_path / ".acme_mpi" / "ones")).blocks
        told = blocks[blocks["kind"] == Block.SYNCED]
        assert len(told)
        assert 0 < told["busy_s"].sum() < 60
        assert (time.time() - 60 < told["start_s"]).all()


def test_a_slow_task_among_short_ones_has_its_own_duration(folder):
    folder.describe(n_tasks=101)
    folder.write(done(0, 101, 0, 1.1), slow(7, 0.5, 1.0, call="f(8)"))

    found = figures(folder)

    seconds = found.duration_edges[1:][found.duration_counts > 0]
    assert found.duration_counts[found.duration_counts > 0].tolist() == [100, 1]
    assert seconds == pytest.approx([0.001, 1.0], rel=0.3)
    assert [(each.first, each.busy_s, each.call) for each in found.slowest] == [(7, 1.0, "f(8)")]


def test_what_runs_now_is_seen_and_named_if_it_is_late(running):
    running.describe(n_tasks=3, n_ranks=2)
    running.write(done(0, 1, 0, 2), long(1, 5), rank=0)
    running.write(done(2, 3, 0, 2), rank=1)

    found = figures(running, 25)

    assert [(each.index, each.running_s) for each in found.late] == [(1, near(20))]
    assert found.running[-1] == near(1)
    assert found.ranks[0].busy_s == near(22)


def test_ranks_that_have_long_recorded_nothing_are_named(running):
    running.describe(n_tasks=100, n_ranks=2)
    running.write(done(0, 10, 0, 2), rank=0)
    running.write(*[done(10 + k, 11 + k, 2 * k, 2) for k in range(50)], rank=1)

    assert [each.number for each in figures(running, 100).silent] == [0]
    assert [each.number for each in figures(running, 150).silent] == [0]


def test_a_rank_that_is_lost_is_named_so_and_not_silent(running):
    running.describe(n_tasks=100, n_ranks=3)
    running.write(done(0, 10, 0, 2), rank=0)
    running.write(done(60, 70, 0, 2), rank=2)
    running.write(
        *[done(10 + k, 11 + k, 2 * k, 2) for k in range(50)], pack_death(0, "node<1>"), rank=1
    )

    assert [each.number for each in figures(running, 100).silent] == [2]
    text = page(running, 100)
    assert "node&lt;1&gt;, rank 0: last heard at " in text
    assert text.count("node1, rank 2") == 1


def test_a_rank_is_not_silent_before_a_minute_has_passed(running):
    running.describe(n_tasks=100, n_ranks=2)
    running.write(done(0, 10, 0, 2), rank=0)
    running.write(done(10, 11, 0, 2), rank=1)

    assert figures(running, 30).silent == []


@pytest.mark.slow
def test_of_many_ranks_the_idlest_have_rows_of_their_own(folder):
    folder.describe(n_tasks=1000, n_ranks=1000)
    for rank in range(1000):
        folder.write(done(rank, rank + 1, 0, 10 if rank != 700 else 1), rank=rank)

    found = figures(folder)

    assert len(found.timeline.rows) == MOST_ROWS
    assert found.timeline.rows[0].tolist() == [700]
    assert sum(map(len, found.timeline.rows)) == 1000
    assert found.timeline.busy.sum(1)[0] == pytest.approx(N_BINS / 10)
    assert "rank 700 (node1, 1 tasks, busy 10 %)" in page(folder)


def test_bins_hold_what_is_in_them_and_no_more():
    rng = np.random.default_rng(1)
    starts = rng.uniform(0, 10, 1000)
    stops = starts + rng.exponential(0.3, 1000)
    weights = rng.uniform(0, 1, 1000)
    none = np.zeros(1000, np.int64)

    found = in_bins(starts, stops, none, 1, 10.0, weights)[0]

    edges = np.linspace(0, 10, N_BINS + 1)
    overlaps = np.minimum(stops[:, None], edges[1:]) - np.maximum(starts[:, None], edges[:-1])
    assert found == pytest.approx((overlaps.clip(0).T * weights).sum(1) * N_BINS / 10)


@pytest.mark.parametrize("n_tasks", [0, 1])
def test_a_run_that_has_done_nothing_has_a_page(folder, n_tasks):
    folder.describe(n_tasks=n_tasks)

    assert "No task has ended yet" in page(folder)


@pytest.mark.slow
def test_a_million_tasks_are_a_small_page_within_seconds(folder):
    write_run(folder, 1_000_000, 64)

    begin_s = time.process_time()
    text = page(folder)

    assert time.process_time() - begin_s < MOST_S
    assert len(text) < MOST_BYTES
    assert "1000000 of 1000000 tasks done" in text


@pytest.mark.slow
def test_long_texts_make_no_long_page(folder):
    folder.describe(n_tasks=300, debug="x" * 10**5 + " {index}")
    said = {"message": "<" * 10**5, "traceback": "&" * 10**5}
    folder.write(*[failed(k, location=f"f.py:{k}", **said) for k in range(300)], slow(0, 0, 1))

    text = page(folder)

    assert len(text) < MOST_BYTES
    assert "280 more kinds" in text


def test_what_others_wrote_stays_text(folder):
    folder.describe(n_tasks=3, command=XSS, debug=XSS)
    said = dict.fromkeys(("type", "message", "location", "traceback", "call"), XSS)
    folder.write(failed(0, **said), slow(1, 0, 1, call=XSS), done(1, 2))

    text = page(folder)

    assert len(re.findall("<script", text)) == 1
    assert not {"<img", "\x1b"} & set(re.findall("<img|\x1b", text))
    assert "&lt;script&gt;document.title" in text


def test_the_command_writes_a_page_for_each_function(tmp_path, capsys):
    for name in ("f", "g"):
        write_run(Folder(tmp_path, name), 10, 2)

    assert run_command(["report", str(tmp_path)]) == 0

    assert capsys.readouterr().out.splitlines() == [
        f"{name}: {tmp_path / name}_report.html" for name in ("f", "g")
    ]
    assert "10 of 10 tasks done" in Path(tmp_path / "g_report.html").read_text()


def test_one_file_for_all_functions_if_it_is_named(tmp_path, capsys):
    for name in ("f", "g"):
        write_run(Folder(tmp_path, name), 10, 2)

    assert run_command(["report", str(tmp_path), "-o", str(tmp_path / "both.html")]) == 0

    assert (tmp_path / "both.html").read_text().count("<article") == 2


@pytest.mark.parametrize(
    "words", [["status"], ["report"], ["check"], ["show"], ["export", "--csv=f"]]
)
def test_an_interrupted_command_says_so(tmp_path, monkeypatch, capsys, words):
    def interrupted(*_):
        raise KeyboardInterrupt

    for module in ("commands", "view_commands", "result_commands"):
        name = "open_results" if module == "result_commands" else "layouts_in"
        monkeypatch.setattr(f"acme_mpi.cli.{module}.{name}", interrupted)

    try:
        assert run_command([*words, str(tmp_path)]) == 75
    except KeyboardInterrupt:  # else it would end the tests
        pytest.fail("a traceback is shown")
    assert capsys.readouterr().err == "acme_mpi: interrupted\n"


def test_a_page_that_cannot_be_written_is_said(tmp_path, capsys):
    write_run(Folder(tmp_path), 10, 2)

    assert run_command(["report", str(tmp_path), "-o", "/proc/report.html"]) == 74
    assert "cannot write /proc/report.html" in capsys.readouterr().err


def test_nothing_is_left_beside_a_page_that_failed(tmp_path):
    write_run(Folder(tmp_path), 10, 2)
    (tmp_path / "there").mkdir()

    with pytest.raises(OSError, match="Is a directory"):
        write_report([Layout(str(tmp_path), "f")], str(tmp_path / "there"))

    assert sorted(os.listdir(tmp_path)) == [".acme_mpi", "there"]


def test_what_a_link_names_is_written_and_the_link_stays(tmp_path):
    write_run(Folder(tmp_path), 10, 2)
    link, page = tmp_path / "link.html", tmp_path / "page.html"
    link.symlink_to(page)

    write_report([Layout(str(tmp_path), "f")], str(link))

    assert link.is_symlink()
    assert page.read_text().startswith("<!")


def test_a_pipe_gets_the_page_and_stays(tmp_path):
    write_run(Folder(tmp_path), 10, 2)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)

    write_report([Layout(str(tmp_path), "f")], str(pipe))

    with open(reader, "rb") as file:
        assert file.read().startswith(b"<!")
    assert pipe.is_fifo()


class TestAtTheEnd:
    def test_a_run_that_was_long_gets_its_page(self, running, tmp_path):
        write_run(running, 10, 2)
        layout = Layout(str(tmp_path), "f")

        report_at_end(layout, 2, 60.0)

        assert "finished" in Path(layout.report).read_text()  # although its lease is held

    @pytest.mark.parametrize(("n_ranks", "took_s"), [(2, 5.0), (10_000, 60.0)])
    def test_one_that_would_notice_it_does_not(self, folder, tmp_path, n_ranks, took_s):
        write_run(folder, 10, 2)

        report_at_end(Layout(str(tmp_path), "f"), n_ranks, took_s)

        assert not list(tmp_path.glob("*.html"))

    def test_many_records_are_left_for_later(self, folder, tmp_path, monkeypatch):
        write_run(folder, 1000, 2)
        monkeypatch.setattr(written, "BLOCK_S", 1.0)

        report_at_end(Layout(str(tmp_path), "f"), 2, 60.0)

        assert not list(tmp_path.glob("*.html"))

    def test_what_cannot_be_drawn_or_written_fails_nothing(self, folder, tmp_path):
        write_run(folder, 10, 2)
        (tmp_path / "f_report.html").mkdir()

        report_at_end(Layout(str(tmp_path), "f"), 2, 60.0)
        report_at_end(Layout(str(tmp_path), "nowhere"), 2, 60.0)

    def test_it_goes_with_the_results(self, folder, tmp_path):
        write_run(folder, 10, 2)
        layout = Layout(str(tmp_path), "f")
        write_report([layout], layout.report)

        remove_results(layout)

        assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("value", "above"), [(0, 1), (1, 1), (1.2, 2), (61, 80), (100, 100), (101, 200), (999_999, 1e6)]
)
def test_axes_end_at_round_numbers(value, above):
    assert nice_above(value) == above


def test_a_cell_shows_counts_and_failures_as_text(folder):
    folder.describe(n_tasks=10)
    folder.write(done(0, 6), failed(6, message=XSS), failed(7, message=XSS))

    html = status_html(read_status(str(folder.path)))

    assert "6 of 10 tasks done, 2 failed, 2 left" in html
    assert "2 x ValueError at f.py:3: &lt;script&gt;" in html
    assert "width:60.00%" in html
    assert "<script" not in html


@pytest.fixture
def every_run_is_long(monkeypatch):
    monkeypatch.setattr(engine, "SHORT_S", 0.0)
    for name in ("PAGE_S", "JOURNAL_S", "BLOCK_S"):
        monkeypatch.setattr(written, name, 0.0)


@pytest.mark.usefixtures("every_run_is_long")
class TestOfARun:
    def test_it_lies_beside_the_results(self, tmp_path):
        acme_mpi.map(abs, [-1, -2, -3], output_dir=str(tmp_path / "out"))

        text = (tmp_path / "out" / "abs_report.html").read_text()
        assert "3 of 3 tasks done" in text
        assert "finished" in text

    def test_a_run_in_memory_has_none(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        acme_mpi.map(abs, [-1, -2, -3], write_worker_results=False)

        assert os.listdir(tmp_path) == []

    def test_a_place_that_is_taken_fails_no_run(self, tmp_path):
        (tmp_path / "out" / "abs_report.html").mkdir(parents=True)

        (path,) = acme_mpi.map(abs, [-1, -2, -3], output_dir=str(tmp_path / "out"))

        assert os.path.exists(path)


@pytest.mark.parametrize(("words", "expected"), [([], True), (["--no-report"], False)])
def test_the_command_line_can_do_without(words, expected):
    options = make_parser().parse_args(["m:f", *words])
    check_options(options)

    assert _options_of(options, "f", 1).output.has_report is expected


@pytest.mark.parametrize(
    ("environ", "job"),
    [
        ({}, ""),
        ({"SLURM_JOB_ID": "7"}, "job 7 of Slurm"),
        ({"JOB_ID": "7"}, ""),
        ({"JOB_ID": "7", "SGE_ROOT": "/"}, "job 7 of Grid Engine"),
    ],
)
def test_the_batch_job_is_told(folder, environ, job):
    assert batch_job(environ) == job

    folder.describe(job=job)

    assert ("<dt>job</dt>" in page(folder)) is bool(job)
