"""The runner's side of streams: keep setups and functions, call what is given, answer."""

from __future__ import annotations

import io
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from time import monotonic_ns
from types import FunctionType
from typing import Any

import cloudpickle

from acme_mpi.runner import forked
from acme_mpi.runner.calls import (
    Begin,
    Broken,
    CallNow,
    End,
    Forget,
    Given,
    Got,
    NoValue,
    Skipped,
    Teach,
)
from acme_mpi.runner.chunk import CLOCK_NS, REPORT_BYTES, REPORT_NS
from acme_mpi.runner.reloaded import follow
from acme_mpi.runner.shelf import Shelf
from acme_mpi.runner.streams import flush_standard_streams
from acme_mpi.runner.surroundings import Surroundings, change_environment
from acme_mpi.runner.trace import traceback_text
from acme_mpi.runner.words import N_RUNNING, SKIP_FROM, SKIP_TO
from acme_mpi.standing import Standing, become, loading
from acme_mpi.tasks.pickling import (
    AsRaised,
    Frozen,
    ValuePickler,
    are_native,
    are_plain,
    dump_plain,
    large_into,
    text_of,
)
from acme_mpi.tasks.scripts_main import Initializer

EACH, STAR, ONCE = range(3)  # see `Form`
REPLY_NS = 20_000_000  # an answer leaves the runner when it is older, with those after it
# Calls that took longer are told of before the last of some chunks: others come meanwhile.
AHEAD_NS = 1_000_000


class Caller:
    """Calls functions that it was taught, and says what they returned.

    Parameters
    ----------
    send : callable
        Takes a list of answers to the agent.
    words : memoryview
        Shared page, see `runner.words`.
    """

    def __init__(self, send: Callable[[list[Any]], None], words: memoryview) -> None:
        self._send, self._words = send, words
        self._shelf = Shelf(words)
        self._setups: dict[int, _Setup] = {}
        self._functions: dict[int, _Function] = {}
        self._surroundings: Surroundings | None = None
        self._variables: dict[str, str | None] = {}  # as they were without them
        self._answers: list[Any] = []
        self._n_bytes, self._since_ns = 0, 0
        self._n_retries = 0  # of the calls that are being made

    def take(self, messages: list[Any]) -> None:
        """Do what the agent says, one after the other; `answer` tells it the rest."""
        become(Standing.IN_TASK)
        last = messages[-1] if len(messages) > 1 else None
        for message in messages:
            match message:
                case CallNow():
                    if message is last and self._is_older_than(AHEAD_NS):
                        self.answer()
                    self._call(message)
                case Begin():
                    self._setups[message.setup] = _Setup(message)
                case End():
                    self._setups.pop(message.setup, None)
                case Teach():
                    self._functions[message.function] = _Function(message)
                case Forget():
                    self._functions.pop(message.function, None)

    @property
    def has_answers(self) -> bool:
        """Whether there is something to tell the agent."""
        return bool(self._answers)

    def answer(self) -> None:
        """Tell the agent what has ended."""
        if self._answers:
            flush_standard_streams()  # what the calls have printed comes before their results
            self._send(self._answers)
            self._shelf.clear()
        self._answers, self._n_bytes, self._since_ns = [], 0, 0

    def _call(self, order: CallNow) -> None:
        words, (chunk, first, stop) = self._words, order.calls
        ended = self._ended(order)
        while not words[SKIP_FROM] <= order.number + first < words[SKIP_TO]:
            if self._answers and isinstance(self._answers[-1], Skipped):
                self.answer()  # before what is found on the shelf
            values, busy_ns = next(ended)
            self._add(chunk, first, values, busy_ns)
            first += len(values)
            if first == stop:
                return
        self._answers.append(Skipped(order.number + first, stop - first))

    def _ended(self, order: CallNow) -> Iterator[tuple[list[Any], int]]:
        """Call, and yield values and the time they took in nanoseconds, some at a time."""
        given, (_, first, stop) = order.given, order.calls
        try:
            with forked.children_leave():
                call = self._function(given)
                with loading():
                    arguments = given.arguments(first, stop)
        except BaseException as error:
            if given.may_part and stop - first > 1:
                for k in range(first, stop):  # it may be the fault of one of them
                    yield from self._ended(order._replace(first=k, stop=k + 1))
            else:
                # Nothing has been called: each of them has the same end.
                yield [describe_error(error)] * (stop - first), 0
            return
        yield from self._called(call, arguments, order)

    def _function(self, given: Given) -> Callable[[Any], Any]:
        """Return what to call with each argument."""
        setup = self._setups[given.setup]
        surroundings = setup.message.surroundings
        if surroundings is not self._surroundings:
            change_environment(self._variables)  # what the last pool has changed
            self._variables = {name: os.environ.get(name) for name in surroundings.variables}
            change_environment(surroundings.variables)
            surroundings.take_on()
            self._surroundings = surroundings
        if not setup.is_begun:
            setup.begin()
            if setup.error is not None:
                body = pickle.dumps(describe_error(setup.error, "the initializer"))
                self._answers.append(Broken(given.setup, body))
        if setup.error is not None:
            raise setup.error
        self._n_retries = setup.message.rules.retries
        return _FORMS[given.form](self._functions[given.function].loaded())

    def _called(
        self, call: Callable[[Any], Any], arguments: list[Any], order: CallNow
    ) -> Iterator[tuple[list[Any], int]]:
        """Call, and yield values and the time they took, some at a time.

        Parameters
        ----------
        call : callable
            Takes one argument.
        arguments : list
            One for each call.
        order : CallNow
            What the agent has asked for.
        """
        words, clock = self._words, monotonic_ns
        number = order.number + order.first
        is_each_told = order.given.may_part  # and where each begins
        report_ns = -1 if is_each_told else REPORT_NS
        values: list[Any] = []
        begin_ns = now_ns = clock()
        done, n_between = 0, 1
        while done < len(arguments):
            # Calls of a few microseconds share one look at the clock, and one word to the agent.
            block = list(arguments[done : done + n_between])
            n_block = len(block)
            words[1], words[N_RUNNING] = now_ns, n_block
            words[0] = number + done
            block_ns = now_ns
            self._call_block(call, block, values)
            done += n_block
            now_ns = clock()
            if not (order.is_careful or is_each_told):
                took_ns = now_ns - block_ns
                n_between = max(1, min(2 * n_block, CLOCK_NS * n_block // (took_ns + 1)))
            if now_ns - begin_ns > report_ns:
                words[0] = -1
                yield values, now_ns - begin_ns
                values, begin_ns = [], clock()
                now_ns = begin_ns
        words[0] = -1
        if values:
            yield values, now_ns - begin_ns

    def _call_block(self, call: Callable[[Any], Any], block: list[Any], values: list[Any]) -> None:
        """Call with some arguments, and add what is returned to the values.

        A process that a task forks makes no more of these calls, and leaves.
        """
        own = forked.this_process
        forked.being_called.append(block)
        try:
            self._call_each(call, block, values)
        finally:
            forked.being_called.pop()
        if forked.this_process is not own:
            forked.leave()

    def _call_each(self, call: Callable[[Any], Any], block: list[Any], values: list[Any]) -> None:
        own = forked.this_process
        n_before, add = len(values), values.append
        rest: Iterable[Any] = block
        while True:
            try:
                # Not by `map`, which a StopIteration of the user's would end.
                for argument in rest:
                    add(call(argument))
            except BaseException as error:
                if forked.this_process is not own:
                    forked.leave(error)
                k = len(values) - n_before
                values.append(self._tried_again(call, block[k], error))
                rest = islice(block, k + 1, None)
            else:
                break

    def _tried_again(self, call: Callable[[Any], Any], argument: Any, error: BaseException) -> Any:
        """Return the value of a call that has raised, after as many trials as there may be."""
        own = forked.this_process
        for _ in range(self._n_retries):
            try:
                return call(argument)
            except BaseException as again:
                if forked.this_process is not own:
                    forked.leave(again)
                error = again
        return describe_error(error)

    def _add(self, chunk: int, first: int, values: list[Any], busy_ns: int) -> None:
        body, buffers = dump(values)
        answer = Got(chunk, first, len(values), body, buffers, busy_ns)
        self._append(answer)
        self._n_bytes += len(body)
        self._since_ns = self._since_ns or monotonic_ns() - busy_ns
        is_due = self._is_older_than(REPLY_NS) or self._n_bytes > REPORT_BYTES
        # What lies beside it is not copied yet, and may be overwritten by the next call.
        if is_due or buffers or not self._shelf.put(answer):
            self.answer()

    def _append(self, answer: Got) -> None:
        last = self._answers[-1] if self._answers else None
        if isinstance(last, Got) and last.is_before(answer):
            self._answers[-1] = last.with_next(answer)
        else:
            self._answers.append(answer)

    def _is_older_than(self, age_ns: int) -> bool:
        """Tell whether the first of the calls to be told of has begun so long ago."""
        return bool(self._since_ns) and monotonic_ns() - self._since_ns > age_ns


class _Setup:
    """A pool's setup in this process."""

    def __init__(self, message: Begin) -> None:
        self.message = message
        self.is_begun = not message.initializer
        self.error: BaseException | None = None

    def begin(self) -> None:
        """Call the initializer, once."""
        self.is_begun = True
        try:
            become(Standing.LOADING)
            initializer = Initializer(self.message.initializer)
            become(Standing.IN_TASK)
            initializer.call()
        except BaseException as error:
            self.error = error
        finally:
            become(Standing.IN_TASK)


class _Function:
    """A function that is loaded when it is first called, and kept."""

    def __init__(self, message: Teach) -> None:
        self._message: Teach | None = message
        self._func: Any = None

    def loaded(self) -> Any:
        if self._message is not None:
            become(Standing.LOADING)
            follow(self._message.modules)
            self._func = _load(self._message)
            self._message = None
            become(Standing.IN_TASK)
        return self._func


def _load(message: Teach) -> Any:
    if message.segment is None:
        return pickle.loads(message.body)
    # What a task writes into its function's arrays is there for this process alone.
    view = message.segment.view(private=True)
    pieces = [view[offset : offset + size] for offset, size in message.places]
    return pickle.loads(pieces[0], buffers=pieces[1:])


def dump(values: list[Any]) -> tuple[bytes, list[Any]]:
    """Pickle what calls have returned; one that cannot be pickled, or loaded, costs no other.

    Returns
    -------
    body : bytes
        Loads as the list of values; a `NoValue` stands for what cannot be had, and `thaw` may
        return an `Unloadable`.
    buffers : list of (n,) ndarray of uint8
        What lies beside it; not copied.
    """
    if are_native(values):
        return pickle.dumps(values, protocol=5), []
    buffers: list[Any] = []
    take = large_into(buffers)
    if are_plain(values):
        return dump_plain(values, take), buffers
    file = io.BytesIO()
    pickler = ValuePickler(file, protocol=5, buffer_callback=take)
    try:
        pickler.dump(values)
        if pickler.kinds <= {NoValue}:
            return file.getvalue(), buffers
    except BaseException:
        pass  # one of them; which one shows below
    return pickle.dumps([_alone(value) for value in values], protocol=5), []


def _alone(value: Any) -> Any:
    """Return what loads as a value, whatever becomes of the others."""
    if isinstance(value, NoValue):
        return value
    try:
        if isinstance(value, FunctionType) and "<" in value.__qualname__:
            # The pools of Python refuse it, and programs have come to rely on that.
            raise pickle.PicklingError(f"Can't pickle {value!r}: it is no function of a module")
        return Frozen(value)
    except BaseException as error:
        return NoValue(b"", "result", text_of(error, repr), text_of(value, repr), "")


def describe_error(error: BaseException, who: str = "the task") -> NoValue:
    """Return what stands for the value of a call that has raised; never raises."""
    text = traceback_text(error)
    if isinstance(error, SystemExit):
        message = f"{who} called sys.exit({text_of(error.code, repr)})"
        return NoValue(b"", "exit", message, "", text)
    if not isinstance(error, Exception):
        return NoValue(b"", "exit", f"{who} raised {text_of(error, repr)}", "", text)
    data, reason = _pickled_error(error)
    return NoValue(data, "raised", reason, text_of(error, repr), text)


def _pickled_error(error: BaseException) -> tuple[bytes, str]:
    """Return a pickle that loads as an exception, or none and why."""
    reason = ""
    # Python calls its type with its args, which may be another text, or too few of them.
    for value in (error, AsRaised(error)):
        try:
            data = bytes(cloudpickle.dumps(value, protocol=5))
            if _are_alike(pickle.loads(data), error):
                return data, ""
            reason = reason or "it would be another one when it is loaded"
        except BaseException as why:
            reason = reason or text_of(why, repr)
    return b"", reason


def _are_alike(one: BaseException, other: BaseException) -> bool:
    kinds = {type(each).__qualname__ for each in (one, other)}
    return len(kinds) == 1 and text_of(one) == text_of(other)


def _star(func: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda arguments: func(*arguments)


def _once(func: Callable[..., Any]) -> Callable[[Any], Any]:
    return lambda given: func(*given[0], **given[1])


_FORMS: dict[int, Callable[[Any], Callable[[Any], Any]]] = {
    EACH: lambda func: func,
    STAR: _star,
    ONCE: _once,
}
