"""The last words of a run: what is logged, raised, and shown, in every dialect."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from itertools import islice

from acme_mpi.engine.call import Options, Result
from acme_mpi.engine.messages import ANNOUNCE, FILED, ONLY_FILED
from acme_mpi.errors import (
    AcmeMpiError,
    Failure,
    InputError,
    LaunchError,
    StoppedError,
    StoreError,
    TaskError,
    group_failures,
)
from acme_mpi.visible import visible

logger = logging.getLogger("acme_mpi")

N_IDS, N_TRACEBACKS = 20, 3  # in the text of a failed run of ACME's dialect
N_FILED = 1000  # tracebacks in a log file


def resume_line(options: Options, directory: str, only_failed: bool = False) -> str:
    """Return the last line of a text: how to resume a run whose files are in a directory."""
    from acme_mpi.history.description import how_to_resume  # what runs that end well do not load

    command = how_to_resume(options.display.resume_command, directory, only_failed)
    return f"\n  resume with: {command}"


def resume_line_of(result: Result) -> str:
    """Return how to resume a run that has ended, as a last line; empty if nothing is left to do."""
    if not result.output_dir or (result.is_complete and not result.failures):
        return ""
    only_failed = bool(result.failures) and not result.n_unfinished and not result.n_left_out
    return resume_line(result.options, result.output_dir, only_failed)


def error_of(result: Result, results: object = None) -> AcmeMpiError | None:
    """Return the exception that a result calls for, None if all is well.

    Parameters
    ----------
    result : Result
        Of the run.
    results : object
        What the call would have returned, for `TaskError.results`.
    """
    n_tasks, where, how = result.options.work.n_tasks, result.stored.where, resume_line_of(result)
    safe = f"; what is done is in {where}" if where else ""
    n_left = f"{result.n_unfinished} of {n_tasks} tasks were not run"
    reasons = "\n  ".join(dict.fromkeys(result.unready))
    if result.storage_error:
        if not result.n_unfinished and not result.output_dir:
            return StoreError(result.storage_error)
        left = n_left if result.n_unfinished else "every task was run"
        return StoreError(f"{result.storage_error}\n  {left}{safe}{how}")
    if result.n_unfinished and result.has_halted:
        text = f"{result.stopped_because}\n  {n_left}{safe}{how}"
        return TaskError(text, result.failures, results)
    if result.has_come_to_nothing:
        return InputError(f"no rank could load {result.options.work.name}:\n  {reasons}")
    if result.n_unfinished and (result.stopped_because or not result.unready):
        why = f", because {result.stopped_because}" if result.stopped_because else ""
        return StoppedError(f"{n_left}{why}{safe}{how}")
    if result.n_unfinished:
        return LaunchError(f"{n_left}, because every rank has lost its runner{safe}:\n  {reasons}")
    if result.failures:
        text = f"{_n_failed(result.failures, n_tasks)}{how}"
        return TaskError(text, result.failures, results)
    return None


def log_end(result: Result) -> None:
    """Say on rank 0 how a run has ended."""
    for reason in dict.fromkeys(result.unready):
        if result.n_ready:
            logger.warning("a rank takes no part, it could not load the function: %s", reason)
    _warn_of_pickles(result)
    if result.failures:
        logger.error("%s", _failures_text(result))
        _log_tracebacks(result.failures)
    elif result.is_complete:
        _announce_success(result)
    elif result.n_left_out and not result.n_unfinished and not result.storage_error:
        _announce_some(result)


def is_only_success(result: Result) -> bool:
    """Tell whether the end of a run calls for no more than the announcement of its success."""
    is_clean = not (result.unready or result.stored.pickle_paths or result.failures)
    return is_clean and result.is_complete


def _warn_of_pickles(result: Result) -> None:
    pickles = result.stored.pickle_paths
    if pickles and result.unstorable is not None:
        shown = pickles[0] + (", ..." if len(pickles) > 1 else "")
        text = "%d results have been pickled, because HDF5 cannot hold them: %s\n"
        text += "  That of task %d was %s"
        logger.warning(text, len(pickles), shown, *result.unstorable)


def _failures_text(result: Result) -> str:
    work, display = result.options.work, result.options.display
    is_cut_short = bool(result.n_unfinished and result.has_halted)
    text = failures_text(
        result.failures,
        work.n_tasks,
        result.stored.container or "",
        display.reproduce,
        result.n_unfinished,
    )
    if is_cut_short:
        text += f"\n  {result.n_unfinished} tasks were not run, because {result.stopped_because}"
    # Of all other ends the exception says how to resume.
    is_last = is_cut_short or not result.n_unfinished
    if display.resume_command and is_last and not result.storage_error:
        text += resume_line_of(result)
    return text


def _announce_success(result: Result) -> None:
    where, pickles = result.stored.where, result.stored.pickle_paths
    end = f"Results have been saved to {where}" if where else "Finished parallel computation"
    if pickles:
        end += f", {len(pickles)} of them as pickles to {os.path.dirname(pickles[0])}"
    logger.log(ANNOUNCE, "SUCCESS! %d tasks done. %s", result.options.work.n_tasks, end)


def _announce_some(result: Result) -> None:
    """Say that the tasks that were chosen are done."""
    n_tasks = result.options.work.n_tasks
    logger.log(
        ANNOUNCE,
        "SUCCESS! What was to be called is done, %d of %d tasks are. Results are in %s%s",
        n_tasks - result.n_left_out,
        n_tasks,
        result.stored.where,
        resume_line_of(result),
    )


def _log_tracebacks(failures: Sequence[Failure]) -> None:
    """Have the log file show all tracebacks, equal ones once, and the console the first at most."""
    first: dict[str, Failure] = {}
    for failure in failures:
        first.setdefault(failure.traceback, failure)
    first.pop("", None)
    level = logging.DEBUG
    for text, failure in islice(first.items(), N_FILED):
        logger.log(level, "Traceback of task %d:\n%s", failure.index, text.rstrip(), extra=FILED)
        level = ONLY_FILED
    if len(first) > N_FILED:
        text = "... and %d more tracebacks; `status --json` has one of each kind"
        logger.log(level, text, len(first) - N_FILED, extra=FILED)


def failures_text(
    failures: Sequence[Failure],
    n_tasks: int,
    where: str = "",
    reproduce: str = "",
    n_unfinished: int = 0,
) -> str:
    """Return the text that tells a person which tasks failed and how to look at one.

    Parameters
    ----------
    failures : sequence of Failure
        In index order, at least one.
    n_tasks : int
        Size of the run.
    where : str
        Where the other results are; left out if empty.
    reproduce : str
        Command that runs one task in the foreground, with ``{index}`` in the task's place; if
        empty, the call itself is printed.
    n_unfinished : int
        Tasks that have not been run to their end.
    """
    lines = [_n_failed(failures, n_tasks)]
    for (kind, location, _), group in group_failures(failures).items():
        ids = ", ".join(str(failure.index) for failure in group[:3])
        more = ", ..." if len(group) > 3 else ""
        at = f" at {location}" if location else ""
        lines.append(f"  {len(group)} x {kind}{at}: {group[0].message} (tasks {ids}{more})")
        if reproduce:
            lines.append(f"    reproduce: {reproduce.format(index=group[0].index)}")
        elif group[0].call:
            lines.append(f"    reproduce: {group[0].call}")
    lines += _where_others_are(n_tasks - len(failures) - n_unfinished, n_unfinished, where)
    return "\n".join(visible(line, kept="\t") for line in lines)


def parallel_map_text(
    failures: Sequence[Failure],
    n_tasks: int,
    where: str = "",
    log: str = "",
    resume: str = "",
    n_unfinished: int = 0,
) -> str:
    """Return the text with which a failed run of ACME's dialect ends, with the first tracebacks.

    Parameters
    ----------
    failures, n_tasks, where, n_unfinished
        As in `failures_text`.
    log : str
        The file with the messages; left out if empty.
    resume : str
        As `resume_line_of` says it.
    """
    ids = ", ".join(str(failure.index) for failure in failures[:N_IDS])
    more = ", ..." if len(failures) > N_IDS else ""
    share = f"{len(failures)}/{n_tasks}"
    lines = [f"Parallel computation failed: {share} tasks failed or stalled: {ids}{more}"]
    for group in list(group_failures(failures).values())[:N_TRACEBACKS]:
        lines.append(f"  {group[0]}")
        lines += [f"    {line}" for line in group[0].traceback.rstrip().splitlines()]
    lines += _where_others_are(n_tasks - len(failures) - n_unfinished, n_unfinished, where)
    if resume:
        lines.append(resume.lstrip("\n"))
    if log:
        lines.append(f"  Log file: {log}")
    return "\n".join(lines)


def parallel_map_error(result: Result, error: TaskError, log: str) -> TaskError:
    """Return the exception of a run with failed tasks in ACME's words; `log` is its log file."""
    n_tasks, where = result.options.work.n_tasks, result.stored.where
    resume, n_unfinished = resume_line_of(result), result.n_unfinished
    text = parallel_map_text(error.failures, n_tasks, where, log, resume, n_unfinished)
    return TaskError(text, error.failures, error.results)


def _n_failed(failures: Sequence[Failure], n_tasks: int) -> str:
    return f"{len(failures)} of {n_tasks} tasks failed, first: {failures[0]}"


def _where_others_are(n_done: int, n_unfinished: int, where: str) -> list[str]:
    if not where or n_done <= 0:
        return []
    which = f"{n_done} tasks are done, their" if n_unfinished else f"The other {n_done}"
    return [f"  {which} results are in {where}"]
