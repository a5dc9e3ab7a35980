"""The rules by which a run deals with trouble: failed, crashed, slow and greedy tasks."""

from __future__ import annotations

import math
import numbers
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from acme_mpi.errors import InputError, InputTypeError

if TYPE_CHECKING:
    from fractions import Fraction

LEAST_LOADING_S = 30.0  # user code may take as long to be loaded, whatever a task may take
SYNC_S = 5.0  # between what is recorded and what is on the disk, unless told otherwise
KILL_LIMIT = 2  # runners killed from outside before their task is to blame, unless told otherwise

_UNIT_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0}
_PREFIXES = "KMGTP"

_WHOLE = "([0-9]{1,18})"
_NUMBER = r"([0-9]{1,18}(?:\.[0-9]{0,18})?|\.[0-9]{1,18})"
_WITH_UNITS = "".join(rf"(?:{_NUMBER}{unit})?" for unit in _UNIT_S)
_CLOCK = f"(?:{_WHOLE}:)?{_WHOLE}:{_WHOLE}"
_DAYS_AND_CLOCK = f"{_WHOLE}-{_WHOLE}(?::{_WHOLE})?(?::{_WHOLE})?"
_PERCENT = f"{_NUMBER}%"
_BYTES = f"{_NUMBER} *(?:([{_PREFIXES}])(?:I?B)?|B)?"
_HALT = f"(soon|now),fail=(?:{_WHOLE}|{_NUMBER}%)"

_DURATIONS = "seconds (90), '90s', '30m', '2h', '1d', '1h30m', or '[D-]HH:MM:SS'"
_SIZES = "bytes (a whole number), '512K', '1500M' or '2G'"


@dataclass(frozen=True)
class Rules:
    """How a run deals with trouble; ``acme_mpi.map(f, x, rules=Rules(timeout="5m"))``.

    The values stay as they were given, plain numbers and strings; the properties say what they
    mean.

    Parameters
    ----------
    retries : int
        How often a task is called again that raised, or exceeded `timeout` or `memory`; >= 0.
    crash_limit : int or None
        After how many deaths of its runner (a signal, ``os._exit``) a task is given up; >= 1. None:
        after the first, but after the second if it was a SIGKILL. That comes from outside, often
        from the kernel because of what another process took, and may say nothing of the task.
    halt : str or None
        When the run stops because tasks fail, in GNU parallel's words: ``"soon,fail=3"`` starts no
        more tasks once three have failed for good, ``"now,fail=1"`` ends the running ones, too,
        ``"soon,fail=10%"`` waits for a tenth of all tasks of the run. None: it never stops.
    timeout : float or str or None
        How long one call of a task may take, in any form of `parse_duration`; or a percentage
        > 100 of the median duration of the tasks that have finished, ``"300%"``. None: any time.
        Neither this nor `memory` is kept by a call inside of a task, which runs in its process.
    memory : int or str or None
        What a runner may use while it calls a task, in any form of `parse_bytes`. None: anything.
    time_limit : float or str or None
        How long the whole run may take, in any form of `parse_duration`. None: as long as the job.
    sync : float or str
        How long after a result was recorded it is on the disk, in any form of `parse_duration`:
        what a node loses that loses its power. 0: each time before the next result is recorded.

    Raises
    ------
    InputTypeError
        A value has the wrong type.
    InputError
        A value is out of range, or a text says nothing.

    Examples
    --------
    >>> import acme_mpi
    >>> rules = acme_mpi.Rules(timeout="5m", memory="2G", retries=2)
    >>> rules.timeout_s
    300.0

    References
    ----------
    O. Tange, manual page of GNU parallel, ``--halt`` and ``--timeout``.
    """

    retries: int = 0
    crash_limit: int | None = None
    halt: str | None = None
    timeout: float | str | None = None
    memory: int | str | None = None
    time_limit: float | str | None = None
    sync: float | str = SYNC_S

    def __post_init__(self) -> None:
        """Check all values."""
        self._set("retries", _count("retries", self.retries, 0))
        if self.crash_limit is not None:
            self._set("crash_limit", _count("crash_limit", self.crash_limit, 1))
        for name in ("timeout", "memory", "time_limit", "sync"):
            self._set(name, _plain(getattr(self, name)))
        if self.halt is not None:
            _parse_halt(self.halt)
        if self.timeout is not None and _parse_percent(self.timeout) is None:
            _named("timeout", parse_duration, self.timeout, "; or give a percentage: '300%'")
        if self.memory is not None:
            _named("memory", parse_bytes, self.memory)
        if self.time_limit is not None:
            _named("time_limit", parse_duration, self.time_limit)
        if not _is_zero(self.sync):
            _named("sync", parse_duration, self.sync, "; or 0 for each time")

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)  # the instance is frozen from here on

    @property
    def timeout_s(self) -> float:
        """How long a call may take, in seconds; 0.0 without such a limit or if it is relative."""
        if self.timeout is None or _parse_percent(self.timeout) is not None:
            return 0.0
        return parse_duration(self.timeout)

    @property
    def timeout_ratio(self) -> float:
        """How many times the median duration a call may take, > 1; 0.0 without such a limit."""
        return 0.0 if self.timeout is None else _parse_percent(self.timeout) or 0.0

    @property
    def memory_bytes(self) -> int:
        """What a runner may use, in bytes; 0 without a limit."""
        return 0 if self.memory is None else parse_bytes(self.memory)

    @property
    def time_limit_s(self) -> float:
        """How long the run may take, in seconds; 0.0 without a limit."""
        return 0.0 if self.time_limit is None else parse_duration(self.time_limit)

    @property
    def sync_s(self) -> float:
        """How long after a result was recorded it is on the disk, in seconds; 0.0: at once."""
        return 0.0 if _is_zero(self.sync) else parse_duration(self.sync)

    @property
    def loading_s(self) -> float:
        """How long the function and its arguments may take to be loaded, in seconds."""
        for_task_s = max(self.timeout_s, LEAST_LOADING_S) if self.timeout_s else math.inf
        return min(for_task_s, self.time_limit_s or math.inf)

    @property
    def halt_when(self) -> str:
        """``"soon"``: running tasks may end; ``"now"``: they may not; empty: it never halts."""
        return "" if self.halt is None else _parse_halt(self.halt)[0]

    def gives_up(self, n_deaths: int, is_from_outside: bool) -> bool:
        """Tell whether a task is not called again whose runner has died.

        Parameters
        ----------
        n_deaths : int
            How often that was, with this one; >= 1.
        is_from_outside : bool
            Whether this one was by a SIGKILL that was none of our own.
        """
        return n_deaths >= (self.crash_limit or (KILL_LIMIT if is_from_outside else 1))

    def must_halt(self, n_failed: int, n_tasks: int) -> bool:
        """Tell whether so many tasks have failed that the run has to stop.

        Parameters
        ----------
        n_failed : int
            Tasks that have failed for good, after all retries.
        n_tasks : int
            All tasks of the run, ended or not: the whole of a percentage, as in GNU parallel
            (``should_we_halt`` in its source: jobs in total times percentage). So a run does not
            stop because its very first task fails, and how many may fail is known beforehand.
        """
        if self.halt is None or n_failed < 1:
            return False
        _, n_limit, share = _parse_halt(self.halt)
        return n_failed >= (share * n_tasks if share else n_limit)


def parse_duration(text: float | str) -> float:
    """Return a duration in seconds, > 0.

    Parameters
    ----------
    text : float or str
        Seconds (90, "90"); with units d, h, m, s, largest first ("90s", "1.5h", "1h30m"); or as
        Slurm writes times: "MM:SS", "HH:MM:SS", "D-HH", "D-HH:MM", "D-HH:MM:SS". A plain number
        means seconds, where Slurm means minutes.

    Raises
    ------
    InputTypeError
        It is neither a number nor a string.
    InputError
        It is no duration, not finite or not > 0.
    """
    if isinstance(text, bool) or not isinstance(text, (numbers.Real, str)):
        raise InputTypeError(f"a duration has to be {_DURATIONS}, not {text!r}")
    seconds = _seconds_of(text.strip().lower()) if isinstance(text, str) else float(text)
    if seconds is None or not 0 < seconds < math.inf:
        raise InputError(f"a duration has to be {_DURATIONS}, and more than 0, not {text!r}")
    return seconds


def _seconds_of(text: str) -> float | None:
    if re.fullmatch(_NUMBER, text):
        return float(text)
    if clock := re.fullmatch(_CLOCK, text):
        hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return 3600.0 * hours + 60.0 * minutes + seconds
    if clock := re.fullmatch(_DAYS_AND_CLOCK, text):
        days, hours, minutes, seconds = (int(part or 0) for part in clock.groups())
        return 86400.0 * days + 3600.0 * hours + 60.0 * minutes + seconds
    if text and (units := re.fullmatch(_WITH_UNITS, text)):
        parts = zip(units.groups(), _UNIT_S.values(), strict=True)
        return math.fsum(float(part or 0) * unit_s for part, unit_s in parts)
    return None


def parse_bytes(text: int | str) -> int:
    """Return an amount of memory in bytes, >= 1.

    Parameters
    ----------
    text : int or str
        A plain number of bytes, or one with K, M, G, T or P, in either case and with "B" or "iB"
        behind or not: "512K", "1.5g", "2GB", "2GiB". They all are multiples of 1024, as for Slurm
        and ``ulimit``: "2GB" is 2 * 1024**3.

    Raises
    ------
    InputTypeError
        It is neither a whole number nor a string.
    InputError
        It is no amount, or less than one byte.
    """
    if isinstance(text, bool) or not isinstance(text, (numbers.Integral, str)):
        raise InputTypeError(f"an amount of memory has to be {_SIZES}, not {text!r}")
    n_bytes = _bytes_of(text.strip().upper()) if isinstance(text, str) else int(text)
    if n_bytes is None or n_bytes < 1:
        raise InputError(f"an amount of memory has to be {_SIZES}, and at least 1, not {text!r}")
    return n_bytes


def _bytes_of(text: str) -> int | None:
    found = re.fullmatch(_BYTES, text)
    if found is None:
        return None
    exponent = 1 + _PREFIXES.index(found[2]) if found[2] else 0
    return int(_fraction(found[1]) * 1024**exponent)


def _parse_percent(value: float | str) -> float | None:
    """Return a percentage as a factor, > 1; None if the value is no percentage."""
    found = re.fullmatch(_PERCENT, value.strip()) if isinstance(value, str) else None
    if found is None:
        return None
    if float(found[1]) <= 100:
        raise InputError(
            f"`timeout` as a percentage of the median duration has to be more than 100%, not "
            f"{value!r}: half of all tasks take longer than the median; '300%' is usual"
        )
    return float(_fraction(found[1]) / 100)


def _parse_halt(value: Any) -> tuple[str, int, Fraction]:
    """Return when to halt, the number of failures, and instead of it (else 0) their share."""
    allowed = "'soon,fail=N', 'now,fail=N' or with N%, where N >= 1 and N% <= 100%"
    if not isinstance(value, str):
        raise InputTypeError(f"`halt` has to be {allowed}, or None for never, not {value!r}")
    found = re.fullmatch(_HALT, value.strip())
    n_limit = int(found[2] or 0) if found else 0
    share = _fraction((found and found[3]) or "0") / 100
    if found is None or not (n_limit or 0 < share <= 1):
        raise InputError(f"`halt` has to be {allowed}, or None for never, not {value!r}")
    return found[1], n_limit, share


def _fraction(text: str) -> Fraction:
    from fractions import Fraction  # with decimals, for limits that few calls have

    return Fraction(text)


def _count(name: str, value: Any, lowest: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise InputTypeError(f"`{name}` has to be a whole number >= {lowest}, not {value!r}")
    if value < lowest:
        raise InputError(f"`{name}` has to be >= {lowest}, not {value}")
    return int(value)


def _plain(value: Any) -> Any:
    """Return NumPy's numbers as Python's, which any medium can hold."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        return value
    return int(value) if isinstance(value, numbers.Integral) else float(value)


def _is_zero(value: Any) -> bool:
    """Tell whether a duration is none at all, which `parse_duration` refuses."""
    if isinstance(value, str):
        return _seconds_of(value.strip().lower()) == 0.0
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and value == 0


def _named(name: str, parse: Any, value: Any, more: str = "") -> None:
    """Check a value with a parser whose errors do not say whose value it is."""
    try:
        parse(value)
    except InputError as error:
        raise type(error)(f"`{name}`: {error}{more}") from None
