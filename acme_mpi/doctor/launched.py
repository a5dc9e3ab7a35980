"""What the ranks of a job find together. All of them come here."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from typing import NoReturn

from acme_mpi.comm import World, make_world, typed_command
from acme_mpi.comm.post import MpiPost, NoPost, Post
from acme_mpi.doctor import questions
from acme_mpi.doctor.asking import ask_python
from acme_mpi.doctor.examination import examine
from acme_mpi.doctor.finding import Finding, wrong
from acme_mpi.doctor.guard import Guard
from acme_mpi.doctor.launching import check_deaths, check_fit
from acme_mpi.doctor.libraries import library_in
from acme_mpi.doctor.nodes import check_nodes
from acme_mpi.doctor.rank_facts import RankFacts, age_s, facts_of_rank
from acme_mpi.doctor.ranks import MAX_PINGED, dismiss, follow, hear_all, marked, measure
from acme_mpi.doctor.report import Report
from acme_mpi.doctor.spread import (
    check_pythons,
    check_ranks,
    check_sharing,
    check_start,
    check_ways,
    silent_ranks,
)
from acme_mpi.doctor.versions import NOT_IMPORTABLE
from acme_mpi.errors import LaunchError
from acme_mpi.history.folders import existing
from acme_mpi.symptoms import symptoms_in

LOOK_S = 120.0  # for what rank 0 asks other programs, each of which has a limit of its own


def examine_ranks(
    rank: int, size: int, directory: str, limit_s: float, show: Callable[[Report], object]
) -> int:
    """Have all ranks look, and rank 0 show what they find; return the exit status. Collective.

    Nobody waits for ever: a rank that hangs is named, and the job ends.

    Parameters
    ----------
    rank, size : int
        As the launcher tells them.
    directory : str
        Where results are to go.
    limit_s : float
        How long ranks may take to start, and to answer.
    show : callable
        ``show(report)`` prints a report.
    """
    facts = facts_of_rank(rank, age_s())
    return _lead(size, directory, limit_s, show, facts) if rank == 0 else _follow(facts, limit_s)


def _follow(facts: RankFacts, limit_s: float) -> int:
    """Start MPI and answer rank 0; the kernel ends this process if that does not come."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, LOOK_S + 5 * limit_s)
    if check_fit(library_in(ask_python(questions.MPI))):  # rank 0 says so, and does not come
        return 0
    try:
        world = make_world(notify=_give_up)
    except LaunchError:  # rank 0 says so
        return 0
    if world.rank > 0:
        follow(MpiPost(world), facts)
    signal.setitimer(signal.ITIMER_REAL, 0)
    return 0


def _give_up(text: str) -> NoReturn:
    """Leave without the ranks that do not come: rank 0 is one of them."""
    print(f"acme_mpi: {text}", file=sys.stderr, flush=True)
    os._exit(1)


def _lead(
    size: int, directory: str, limit_s: float, show: Callable[[Report], object], facts: RankFacts
) -> int:
    guard, report = Guard(show), Report((), {})
    look_s = LOOK_S + limit_s
    guard.expect(report, _not_ended("the look at this node", look_s), look_s)
    report = examine(directory, is_rank=True)
    misfit = check_fit(report.facts["MPI"])
    if misfit or report.facts["MPI"] == NOT_IMPORTABLE:
        guard.dismiss()
        report = report.with_findings(misfit)
        show(report)
        return report.exit_code
    silent = silent_ranks(f"MPI has not started on all of {size} ranks", limit_s)
    guard.expect(report, silent, limit_s)

    def miss(text: str) -> NoReturn:
        show(report.with_findings([silent_ranks(text, limit_s)]))
        os._exit(1)

    begun_s = time.monotonic()
    try:
        world = make_world(notify=miss)
    except LaunchError as error:
        guard.dismiss()
        report = report.with_findings([_refused(error)])
        show(report)
        return report.exit_code
    mpi_s = time.monotonic() - begun_s
    guard.expect(report, _not_ended("the talk with the ranks", 2 * limit_s), 2 * limit_s)
    post = MpiPost(world) if world.size > 1 else NoPost()
    findings, is_whole = _talk(world, post, facts, directory, limit_s, mpi_s)
    guard.dismiss()
    report = report.with_findings(findings)
    show(report)
    if not is_whole:
        world.abort(report.exit_code)
    return report.exit_code


def _not_ended(what: str, limit_s: float) -> Finding:
    return wrong("silent ranks", f"{what} has not ended within {limit_s:.0f} s", "")


def _refused(error: LaunchError) -> Finding:
    said, _, cure = str(error).partition("\n")
    known = symptoms_in(str(error))
    return wrong(known[0].name if known else "lone ranks", said, _in_a_line(cure))


def _in_a_line(text: str) -> str:
    return " ".join(text.removeprefix("  Nothing was started.").split())


def _talk(
    world: World, post: Post, facts: RankFacts, directory: str, limit_s: float, mpi_s: float
) -> tuple[list[Finding], bool]:
    """Return what the ranks see, and whether all have answered."""
    others = range(1, world.size)
    folder = existing(directory)
    with marked(folder) as mark:
        seen = hear_all(post, others, mark, limit_s)
        pinged = _some({rank: each.facts.host for rank, each in seen.items()})
        ways = [way for rank in pinged if (way := measure(post, rank, limit_s / MAX_PINGED))]
    ranks = [facts, *(seen[rank].facts for rank in sorted(seen))]
    findings = [
        *check_ranks(ranks, world.size, limit_s),
        *check_pythons(ranks),
        *check_nodes(ranks),
        *check_sharing(seen, mark, folder),
        *check_ways(ways, dict(enumerate(world.hosts))),
        *check_start(ranks, mpi_s),
        *check_deaths(typed_command(sys.argv[1:])),
    ]
    dismiss(post, others)
    return findings, len(seen) == len(others)


def _some(hosts: Mapping[int, str]) -> list[int]:
    """Return one rank of each node, by the hosts of those that have answered."""
    of_nodes = {host: rank for rank, host in sorted(hosts.items(), reverse=True)}
    return sorted(of_nodes.values())[:MAX_PINGED]
