"""What the function finds around itself in a child process."""

from __future__ import annotations

import os
import signal
import sys
import threading

import cloudpickle
import pytest
from running import make_assignment, run_tasks, values_by_index

from acme_mpi import PerTask
from acme_mpi.linux.threads import THREAD_VARIABLES
from acme_mpi.runner.child import ChildRunner
from acme_mpi.runner.process import child_environment

pytestmark = pytest.mark.once

# A function that crashes travels by value, with all it calls.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


class TestEnvironment:
    def environment_seen(self, start_runner, n_threads=1) -> dict[str, str]:
        runner = start_runner(ChildRunner, n_threads)
        runner.prepare(make_assignment(lambda x: dict(os.environ), [1]))
        (environment,) = values_by_index(run_tasks(runner, [range(1)])).values()
        return environment

    def test_all_but_the_agents_rank_is_inherited(self, start_runner, monkeypatch):
        """The place of the agent is not inherited and all else is."""
        launcher = [
            "OMPI_COMM_WORLD_RANK",
            "PMIX_RANK",
            "PMI_SIZE",
            "PRTE_LAUNCHED",
            "SLURM_STEP_ID",
            "SLURM_STEPID",
            "SLURM_PROCID",
            "SLURM_LOCALID",
            "SLURM_TASK_PID",
            "HYDI_CONTROL_FD",
            "MPI_LOCALNRANKS",
        ]
        launcher += ["OMPI_MCA_orte_hnp_uri", "OMPI_MCA_ess_base_vpid", "OMPI_MCA_pmix"]
        other = ["SLURM_JOB_ID", "SLURM_CPUS_PER_TASK", "MY_VARIABLE", "PYTHONPATH"]
        other += ["OMPI_MCA_btl", "OMPI_ALLOW_RUN_AS_ROOT", "OMPI_CC", "PMIX_MCA_gds"]
        other += ["PRTE_MCA_rmaps_default_mapping_policy", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM"]
        for name in launcher + other:
            monkeypatch.setenv(name, "/1")

        environment = self.environment_seen(start_runner)

        assert [name for name in launcher if name in environment] == []
        assert [name for name in other if environment.get(name) != "/1"] == []

    def test_libraries_get_the_number_of_threads_unless_it_is_set(self, start_runner, monkeypatch):
        for name in THREAD_VARIABLES:
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("MKL_NUM_THREADS", "7")

        environment = self.environment_seen(start_runner, n_threads=3)

        assert environment["OMP_NUM_THREADS"] == "3"
        assert environment["OPENBLAS_NUM_THREADS"] == "3"
        assert environment["NUMEXPR_NUM_THREADS"] == "3"
        assert environment["NUMBA_NUM_THREADS"] == environment["POLARS_MAX_THREADS"] == "3"
        assert environment["MKL_NUM_THREADS"] == "7"

    def test_the_environment_of_this_process_stays_as_it_is(self, monkeypatch):
        monkeypatch.setenv("PMI_RANK", "1")
        child_environment(5)

        assert os.environ["PMI_RANK"] == "1"
        assert os.environ.get("OMP_NUM_THREADS") != "5"

    def test_working_directory_and_search_path_are_the_callers(
        self, lasting_child, tmp_path, monkeypatch
    ):
        (tmp_path / "module_of_the_caller.py").write_text("def f(x):\n    return x + 1\n")
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        import module_of_the_caller  # type: ignore[import-not-found]

        lasting_child.prepare(make_assignment(module_of_the_caller.f, [1]))
        assert values_by_index(run_tasks(lasting_child, [range(1)])) == {0: 2}

        lasting_child.prepare(make_assignment(lambda x: os.getcwd(), [1]))
        assert values_by_index(run_tasks(lasting_child, [range(1)])) == {0: str(tmp_path)}

    def test_stdin_is_empty_and_stdout_is_the_agents(self, start_runner, capfd):
        """Standard input is empty and standard output is the agent's."""

        def f(x):
            print("printed by a task")
            return sys.stdin.read()

        runner = start_runner()
        runner.prepare(make_assignment(f, [1]))

        assert values_by_index(run_tasks(runner, [range(1)])) == {0: ""}
        assert capfd.readouterr().out == "printed by a task\n"

    @pytest.mark.parametrize("number", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
    def test_signals_that_end_a_job_are_left_to_the_agent(self, lasting_child, number):
        def f(x):
            os.kill(os.getpid(), getattr(signal, number))
            return x

        lasting_child.prepare(make_assignment(f, [1, 2]))

        assert values_by_index(run_tasks(lasting_child, [range(2)])) == {0: 1, 1: 2}

    def test_a_function_that_changes_the_streams_does_no_harm(self, start_runner):
        def f(x):
            sys.stdout.close()
            sys.stderr = None
            return x

        runner = start_runner()
        runner.prepare(make_assignment(f, [1]))

        assert values_by_index(run_tasks(runner, [range(1)])) == {0: 1}

    def test_a_stream_that_never_comes_back_holds_nothing_up(self, start_runner, capfd):
        def never(*args):
            threading.Event().wait()

        def fail(*args):
            raise RuntimeError("no")

        def spoil(name, flush):
            print("said before", name)
            if name == "object":
                stream = type("Stream", (), {"write": len, "flush": flush})()
                sys.stdout = sys.stderr = stream
            elif name == "method":
                sys.stdout.flush = flush
            elif name == "buffer":
                sys.stdout.buffer.flush = flush
            return name

        names = ["object", "none", "method", "none", "buffer", "none", "object"]
        runner = start_runner()
        runner.prepare(make_assignment(spoil, names, PerTask([never] * 6 + [fail])))
        outcomes = run_tasks(runner, [range(k, k + 1) for k in range(len(names))])

        assert values_by_index(outcomes) == dict(enumerate(names))
        # What was printed into a stream just before it is spoilt is lost with that stream.
        said = capfd.readouterr().out.split("\n")
        assert said.count("said before none") == 3
        assert said.count("said before object") == 2

    def test_what_a_users_stream_prints_comes_out_in_time(self, start_runner, capfd):
        """What is printed through an object of the user's comes out in time."""

        class Loud:
            def __init__(self, stream):
                self.stream, self.kept = stream, []

            def write(self, text):
                self.kept.append(text.upper())

            def flush(self):
                self.stream.write("".join(self.kept))
                self.kept.clear()

        def f(x):
            if not isinstance(sys.stdout, Loud):
                sys.stdout = Loud(sys.stdout)
            print("said", x)

        runner = start_runner()
        runner.prepare(make_assignment(f, [0, 1]))
        for x in range(2):
            run_tasks(runner, [range(x, x + 1)])
            assert capfd.readouterr().out == f"SAID {x}\n"
