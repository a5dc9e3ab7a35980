"""What an outcome has for the store: runs of tasks of one form, and the parts of one task."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from acme_mpi.history.journal import AS_GROUPS, AS_PICKLES, AS_RAGGED, AS_ROWS
from acme_mpi.results.content import Content
from acme_mpi.results.convert import Part
from acme_mpi.results.parts import Parts, is_pickle, is_placed, names_of, parts_of
from acme_mpi.results.spec import RowSpec


def pieces_of(
    runs: Sequence[range], content: Content, spec: RowSpec | None
) -> Iterator[tuple[range, int, int]]:
    """Yield (tasks, form, position of the first in `content`) for tasks that are stored alike.

    `form` has the journal's bits. With a `RowSpec` a task has a group of its own only if its
    function has returned more than the row.
    """
    position = 0
    for run in runs:
        if isinstance(
            content.rows, list
        ):  # so are those of all columns; each row lies somewhere else
            for at, index in enumerate(run, position):
                form = AS_ROWS if content.parts is None else _form(spec, content.parts[at])
                yield range(index, index + 1), form, at
        elif content.parts is None:
            yield run, AS_ROWS, position
        elif spec is None and not content.unstorable:
            yield run, AS_GROUPS, position
        else:
            parts = content.parts[position : position + len(run)]
            forms = [_form(spec, each) for each in parts]
            for form, members in groupby(range(len(run)), key=forms.__getitem__):
                alike = list(members)
                yield run[alike[0] : alike[-1] + 1], form, position + alike[0]
        position += len(run)


def _form(spec: RowSpec | None, parts: Parts) -> int:
    if is_pickle(parts):
        return AS_PICKLES
    if spec is None:
        return AS_GROUPS
    n_in_rows = 1 if spec.is_ragged else 0
    more = AS_GROUPS if len(parts_of(parts)) > n_in_rows else 0
    return more | (AS_RAGGED if spec.is_ragged else AS_ROWS)


def parts_at(content: Content, position: int) -> list[Part]:
    """Return all parts of one task, its rows first."""
    parts = parts_of(content.parts[position]) if content.parts else []
    rows = [column[position] for column in content.columns]
    return [*(row if is_placed(row) else np.asarray(row) for row in rows), *parts]


def names_at(content: Content, position: int) -> Sequence[str]:
    """Return the names of all parts of one task, empty ones where they have none."""
    names = names_of(content.parts[position]) if content.parts else ()
    return names or [""] * len(parts_at(content, position))
