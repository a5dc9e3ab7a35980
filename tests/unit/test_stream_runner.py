"""The agent's side of a stream's runner, with real child processes."""

from __future__ import annotations

import os
import pickle
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from running import LIMIT_S, is_gone, wait_until
from test_runner_crashes import close_everything, end_by_segfault, end_by_signal, write_garbage

from acme_mpi.rules import Rules
from acme_mpi.runner.calls import Back, Begin, Broken, Given, Got, Lost, NoValue, Teach
from acme_mpi.runner.streaming import StreamRunner
from acme_mpi.runner.surroundings import Surroundings
from acme_mpi.runner.words import SKIP_FROM, SKIP_TO
from acme_mpi.tasks.pickling import pickle_given

pytestmark = [pytest.mark.once, pytest.mark.slow]

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Bench:
    """A runner, and what has come of the chunks that it got."""

    def __init__(self, are_together: bool) -> None:
        self.runner = StreamRunner(1)
        self._are_together = are_together  # chunks of one call travel as one that may part
        self._numbers = count(1)
        self.values: dict[tuple[int, int], Any] = {}  # by chunk and call
        self.lost: dict[tuple[int, int], Lost] = {}
        self.broken: list[Broken] = []
        self.back: list[Given] = []  # what is given again once something has ended

    def begin(
        self,
        rules: Rules | None = None,
        max_chunks: int = 0,
        initializer: Any = None,
        variables: dict[str, str | None] | None = None,
    ) -> int:
        number = next(self._numbers)
        body = b"" if initializer is None else pickle_given((initializer, ()))
        here = Surroundings.here()._replace(variables=variables or {})
        self.runner.begin(Begin(number, body, rules or Rules(), max_chunks, 0, here))
        return number

    def teach(self, func: Callable[..., Any]) -> int:
        number = next(self._numbers)
        self.runner.teach(Teach(number, pickle_given(func), [], None))
        return number

    def given(self, setup: int, function: int, arguments: Sequence[Any]) -> Given:
        number, body = next(self._numbers), pickle_given([*arguments])
        return Given(number, setup, function, 0, len(arguments), body, [])

    def give(self, setup: int, func: Callable[..., Any], *chunks: Sequence[Any]) -> list[Given]:
        """Give chunks at once; return them."""
        function = self.teach(func)
        given = [self.given(setup, function, arguments) for arguments in chunks]
        if self._are_together:
            (first, *_), bodies = (
                given,
                [each.body for each in given if isinstance(each.body, bytes)],
            )
            whole = first._replace(n=len(given), body=bodies)
            self.runner.give([whole])
            return [whole.part(k, k + 1) for k in range(whole.n)]
        self.runner.give(given)
        return given

    def poll(self) -> None:
        self.runner.look()
        for answer in self.runner.poll():
            if isinstance(answer, Broken):
                self.broken.append(answer)
                continue
            if isinstance(answer, Back):
                self.back += answer.given
                continue
            keys = [(answer.chunk, k) for k in range(answer.first, answer.first + answer.n)]
            assert not {*keys} & ({*self.values} | {*self.lost}), "a call has two ends"
            if isinstance(answer, Got):
                body, buffers = answer.body, answer.buffers
                bodies = body if isinstance(body, list) else [body]
                values = [v for each in bodies for v in pickle.loads(each, buffers=buffers)]
                self.values.update(zip(keys, values, strict=True))
            else:
                self.lost.update(dict.fromkeys(keys, answer))
            back, self.back = self.back, []
            self.runner.give(back)

    def until(self, is_true: Callable[[], Any]) -> None:
        """Serve the runner until something is true."""
        deadline = time.monotonic() + LIMIT_S
        while not is_true():
            left_s = deadline - time.monotonic()
            assert left_s > 0, "it has not happened"
            room = self.runner.waits_for_room
            pause_s = min(left_s, 0.02)  # for what `is_true` sees
            select.select(self.runner.descriptors(), [room] if room >= 0 else [], [], pause_s)
            self.poll()

    def finish(self) -> None:
        self.until(lambda: not self.runner.n_open and not self.back)
        self.poll()

    def ends(self, given: Sequence[Given]) -> list[Any]:
        """Return the value or the type of the end of each call of some chunks."""
        return [
            self.values[key] if (key := (each.chunk, k)) in self.values else self.lost[key].kind
            for each in given
            for k in range(each.first, each.first + each.n)
        ]


@pytest.fixture
def bench(request: pytest.FixtureRequest) -> Iterator[Bench]:
    bench = Bench(getattr(request, "param", "apart") == "together")
    yield bench
    bench.runner.leave()


both_ways = pytest.mark.parametrize("bench", ["apart", "together"], indirect=True)


class Pipe:
    """A pipe with a name, which lets tasks say that they run and wait until they may go on."""

    def __init__(self, folder: Path) -> None:
        self.began, self.allowed = str(folder / "began"), str(folder / "allowed")
        for path in (self.began, self.allowed):
            os.mkfifo(path)
        self._began = os.open(self.began, os.O_RDWR | os.O_NONBLOCK)
        self._allowed = os.open(self.allowed, os.O_RDWR | os.O_NONBLOCK)

    def has_begun(self) -> bool:
        return bool(select.select([self._began], [], [], 0)[0]) and bool(os.read(self._began, 1))

    def allow(self) -> None:
        os.write(self._allowed, b"!")


@pytest.fixture
def pipe(tmp_path: Path) -> Pipe:
    return Pipe(tmp_path)


def waiting(pipe: Pipe) -> Callable[[Any], Any]:
    """Return a function that waits for leave if its argument is "wait"."""
    began, allowed = pipe.began, pipe.allowed

    def wait(x: Any) -> Any:
        if str(x).startswith("wait"):
            with open(began, "w") as file:
                file.write("!")
            descriptor = os.open(allowed, os.O_RDONLY)
            os.read(descriptor, 1)
            os.close(descriptor)
        while x == "rest":
            signal.pause()
        return x

    return wait


def double(x: Any) -> Any:
    return 2 * x


def call_at_bad(x: Any) -> Any:
    return x() if callable(x) else x


class Quits:
    def __reduce__(self) -> Any:
        raise SystemExit(3)


def quits_at_1(x: int) -> Any:
    return Quits() if x == 1 else x


def test_values_come_in_order(bench):
    given = bench.give(bench.begin(), double, [1, 2], [3], range(1000))

    bench.finish()

    assert bench.ends(given) == [2, 4, 6, *(2 * x for x in range(1000))]


def test_a_result_that_quits_costs_its_call_alone(bench):
    given = bench.give(bench.begin(), quits_at_1, range(3), [5])

    bench.finish()

    first, second, *others = bench.ends(given)
    assert isinstance(second, NoValue)
    assert second.kind == "result"
    assert "3" in second.message
    assert [first, *others] == [0, 2, 5]


CRASHES: dict[str, tuple[Callable[[], Any], str]] = {
    "SIGKILL": (end_by_signal(signal.SIGKILL), "killed"),
    "SIGSEGV": (end_by_segfault, "killed"),
    "os._exit(7)": (lambda: os._exit(7), "exit"),
    "garbage": (write_garbage, "protocol"),
    "closed descriptors": (close_everything, "protocol"),
    "garbage, and goes on": (lambda: garbage_and_on(), "protocol"),
    "closed descriptors, and goes on": (lambda: os.closerange(3, 256), "protocol"),
}


def garbage_and_on() -> None:
    for name in os.listdir("/proc/self/fd"):
        try:
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                os.write(int(name), b"user code was here")
        except OSError:
            continue


@pytest.mark.parametrize("kind", CRASHES)
@pytest.mark.parametrize("bench", ["together"], indirect=True)
def test_a_crash_costs_one_of_the_calls_that_travel_together(bench, kind):
    crash, expected = CRASHES[kind]

    given = bench.give(bench.begin(), call_at_bad, [0], [crash], [2])
    bench.finish()

    assert bench.ends(given) == [0, expected, 2]


@pytest.mark.parametrize("kind", CRASHES)
@pytest.mark.parametrize("sizes", [[1] * 3, [3], [1, 2]], ids=["chunks of 1", "one", "two"])
def test_a_crash_costs_its_call_alone(bench, kind, sizes):
    """Whether it is seen at once, or later, when others of the chunk have been called.

    Where nobody knows whose it was, each call that may have been it gets a process of its own.
    """
    crash, expected = CRASHES[kind]
    arguments = [0, crash, 2]
    chunks, start = [], 0
    for size in sizes:
        chunks.append(arguments[start : start + size])
        start += size

    given = bench.give(bench.begin(), call_at_bad, *chunks)
    bench.finish()

    assert bench.ends(given) == [0, expected, 2]


def noting(path: Path) -> Callable[[Any], Any]:
    """Return the function that notes that it is called."""

    def note(x: Any) -> Any:
        with open(path, "a") as file:
            file.write(f"{x}\n")
        return x() if callable(x) else x

    return note


@both_ways
def test_what_had_returned_before_a_crash_is_not_called_again(bench, tmp_path):
    crash, noted = end_by_signal(signal.SIGKILL), tmp_path / "noted"
    given = bench.give(bench.begin(), noting(noted), [1], [2], [crash], [3])

    bench.finish()

    assert bench.ends(given) == [1, 2, "killed", 3]
    assert [line for line in noted.read_text().split("\n") if len(line) == 1] == ["1", "2", "3"]


@both_ways
def test_a_result_does_not_wait_for_the_call_behind_it(bench, pipe):
    given = bench.give(bench.begin(), waiting(pipe), [1], [2], ["wait"])

    bench.until(lambda: len(bench.values) == 2)

    pipe.allow()
    bench.finish()
    assert bench.ends(given) == [1, 2, "wait"]


def test_chunks_behind_a_long_call_come_back(bench, pipe):
    given = bench.give(bench.begin(), waiting(pipe), [1], ["wait"], [2], [3, 4], [5])

    bench.until(lambda: bench.back)

    assert bench.back == given[2:]
    assert bench.runner.look_s is None
    pipe.allow()
    bench.finish()
    assert bench.ends(given) == [1, "wait", 2, 3, 4, 5]


@pytest.mark.parametrize("bench", ["together"], indirect=True)
def test_calls_behind_a_long_one_part_from_it(bench, pipe):
    given = bench.give(bench.begin(), waiting(pipe), [1], ["wait"], [2], [3])

    bench.until(lambda: bench.back)

    assert [each.calls for each in bench.back] == [(given[0].chunk, 2, 4)]
    assert bench.ends(given[:1]) == [1]
    assert bench.runner.look_s is None
    pipe.allow()
    bench.finish()
    assert bench.ends(given) == [1, "wait", 2, 3]


@both_ways
def test_they_come_back_after_a_call_that_was_tried_again(bench, pipe, tmp_path):
    flag = tmp_path / "flag"

    def die_once() -> None:
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    wait, setup = call_waiting(pipe), bench.begin(Rules(retries=1))
    first = bench.give(setup, wait, [die_once])
    bench.finish()
    given = bench.give(setup, wait, ["wait"], [2])

    bench.until(lambda: bench.back)

    pipe.allow()
    bench.finish()
    assert bench.ends(first + given) == [None, "wait", 2]


@both_ways
def test_what_came_back_is_called_once(bench, pipe, tmp_path):
    """Also by the process that it was taken from."""
    wait, note = waiting(pipe), noting(tmp_path / "noted")
    given = bench.give(bench.begin(), lambda x: note(wait(x)), ["wait"], *([x] for x in range(9)))
    bench.until(lambda: bench.back)

    pipe.allow()
    bench.finish()

    assert bench.ends(given) == ["wait", *range(9)]
    assert (tmp_path / "noted").read_text().split() == ["wait", *map(str, range(9))]


def test_what_is_given_after_the_order_is_called_once(bench, pipe, tmp_path):
    wait, note = waiting(pipe), noting(tmp_path / "noted")
    setup = bench.begin()
    function = bench.teach(lambda x: note(wait(x)))
    given = [bench.given(setup, function, [x]) for x in ("wait", 1, 2)]
    bench.runner.give(given[:2])
    bench.until(lambda: bench.runner._recall._asked)
    bench.runner.give(given[2:])
    bench.until(lambda: len(bench.back) == 2)

    pipe.allow()
    bench.finish()

    assert bench.ends(given) == ["wait", 1, 2]
    assert (tmp_path / "noted").read_text().split() == ["wait", "1", "2"]


def test_a_part_of_a_chunk_stays_with_its_runner(bench, pipe):
    crash = end_by_signal(signal.SIGKILL)
    given = bench.give(bench.begin(), call_waiting(pipe), ["wait"], [1, crash, 2])
    bench.until(pipe.has_begun)
    pipe.allow()
    bench.finish()

    assert bench.ends(given) == ["wait", 1, "killed", 2]


def call_waiting(pipe: Pipe) -> Callable[[Any], Any]:
    wait = waiting(pipe)
    return lambda x: x() if callable(x) else wait(x)


@both_ways
def test_a_skip_that_nobody_knew_of_costs_nothing(bench, pipe):
    """The call has ended just when the rest was to be taken back."""
    given = bench.give(bench.begin(), waiting(pipe), ["wait"], [1], [2])
    bench.until(pipe.has_begun)
    runner = bench.runner
    runner._child.words[SKIP_TO], runner._child.words[SKIP_FROM] = 3, 1

    pipe.allow()
    bench.finish()

    assert bench.ends(given) == ["wait", 1, 2]


def test_kill_ends_the_call_that_runs(bench, pipe):
    first, second = bench.give(bench.begin(), waiting(pipe), ["wait", 1], [2])
    bench.until(pipe.has_begun)

    bench.runner.kill([first.calls])
    bench.finish()

    assert bench.ends([first, second]) == ["killed", "killed", 2]


@both_ways
def test_kill_ends_at_once_what_has_not_begun(bench, pipe):
    given = bench.give(bench.begin(), waiting(pipe), ["wait"], [1], [2])
    bench.until(pipe.has_begun)

    bench.runner.kill([given[1].calls])
    bench.poll()

    assert {*bench.lost} == {(given[1].chunk, given[1].first)}
    pipe.allow()
    bench.finish()
    assert bench.ends(given) == ["wait", "killed", 2]


@pytest.mark.parametrize("bench", ["together"], indirect=True)
def test_kill_ends_one_of_the_calls_that_travel_together(bench, pipe, tmp_path):
    """The one that runs; those before it have returned, and those behind are called once."""
    wait, note = waiting(pipe), noting(tmp_path / "noted")
    given = bench.give(bench.begin(), lambda x: wait(note(x)), [1], ["wait"], [2], [3])
    bench.until(pipe.has_begun)

    bench.runner.kill([given[1].calls, given[3].calls])
    bench.finish()

    assert bench.ends(given) == [1, "killed", 2, "killed"]
    assert (tmp_path / "noted").read_text().split() == ["1", "wait", "2"]


@both_ways
def test_what_was_ended_is_killed_once_it_begins(bench, pipe):
    given = bench.give(bench.begin(), waiting(pipe), ["wait"], ["rest"], [2])
    bench.until(pipe.has_begun)
    bench.runner.kill([given[1].calls])

    pipe.allow()
    pipe.allow()  # its value may have been lost with the process
    bench.finish()

    assert bench.ends(given) == ["wait", "killed", 2]


def test_a_setup_may_end_before_its_killed_call(bench, pipe):
    setup, other = bench.begin(), bench.begin()
    (given,) = bench.give(setup, waiting(pipe), ["wait"])
    bench.until(pipe.has_begun)

    bench.runner.kill([given.calls])
    bench.runner.end(setup)
    (good,) = bench.give(other, double, [1])
    bench.finish()

    assert bench.ends([given, good]) == ["killed", 2]


@both_ways
def test_a_kill_that_comes_too_late_costs_no_other_call(bench, pipe, monkeypatch):
    """The call has returned before the signal comes; the next one does not begin before that."""
    given = bench.give(bench.begin(), waiting(pipe), ["wait"], ["wait longer"])
    bench.until(pipe.has_begun)
    child = bench.runner._child
    kill = child.send_kill

    def kill_late() -> None:
        monkeypatch.undo()
        pipe.allow()
        wait_until(lambda: child.words[0] < 0 and select.select([child.channel], [], [], 0)[0])
        kill()

    monkeypatch.setattr(child, "send_kill", kill_late)
    bench.runner.kill([given[0].calls])
    bench.until(pipe.has_begun)  # in a new process
    pipe.allow()
    bench.finish()

    assert bench.ends(given) == ["killed", "wait longer"]
    assert bench.runner._child is not child
    assert not pipe.has_begun()


@both_ways
def test_what_had_returned_before_a_kill_is_not_called_again(bench, pipe, tmp_path):
    """The call that was meant has returned, too, when the signal comes."""
    wait, note = waiting(pipe), noting(tmp_path / "noted")
    given = bench.give(bench.begin(), lambda x: note(wait(x)), [1], [2], ["wait"], [3])
    bench.until(pipe.has_begun)
    runner = bench.runner
    runner._child.words[0] = -1  # as it is between two calls

    runner._is_killing = True
    runner._child.send_kill()
    bench.until(pipe.has_begun)
    pipe.allow()
    bench.finish()

    assert bench.ends(given) == [1, 2, "wait", 3]
    assert (tmp_path / "noted").read_text().split() == ["1", "2", "wait", "3"]


def test_nothing_is_taken_from_the_shelf_while_the_child_may_write(bench, pipe):
    bench.give(bench.begin(), waiting(pipe), [1], ["wait"])
    bench.until(pipe.has_begun)
    runner = bench.runner
    assert runner._shelf.answers()

    runner._take_from_shelf(runner._child.words[0] - 1)
    assert not runner.has_answers

    runner._take_from_shelf(runner._child.words[0])
    assert runner.has_answers
    pipe.allow()


def test_answers_of_chunks_that_lie_side_by_side_may_come_together(bench, tmp_path):
    """Parts of one chunk that were given one by one."""
    setup, function = bench.begin(), bench.teach(noting(tmp_path / "noted"))
    each = [bench.given(setup, function, [x]).body for x in range(6)]
    whole = bench.given(setup, function, [0])._replace(n=6, body=each)

    bench.runner.give([whole.part(k, k + 2) for k in (0, 2, 4)])
    bench.finish()

    assert bench.ends([whole]) == [*range(6)]
    assert (tmp_path / "noted").read_text().split() == [*map(str, range(6))]


def test_nothing_is_looked_at_after_a_kill(bench, pipe):
    """A chunk that waits for a new process is ended, too, and the runner sleeps again."""
    first, second = bench.give(bench.begin(max_chunks=1), waiting(pipe), ["wait"], [1])
    bench.until(pipe.has_begun)

    bench.runner.kill([second.calls])
    assert bench.runner.look_s == 0  # its end is there to be told
    pipe.allow()
    bench.finish()

    assert bench.ends([first, second]) == ["wait", "killed"]
    assert bench.runner.look_s is None


def test_a_process_is_replaced_after_so_many_chunks(bench):
    given = bench.give(bench.begin(max_chunks=2), lambda x: os.getpid(), *([x] for x in range(5)))

    bench.finish()

    pids = bench.ends(given)
    assert [pids.index(pid) for pid in pids] == [0, 0, 2, 2, 4]


def test_a_time_limit_costs_its_call_alone(bench, pipe):
    setup = bench.begin(Rules(timeout=0.2))
    given = bench.give(setup, waiting(pipe), [0, "wait", 2], [3])

    bench.finish()

    assert bench.ends(given) == [0, "timeout", 2, 3]


def test_an_initializer_that_raises_is_told_once(bench):
    def fail() -> None:
        raise LookupError("no licence")

    setup = bench.begin(initializer=fail)
    given = bench.give(setup, double, [1, 2], [3])
    bench.finish()

    assert [each.setup for each in bench.broken] == [setup]
    assert all(isinstance(each, NoValue) for each in bench.ends(given))


def test_an_initializer_that_quits_is_said_to_have(bench):
    bench.give(bench.begin(initializer=lambda: sys.exit(4)), double, [1])
    bench.finish()

    (broken,) = bench.broken
    assert pickle.loads(broken.body).message == "the initializer called sys.exit(4)"


def test_a_process_that_leaves_takes_its_children_along(bench):
    def start(x: int) -> int:
        pid = os.fork()
        if not pid:
            signal.pause()
        return pid

    (given,) = bench.give(bench.begin(), start, [0])
    bench.finish()
    (pid,) = bench.ends([given])

    bench.runner.leave()

    assert is_gone(pid)


def variables_said(x: int) -> list[str | None]:
    return [os.environ.get(name) for name in ("ACME_TEST_SAID", "OMP_NUM_THREADS")]


def test_each_pool_has_its_own_environment(bench):
    said = {"ACME_TEST_SAID": "first", "OMP_NUM_THREADS": "3"}
    first, second, third = bench.begin(variables=said), bench.begin(), bench.begin(variables=said)

    given = [bench.give(each, variables_said, [0])[0] for each in (first, second, third)]
    bench.finish()

    (a, _), (b, _), (c, _) = bench.ends(given)
    assert [a, b, c] == ["first", None, "first"]
    assert bench.ends(given)[0] == ["first", "3"]
