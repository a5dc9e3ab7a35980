"""A task that spoils its runner costs only itself."""

from __future__ import annotations

import builtins
import os
import pickle
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import cloudpickle
import numpy as np
import pytest
from running import (
    LARGE,
    failures_by_index,
    make_assignment,
    run_tasks,
    values_by_index,
    wait_until,
)

from acme_mpi.runner import changed
from acme_mpi.runner.changed import Baseline
from acme_mpi.runner.channel import Kind
from acme_mpi.runner.child import ChildRunner

pytestmark = pytest.mark.once
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def fail(*args: Any, **kwargs: Any) -> None:
    raise RuntimeError("spoilt")


def patch(module: Any, name: str, value: Any = fail) -> Callable[[], None]:
    return lambda: setattr(module, name, value)


def lower(name: str, soft: int) -> Callable[[], None]:
    number = getattr(resource, name)
    return lambda: resource.setrlimit(number, (soft, resource.getrlimit(number)[1]))


SPOILS: dict[str, Callable[[], Any]] = {
    "time.time is NaN": patch(time, "time", lambda: float("nan")),
    "time.time raises": patch(time, "time"),
    "time.monotonic_ns": patch(time, "monotonic_ns"),
    "pickle.dumps": patch(pickle, "dumps"),
    "pickle.Pickler": patch(pickle, "Pickler"),
    "numpy.nan": patch(np, "nan", 1.0),
    "numpy.asarray": patch(np, "asarray"),
    "os.getpid": patch(os, "getpid"),
    "sys.modules": lambda: sys.modules.clear(),
    "sys.stdout": patch(sys, "stdout", None),
    "sys.path": lambda: sys.path.clear(),
    "sys.meta_path": lambda: sys.meta_path.clear(),
    "RLIMIT_NOFILE": lower("RLIMIT_NOFILE", 3),
    "RLIMIT_FSIZE": lower("RLIMIT_FSIZE", 0),
    "RLIMIT_AS": lower("RLIMIT_AS", 1 << 20),
    "working directory": lambda: os.chdir("/"),
    "umask": lambda: os.umask(0o777),
    "signal handlers": lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL),
    "blocked signals": lambda: signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM]),
}
# What breaks the loop itself, so that the task that does it may lose its own result.
WORSE: dict[str, Callable[[], Any]] = {
    "builtins.len": patch(builtins, "len"),
    "builtins.range": patch(builtins, "range"),
    "builtins.isinstance": patch(builtins, "isinstance"),
    "builtins.open": patch(builtins, "open"),
}
if os.geteuid() == 0:
    SPOILS["user"] = lambda: os.setuid(65534)
    SPOILS["root directory"] = lambda: os.chroot("/proc")


@pytest.fixture
def runner() -> Iterator[ChildRunner]:
    started = ChildRunner()
    yield started
    started.stop()


def use_everything(x: int) -> Any:
    """Return what nobody returns whose process was spoilt."""
    open(os.devnull).close()
    sys.modules.pop("colorsys", None)
    import colorsys  # noqa: F401

    now_s, pid = time.time(), os.getpid()
    is_sound = now_s > 0 and pid > 0 and np.isnan(np.asarray([np.nan]))[0] and "os" in sys.modules
    return len(pickle.dumps(x)) > 0 and bool(is_sound) and os.getcwd() != "/"


def run(runner: ChildRunner, spoil: Callable[[], Any], chunks: list[range]) -> Any:
    def f(x):
        if x == 1:
            spoil()
            return True
        return use_everything(x)

    runner.prepare(make_assignment(f, list(range(chunks[-1].stop))))
    return run_tasks(runner, chunks)


@pytest.mark.parametrize("name", [*SPOILS, *WORSE])
def test_no_other_task_fails_for_it(runner, name):
    """Neither one of its own chunk nor one of the next."""
    outcomes = run(runner, {**SPOILS, **WORSE}[name], [range(3), range(3, 5)])

    assert set(failures_by_index(outcomes)) <= {1}
    assert [values_by_index(outcomes).get(x) for x in (0, 3, 4)] == [True] * 3
    assert values_by_index(outcomes)[2] is not None


@pytest.mark.parametrize("name", ["time.time raises", "numpy.nan", "RLIMIT_NOFILE"])
def test_what_it_has_returned_is_kept(runner, name):
    outcomes = run(runner, SPOILS[name], [range(2), range(2, 3)])

    assert failures_by_index(outcomes) == {}
    assert values_by_index(outcomes) == dict.fromkeys(range(3), True)
    assert runner.changed


@pytest.mark.parametrize("name", ["RLIMIT_NOFILE", "sys.modules", "builtins.open", "pickle.dumps"])
def test_nothing_of_ours_is_printed_for_it(name, capfd):
    runner = ChildRunner()
    try:
        run(runner, {**SPOILS, **WORSE}[name], [range(2), range(2, 3)])
    finally:
        runner.stop()

    assert "acme_mpi" not in capfd.readouterr().err


def test_a_large_result_that_cannot_be_written_costs_its_task(runner, tmp_path):
    """A large result that cannot be written therefore costs its task alone."""
    path = tmp_path / "file"
    path.write_bytes(bytes(LARGE.nbytes))

    def f(x):
        if x == 1:
            resource.setrlimit(
                resource.RLIMIT_FSIZE, (0, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
            )
        return LARGE

    runner.prepare(make_assignment(f, list(range(4)), in_memory=False, can_place=True))
    outcomes = run_tasks(runner, [range(4)], lambda request: (str(path), 0))

    (failure,) = failures_by_index(outcomes).values()
    assert (failure["index"], failure["type"]) == (1, "ResultError")
    assert "after RLIMIT_FSIZE of its process was changed" in failure["message"]


def test_what_every_call_changes_costs_one_process(runner):
    """A function that changes directory, or lowers a limit, at each call does not crawl."""

    def f(x):
        os.chdir("/")
        lower("RLIMIT_NPROC", 10_000 + x)()
        return os.getpid()

    for _ in range(2):
        runner.prepare(make_assignment(f, list(range(8))))
        outcomes = run_tasks(runner, [range(k, k + 1) for k in range(8)])
        assert failures_by_index(outcomes) == {}
        pids = values_by_index(outcomes)
        assert len(set(pids.values())) <= 2, outcomes
        assert pids[1] == pids[7]
        runner.forget()


def test_what_may_only_help_is_left_alone(runner):
    def f(x):
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.environ["TZ"] = "UTC"
        time.tzset()
        import numpy.polynomial.legendre  # noqa: F401

        return os.getpid()

    runner.prepare(make_assignment(f, list(range(4))))
    outcomes = run_tasks(runner, [range(k, k + 1) for k in range(4)])
    assert failures_by_index(outcomes) == {}
    pids = values_by_index(outcomes)

    assert len(set(pids.values())) == 1
    assert not runner.changed


def test_a_task_that_always_fails_is_called_twice_at_most(runner, tmp_path):
    def f(x):
        with (tmp_path / "calls").open("a") as file:
            file.write(f"{x}\n")
        if x == 0:
            time.sleep = fail
        if x == 2:
            raise ValueError("by itself")
        return x

    runner.prepare(make_assignment(f, list(range(4))))
    outcomes = run_tasks(runner, [range(4)])

    assert list(failures_by_index(outcomes)) == [2]
    assert (tmp_path / "calls").read_text().split() == ["0", "1", "2", "2", "3"]


class TestBaseline:
    def test_nothing_has_changed_at_first(self):
        baseline = Baseline([signal.SIGTERM])

        assert baseline.differences() == baseline.differences_if_due() == []

    def test_a_change_that_was_found_is_looked_for_again_at_once(self, monkeypatch):
        """Who has looked often looks again at once if something was found."""
        baseline = Baseline()
        monkeypatch.setattr(changed, "N_LOOKS", 0)
        monkeypatch.setattr(changed, "LOOK_NS", 1 << 62)
        monkeypatch.setattr(np, "nan", 3.0)

        assert baseline.differences_if_due() == []
        assert baseline.differences() == baseline.differences_if_due() == ["numpy.nan"]

    def test_what_is_accepted_is_not_told(self, monkeypatch):
        baseline = Baseline()
        monkeypatch.setattr(np, "nan", 3.0)

        assert baseline.differences() == ["numpy.nan"]
        baseline.accepted.add("numpy.nan")
        assert baseline.differences() == []


def test_what_the_same_task_changes_again_is_no_habit(runner, tmp_path):
    """Left out behind another one in the same outcome, it is the first of the next process.

    Where it has had an outcome of its own, it has failed there.
    """
    path = tmp_path / "file"
    path.write_bytes(bytes(LARGE.nbytes))

    def f(x):
        if x == 1:
            hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
        return LARGE if x else 0  # 0 is quick enough to share an outcome with 1

    alone = [range(1), range(1, 2), range(2, 4)]
    for chunks in ([range(4)], alone, [range(4)], [range(1, 4)]):
        runner.prepare(make_assignment(f, list(range(4)), in_memory=False, can_place=True))
        outcomes = run_tasks(runner, chunks, lambda request: (str(path), 0))

        assert [*failures_by_index(outcomes)] == [1]


def test_what_a_changed_process_was_asked_between_runs_its_successor_answers(runner, tmp_path):
    (tmp_path / "only_there.py").write_text("value = 7\n")
    of_module = b"conly_there\nvalue\n"  # a pickle's word for it
    piece = [(0, 1)], b"(l" + of_module + b"a.", []

    runner.ask(Kind.SHOW, ([piece], 1, [str(tmp_path), *sys.path], False))
    runner._take(Kind.CHANGED, (["sys.stdout"], False))  # which had left before it could read that

    def is_answered():
        runner.poll()
        return runner.other_messages or not runner.descriptors()

    wait_until(is_answered)
    assert runner.other_messages.popleft() == (Kind.SHOWN, (["7"], {}))
