"""Jobs that are submitted from Python under a real Slurm: see `scripts/slurm_sandbox`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from sandbox import Slurm, run_client, running_slurm, values_in

pytestmark = [pytest.mark.once, pytest.mark.slurm, pytest.mark.slow]


@pytest.fixture
def folder(slurm: Slurm, request: pytest.FixtureRequest) -> Path:
    """Create a directory that all nodes see."""
    path = slurm.shared_dir / str(request.node.name)
    path.mkdir()
    return path


def test_a_job_waits_runs_and_is_found_again(slurm: Slurm, folder: Path) -> None:
    said = run_client(
        slurm,
        folder,
        """
        wrong = acme_mpi.Slurm(4, partition="nowhere")
        refused = fails(lambda: acme_mpi.submit(f, [1], 1, output_dir="out", launch=wrong))
        said = dict(refused=refused)
        said["left"] = os.listdir()
        launch = acme_mpi.Slurm(4, partition="main", time="10min", nodes=2, extra=["--hold"])
        job = acme_mpi.submit(f, [1, 2, 3, 4], 10, output_dir="out", launch=launch)
        said["status"] = str(job.status())
        said["second"] = fails(
            lambda: acme_mpi.submit(f, [1, 2, 3, 4], 10, output_dir="out", launch=launch)
        )
        subprocess.run(["scontrol", "release", job.id], check=True)
        """,
    )
    assert said["refused"][0] == "LaunchError"
    assert "invalid partition specified: nowhere" in said["refused"][1]
    assert said["left"] == ["client.py"]
    assert "PENDING (JobHeldUser)" in said["status"]
    assert said["second"][0] == "PlaceError"
    assert "PENDING (JobHeldUser)" in said["second"][1]

    said = run_client(
        slurm,
        folder,
        """
        job = acme_mpi.attach("out")
        said = dict(files=job.result(LIMIT_S), state=job.wait(), script=job.script())
        """,
    )
    assert said["files"] == [str(folder / "out" / "f.h5")]
    assert said["state"] == "COMPLETED"
    assert "\n#SBATCH --partition=main\n#SBATCH --time=00:10:00\n" in said["script"]
    assert values_in(folder / "out" / "f.h5") == [11, 12, 13, 14]


def test_a_job_of_the_sites_words_gives_each_rank_its_gpu(slurm: Slurm, folder: Path) -> None:
    (folder / "acme_mpi.toml").write_text(
        'launch = "gpus"\nprologue = ["export SAID=3"]\n[launchers.gpus]\nkind = "slurm"\n'
        'n = 2\nnodes = 1\ngpus_per_rank = 1\ntime = "10min"\n'
    )
    said = run_client(
        slurm,
        folder,
        """
        def gpu(x):
            open(f"begun{x}", "w").close()
            until(lambda: os.path.exists(f"begun{1 - x}"))  # so each rank has one of two tasks
            return 10 * int(os.environ["SAID"]) + int(os.environ["CUDA_VISIBLE_DEVICES"])

        os.environ["XDG_CONFIG_HOME"] = os.getcwd()
        job = acme_mpi.submit(gpu, [0, 1], output_dir="out")
        said = dict(files=job.result(LIMIT_S))
        """,
    )
    assert sorted(values_in(Path(said["files"][0]))) == [30, 31]


def test_jobs_that_end_early_say_how_and_what_resumes_them(slurm: Slurm, folder: Path) -> None:
    said = run_client(
        slurm,
        folder,
        """
        held = acme_mpi.Slurm(1, extra=["--hold"])
        pending = acme_mpi.submit(f, [1], 1, output_dir="pending", launch=held)
        none = acme_mpi.Slurm(2, prologue=["export SLURM_MPI_TYPE=none"])
        unable = acme_mpi.submit(f, [1], 1, output_dir="unable", launch=none)
        running = acme_mpi.submit(
            wait_for_permission, range(4), output_dir="out", launch=acme_mpi.Slurm(1)
        )
        pending.cancel()
        said = dict(pending=[pending.wait(LIMIT_S), *fails(pending.result)])
        until(lambda: os.path.exists("begun0"))
        subprocess.run(["scancel", running.id], check=True)
        said["running"] = [running.wait(LIMIT_S), *fails(running.result)]
        said["unable"] = [unable.wait(LIMIT_S), *fails(unable.result)]
        """,
    )
    assert said["pending"][:2] == ["CANCELLED", "LaunchError"]
    state, kind, text = said["running"]
    assert (state, kind) == ("CANCELLED", "StoppedError")
    assert "4 of 4 tasks were not run, because job" in text
    assert "the last lines of" in text
    job_folder = folder / "out" / ".acme_mpi" / "wait_for_permission" / "job0"
    assert f"resume with: sbatch {job_folder}/script.sh" in text
    state, kind, text = said["unable"]
    assert (state, kind) == ("FAILED", "LaunchError")
    # 143 where the first of both ranks that leaves has the other one killed.
    assert re.search(r"has ended with status (2|143) before any task was called", text)
    assert "each is rank 0 of 1" in text.replace("\n", " ")


def test_a_job_is_queued_again_when_its_time_is_over(slurm: Slurm, folder: Path) -> None:
    """Slurm lets it wait for two minutes then; its script, submitted again, is quicker."""
    said = run_client(
        slurm,
        folder,
        """
        launch = acme_mpi.Slurm(1, time="10min", again=True)
        job = acme_mpi.submit(brief, range(60), output_dir="out", launch=launch)
        until(lambda: (run := job.status().run) is not None and run.n_done)
        # As it does before the time is over, see the script.
        subprocess.run(["scancel", "--signal=USR2", job.id], check=True)
        until(lambda: state_of(job.id) == "PENDING")
        said = dict(first=job.id, before=job.status().run.n_done)
        job.cancel()
        said["cancelled"] = [job.wait(LIMIT_S), *fails(job.result)]
        command = said["cancelled"][-1].rpartition("resume with: ")[2]
        subprocess.run(command, shell=True, check=True)
        until(lambda: job.id != said["first"])
        said["files"] = job.result(LIMIT_S)
        """,
    )
    assert 0 < int(said["before"]) < 60
    assert said["cancelled"][:2] == ["CANCELLED", "StoppedError"]
    assert values_in(Path(said["files"][0])) == list(range(60))


def test_a_lost_node_ends_a_job_or_is_gone_on_without(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """In a Slurm of its own, as the node does not come back."""
    with running_slurm(tmp_path_factory.mktemp("shared")) as slurm:
        folder = slurm.shared_dir
        run_client(
            slurm,
            folder,
            """
            both = acme_mpi.Slurm(4, nodes=2, again=True)
            acme_mpi.submit(wait_for_permission, range(40), output_dir="both", launch=both)
            lost = acme_mpi.Slurm(1, extra=["--nodelist=node2", "--no-requeue"])
            acme_mpi.submit(wait_for_permission, range(50, 60), output_dir="lost", launch=lost)
            until(lambda: len([each for each in os.listdir() if each.startswith("begun")]) >= 5)
            said = {}
            """,
        )
        slurm.lose("node2")
        (folder / "allowed").touch()
        said = run_client(
            slurm,
            folder,
            """
            both, lost = acme_mpi.attach("both"), acme_mpi.attach("lost")
            said = dict(lost=[lost.wait(LIMIT_S), *fails(lost.result)])
            said["files"] = both.result(LIMIT_S)
            said["both"] = both.wait(LIMIT_S)
            """,
        )
    state, kind, text = said["lost"]
    assert (state, kind) == ("NODE_FAIL", "StoppedError")
    assert "10 of 10 tasks were not run, because job" in text
    assert f"resume with: sbatch {folder}/lost/" in text
    assert said["both"] == "COMPLETED"
    assert values_in(Path(said["files"][0])) == list(range(40))


def test_a_job_that_takes_too_much_memory_says_so(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Limits of Slurm's own, by control groups: a task fails alone, a job's script ends the job."""
    with running_slurm(tmp_path_factory.mktemp("shared"), "--limit-memory") as slurm:
        said = run_client(
            slurm,
            slurm.shared_dir,
            """
            def takes(x):
                return len(bytes([1]) * x)

            large = acme_mpi.Slurm(1, mem="300M")
            job = acme_mpi.submit(takes, [1, 2, 1 << 30], output_dir="task", launch=large)
            said = dict(task=[job.wait(LIMIT_S), *fails(job.result)])
            script = "python3 -c 'bytearray(1 << 30)' || exit"
            large = acme_mpi.Slurm(1, mem="300M", prologue=[script])
            job = acme_mpi.submit(takes, [1], output_dir="script", launch=large)
            said["script"] = [job.wait(LIMIT_S), *fails(job.result)]
            """,
        )
        late = slurm.outlive("node1")
    late.communicate(timeout=10)
    state, kind, text = said["task"]
    assert (state, kind) == ("FAILED", "TaskError")
    assert text.startswith("1 of 3 tasks failed, first: task 2 on rank 0 (node1): killed: ")
    assert "probably out of memory" in text
    state, kind, text = said["script"]
    assert (state, kind) == ("OUT_OF_MEMORY", "LaunchError")
    assert "has ended before any task was called: OUT_OF_MEMORY (OutOfMemory)" in text
    assert "oom-kill event" in text
