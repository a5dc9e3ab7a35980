"""Ranks that stay, under a real Slurm with two nodes: see `scripts/slurm_sandbox`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from sandbox import Slurm, run_client, values_in

pytestmark = [pytest.mark.once, pytest.mark.slurm, pytest.mark.slow]

WORDS = 'n=4, nodes=2, time="10min", idle="2min"'

FIRST = f"""\
import os
import time

import acme_mpi


def slow(x):
    open(f"begun{{x}}", "w").close()
    while not os.path.exists("allowed"):
        time.sleep(0.01)
    if x == 0:
        print("printed by a task")
    return -x


acme_mpi.launch({WORDS}, directory="ranks")
acme_mpi.map(slow, [0, 1, 2], write_worker_results=False)
"""


@pytest.fixture
def folder(slurm: Slurm, request: pytest.FixtureRequest) -> Iterator[Path]:
    """Create a directory that all nodes see; no job may be left of a test."""
    path = slurm.shared_dir / str(request.node.name).replace("[", "-").rstrip("]")
    path.mkdir()
    yield path
    left = slurm.call("squeue", "--noheader", "--states=PENDING,RUNNING").stdout
    slurm.end_jobs()
    assert left == ""


def test_ranks_of_two_nodes_serve_all_dialects(slurm: Slurm, folder: Path) -> None:
    said = run_client(
        slurm,
        folder,
        f"""
        import logging, socket
        import numpy as np

        class Kept(logging.Handler):
            def emit(self, record):
                messages.append(record.getMessage())

        messages = []
        logging.getLogger("acme_mpi").addHandler(Kept())
        logging.getLogger("acme_mpi").setLevel("INFO")
        factor = 3

        def here(x):
            return x * factor, socket.gethostname()

        with acme_mpi.launch({WORDS}, directory="ranks") as ranks:
            said = dict(hosts=ranks.hosts, job=state_of(ranks.job_id))
            found = acme_mpi.map(here, range(8), write_worker_results=False)
            said["values"] = [value for value, _ in found]
            said["nodes"] = sorted({{node for _, node in found}})
            said["files"] = acme_mpi.map(f, [1, 2], 10, output_dir="out")
            with acme_mpi.ParallelMap(f, [1, 2], 3, write_worker_results=False) as pmap:
                said["acme"] = pmap.compute()
            with acme_mpi.Pool() as pool:
                said["pool"] = pool.map(here, [5])[0][0], pool.size
            with acme_mpi.Executor() as executor:
                large = executor.submit(np.multiply, np.ones(300_000), 2).result()
                said["large"] = [float(large.sum()), len(large)]
            said["error"] = fails(
                lambda: acme_mpi.map(lambda x: 1 / x, [1, 0], write_worker_results=False)
            )
            said["log"] = os.path.exists(ranks.log)
        said["left"] = os.path.exists("ranks")
        said["messages"] = [each for each in messages if each.startswith("Connected")]
        """,
    )
    assert said["hosts"] == said["nodes"] == ["node1", "node2"]
    assert said["job"] == "RUNNING"
    assert said["values"] == list(range(0, 24, 3))
    assert said["files"] == [str(folder / "out" / "f.h5")]
    assert said["acme"] == [4, 5]
    assert said["pool"] == [15, 4]
    assert said["large"] == [600_000, 300_000]
    assert said["error"][0] == "TaskError"
    assert "ZeroDivisionError" in said["error"][1]
    assert (said["log"], said["left"]) == (True, False)
    [way] = said["messages"]
    assert way.startswith("Connected to 4 ranks on node1, node2 by TCP with 10.0.0.1, port ")


@pytest.mark.parametrize(
    ("hooks", "way"),
    [("output", "which has dialled this process"), ("output input", "files in ")],
    ids=["dials", "files"],
)
def test_a_closed_network_leaves_another_way(
    slurm: Slurm, folder: Path, hooks: str, way: str
) -> None:
    """A firewall on the login machine: what begins a connection to no well-known port is lost."""
    chains = [
        f"chain {each} {{ type filter hook {each} priority 0; "
        "tcp flags & (syn | ack) == syn tcp dport 32768-60999 drop; }"
        for each in hooks.split()
    ]
    (folder / "rules").write_text(f"table inet closed {{\n{chr(10).join(chains)}\n}}\n")
    said = run_client(
        slurm,
        folder,
        f"""
        subprocess.run(["nft", "--file", "rules"], check=True)
        try:
            with acme_mpi.launch({WORDS}, directory="ranks") as ranks:
                said = dict(way=ranks.way)
                said["values"] = acme_mpi.map(f, range(5), 1, write_worker_results=False)
                with acme_mpi.Pool() as pool:
                    said["pool"] = pool.map(abs, range(-300, 0))[0]
        finally:
            subprocess.run(["nft", "delete", "table", "inet", "closed"], check=True)
        """,
    )
    assert way in said["way"]
    assert said["values"] == [1, 2, 3, 4, 5]
    assert said["pool"] == 300


def test_ranks_outlive_a_process_and_serve_the_next(slurm: Slurm, folder: Path) -> None:
    """As after a restart of a kernel: its call goes on, and its result is kept."""
    (folder / "first.py").write_text(FIRST)
    said = run_client(
        slurm,
        folder,
        """
        import sys

        first = subprocess.Popen([sys.executable, "first.py"])
        until(lambda: all(os.path.exists(f"begun{x}") for x in range(3)))
        second = [sys.executable, "-c", "import acme_mpi; acme_mpi.connect('ranks')"]
        said = dict(second=subprocess.run(second, capture_output=True, text=True).stderr)
        said["first"] = first.pid
        first.kill()
        first.wait()
        ranks = acme_mpi.connect("ranks")
        said["ranks"] = len(ranks.ranks)
        open("allowed", "w").close()
        said["last"] = ranks.last_result()
        said["again"] = fails(ranks.last_result)
        said["values"] = acme_mpi.map(f, [1, 2], 3, write_worker_results=False)
        with open(ranks.log) as file:
            said["printed"] = "printed by a task" in file.read()
        ranks.stop()
        said["gone"] = fails(lambda: acme_mpi.connect("ranks"))
        """,
    )
    assert f"the ranks serve process {said['first']} of " in said["second"]
    assert said["ranks"] == 4
    assert said["last"] == [0, -1, -2]
    assert said["again"] == ["InputError", said["again"][1]]
    assert said["values"] == [4, 5]
    assert said["printed"]
    assert "is no folder of ranks" in said["gone"][1]


def test_the_end_of_ranks_is_told_with_its_reason(slurm: Slurm, folder: Path) -> None:
    said = run_client(
        slurm,
        folder,
        """
        def until_asked(x):
            open(f"begun{x}", "w").close()
            while not os.path.exists("asked"):
                time.sleep(0.01)
            return x

        def when_begun(x, command):
            wait = f"until [ -e begun{x} ]; do sleep 0.05; done"
            return subprocess.Popen(["bash", "-c", f"{wait}; {command}"])

        ranks = acme_mpi.launch(n=2, time="10min", directory="ranks")
        asked = f"scancel --signal=USR2 {ranks.job_id}"  # as before the end of its time
        other = when_begun(0, f"{asked} && touch asked")
        said = dict(stopped=fails(lambda: acme_mpi.map(until_asked, range(40), output_dir="out")))
        other.wait()
        until(lambda: ranks.status() == "ended")
        ranks = acme_mpi.launch(n=2, time="10min", directory="others")
        said["resumed"] = acme_mpi.map(until_asked, range(40), output_dir="out", resume=True)
        os.unlink("asked")
        other = when_begun(99, f"scancel --signal=KILL --full {ranks.job_id}")
        said["killed"] = fails(
            lambda: acme_mpi.map(until_asked, [99, 100], write_worker_results=False)
        )
        other.wait()
        said["still"] = fails(lambda: acme_mpi.map(abs, [1, 2], write_worker_results=False))[0]
        said["refused"] = fails(lambda: acme_mpi.launch(n=2, partition="nowhere", directory="3"))
        said["unable"] = fails(
            lambda: acme_mpi.launch(acme_mpi.Slurm(2, prologue=["false && x", "exit 3"]))
        )
        said["left"] = os.path.exists("3")
        """,
    )
    assert said["stopped"][0] == "StoppedError"
    assert "SIGUSR2" in said["stopped"][1]
    assert said["resumed"] == [str(folder / "out" / "until_asked.h5")]
    assert said["killed"][0] == "LaunchError"
    assert "the ranks that served this process have gone; launch others" in said["killed"][1]
    assert " on Slurm is " in said["killed"][1]
    assert said["still"] == said["killed"][0]
    assert "invalid partition specified: nowhere" in said["refused"][1]
    assert "the ranks have not begun: job " in said["unable"][1]
    assert " on Slurm is FAILED" in said["unable"][1]
    assert not said["left"]


def test_acmes_set_up_starts_workers_that_stay(slurm: Slurm, folder: Path) -> None:
    """Without mpiexec or srun: two maps on one client, as ACME's users write it."""
    said = run_client(
        slurm,
        folder,
        """
        from acme_mpi import ParallelMap, cluster_cleanup, esi_cluster_setup, slurm_cluster_setup

        # The smallest of ESI's names; here there are none.
        said = dict(auto=fails(lambda: esi_cluster_setup(mem_per_worker="8GB")))
        client = slurm_cluster_setup(
            partition="main", n_workers=8, job_extra=["--time=00:10:00"], timeout=60
        )
        said["client"] = [client.n_workers, len({w["pid"] for w in client.workers_info()})]
        with ParallelMap(f, [1, 2, 3, 4], 10, output_dir="one") as pmap:
            said["files"] = len(pmap.compute())
        with ParallelMap(f, [1, 2], y=[20, 30], write_worker_results=False) as pmap:
            said["values"] = pmap.compute()
            said["workers"] = pmap.n_workers
        cluster_cleanup()
        until(lambda: not subprocess.run(["squeue", "-h"], capture_output=True).stdout)
        with ParallelMap(f, [1, 2], 3, partition="main", n_workers=2, output_dir="four") as pmap:
            pmap.compute()
            until(lambda: not subprocess.run(["squeue", "-h"], capture_output=True).stdout)
        said["late"] = fails(
            lambda: slurm_cluster_setup(partition="main", job_extra=["--hold"], timeout=0)
        )
        """.replace("client.workers_info()", 'client.scheduler_info()["workers"].values()'),
    )
    assert said["auto"][0] == "InputError"
    assert "<esi_cluster_setup> `partition` 'auto' takes the smallest" in said["auto"][1]
    assert said["client"] == [8, 8]
    assert said["files"] == 4
    assert (said["values"], said["workers"]) == ([21, 32], 8)
    assert said["late"][0] == "TimeoutError"
    assert "<slurm_cluster_setup> the ranks have not begun: job " in said["late"][1]


@pytest.fixture
def partition(slurm: Slurm) -> Iterator[None]:
    """Have Slurm know a partition of ESI's."""
    slurm.call("scontrol", "create", "PartitionName=8GBXS", "Nodes=ALL", "MaxTime=INFINITE")
    yield
    slurm.call("scontrol", "delete", "PartitionName=8GBXS")


@pytest.mark.usefixtures("partition")
def test_a_client_of_many_workers_serves_two_maps(slurm: Slurm, folder: Path) -> None:
    """As ACME's page has it for ESI: a partition named by its memory, and what all tasks share."""
    said = run_client(
        slurm,
        folder,
        """
        import numpy as np
        from acme_mpi import ParallelMap, esi_cluster_setup

        def low(x, y, z=3, w=np.zeros((3, 1)), **kwargs):
            return min(x) * y + z * w.sum()

        def high(x, y, z=3, w=np.zeros((3, 1)), **kwargs):
            return max(x) * y - z * w.sum()

        n_workers = 8
        client = esi_cluster_setup(partition="8GBXS", n_workers=n_workers)
        shared, each = [2, 4, 6], np.arange(n_workers) / 4
        words = dict(z=range(n_workers), w=np.ones((5, 1)), n_inputs=n_workers)
        said = dict(files=[], workers=client.n_workers)
        for func in low, high:
            pmap = ParallelMap(func, shared, each, **words)
            with pmap as p:
                p.compute()
            said["files"].append(pmap.results_container)
        """,
    )
    low, high = (values_in(Path(name)) for name in said["files"])
    each = np.arange(8)
    assert said["workers"] == 8
    assert low == [*(2 * each / 4 + 5 * each)]
    assert high == [*(6 * each / 4 - 5 * each)]
