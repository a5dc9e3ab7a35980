"""Checks of ACME's keywords, with ACME's types of exception and its wording."""

from __future__ import annotations

import math
import numbers
import re
from typing import Any

from acme_mpi.errors import InputError, InputTypeError


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
    if value != "auto" and not re.fullmatch(r"\s*0*[1-9]\d*(\.\d+)?\s*[MG]B\s*", value):
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
    return value


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
    return value


def check_dtype(value: Any) -> Any:
    """Return what may be a NumPy dtype: its name, the dtype itself, or a scalar type.

    Raises
    ------
    InputTypeError
        It is something else.
    """
    is_dtype = type(value).__module__.startswith("numpy") and hasattr(value, "itemsize")
    if not isinstance(value, (str, type)) and not is_dtype:
        raise InputTypeError(f"`result_dtype` has to be a string, not {type(value)}")
    return value
