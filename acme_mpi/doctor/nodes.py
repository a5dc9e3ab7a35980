"""What is wrong with the nodes of some ranks, and with how the ranks are spread over them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from acme_mpi.doctor.finding import OK, Finding, fine, noted, wrong
from acme_mpi.doctor.rank_facts import RankFacts
from acme_mpi.linux.memory import size_text

MIB = 1024**2
SHARED_BYTES = 8 * MIB  # of a rank: Open MPI 4 takes 4 MiB, and some for itself
MEMORY_BYTES = 300 * MIB  # of a rank: two processes with Python and NumPy
LOCKED_BYTES = 64 * MIB
N_NAMED = 8  # nodes
# Of containers and virtual machines: they lead to no other node.
_INNER = ("docker", "virbr", "br-", "podman", "cni", "lxcbr", "vboxnet", "vmnet")

Nodes = Mapping[str, Sequence[RankFacts]]


def by_node(ranks: Sequence[RankFacts]) -> Nodes:
    """Return the ranks of each host, in their order."""
    nodes: dict[str, list[RankFacts]] = defaultdict(list)
    for each in ranks:
        nodes[each.host].append(each)
    return nodes


def check_nodes(
    ranks: Sequence[RankFacts],
    n_planned: int | None = None,
    environ: Mapping[str, str] = os.environ,
) -> list[Finding]:
    """Look at all nodes.

    Parameters
    ----------
    ranks : sequence of RankFacts
        Of those that have answered, at least one.
    n_planned : int, optional
        Where this process is alone: so many ranks the node is thought to have.
    environ : mapping
        Settings of MPI.
    """
    nodes = by_node(ranks)
    found: dict[tuple[str, str], list[tuple[str, Finding]]] = defaultdict(list)
    for host, here in nodes.items():
        for each in _check_node(host, here, n_planned):
            found[each.check, each.level].append((host, each))
    return [*map(_of_all, found.values()), *_check_interfaces(nodes, environ)]


def _of_all(found: Sequence[tuple[str, Finding]]) -> Finding:
    """Return one finding for what is alike on several nodes: there may be thousands."""
    (_, first), *others = found
    hosts = list(dict.fromkeys(host for host, _ in others))
    if not hosts:
        return first
    more = ", ..." if len(hosts) > N_NAMED else ""
    alike = f"so it is on {len(hosts)} other nodes: {', '.join(hosts[:N_NAMED])}{more}"
    if first.level == OK:
        alike = f"nothing is wrong with that on {len(hosts)} other nodes"
    return first._replace(evidence=f"{first.evidence}; {alike}")


def _check_node(host: str, here: Sequence[RankFacts], n_planned: int | None) -> Iterator[Finding]:
    n_ranks = n_planned or len(here)
    yield from _check_cores(host, here, n_ranks)
    yield _check_threads(host, here[0], n_ranks, wrong if n_planned is None else noted)
    yield from _check_memory(host, here[0], n_ranks)


def _count(n_ranks: int) -> str:
    return f"{n_ranks} rank{'' if n_ranks == 1 else 's'}"


def _check_cores(host: str, here: Sequence[RankFacts], n_ranks: int) -> Iterator[Finding]:
    first = here[0]
    union = {cpu for each in here for cpu in each.cpus}
    if n_ranks > len(union) and first.n_cpus > len(union):
        yield wrong(
            "binding",
            f"{_count(n_ranks)} of {host} share processors {_ranges(union)}, of {first.n_cpus}",
        )
    elif n_ranks > (n_cores := _n_cores(here, len(union))):
        yield noted("slots", f"{host} has {n_cores} cores for {_count(n_ranks)}")
    elif (pair := _overlapping(here)) is not None:
        yield wrong("binding", f"ranks {pair[0]} and {pair[1]} of {host} share some processors")
    elif (bound := next((each for each in here if _is_narrow(each)), None)) is not None:
        yield wrong(
            "binding",
            f"rank {bound.rank} of {host} may use {len(bound.cpus)} processors, and was to have "
            f"{bound.cpus_per_task}",
        )
    else:
        yield fine("binding", f"{host} has processors {_ranges(union)} for {_count(n_ranks)}")


def _n_cores(here: Sequence[RankFacts], n_cpus: int) -> int:
    """Return how many cores ranks can keep busy: of unbound ones each knows it for all."""
    return here[0].n_busy if len({each.cpus for each in here}) == 1 else n_cpus


def _overlapping(here: Sequence[RankFacts]) -> tuple[int, int] | None:
    """Return two ranks whose processors overlap, without being the same."""
    owner: dict[int, RankFacts] = {}
    for each in here:
        for cpu in each.cpus:
            other = owner.setdefault(cpu, each)
            if other.cpus != each.cpus:
                return other.rank, each.rank
    return None


def _is_narrow(each: RankFacts) -> bool:
    return len(each.cpus) < each.cpus_per_task


def _ranges(cpus: set[int]) -> str:
    """Return numbers as ``0-3,8``."""
    text, ordered = "", sorted(cpus)
    for k, cpu in enumerate(ordered):
        if k and cpu == ordered[k - 1] + 1:
            if k + 1 == len(ordered) or ordered[k + 1] != cpu + 1:
                text += f"-{cpu}"
        else:
            text += f",{cpu}"
    return text[1:]


def _check_threads(
    host: str, first: RankFacts, n_ranks: int, found: Callable[[str, str], Finding]
) -> Finding:
    for name, n_threads in first.threads.items():
        if n_threads > len(first.cpus) or (n_threads > 1 and n_threads * n_ranks > first.n_cpus):
            return found(
                "threads",
                f"{name}={n_threads} for each of {_count(n_ranks)}, and {host} has {first.n_cpus} "
                f"processors, of which each rank may use {len(first.cpus)}",
            )
    return fine("threads", f"no more threads than processors on {host}, as the variables say")


def _check_memory(host: str, first: RankFacts, n_ranks: int) -> Iterator[Finding]:
    each_bytes = first.memory_bytes / n_ranks
    evidence = f"{host} has {size_text(each_bytes)} of memory left for each of {_count(n_ranks)}"
    yield wrong("memory", evidence) if each_bytes < MEMORY_BYTES else fine("memory", evidence)
    if first.n_oom_kills:
        yield noted(
            "memory", f"the kernel has killed {first.n_oom_kills} processes for memory on {host}"
        )
    if 0 <= first.shared_bytes < SHARED_BYTES * n_ranks:
        text = f"/dev/shm of {host} has {size_text(first.shared_bytes)} free for {_count(n_ranks)}"
        yield wrong("shared memory", text)
    elif first.shared_bytes < 0:
        yield wrong("shared memory", f"{host} has no /dev/shm")
    else:
        yield fine("shared memory", f"/dev/shm of {host} has {size_text(first.shared_bytes)} free")
    if 0 <= first.locked_bytes < LOCKED_BYTES:
        text = f"{host} has an InfiniBand card, and locks {size_text(first.locked_bytes)} at most"
        yield wrong("locked memory", text)


def _check_interfaces(nodes: Nodes, environ: Mapping[str, str]) -> list[Finding]:
    inner = sorted(
        {name for here in nodes.values() for name in here[0].interfaces if name.startswith(_INNER)}
    )
    is_said = any(name.startswith("OMPI_MCA_btl_tcp_if_") for name in environ)
    if not inner or is_said:
        return []
    evidence = f"there are interfaces that lead to no other node: {', '.join(inner)}"
    return [noted("interfaces", evidence)]
