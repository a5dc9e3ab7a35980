"""Checks of ACME's keywords, with ACME's types of exception and its wording."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Callable, Mapping
from types import NoneType
from typing import Any, NamedTuple

import numpy as np

from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.history.stores import StoreKind, chosen_kind, find_store, payload_names
from acme_mpi.results.convert import ResultError
from acme_mpi.results.named import checked_names
from acme_mpi.results.spec import RowSpec, called, make_row_spec
from acme_mpi.rules import Rules

# A test, the class of the error for a value that fails it, and ACME's words for that, where {name}
# is the keyword, {value} and {type} are the value's.
Test = tuple[Callable[[Any], bool], type[InputError], str]


class Kind(NamedTuple):
    """What a keyword accepts: what passes the tests, and some values untested, as None."""

    tests: tuple[Test, ...]
    untested: tuple[str | None, ...] = ()

    def check(self, name: str, value: Any) -> Any:
        """Return the value of a keyword, numbers as int.

        Raises
        ------
        InputTypeError, InputError
            It is not accepted.
        """
        if isinstance(value, (str, NoneType)) and value in self.untested:
            return None
        for passes, error, words in self.tests:
            if not passes(value):
                raise error(words.format(name=name, value=value, type=type(value)))
        return int(value) if _is_number(value) else value

    def optional(self) -> Kind:
        """Return the kind that accepts None, too."""
        return Kind(self.tests, (*self.untested, None))

    def or_auto(self, other: str) -> Kind:
        """Return the kind that accepts "auto", too, and no other text."""
        words = f"`{{name}}` has to be 'auto' or {other}, not {{value!r}}"
        no_text: Test = (lambda value: not isinstance(value, str), InputError, words)
        return Kind((no_text, *self.tests), ("auto",))


def check_all(kinds: Mapping[str, Kind], given: Mapping[str, Any]) -> None:
    """Check those of the keywords that have a kind.

    Raises
    ------
    InputTypeError, InputError
        One of them has a wrong value.
    """
    for name in filter(kinds.__contains__, given):
        kinds[name].check(name, given[name])


def instance_of(*types: type, words: str) -> Test:
    """Return the test whether a value is an instance of one of the types."""
    return lambda value: isinstance(value, types), InputTypeError, f"`{{name}}` has to be {words}"


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _count_from(lowest: int) -> Kind:
    """Return the kind of whole numbers >= `lowest`; 3.0 is one, True is not."""
    words = f"`{{name}}` has to be an integer between {lowest} and inf, not {{value}}"
    number: Test = (_is_number, InputTypeError, "`{name}` has to be a scalar, not {type}")
    whole: Test = (lambda n: lowest <= n < math.inf and n % 1 == 0, InputError, words)
    return Kind((number, whole))


def _is_memory(text: str) -> bool:
    amount = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*[MG]B\s*", text)
    return amount is not None and float(amount[1]) > 0


_NO_NUL: Test = (
    lambda path: "\0" not in str(path),
    InputError,
    "`{name}` holds a NUL character, which no path can: {value!r}",
)
_MEMORY = "`{name}` has to be a valid memory specifier (e.g., '8GB', '12000MB'), not {value!r}"
_TEXT = (
    lambda value: isinstance(value, str),
    InputTypeError,
    "Memory specification `{name}` has to be a string, not {value!r}",
)
_PAYLOAD = f"`{{name}}` has to be {' or '.join(map(repr, payload_names()))}, not {{value!r}}"
_LOG_FILE = "`None`, `True`, `False` or a valid file-name, not {type}"

NATURAL, POSITIVE = _count_from(0), _count_from(1)
FLAG = Kind((instance_of(bool, words="`True` or `False`, not {value!r}"),))
PATH = Kind((instance_of(str, words="either `None` or str, not {type}"), _NO_NUL), (None,))
PARTITION = Kind((instance_of(str, words="'auto' or a valid SLURM partition name, not {type}"),))
MEMORY = Kind((_TEXT, (_is_memory, InputError, _MEMORY)), ("auto",))

_NAME_DATASETS = "`result_names` name datasets"

# What `ParallelMap` and `map` accept.
KEYWORDS = {
    "n_inputs": POSITIVE.or_auto("an integer >= 1"),
    "n_workers": POSITIVE.or_auto("an integer >= 1"),
    "write_worker_results": FLAG,
    "single_file": FLAG,
    "write_pickle": FLAG,
    "output_dir": PATH,
    "result_dtype": Kind((instance_of(str, type, np.dtype, dict, words="a string, not {type}"),)),
    "payload": Kind(((lambda value: value in payload_names(), InputError, _PAYLOAD),)),
    "partition": PARTITION,
    "mem_per_worker": MEMORY,
    "setup_timeout": NATURAL,
    "setup_interactive": FLAG,
    "stop_client": FLAG.or_auto("Boolean"),
    "verbose": Kind(
        (instance_of(bool, words="`True`, `False` or `None`, not {value!r}"),), (None,)
    ),
    "dryrun": FLAG,
    "debug": FLAG,
    "isolate": FLAG,
    "logfile": Kind((instance_of(bool, str, words=_LOG_FILE), _NO_NUL), (None,)),
    "cleanup_threshold_days": NATURAL.optional(),
}


def check(name: str, value: Any) -> Any:
    """Return the value of a keyword of `ParallelMap` or `map`; None for "auto".

    Raises
    ------
    InputTypeError, InputError
        It is not accepted.
    """
    return KEYWORDS[name].check(name, value)


def refuse_unlimited(spec: RowSpec | None, kind: str) -> None:
    """Refuse results of differing lengths where the store cannot hold them, as in memory.

    Raises
    ------
    InputError
        An axis is unlimited.
    """
    store = find_store(kind)
    if spec is None or not spec.is_ragged or store.holds_ragged:
        return
    if store.writes_files:
        raise InputError(f"`result_shape` has `np.inf`, but the store {kind!r} holds no such rows")
    raise InputError(
        "using `np.inf` in `result_shape` is only valid if `write_worker_results` is `True`"
    )


def check_names(names: Any, kind: str, spec: RowSpec | None) -> tuple[str, ...]:
    """Return what the user calls the results of a task; empty if it was not said.

    Raises
    ------
    InputTypeError, InputError
        They are no names of datasets, or not in the place of names; or nothing is stored by names.
    """
    if names is None:
        return ()
    if isinstance(names, str) or not isinstance(names, (tuple, list)):
        raise InputTypeError(f"`result_names` has to be `None` or a tuple of names, not {names!r}")
    if not names:
        raise InputError("`result_names` is empty; leave it out, or name every result of a task")
    try:
        checked = checked_names(tuple(names))
    except ResultError as error:
        raise InputError(f"`result_names` has {error}") from None
    if twice := sorted({name for name in checked if checked.count(name) > 1}):
        raise InputError(f"`result_names` has {twice[0]!r} twice")
    store = find_store(kind)
    if not store.writes_files:
        raise InputError(f"{_NAME_DATASETS}; leave out write_worker_results=False (--no-write)")
    if store.is_pickled:
        raise InputError(f"{_NAME_DATASETS}; leave out write_pickle=True")
    if spec is not None and spec.names:
        raise InputError("`result_shape` names the results already; leave out `result_names`")
    if spec is not None and not spec.is_auto and len(checked) > 1:
        shapes = ", ".join(f"{name!r}: ..." for name in checked)
        raise InputError(
            f"`result_shape` is one shape, and `result_names` are {len(checked)}; give a shape for "
            f"each: result_shape={{{shapes}}}"
        )
    return checked


def resume_policy(resume: Any, kind: str) -> str:
    """Return what to do where there are results already: "refuse", "resume" or "force".

    Raises
    ------
    InputTypeError, InputError
        It is none of the values that `resume` may have, or nothing is written.
    """
    if not isinstance(resume, (bool, str)):
        raise InputTypeError(f"`resume` has to be `True`, `False`, or a string, not {resume!r}")
    if resume not in (False, True, "failed", "force"):
        raise InputError(f"`resume` has to be True, False, 'failed' or 'force', not {resume!r}")
    if resume and not find_store(kind).writes_files:
        raise InputError("`resume` needs results in files; leave out write_worker_results=False")
    if not resume:
        return "refuse"
    return "force" if resume == "force" else "resume"


def check_rules(rules: Any, isolate: bool = True) -> Rules:
    """Return the rules, or those of a run that has none.

    Parameters
    ----------
    rules : Rules or None
        As the user gave them.
    isolate : bool
        The function runs in a process of its own, which can be ended.

    Raises
    ------
    InputTypeError
        It is something else.
    InputError
        They need isolation, and there is none.
    """
    if rules is None:
        return Rules()
    if not isinstance(rules, Rules):
        raise InputTypeError(f"`rules` has to be `None` or acme_mpi.Rules(...), not {rules!r}")
    if not isolate and (rules.timeout is not None or rules.memory is not None):
        raise InputError(
            "`timeout` and `memory` end the process that calls the function, which without "
            "isolation is the rank itself; leave out isolate=False (--no-isolate)"
        )
    return rules


class ResultForm(NamedTuple):
    """What shall become of results.

    Attributes
    ----------
    kind : str
        Kind of store.
    spec : RowSpec or None
        Form of one array for all results.
    output_dir : str or None
        As the user gave it.
    warnings : list of str
        Of keywords that have no effect beside others.
    names : tuple of str
        What the user calls the results of a task.
    """

    kind: str
    spec: RowSpec | None
    output_dir: str | None
    warnings: list[str]
    names: tuple[str, ...] = ()

    @property
    def store(self) -> StoreKind:
        """What is known of the store."""
        return find_store(self.kind)


def check_place(output_dir: Any) -> str | None:
    """Return a directory as text.

    Raises
    ------
    InputTypeError, InputError
        It is no path.
    """
    as_text = getattr(type(output_dir), "__fspath__", None)  # as `os.PathLike` has it
    text: str | None = output_dir if as_text is None else as_text(output_dir)
    check("output_dir", text)
    return text


def check_results(
    write: Any,
    output_dir: Any,
    shape: Any,
    dtype: Any,
    single_file: Any,
    write_pickle: Any,
    payload: Any,
    names: Any = None,
) -> ResultForm:
    """Return what ACME's keywords for results ask for together.

    Raises
    ------
    InputTypeError, InputError
        One of them has a wrong value, or two contradict each other.
    """
    check("write_worker_results", write)
    check("single_file", single_file)
    check("write_pickle", write_pickle)
    place = check_place(output_dir)
    check("payload", payload)
    if write_pickle and single_file:
        raise InputError("Pickling of results does not support single output file creation.")
    spec = make_row_spec(None if write and write_pickle else shape, check("result_dtype", dtype))
    kind = chosen_kind(payload, write, single_file, write_pickle)
    refuse_unlimited(spec, kind)
    cases = (
        (not write and place is not None, NO_OUTPUT_DIR),
        (not write and single_file, f"Generating a single output file {ONLY_IF_WRITTEN}"),
        (not write and write_pickle, f"Pickling of results {ONLY_IF_WRITTEN}"),
        (write and write_pickle and shape is not None, NO_SHAPE),
    )
    warnings = [text for is_case, text in cases if is_case]
    checked = check_names(names, kind, spec)
    return ResultForm(kind, called(spec, checked), place, warnings, checked)


NO_OUTPUT_DIR = "Output directory specification has no effect if `write_worker_results` is `False`."
ONLY_IF_WRITTEN = "only possible if `write_worker_results` is `True`."
NO_SHAPE = "Pickling of results does not support output array shape specification."
