"""The agent's side of a stream's runner: chunks go in, and answers come out.

A process that ends costs the call that it was running. Of its chunks, those that had returned and
were not reported are found on its shelf as far as that holds; all others go to its successor. While
a call takes long, what stands behind it in its process is taken back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from dataclasses import replace
from typing import Any

from acme_mpi.runner.blame import Blame
from acme_mpi.runner.calls import (
    Back,
    Begin,
    Broken,
    CallNow,
    Calls,
    End,
    Forget,
    Given,
    Got,
    Lost,
    Meant,
    Reply,
    Skipped,
    Teach,
)
from acme_mpi.runner.channel import Kind
from acme_mpi.runner.guard import SHORTEST_LOOK_S, Gone, Guard, Limits
from acme_mpi.runner.pieces import Piece, around, n_calls, parted
from acme_mpi.runner.process import Child, Ending, child_environment
from acme_mpi.runner.recall import Recall
from acme_mpi.runner.shelf import Shelf
from acme_mpi.runner.surroundings import need_a_new_process
from acme_mpi.runner.words import N_RUNNING

KILLED = Ending("killed", "the task was ended: nobody waits for its result any more")


class StreamRunner:
    """Calls the functions of streams in a child process of its own.

    Parameters
    ----------
    n_threads : int
        Threads of the numerical libraries in the child, >= 1.
    child : Child, optional
        One that is there and has called nothing; None: one is started when it is needed.
    """

    def __init__(self, n_threads: int, child: Child | None = None) -> None:
        self._n_threads, self._n_numbers = n_threads, 0
        self._setups: dict[int, Begin] = {}
        self._functions: dict[int, Teach] = {}
        self._open: deque[Piece] = deque()  # what the child has, oldest first
        self._held: deque[Piece] = deque()  # what its successor gets
        self._outbox: deque[Any] = deque()  # for the child
        self._answers: list[Reply] = []
        # Of what was on the shelf: by chunk and first call how many.
        self._taken: dict[tuple[int, int], int] = {}
        self._n_lost = 0  # of what is open
        self._is_killing = False  # the child, because of a call that was ended
        self._blame = Blame()
        self._n_chunks: dict[int, int] = {}  # that the child has got, by setup
        self._has_reported = False  # the child, since it was started
        self._child: Child | None = None
        if child is not None:
            self._adopt(child)

    def _adopt(self, child: Child) -> None:
        self._child, self._guard = child, Guard(child)
        self._shelf, self._recall = Shelf(child.words), Recall(child.words)
        self._taken.clear()
        self._has_reported = self._is_killing = False
        self._guard.begin_looks()
        self._n_chunks.clear()

    def begin(self, setup: Begin) -> None:
        """Learn a setup."""
        self._setups[setup.setup] = setup
        self._tell(setup)

    def end(self, setup: int) -> None:
        """Forget one."""
        self._setups.pop(setup, None)
        self._tell(End(setup))

    def teach(self, function: Teach) -> None:
        """Learn a function."""
        self._functions[function.function] = function
        self._tell(function)

    def forget(self, function: int) -> None:
        """Forget one."""
        self._functions.pop(function, None)
        self._tell(Forget(function))

    def _tell(self, message: Any) -> None:
        if self._child is not None:
            self._outbox.append(message)

    @property
    def n_open(self) -> int:
        """Number of chunks that are not finished."""
        return len(self._open) + len(self._held)

    def give(self, chunks: Collection[Given]) -> None:
        """Have chunks called, after all others."""
        for given in chunks:
            number, (_, first, stop) = self._new_number(given), given.calls
            self._held.append(Piece(number, given, self._setups[given.setup], first, stop))
        self._feed()

    def _new_number(self, given: Given) -> int:
        """Return what the first call of a chunk has, or would have, as its new number."""
        number = self._n_numbers - given.first
        self._n_numbers += given.n
        return number

    def kill(self, calls: Collection[Calls]) -> None:
        """End calls, also one that runs; those that have not returned yet are lost."""
        meant = Meant(calls)
        self._held, self._open = parted(self._held, meant), parted(self._open, meant)
        for piece in [*self._held, *self._open]:
            if not piece.is_lost and meant.has_some_of(piece.of_chunk):
                self._lose(piece, piece.first, piece.stop, KILLED)
                piece.is_lost = True
        self._count_lost()
        self._held = deque(each for each in self._held if not each.is_lost)
        self._end_lost()

    def _count_lost(self) -> None:
        self._n_lost = sum(each.is_lost for each in self._open)

    def _feed(self) -> None:
        """Give the child what is held back, as far as it may have it."""
        if self._held and self._child is None:
            self._start()
        while self._held and self._child is not None and not self._has_taken:
            each = self._held[0]
            setup = each.setup
            n_chunks = self._n_chunks.get(setup.setup, 0)
            if setup.max_chunks and n_chunks >= setup.max_chunks:
                # Its successor gets the rest, once it has done what it has.
                if not self._open:
                    self._child.end()
                    self._child = None
                    self._start()
                    continue
                break
            piece = self._next_held()
            if piece is None:
                break
            self._n_chunks[setup.setup] = n_chunks + 1
            self._open.append(piece)
            is_careful = piece.is_careful or _has_limits(setup)
            self._outbox.append(
                CallNow(piece.number, piece.given, piece.first, piece.stop, is_careful)
            )
        self._send()

    def _next_held(self) -> Piece | None:
        """Take what the child gets next; None: it has to finish something first."""
        if not self._held:
            return None
        if not self._open:
            self._blame.end_search(self._held[0].calls.start)
        if self._blame.most is None:
            return self._held.popleft()
        room = self._blame.most - n_calls(self._open)
        if room <= 0:
            return None
        each = self._held.popleft()
        if each.stop - each.first > room:
            self._held.appendleft(replace(each, first=each.first + room))
            each = replace(each, stop=each.first + room)
        return each

    def _start(self) -> None:
        """Start a child, and tell it what it has to know."""
        first = self._held[0].setup if self._held else None
        wanted = {} if first is None else first.surroundings.variables
        # The others are set with its first call, and taken back for the next pool's.
        variables = {n: value for n, value in wanted.items() if need_a_new_process({n: value})}
        environment = child_environment(self._n_threads, variables)
        try:
            self._adopt(Child("acme_mpi.runner.child_main", (), environment))
        except OSError as error:
            text = f"no process for tasks can be started: {error.strerror}; is a limit too small?"
            for each in self._held:
                self._lose(each, each.first, each.stop, Ending("protocol", text))
            self._held.clear()
            return
        self._outbox = deque([*self._setups.values(), *self._functions.values()])

    def _send(self) -> None:
        """Send what the child has room for: it may be busy, and this never waits."""
        child = self._child
        while self._outbox and child is not None and child.channel.has_room():
            try:
                child.channel.send(Kind.GIVE, self._next_messages())
            except (BrokenPipeError, ConnectionError):
                return  # seen by `poll`

    def _next_messages(self) -> list[Any]:
        """Take what goes into one message: a descriptor goes alone."""
        messages, n_bytes = list[Any](), 0
        while self._outbox and n_bytes < 32 * 1024:
            message = self._outbox[0]
            is_large = isinstance(message, Teach) and message.segment is not None
            if is_large and messages:
                break
            messages.append(self._outbox.popleft())
            if is_large:
                break
            if isinstance(message, CallNow):
                n_bytes += message.given.n_bytes
        return messages

    def descriptors(self) -> list[int]:
        """Return what to select on for reading."""
        return [] if self._child is None else self._guard.descriptors()

    @property
    def waits_for_room(self) -> int:
        """Descriptor to select on for writing; -1: none."""
        return self._child.channel.fileno() if self._child is not None and self._outbox else -1

    @property
    def look_s(self) -> float | None:
        """Longest time in seconds between two calls of `look`; None: it need not be called."""
        if self._answers:
            return 0.0  # they are to be told
        if self._n_lost:
            return min(SHORTEST_LOOK_S, self._recall.look_s)  # to see it begin
        pauses_s = [self._limits.look_s, self._recall.look_s if self._has_some_behind else None]
        return min((pause_s for pause_s in pauses_s if pause_s is not None), default=None)

    @property
    def _has_some_behind(self) -> bool:
        """Whether calls that may be taken back stand behind the one that may run."""
        if len(self._open) != 1:
            return len(self._open) > 1
        return self._open[0].given.may_part and len(self._open[0].calls) > 1

    @property
    def _limits(self) -> Limits:
        """What the call that runs may take; it is of the oldest chunk, if of any that is open."""
        if not self._open:
            return Limits()
        rules = self._open[0].setup.rules
        return Limits(rules.timeout_s, rules.memory_bytes)

    def look(self) -> None:
        """End the call that runs if it is over a limit, or nobody wants it."""
        limits = self._limits
        if self._child is not None and limits.look_s is not None:
            self._guard.look(limits)
        self._end_lost()
        if self._child is not None and not (self._is_killing or self._guard.over_limit):
            self._look_around_long_call()

    def _look_around_long_call(self) -> None:
        """Take what was returned before a call that takes long, and what is to come behind it."""
        if not self._has_some_behind or (index := self._recall.long_call()) is None:
            return
        self._take_from_shelf(index)
        self._part_behind(index)
        for each in self._recalled(index) or ():
            self._take_back(each)

    def _recalled(self, index: int) -> list[Piece] | None:
        """Ask for what stands behind a call that runs; return what is back, None: nothing yet."""
        behind = [each for each in self._open if each.calls.start > index]
        if not behind:
            return []
        n_back = self._recall.take(index, behind[0].calls.start, behind[-1].calls.stop)
        return [each for each in behind if each.calls.start < n_back] or None

    def _part_behind(self, index: int) -> None:
        """Have what stands behind a call in its chunk stand for itself, if it may."""
        self._open = deque(
            part
            for each in self._open
            for part in each.parted([index + 1 - each.number] if each.given.may_part else ())
        )
        self._count_lost()

    def _take_back(self, each: Piece) -> None:
        """Hold back what the child will not call."""
        self._open.remove(each)
        self._n_lost -= each.is_lost
        setup = each.setup.setup
        self._n_chunks[setup] = self._n_chunks.get(setup, 1) - 1
        if each.is_lost:
            return
        # The child goes on to skip what has the numbers that it had.
        moved = replace(each, number=self._new_number(each.given))
        self._blame.renumber(each.calls, moved.calls.start)
        self._held.append(moved)

    def _give_back(self) -> None:
        """Let others have the chunks that are held back because of a long call."""
        free = [
            each
            for each in self._held
            if (each.given.may_part or len(each.calls) == each.given.n)
            and not self._blame.is_known(each.calls)
        ]
        if free:
            self._held = deque(each for each in self._held if each not in free)
            self._answers.append(Back([each.given.part(each.first, each.stop) for each in free]))

    def _take_from_shelf(self, index: int) -> None:
        """Take the answers that the child has not sent.

        Parameters
        ----------
        index : int
            Of the call that it runs, or has ended with: else it may be writing.
        """
        answers = self._shelf.answers()
        if self._child is not None and self._child.words[0] != index:
            return
        for got in answers:
            if self._is_next(got):
                self._taken[got.chunk, got.first] = got.n
                self._finish(got)

    def _end_lost(self) -> None:
        """Kill the child if it runs what was ended."""
        if self._child is None or not self._n_lost or self._is_killing:
            return
        if self._guard.over_limit is not None:
            return
        index = self._child.words[0]
        if not any(each.is_lost and index in each.calls for each in self._open):
            return
        if self._recalled(index) is not None:  # nothing of it begins before the signal comes
            self._is_killing = True
            self._child.send_kill()

    @property
    def has_answers(self) -> bool:
        """Whether `poll` has something to return, whatever the child says."""
        return bool(self._answers) or (self._has_taken and bool(self._held))

    @property
    def _has_taken(self) -> bool:
        return self._child is not None and self._recall.has_taken

    def poll(self) -> list[Reply]:
        """Return what has been answered."""
        self._send()
        while self._child is not None:
            found = self._guard.listen(self._take)
            if isinstance(found, Gone):
                self._replace_dead(found.misdeed)
            if found is not True:
                break
        if self._has_taken:
            self._give_back()
        answers, self._answers = self._answers, []
        return answers

    def _take(self, kind: Kind, content: Any) -> None:
        if kind != Kind.GOT:
            return
        for answer in content:
            if isinstance(answer, Broken):
                self._answers.append(answer)
            elif isinstance(answer, Skipped):
                self._skip(answer)
            elif (left := self._not_taken(answer)) is not None:
                self._finish(left)
        self._recall.end()
        self._feed()

    def _not_taken(self, got: Got) -> Got | None:
        """Return what is left of an answer without that which was on the shelf, before it."""
        left: Got | None = got
        while left and (n := self._taken.pop((left.chunk, left.first), 0)):
            _, left = left.parted(n)
        return left

    def _skip(self, skipped: Skipped) -> None:
        """Hear that something was skipped; it may be that this was not known to happen."""
        first, stop = skipped.number, skipped.number + skipped.n
        self._part_behind(first - 1)
        for each in [*self._open]:
            if first <= each.calls.start < stop:
                self._take_back(each)

    def _is_next(self, got: Got) -> bool:
        """Tell whether an answer is to what the child was to call next."""
        if not self._open:
            return False
        each = self._open[0]
        is_its = (each.given.chunk, each.first) == (got.chunk, got.first)
        if isinstance(got.body, list):  # what it tells together may have parted here
            return is_its and 0 < got.n == len(got.body)
        return is_its and 0 < got.n <= each.stop - each.first

    def _finish(self, got: Got) -> None:
        """Take an answer, of what was parted meanwhile each part for itself."""
        rest: Got | None = got
        while rest is not None:
            if not self._is_next(rest):
                raise ValueError(f"an answer to what was not asked: {rest.chunk}, {rest.first}")
            each = self._open[0]
            told, rest = rest.parted(min(rest.n, each.stop - each.first))
            self._end_calls(each, told)

    def _end_calls(self, each: Piece, got: Got) -> None:
        self._has_reported = True
        self._blame.forget(each.numbers(got.first, got.first + got.n))
        each.first += got.n
        if each.first == each.stop:
            self._open.popleft()
            self._n_lost -= each.is_lost
        if not each.is_lost:
            self._answers.append(got)

    def _replace_dead(self, misdeed: str | None) -> None:
        """Lose the call that a dead child was running; all else goes to its successor."""
        assert self._child is not None
        child, self._child = self._child, None
        n_running: int = child.words[N_RUNNING]
        index, ending = self._guard.ending(child.kill(), misdeed)
        self._outbox.clear()
        # If it has ended by itself between calls, what was returned may be what has spoilt it.
        if misdeed is None and (index >= 0 or self._is_killing):
            self._take_from_shelf(index)
        left = [*self._open]
        self._open.clear()
        self._n_lost = 0
        running = next((each for each in left if index in each.calls), None)
        if self._is_killing:
            running = None  # it may have begun another call before the signal came
        elif running is None and left:
            last = left[-1].calls.stop - 1
            if self._blame.is_single(n_calls(left), last, self._has_reported):
                running, index, n_running = left[0], left[0].calls.start, 1
        if running is not None:
            self._blame.most = None
        for each in left:
            if each.is_lost:
                continue
            if each is running and n_running > 1 and not each.is_careful:
                self._held += around(each, index, index + n_running)
            elif each is running:
                self._held_without(each, index, ending)
            else:
                self._held.append(each)
        self._held = deque(sorted(self._held, key=lambda each: each.calls.start))
        self._feed()

    def _held_without(self, each: Piece, index: int, ending: Ending) -> None:
        """Hold back a chunk's calls, all but the one that has ended its process for good."""
        k = index - each.number
        rules = each.setup.rules
        n_deaths = self._blame.note_death(index)
        was_over_limit = self._guard.over_limit is not None
        if was_over_limit:
            is_given_up = n_deaths > rules.retries
        else:
            is_given_up = rules.gives_up(n_deaths, ending.is_from_outside)
        if not is_given_up:
            self._held.append(each)
            return
        self._lose(each, k, k + 1, ending)
        for first, stop in ((each.first, k), (k + 1, each.stop)):
            if first < stop:
                self._held.append(replace(each, first=first, stop=stop))

    def _lose(self, each: Piece, first: int, stop: int, ending: Ending) -> None:
        self._blame.forget(each.numbers(first, stop))
        lost = Lost(each.given.chunk, first, stop - first, ending.type, ending.message)
        self._answers.append(lost)

    def leave(self) -> None:
        """End the child as Python does if it has nothing to do, else kill it."""
        child, self._child = self._child, None
        if child is not None and not self._open:
            child.end()
        elif child is not None:
            child.kill()
        self._open.clear()
        self._held.clear()


def _has_limits(setup: Begin) -> bool:
    return bool(setup.rules.timeout_s or setup.rules.memory_bytes)
