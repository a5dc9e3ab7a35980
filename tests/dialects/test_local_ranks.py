"""Plain Python scripts whose calls start ranks: which ones run, and that all of them end."""

from __future__ import annotations

import json

import pytest

PLAIN = {"ACME_MPI_LAUNCH": ""}
# The parent of the process that calls a task is a rank's agent.
BEGIN = """
import json, os, signal, sys, time
import acme_mpi

os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])  # ranks by default

def agent(*_):
    time.sleep(0.02)
    return os.getppid()

def agents(n=8):
    return acme_mpi.map(agent, range(n), write_worker_results=False)

def say(*values):
    print(json.dumps(values), flush=True)
"""


@pytest.fixture
def run(mpiexec, write_script):
    """Return a function that runs a script without a launcher, and returns what it has said."""

    def run(text, status=0, **options):
        script = write_script(BEGIN + text)
        options["env"] = {**PLAIN, **options.get("env", {})}
        ran = mpiexec(0, script, **options)
        assert ran.returncode == status, ran.stderr
        run.stderr = ran.stderr
        return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("[")]

    return run


@pytest.mark.every
def test_all_dialects_use_the_same_two_ranks(run):
    (used,) = run(
        """
        with acme_mpi.launch(2) as ranks:
            pids = sorted(pid for _, pid in ranks.ranks)
            with acme_mpi.ParallelMap(agent, n_inputs=8, write_worker_results=False) as pmap:
                found = [pmap.compute()]
            found.append(agents())
            with acme_mpi.Pool() as pool:
                found.append(pool.map(agent, range(8), 1))
            with acme_mpi.Executor() as executor:
                found.append(list(executor.map(agent, range(8))))
            say(*[sorted(set(each)) == pids for each in found])
    """.replace("\n        ", "\n")
    )

    assert used == [True] * 4


@pytest.mark.every
def test_the_first_call_starts_ranks_for_all(run):
    first, second, mpi = run("""
with acme_mpi.Pool(2) as pool:
    say(*sorted(set(pool.map(agent, range(8), 1))))
say(*sorted(set(agents())))
say("mpi4py.MPI" in sys.modules)
""")

    assert len(first) == 2
    assert second == first
    assert mpi == [False]
