"""Checks of ACME's keywords, with ACME's types of exception and its wording."""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.results import RowSpec, make_row_spec
from acme_mpi.rules import Rules

PAYLOADS = ("rank", "computation")


def check_flag(name: str, value: Any) -> bool:
    """Return True or False.

    Raises
    ------
    InputTypeError
        It is neither.
    """
    if not isinstance(value, bool):
        raise InputTypeError(f"`{name}` has to be `True` or `False`, not {value!r}")
    return value


def check_count(name: str, value: Any, lowest: int) -> int:
    """Return a whole number >= `lowest`; 3.0 is one, True is not.

    Raises
    ------
    InputTypeError
        It is not a number.
    InputError
        It is fractional or too small.
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise InputTypeError(f"`{name}` has to be a scalar, not {type(value)}")
    number = float(value)
    if not lowest <= number < math.inf or number % 1:
        raise InputError(f"`{name}` has to be an integer between {lowest} and inf, not {value}")
    return int(number)


def check_count_or_auto(name: str, value: Any) -> int | None:
    """Return a whole number >= 1, None for "auto".

    Raises
    ------
    InputTypeError, InputError
        It is something else.
    """
    if isinstance(value, str):
        if value == "auto":
            return None
        raise InputError(f"`{name}` has to be 'auto' or an integer >= 1, not {value!r}")
    return check_count(name, value, 1)


def check_memory(value: Any) -> None:
    """Accept "auto", or an amount such as "8GB" or "1500MB".

    Raises
    ------
    InputTypeError, InputError
        It is something else.
    """
    if not isinstance(value, str):
        raise InputTypeError(
            f"Memory specification `mem_per_worker` has to be a string, not {value!r}"
        )
    amount = re.fullmatch(r"\s*([0-9]+\.?[0-9]*|\.[0-9]+)\s*[MG]B\s*", value)
    if value != "auto" and not (amount and float(amount[1])):
        raise InputError(
            "`mem_per_worker` has to be a valid memory specifier (e.g., '8GB', '12000MB'), "
            f"not {value!r}"
        )


def check_partition(value: Any) -> None:
    """Accept the name of a Slurm partition, or "auto".

    Raises
    ------
    InputTypeError
        It is not a string.
    """
    if not isinstance(value, str):
        raise InputTypeError(
            f"`partition` has to be 'auto' or a valid SLURM partition name, not {type(value)}"
        )


def check_stop_client(value: Any) -> bool | None:
    """Return True or False, None for "auto".

    Raises
    ------
    InputTypeError, InputError
        It is something else.
    """
    if isinstance(value, str):
        if value == "auto":
            return None
        raise InputError(f"`stop_client` has to be 'auto' or Boolean, not {value!r}")
    return check_flag("stop_client", value)


def check_output_dir(value: Any) -> str | None:
    """Return a directory's name, None for none.

    Raises
    ------
    InputTypeError
        It is neither.
    """
    if value is not None and not isinstance(value, str):
        raise InputTypeError(f"`output_dir` has to be either `None` or str, not {type(value)}")
    return _without_nul("output_dir", value)


def _without_nul(name: str, path: str | None) -> str | None:
    if path is not None and "\0" in path:
        raise InputError(f"`{name}` holds a NUL character, which no path can: {path!r}")
    return path


def check_verbose(value: Any) -> bool | None:
    """Return True, False or None.

    Raises
    ------
    InputTypeError
        It is something else.
    """
    if value is not None and not isinstance(value, bool):
        raise InputTypeError(f"`verbose` has to be `True`, `False` or `None`, not {value!r}")
    return value


def check_log_file(value: Any) -> bool | str | None:
    """Return True, False, None or a file name.

    Raises
    ------
    InputTypeError
        It is something else.
    """
    if value is not None and not isinstance(value, (bool, str)):
        raise InputTypeError(
            f"`logfile` has to be `None`, `True`, `False` or a valid file-name, not {type(value)}"
        )
    return _without_nul("logfile", value) if isinstance(value, str) else value


def check_dtype(value: Any) -> Any:
    """Return what may be a NumPy dtype: its name, the dtype itself, or a scalar type.

    Raises
    ------
    InputTypeError
        It is something else.
    """
    if not isinstance(value, (str, type, np.dtype)):
        raise InputTypeError(f"`result_dtype` has to be a string, not {type(value)}")
    return value


def check_payload(value: Any) -> None:
    """Accept the name of a kind of payload files.

    Raises
    ------
    InputError
        It is something else.
    """
    if value not in PAYLOADS:
        raise InputError(f"`payload` has to be 'rank' or 'computation', not {value!r}")


def refuse_unlimited(spec: RowSpec | None) -> None:
    """Refuse results of differing lengths where they stay in memory.

    Raises
    ------
    InputError
        An axis is unlimited.
    """
    if spec is not None and spec.is_ragged:
        raise InputError(
            "using `np.inf` in `result_shape` is only valid if `write_worker_results` is `True`"
        )


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
    if resume and kind == "memory":
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


@dataclass(frozen=True)
class ResultForm:
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
    """

    kind: str
    spec: RowSpec | None
    output_dir: str | None
    warnings: list[str]


def check_results(
    write: Any,
    output_dir: Any,
    shape: Any,
    dtype: Any,
    single_file: Any,
    write_pickle: Any,
    payload: Any,
) -> ResultForm:
    """Return what ACME's keywords for results ask for together.

    Raises
    ------
    InputTypeError, InputError
        One of them has a wrong value, or two contradict each other.
    """
    check_flag("write_worker_results", write)
    check_flag("single_file", single_file)
    check_flag("write_pickle", write_pickle)
    check_output_dir(output_dir)
    check_payload(payload)
    if write_pickle and single_file:
        raise InputError("Pickling of results does not support single output file creation.")
    warnings = _useless_keywords(write, output_dir, shape, single_file, write_pickle)
    spec = make_row_spec(None if write and write_pickle else shape, check_dtype(dtype))
    if not write:
        refuse_unlimited(spec)
    kinds = (("memory", not write), ("pickle", write_pickle), ("single_file", single_file))
    kind = next((kind for kind, is_meant in kinds if is_meant), payload)
    return ResultForm(kind, spec, output_dir, warnings)


def _useless_keywords(
    write: bool, output_dir: str | None, shape: Any, single_file: bool, write_pickle: bool
) -> list[str]:
    condition = "only possible if `write_worker_results` is `True`."
    cases = (
        (
            not write and output_dir is not None,
            "Output directory specification has no effect if `write_worker_results` is `False`.",
        ),
        (not write and single_file, f"Generating a single output file {condition}"),
        (not write and write_pickle, f"Pickling of results {condition}"),
        (
            write and write_pickle and shape is not None,
            "Pickling of results does not support output array shape specification.",
        ),
    )
    return [text for is_case, text in cases if is_case]
