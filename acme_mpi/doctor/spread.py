"""What is wrong between ranks: those that are silent, other Pythons, folders, clocks and ways."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from acme_mpi.doctor.finding import Finding, fine, noted, wrong
from acme_mpi.doctor.rank_facts import RankFacts
from acme_mpi.doctor.ranks import Seen, Way

CLOCK_S = 2.0
READY_S = 10.0
N_NAMED = 8


def check_ranks(ranks: Sequence[RankFacts], size: int, limit_s: float) -> list[Finding]:
    """Say where ranks are, and which have not answered.

    Parameters
    ----------
    ranks : sequence of RankFacts
        Of those that have.
    size : int
        How many there are.
    limit_s : float
        How long was waited.
    """
    counts = Counter(each.host for each in ranks)
    nodes = ", ".join(f"{host} ({n})" for host, n in [*counts.items()][:N_NAMED])
    more = f" and {len(counts) - N_NAMED} more" if len(counts) > N_NAMED else ""
    n_nodes = f"{len(counts)} node{'s' if len(counts) > 1 else ''}"
    findings = [fine("ranks", f"{len(ranks)} of {size} ranks on {n_nodes}: {nodes}{more}")]
    silent = sorted({*range(size)} - {each.rank for each in ranks})
    if silent:
        findings.append(silent_ranks(f"{_named(silent)} of {size} have not answered", limit_s))
    return findings


def silent_ranks(who: str, limit_s: float) -> Finding:
    """Return the finding that some ranks do not answer in time."""
    cure = (
        "See what they do on their nodes (ps, dmesg, py-spy dump), and start on fewer nodes to "
        "find out which one hangs; --time-limit 5m waits longer."
    )
    return wrong("silent ranks", f"{who} within {limit_s:.0f} s", cure)


def _named(ranks: Sequence[int]) -> str:
    more = ", ..." if len(ranks) > N_NAMED else ""
    return f"rank(s) {', '.join(map(str, ranks[:N_NAMED]))}{more}"


def check_pythons(ranks: Sequence[RankFacts]) -> list[Finding]:
    """Look whether all ranks run the same Python, with the same packages."""
    first = ranks[0]
    for each in ranks:
        if each.python != first.python:
            there = f"{each.python} on {each.host} (rank {each.rank})"
            return [wrong("Python", f"rank 0 runs {first.python}, and there is {there}")]
        for name, version in each.versions.items():
            if version != first.versions[name]:
                there = f"{version} on {each.host} (rank {each.rank})"
                text = f"rank 0 has {name} {first.versions[name]}, and there is {there}"
                return [wrong("Python", text)]
    return [fine("Python", f"all ranks run {first.python} with the same packages")]


def check_sharing(seen: Mapping[int, Seen], folder: str, directory: str) -> list[Finding]:
    """Look whether all ranks have found what rank 0 has written."""
    missed = [rank for rank, each in sorted(seen.items()) if each.missed]
    if not folder or not seen:
        return []
    if missed:
        why = seen[missed[0]].missed
        hosts = ", ".join(sorted({seen[rank].facts.host for rank in missed})[:N_NAMED])
        text = f"a file that rank 0 has written in {directory} is not found by {_named(missed)}"
        return [wrong("one place for all", f"{text} on {hosts}: {why}")]
    return [
        fine("one place for all", f"all ranks find a file that rank 0 has written in {directory}")
    ]


def check_ways(ways: Sequence[Way], hosts: Mapping[int, str]) -> list[Finding]:
    """Look at how long letters travel, and at what clocks differ.

    Parameters
    ----------
    ways : sequence of Way
        Of the first ranks of other nodes, and of one on rank 0's.
    hosts : mapping of int to str
        Where these ranks are.
    """
    if not ways:
        return []
    slowest = max(ways, key=lambda way: way.both_ways_s)
    text = f"rank {slowest.rank} on {hosts[slowest.rank]}"
    findings = [
        fine("letters", f"from rank 0 there and back in {_ms(slowest)} at most, for {text}")
    ]
    wrong_clocks = [way for way in ways if abs(way.clock_s) > CLOCK_S + way.both_ways_s]
    for way in wrong_clocks[:1]:
        text = f"the clock of {hosts[way.rank]} differs from rank 0's by {way.clock_s:.1f} s"
        findings.append(wrong("one place for all", text))
    if not wrong_clocks:
        furthest = max(abs(way.clock_s) for way in ways)
        findings.append(fine("clocks", f"they differ by {1000 * furthest:.1f} ms at most"))
    return findings


def _ms(way: Way) -> str:
    return f"{1000 * way.both_ways_s:.2f} ms"


def check_start(ranks: Sequence[RankFacts], mpi_s: float) -> list[Finding]:
    """Tell how long the start took.

    Parameters
    ----------
    ranks : sequence of RankFacts
        All that have answered.
    mpi_s : float
        How long MPI took on rank 0.
    """
    slowest = max(ranks, key=lambda each: each.ready_s)
    text = (
        f"Python was ready after {slowest.ready_s:.1f} s on {slowest.host}, the slowest node, and "
        f"MPI {mpi_s:.1f} s later"
    )
    if slowest.ready_s > READY_S:
        cure = (
            "Start no more ranks than there are cores; put Python and its packages on a faster "
            "file system, or copy them to each node."
        )
        return [noted("start", text, cure)]
    return [fine("start", text)]
