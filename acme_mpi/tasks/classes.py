"""Classes of a script have one name for all processes of a job, so that each finds its own again.

cloudpickle sends a class that cannot be imported as what it consists of, with an id: where a class
with that id is known, it is taken. It draws the ids at random. The ranks of a script that runs on
all of them know the same classes, each its own: here the ids are names.
"""

from __future__ import annotations

import sys
import uuid
from collections import Counter
from typing import Any, TypedDict, is_typeddict
from weakref import WeakKeyDictionary

from cloudpickle import cloudpickle

_JOB = [uuid.uuid4().hex]
_NAMES: WeakKeyDictionary[type, str] = WeakKeyDictionary()  # of the classes of this process
_COUNTS: Counter[str] = Counter()


def name_classes(job: str) -> None:
    """Name the classes of this process's script, and from now on all that are pickled.

    Parameters
    ----------
    job : str
        What the processes have in common that run the same script. Others, which may read a pickle
        later, have other classes.
    """
    _JOB[:] = [job]
    for value in list(vars(sys.modules["__main__"]).values()):
        if isinstance(value, type) and value.__module__ == "__main__":
            name_class(value)


def name_class(kind: type) -> None:
    """Have cloudpickle know a class by its name, unless it can be imported."""
    if cloudpickle._should_pickle_by_reference(kind):
        return
    if kind not in _NAMES:
        # A class that is defined again is another one.
        name = f"{kind.__module__}.{kind.__qualname__}"
        _COUNTS[name] += 1
        _NAMES[kind] = f"{name}#{_COUNTS[name]}"
    known = f"acme_mpi:{_JOB[0]}:{_NAMES[kind]}"
    with cloudpickle._DYNAMIC_CLASS_TRACKER_LOCK:
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_CLASS[kind] = known
        cloudpickle._DYNAMIC_CLASS_TRACKER_BY_ID[known] = kind


def whole_class(kind: type, reduced: Any) -> Any:
    """Return how a class is pickled, given how cloudpickle does it, which leaves out ``__slots__``.

    Objects of a class without them have a ``__dict__``, and what that holds does not load where the
    class has slots. Of a TypedDict it names ``dict`` as a base, which none may have.
    """
    if not isinstance(reduced, tuple) or reduced[0] is not cloudpickle._make_skeleton_class:
        return reduced
    make, (constructor, name, bases, namespace, *rest), *others = reduced
    if is_typeddict(kind):
        bases = tuple(TypedDict if each is dict else each for each in bases)
    elif "__slots__" in vars(kind) and not issubclass(kind, tuple):  # which may only have none
        namespace = {**namespace, "__slots__": vars(kind)["__slots__"]}
    return make, (constructor, name, bases, namespace, *rest), *others


def fill_unless_own(kind: type, state: Any) -> type:
    """Give a class that was unpickled what it consists of; a class of this process has it."""
    if kind not in _NAMES:
        cloudpickle._class_setstate(kind, state)
    return kind
