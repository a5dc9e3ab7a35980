"""A call as the dialects ask for it, and how it is made ready for the ranks."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from acme_mpi.comm import World
from acme_mpi.engine.call import Call, Options
from acme_mpi.errors import InputError, StoreError
from acme_mpi.linux.segment import Segment
from acme_mpi.session.base import Session
from acme_mpi.standing import loading
from acme_mpi.storage import Layout
from acme_mpi.tasks import packing
from acme_mpi.tasks.classes import name_classes
from acme_mpi.tasks.digest import digest
from acme_mpi.tasks.fingerprint import fingerprint_of, versions
from acme_mpi.tasks.pickling import pickle_given
from acme_mpi.tasks.taskset import TaskSet, function_name
from acme_mpi.tasks.unpicklable import unpicklable_part

if TYPE_CHECKING:
    from acme_mpi.tasks.labels import Labels


class Request(NamedTuple):
    """What is called, for which tasks, and how.

    Attributes
    ----------
    func : callable
        The user's function.
    tasks : TaskSet
        Its arguments; those of rank 0 are used.
    options : Options
        Of the run.
    """

    func: Callable[..., Any]
    tasks: TaskSet
    options: Options

    def to_call(self, session: Session, world: World) -> Call:
        """Return what this rank brings into the run. Independent.

        Raises
        ------
        InputError
            Function or arguments cannot be pickled.
        StoreError
            There is no room for the arguments.
        """
        call = Call(self.options, own_func=self.func)
        # A function that is called in this very process need not be picklable.
        func = self.func if session.needs_pickles(self.options.work.isolate) else None
        with self._pickling():
            self._pack(call, world, func)
        if world.size > 1:
            # A rank that pickles an open file flushes it, too, and so changes its time of change.
            call.digests = {each.label: digest(each.value, False) for each in self.tasks.arguments}
        if world.is_master:
            call.fingerprint, call.labels = self.fingerprint(), self.labels()
        return call

    def to_packed(self) -> Segment:
        """Return function and arguments, for ranks that are started later. Independent.

        Raises
        ------
        InputError
            Function or arguments cannot be pickled.
        StoreError
            There is no room for them.
        """
        with self._pickling():
            return packing.pack(self.func, self.tasks)

    def to_debug_call(self, world: World) -> Call:
        """Return what this rank brings into a run in rank 0's own process. Independent."""
        fingerprint, labels = (self.fingerprint(), self.labels()) if world.is_master else ({}, None)
        return Call(
            self.options.in_one_process(),
            own_func=self.func,
            own_tasks=self.tasks,
            fingerprint=fingerprint,
            labels=labels,
        )

    def fingerprint(self) -> dict[str, str]:
        """Return what makes it the same computation as an earlier one; empty in memory."""
        if not self.options.output.store.writes_files:
            return {}
        with loading():
            return {**fingerprint_of(self.func, self.tasks, self.options.shaping), **versions()}

    def labels(self) -> Labels | None:
        """Return what its tasks are known by; None in memory."""
        if not self.options.output.store.writes_files:
            return None
        from acme_mpi.tasks.labels import labels_of

        return labels_of(self.func, self.tasks)

    def free_layout(self) -> Layout:
        """Return where its files would go; nothing is made yet. Independent.

        Raises
        ------
        PlaceError
            There is something else already, or no directory can be made.
        """
        # Only jobs have to know before they begin.
        from acme_mpi.engine.new_run import new_run
        from acme_mpi.history.beginning import choose_place
        from acme_mpi.history.folders import refuse_unmakeable

        fingerprint = {} if self.options.output.policy == "refuse" else self.fingerprint()
        layout = choose_place(new_run(Call(self.options, fingerprint=fingerprint), 1))
        if layout.directory:
            refuse_unmakeable(layout.directory)
        return layout

    def _pack(self, call: Call, world: World, func: Callable[..., Any] | None) -> None:
        """Put function and arguments into `call`, pickled; only rank 0's arguments travel."""
        if world.size == 1:
            call.packed = packing.pack(func, self.tasks)
            return
        name_classes(world.name)
        call.func = pickle_given(func)  # every rank calls a function of its own
        if world.is_master:
            call.packed = packing.pack(None, self.tasks)

    @contextlib.contextmanager
    def _pickling(self) -> Iterator[None]:
        """Context in which it is pickled; say what users can do if it cannot be."""
        try:
            with loading():
                yield
        except (InputError, StoreError):
            raise
        except Exception as error:
            raise InputError(
                f"the function or an argument cannot be pickled: {error}{self._at_fault()}; make "
                "open files, locks and connections inside the function"
            ) from None

    def _at_fault(self) -> str:
        """Return which part cannot be pickled, in parentheses; empty if that is not found."""
        given = [(self.func, function_name(self.func))]
        given += [(each.value, each.label) for each in self.tasks.arguments]
        parts = (unpicklable_part(value, name) for value, name in given)
        return next((f" ({part})" for part in parts if part), "")
