"""What is said in words: on the console, and in the log file of a run.

Everything is said through the logger ``acme_mpi``, whose parent is ``ACME``: ACME's users look for
their messages, handlers and levels under that name. Importing the package adds no handler.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import NamedTuple, TextIO

from acme_mpi.standing import is_in_task
from acme_mpi.visible import visible

ANNOUNCE = 25  # ACME's level between INFO and WARNING
logging.addLevelName(ANNOUNCE, "ANNOUNCE")

acme_logger = logging.getLogger("ACME")
logger = logging.getLogger("acme_mpi")
logger.parent = acme_logger


class VisibleFormatter(logging.Formatter):
    """Write messages with their control characters visible: others have written parts of them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of one message."""
        return visible(super().format(record))


class ConsoleFormatter(VisibleFormatter):
    """Write ``<dialect> LEVEL: message``, or the bare message where nothing has a dialect.

    A record's own attribute `dialect` counts most, then that of the run that is going on.

    Parameters
    ----------
    dialect : str
        Name of the interface that speaks between two runs.
    """

    running: str | None = None

    def __init__(self, dialect: str = "") -> None:
        super().__init__("%(message)s")
        self._dialect = dialect

    def format(self, record: logging.LogRecord) -> str:
        """Return the text of one message."""
        text = super().format(record)
        between = self._dialect if self.running is None else self.running
        dialect = getattr(record, "dialect", between)
        return f"<{dialect}> {record.levelname}: {text}" if dialect else text


class ConsoleHandler(logging.StreamHandler[TextIO]):
    """Write to what `sys.stderr` is at each message: a notebook or a test may replace it."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)
        self.setFormatter(ConsoleFormatter("ParallelMap"))

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The standard error of this moment."""
        return sys.stderr


def add_console_handler() -> None:
    """Let ACME's dialects speak on stderr; at the first call only, and not in tasks."""
    if is_in_task():
        return
    if not any(isinstance(each, ConsoleHandler) for each in acme_logger.handlers):
        acme_logger.addHandler(ConsoleHandler())
    if acme_logger.level == logging.NOTSET:
        acme_logger.setLevel(logging.INFO)


def log_path(directory: str, name: str) -> str:
    """Return the path of a new log file, ``ACME_<name>_YYYYMMDD-hhmmss.log``."""
    return os.path.join(directory, f"ACME_{name}_{datetime.now():%Y%m%d-%H%M%S}.log")


class Said(NamedTuple):
    """A message that was said before there was a file for it; plain values.

    Attributes
    ----------
    created_s : float
        Unix time.
    level : int
        As of `logging`.
    text : str
        The whole message.
    """

    created_s: float
    level: int
    text: str


class _FirstTo:
    """Filter of the logger: hands messages to somebody, and lets pass on what others want.

    Parameters
    ----------
    take : callable
        Gets records from `lowest` on, and those that have `FILED`.
    lowest : int
        A level.
    passing : callable
        Return the least level of what others get.
    """

    def __init__(
        self, take: Callable[[logging.LogRecord], object], lowest: int, passing: Callable[[], int]
    ) -> None:
        self.take, self._lowest, self.passing = take, lowest, passing

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether others get it, too."""
        if record.levelno >= self._lowest or hasattr(record, "is_filed"):
            self.take(record)
        return record.levelno >= self.passing()


FILED = {"is_filed": True}  # `extra` of what log files get, whatever its level is
_FILES: list[logging.Handler] = []  # of the runs that are going on
ONLY_FILED = 1  # the level of what nobody else gets


@contextmanager
def _first_to(
    take: Callable[[logging.LogRecord], object], lowest: int, passing: Callable[[], int]
) -> Iterator[None]:
    saved, taker = logger.level, _FirstTo(take, lowest, passing)
    logger.filters.insert(0, taker)  # a run inside of another is the first to hear
    logger.setLevel(ONLY_FILED)
    try:
        yield
    finally:
        logger.setLevel(saved)
        logger.removeFilter(taker)


def _level_of_others() -> int:
    for each in logger.filters:
        if isinstance(each, _FirstTo):
            return each.passing()
    return logger.getEffectiveLevel()


@contextmanager
def collected(said: list[Said]) -> Iterator[None]:
    """Context in which what a log file would get is collected, for a file that is still to come."""
    own = logger.level

    def collect(record: logging.LogRecord) -> None:
        said.append(Said(record.created, record.levelno, record.getMessage()))

    with _first_to(collect, logging.INFO, lambda: own or acme_logger.getEffectiveLevel()):
        yield


@contextmanager
def run_messages(
    path: str, dialect: str = "", level: int | None = None, earlier: Iterable[Said] = ()
) -> Iterator[None]:
    """Context of one run: its messages also go to a file, each as soon as it is said.

    Parameters
    ----------
    path : str
        The log file, appended to if it exists; empty: none. It gets all from INFO on, and more if
        others do.
    dialect : str
        Name of the interface that the run belongs to.
    level : int, optional
        Least level of what others get; default: the logger's own.
    earlier : iterable of Said
        What stands in the file before.
    """
    running, ConsoleFormatter.running = ConsoleFormatter.running, dialect
    # The console and the log of the run that a task belongs to hear of its own runs what is wrong.
    handlers = [*logger.handlers, *acme_logger.handlers, *_FILES] if is_in_task() else []
    others = [each for each in handlers if _is_warning not in each.filters]
    for other in others:
        other.addFilter(_is_warning)
    handler: logging.Handler | None = None
    try:
        handler = _log_file(path) if path else None
    except (OSError, ValueError) as error:  # of its medium, or its name
        logger.warning("there is no log file: %s", error)  # no reason to lose the results
    passing = _level_of_others() if level is None else level
    saved = logger.level
    try:
        if handler is None:
            logger.setLevel(saved if level is None else level)
            yield
        else:
            for each in earlier:
                handler.handle(_record(each))
            _FILES.append(handler)
            with _first_to(handler.handle, min(logging.INFO, passing), lambda: passing):
                yield
    finally:
        ConsoleFormatter.running = running
        logger.setLevel(saved)
        if handler is not None:
            handler.close()
            _FILES[:] = [each for each in _FILES if each is not handler]
        for other in others:
            other.removeFilter(_is_warning)


def _is_warning(record: logging.LogRecord) -> bool:
    return record.levelno >= logging.WARNING


def _record(said: Said) -> logging.LogRecord:
    created_s, level, text = said
    name = logging.getLevelName(level)
    return logging.makeLogRecord(
        {"created": created_s, "levelno": level, "levelname": name, "msg": text}
    )


def _log_file(path: str) -> logging.Handler:
    # Not the locale's encoding, which may not have every character that is said.
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(VisibleFormatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


_TOLD: set[str] = set()


def tell_once(text: str, *values: object, dialect: str, level: int = logging.INFO) -> None:
    """Say something, but not twice in one process, and not in tasks, of which there are many.

    The log file of a run has it, also if it was said before.
    """
    if is_in_task():
        return
    if (said := text % values) not in _TOLD:
        _TOLD.add(said)
        logger.log(level, "%s", said, extra={"dialect": dialect})
        return
    for each in logger.filters:
        if isinstance(each, _FirstTo):
            each.take(_record(Said(time.time(), level, said)))
            return
