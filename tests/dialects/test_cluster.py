"""Clients and clusters: what they say of the ranks is so, and what they end has ended.

One program does everything, in plain Python, in a script that three ranks serve, and on three ranks
that all run it; each process of it leaves its facts behind.
"""

from __future__ import annotations

import pickle
from typing import Any, NamedTuple

import pytest
from conftest import by_stacks

from acme_mpi import InputError, cluster_cleanup, get_client
from acme_mpi.acme.cluster import Client, keep, kept_client
from acme_mpi.session import current

SETUPS = ["local_cluster_setup", "slurm_cluster_setup", "esi_cluster_setup", "bic_cluster_setup"]
SLURM_SETUPS = SETUPS[1:]
SITE_SETUPS = SETUPS[2:]

# (functions, keywords, type of the exception, its text behind the function's name)
MISTAKES: dict[str, tuple[list[str], dict[str, Any], type[Exception], str]] = {
    "n_workers zero": (
        SETUPS,
        {"n_workers": 0},
        ValueError,
        "`n_workers` has to be an integer between 1 and inf, not 0",
    ),
    "n_workers fractional": (
        SETUPS,
        {"n_workers": 1.5},
        ValueError,
        "`n_workers` has to be an integer between 1 and inf, not 1.5",
    ),
    "n_workers text": (
        SETUPS,
        {"n_workers": "all"},
        TypeError,
        "`n_workers` has to be a scalar, not <class 'str'>",
    ),
    "mem_per_worker number": (
        SETUPS,
        {"mem_per_worker": 8},
        TypeError,
        "Memory specification `mem_per_worker` has to be a string, not 8",
    ),
    "mem_per_worker unit": (
        SETUPS,
        {"mem_per_worker": "8XB"},
        ValueError,
        "`mem_per_worker` has to be a valid memory specifier (e.g., '8GB', '12000MB'), not '8XB'",
    ),
    "interactive": (
        SETUPS,
        {"interactive": "no"},
        TypeError,
        "`interactive` has to be Boolean, not <class 'str'>",
    ),
    "partition": (
        SLURM_SETUPS,
        {"partition": 8},
        TypeError,
        "`partition` has to be 'auto' or a valid SLURM partition name, not <class 'int'>",
    ),
    "timeout": (
        SLURM_SETUPS,
        {"timeout": -1},
        ValueError,
        "`timeout` has to be an integer between 0 and inf, not -1",
    ),
    "n_workers_startup": (
        SLURM_SETUPS,
        {"n_workers_startup": "1"},
        TypeError,
        "`n_workers_startup` has to be a scalar, not <class 'str'>",
    ),
    "interactive_wait": (
        SLURM_SETUPS,
        {"interactive_wait": None},
        TypeError,
        "`interactive_wait` has to be a scalar, not <class 'NoneType'>",
    ),
    "mem_cushion": (
        SLURM_SETUPS,
        {"mem_cushion": -100},
        ValueError,
        "`mem_cushion` has to be an integer between 0 and inf, not -100",
    ),
    "job_extra": (
        SLURM_SETUPS,
        {"job_extra": "--hint=nomultithread"},
        TypeError,
        "`job_extra` has to be a list, not <class 'str'>",
    ),
    "start_client": (
        SLURM_SETUPS,
        {"start_client": "no"},
        TypeError,
        "`start_client` has to be `True` or `False`, not 'no'",
    ),
    "n_cores": (
        SETUPS[1:2],
        {"n_cores": 0},
        ValueError,
        "`n_cores` has to be an integer between 1 and inf, not 0",
    ),
    "processes_per_worker": (
        SETUPS[1:2],
        {"processes_per_worker": 0},
        ValueError,
        "`processes_per_worker` has to be an integer between 1 and inf, not 0",
    ),
    "worker_extra_args": (
        SETUPS[1:2],
        {"worker_extra_args": "--death-timeout"},
        TypeError,
        "`worker_extra_args` has to be a list, not <class 'str'>",
    ),
    "avail_partitions": (
        SETUPS[1:2],
        {"partition": "8GB", "avail_partitions": "8GBXS"},
        TypeError,
        "`avail_partitions` has to be a list, not <class 'str'>",
    ),
    "unknown partition": (
        SETUPS[1:2],
        {
            "partition": "8GBXS",
            "avail_partitions": ["8GBS", "16GBS"],
            "invalid_partitions": ["16GBS"],
        },
        ValueError,
        "Invalid partition '8GBXS'; available are: 8GBS",
    ),
    "invalid partition": (
        SETUPS[1:2],
        {"partition": "DEV", "invalid_partitions": ["DEV"]},
        ValueError,
        "Invalid partition 'DEV'",
    ),
    "cores_per_worker": (
        SITE_SETUPS,
        {"cores_per_worker": 0},
        ValueError,
        "`cores_per_worker` has to be an integer between 1 and inf, not 0",
    ),
    "no client": (
        ["cluster_cleanup"],
        {"client": "all"},
        TypeError,
        "`client` has to be a client object",
    ),
}
BAD_CALLS = [(name, mistake) for mistake, entry in MISTAKES.items() for name in entry[0]]
ENDINGS = ["close", "stop_client=True", "cluster_cleanup"]

MEETING = """
import os

with open("imports", "a") as file:
    file.write(f"{os.getpid()}\\n")


def meet(i, name, n_ranks):
    \"\"\"Wait until `n_ranks` ranks call tasks; return this rank's process and its runner.\"\"\"
    os.makedirs(name, exist_ok=True)
    open(os.path.join(name, str(os.getppid())), "w").close()
    while len(os.listdir(name)) < n_ranks:
        os.sched_yield()
    return os.getppid(), os.getpid()
"""
LIFE = """
import itertools
import os
import pickle
import socket
import sys

import acme_mpi
from acme_mpi import ParallelMap, cluster_cleanup, local_cluster_setup, slurm_cluster_setup
from acme_mpi.comm import launched_rank_and_size
from meeting import meet

RANK, _ = launched_rank_and_size()
meetings = itertools.count()
facts = {"place": (socket.gethostname(), os.getpid())}


def begin(section):
    if RANK == 0:
        print(f"=== {section}", file=sys.stderr, flush=True)


def run(n_ranks, **options):
    options["write_worker_results"] = False
    with ParallelMap(meet, range(36), f"meeting{next(meetings)}", n_ranks, **options) as pmap:
        return sorted(set(pmap.compute()))


def runners(pairs):
    \"\"\"Return the runners that this process has started, be it through the ranks.\"\"\"
    is_served = os.getpid() not in dict(pairs)
    return [runner for agent, runner in pairs if is_served or agent == os.getpid()]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def mistake(call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except (TypeError, ValueError, RuntimeError) as error:
        return [kind.__name__ for kind in type(error).__mro__], str(error)


begin("nothing to clean up")
cluster_cleanup()
begin("set up")
client = local_cluster_setup(interactive=False)
size = client.n_workers
facts["workers"] = client.scheduler_info()["workers"]
facts["cluster"] = client.cluster.scheduler_info["workers"], client.cluster.workers
begin("set up again")
local_cluster_setup(interactive=False)
begin("attached")
facts["attached"] = run(size)
begin("again")
facts["again"] = run(size)
facts["imports"] = open("imports").read().split()

begin("retired")
client = local_cluster_setup()
if size == 3:
    client.retire_workers(n=1)
    facts["without the last"] = run(2)
    client.retire_workers([1])
    facts["rank 0 alone"] = run(1)
client.retire_workers(list(client.scheduler_info()["workers"]))
facts["all retired"] = mistake(run, 1)
facts["all retired, dry-run"] = mistake(run, 1, dryrun=True)
cluster_cleanup()
facts["all again"] = run(size)

endings = {
    "close": lambda client: client.close(),
    "stop_client=True": lambda client: run(size, stop_client=True),
    "cluster_cleanup": lambda client: cluster_cleanup(),
}
for name, end in endings.items():
    begin(f"before {name}")
    client = local_cluster_setup()
    ended = runners(run(size))
    begin(f"end by {name}")
    end(client)
    facts[name] = client.status, [pid for pid in ended if is_alive(pid)]
    begin(f"after {name}")
    facts[f"after {name}"] = run(size)

begin("stop_client=auto")
facts["auto"] = run(size, stop_client="auto")
begin("after auto")
facts["after auto"] = run(size)
begin("stop_client=False")
facts["kept"] = run(1, stop_client=False, n_workers=1)
begin("after False")
facts["after kept"] = run(1, stop_client="auto")
begin("after found")
facts["after found"] = run(1)
cluster_cleanup()

begin("too many")
facts["too many"] = local_cluster_setup(n_workers=size + 4).workers
begin("a part")
facts["a part"] = local_cluster_setup(n_workers=max(1, size - 1)).workers, run(max(1, size - 1))
begin("too many for a part")
run(max(1, size - 1), n_workers=size)
cluster_cleanup()
begin("too many for ParallelMap")
facts["too many for ParallelMap"] = run(size, n_workers=size + 5)
begin("unknown")
slurm_cluster_setup(cores_per_socket=2)
begin("another unknown")
slurm_cluster_setup(queue="x", n_workers=size)
facts["clusters"] = {
    name: type(getattr(acme_mpi, name)(start_client=False)).__name__
    for name in ("slurm_cluster_setup", "esi_cluster_setup", "bic_cluster_setup")
}
cluster_cleanup()

begin("mistakes")
with open("mistakes.pickle", "rb") as file:
    bad_calls = pickle.load(file)
facts["mistakes"] = {
    key: mistake(getattr(acme_mpi, key[0]), **keywords) for key, keywords in bad_calls.items()
}
begin("after mistakes")
cluster_cleanup()
facts["one rank's mistake"] = mistake(local_cluster_setup, n_workers=0 if RANK == 2 else 1)

with open(f"facts{RANK}.pickle", "wb") as file:
    pickle.dump(facts, file)
"""


MODES = ["plain", "served", "every rank"]


class Life(NamedTuple):
    """What the processes of the program have found, and what was said in each of its sections."""

    mode: str
    facts: list[dict[str, Any]]  # of each process that ran the program
    said: dict[str, str]
    stderr: str

    @property
    def size(self) -> int:
        """Number of ranks."""
        return 1 if self.mode == "plain" else 3

    @property
    def agents(self) -> list[int]:
        """The process ids of the ranks, in order, as the tasks have seen them."""
        if self.mode == "served":
            return sorted(agent for agent, _ in self.facts[0]["attached"])
        return [facts["place"][1] for facts in self.facts]

    def same(self, fact: str) -> Any:
        """Return a fact that is the same for every process."""
        first, *others = (facts[fact] for facts in self.facts)
        assert all(other == first for other in others)
        return first


@pytest.fixture(scope="module", params=by_stacks(MODES, twice=["served"]))
def life(request, mpiexec, tmp_path_factory) -> Life:
    """Run the program in one mode."""
    folder = tmp_path_factory.mktemp("life")
    (folder / "life.py").write_text(LIFE)
    (folder / "meeting.py").write_text(MEETING)
    keywords = {call: MISTAKES[call[1]][1] for call in BAD_CALLS}
    (folder / "mistakes.pickle").write_bytes(pickle.dumps(keywords))
    n, *command = {
        "plain": (0, "life.py"),
        "served": (3, "-m", "acme_mpi", "life.py"),
        "every rank": (3, "life.py"),
    }[request.param]
    ran = mpiexec(n, *command, cwd=folder, timeout_s=120)
    assert ran.returncode == 0, ran.stderr
    facts = [pickle.loads(path.read_bytes()) for path in sorted(folder.glob("facts*.pickle"))]
    sections = [text.partition("\n") for text in ran.stderr.split("=== ")[1:]]
    return Life(request.param, facts, {name: text for name, _, text in sections}, ran.stderr)


def agents_of(pairs: list[tuple[int, int]]) -> set[int]:
    return {agent for agent, _ in pairs}


@pytest.mark.slow
class TestRanks:
    def test_workers_are_the_ranks_with_host_and_process(self, life):
        host = life.facts[0]["place"][0]
        workers = life.same("workers")

        assert list(workers) == [f"mpi://{host}:{rank}" for rank in range(life.size)]
        found = [(each["rank"], each["host"], each["pid"]) for each in workers.values()]
        assert found == [(rank, host, pid) for rank, pid in enumerate(life.agents)]

    def test_the_cluster_shows_the_same_workers(self, life):
        workers = life.facts[0]["workers"]

        by_rank = {each["rank"]: each for each in workers.values()}
        assert life.same("cluster") == (workers, by_rank)

    def test_their_runners_call_the_tasks(self, life):
        assert agents_of(life.same("attached")) == set(life.agents)

    def test_a_second_run_has_the_same_runners(self, life):
        assert life.same("again") == life.same("attached")

    def test_a_runner_imports_a_module_once(self, life):
        pids = life.facts[0]["imports"]

        assert len(set(pids)) == len(pids)
        assert {str(runner) for _, runner in life.facts[0]["again"]} <= set(pids)


@pytest.mark.slow
class TestRetired:
    def test_ranks_call_no_task_any_more(self, life):
        if life.size == 1:
            pytest.skip("there is one rank")

        assert agents_of(life.same("without the last")) == set(life.agents[:2])
        assert agents_of(life.same("rank 0 alone")) == set(life.agents[:1])

    @pytest.mark.parametrize("fact", ["all retired", "all retired, dry-run"])
    def test_nobody_left_is_a_runtime_error_on_every_rank(self, life, fact):
        kinds, text = life.same(fact)

        assert "RuntimeError" in kinds
        assert text.startswith("<ParallelMap> no active workers found in distributed computing ")
        assert "cluster_cleanup()" in text

    def test_after_the_clean_up_all_ranks_are_used_again(self, life):
        assert agents_of(life.same("all again")) == set(life.agents)


@pytest.mark.slow
@pytest.mark.parametrize("ending", ENDINGS)
class TestEnding:
    def test_the_runners_are_gone(self, life, ending):
        assert life.same(ending) == ("closed", [])

    def test_later_runs_have_new_runners_on_all_ranks(self, life, ending):
        k = ENDINGS.index(ending)
        before = life.same(f"after {ENDINGS[k - 1]}" if k else "all again")
        after = life.same(f"after {ending}")

        assert agents_of(after) == set(life.agents)
        assert not {runner for _, runner in before} & {runner for _, runner in after}

    def test_later_runs_do_not_attach(self, life, ending):
        assert "Attaching" not in life.said[f"after {ending}"]


@pytest.mark.slow
class TestStopClient:
    def test_auto_neither_ends_the_runners_nor_keeps_a_client(self, life):
        assert life.same("after auto") == life.same("auto")
        assert "Attaching" not in life.said["after auto"]

    def test_false_keeps_the_ranks_for_later_runs(self, life):
        assert life.same("after kept") == life.same("kept")
        assert len(life.same("kept")) == 1
        assert life.said["after False"].count("Attaching") == 1

    def test_auto_leaves_a_found_client_alone(self, life):
        assert life.same("after found") == life.same("kept")
        assert life.said["after found"].count("Attaching") == 1


@pytest.mark.slow
class TestNumber:
    def test_more_than_there_are_is_all_of_them(self, life):
        assert life.same("too many") == tuple(range(life.size))
        assert agents_of(life.same("too many for ParallelMap")) == set(life.agents)

    @pytest.mark.parametrize(
        ("section", "dialect", "n_more"),
        [("too many", "local_cluster_setup", 4), ("too many for ParallelMap", "ParallelMap", 5)],
    )
    def test_more_than_there_are_is_a_warning(self, life, section, dialect, n_more):
        n = life.size
        expected = (
            f"<{dialect}> WARNING: `n_workers` is {n + n_more}, but the job has {n} rank(s): "
            "all are used."
        )

        assert life.said[section].count(expected) == 1

    def test_more_than_the_client_has_is_not_said_of_the_job(self, life):
        assert f"the job has {life.size - 1} rank" not in life.said["too many for a part"]

    def test_fewer_are_the_first_ones(self, life):
        n = max(1, life.size - 1)
        workers, pairs = life.same("a part")

        assert workers == tuple(range(n))
        assert agents_of(pairs) == set(life.agents[:n])


@pytest.mark.slow
class TestSaid:
    def test_nothing_to_clean_up_is_said_once(self, life):
        expected = "<cluster_cleanup> WARNING: No dangling clients or clusters found.\n"

        assert life.said["nothing to clean up"] == expected

    def test_a_set_up_says_what_is_used(self, life):
        size, address = life.size, next(iter(life.facts[0]["workers"]))
        client = f"<Client: '{address}' processes={size} threads={size}>"
        expected = f"<local_cluster_setup> INFO: Using {size} of {size} ranks: {client}\n"

        assert life.said["set up"].count(expected) == 1
        assert life.said["set up again"] == expected

    def test_a_run_says_to_what_it_attaches(self, life):
        size, address = life.size, next(iter(life.facts[0]["workers"]))
        expected = (
            "<ParallelMap> INFO: Attaching to global parallel computing client "
            f"<Client: '{address}' processes={size} threads={size}>\n"
        )

        assert life.said["attached"].count(expected) == 1

    def test_a_clean_up_says_what_it_ends(self, life):
        said = life.said["end by cluster_cleanup"]

        assert said.count("<cluster_cleanup> INFO: Successfully shut down <Client: ") == 1
        assert said.count(f"> containing {life.size} workers\n") == 1

    def test_what_the_launcher_decides_is_said_once(self, life):
        text = "partition, cores, memory and start-up of the workers were decided by the launcher"

        assert life.said["set up"].count(text) == 1
        assert life.stderr.count(text) == 1

    @pytest.mark.parametrize(
        ("section", "keyword"), [("unknown", "cores_per_socket"), ("another unknown", "queue")]
    )
    def test_unknown_keywords_are_named(self, life, section, keyword):
        expected = (
            "<slurm_cluster_setup> WARNING: these keywords are not known and change nothing: "
            f"{keyword}\n"
        )

        assert life.said[section].count(expected) == 1


@pytest.mark.slow
class TestMistakes:
    @pytest.mark.parametrize(("name", "mistake"), BAD_CALLS)
    def test_a_bad_keyword_is_refused_alike_on_all_ranks(self, life, name, mistake):
        _, _, kind, text = MISTAKES[mistake]
        kinds, said = life.same("mistakes")[name, mistake]

        assert kind.__name__ in kinds
        assert said.startswith(f"<{name}> {text}")

    def test_what_one_rank_alone_does_wrong_is_raised_on_all(self, life):
        if life.mode != "every rank":
            pytest.skip("one process runs the program")
        kinds, text = life.same("one rank's mistake")

        assert "ValueError" in kinds
        assert text.startswith("rank 2: <local_cluster_setup> `n_workers` has to be an integer")

    def test_a_refused_set_up_leaves_nothing_to_clean_up(self, life):
        assert life.said["after mistakes"].count("No dangling clients") == 1

    def test_without_a_client_the_cluster_is_returned(self, life):
        assert life.same("clusters") == dict.fromkeys(SLURM_SETUPS, "Cluster")


@pytest.fixture
def client() -> Client:
    return Client([("node05", 101), ("node05", 102), ("node06", 77), ("node07", 78)])


def close_with(client: Client) -> None:
    with client:
        pass


@pytest.mark.parametrize(
    "end",
    [
        Client.close,
        Client.shutdown,
        close_with,
        lambda client: client.cluster.close(),
        cluster_cleanup,
        lambda client: cluster_cleanup(client.cluster),
    ],
)
def test_every_way_to_end_a_client_closes_it(client, end):
    keep(client)

    end(client)

    assert (client.status, kept_client()) == ("closed", None)


class TestRetireWorkers:
    @pytest.mark.parametrize(
        ("kwargs", "left"),
        [
            ({"workers": [1, 2]}, (0, 3)),
            ({"workers": ["mpi://node06:2", 0]}, (1, 3)),
            ({"workers": []}, (0, 1, 2, 3)),
            ({"n": 3}, (0,)),
            ({"n": 9}, ()),
            ({"workers": [1, 1, "mpi://node05:1"]}, (0, 2, 3)),
        ],
    )
    def test_the_others_are_left(self, client, kwargs, left):
        client.retire_workers(**kwargs)

        assert (client.workers, client.n_workers) == (left, len(left))

    def test_the_retired_ones_are_returned(self, client):
        known = client.scheduler_info()["workers"]
        address = "mpi://node06:2"

        assert client.retire_workers([2]) == {address: known[address]}
        assert address not in client.scheduler_info()["workers"]

    @pytest.mark.parametrize("unknown", [4, "mpi://node05:2", "node05"])
    def test_who_is_not_there_is_named_and_nobody_retires(self, client, unknown):
        with pytest.raises(InputError, match=f"there is no worker {unknown!r}; there are mpi://"):
            client.retire_workers([0, unknown])
        assert client.n_workers == 4

    def test_a_negative_number_is_refused(self, client):
        with pytest.raises(InputError, match="`n` has to be an integer between 0 and inf, not -1"):
            client.retire_workers(n=-1)

    def test_workers_and_their_number_together_are_refused(self, client):
        with pytest.raises(InputError, match="give the workers to retire, or their number `n`"):
            client.retire_workers([0], n=1)
        assert client.n_workers == 4


def test_workers_that_are_there_are_not_waited_for(client):
    client.wait_for_workers()
    client.wait_for_workers(n_workers=4, timeout=10)

    with pytest.raises(TimeoutError, match="only 4/5 workers"):
        client.wait_for_workers(5)


def test_ranks_of_one_node_share_its_memory(client):
    limits = [each["memory_limit"] for each in client.scheduler_info()["workers"].values()]

    assert limits[0] == limits[1] == limits[2] // 2 == limits[3] // 2 > 0


def test_what_dasks_users_say_when_they_retire_workers_is_taken(client):
    client.retire_workers(list(client.scheduler_info()["workers"]), close_workers=True)

    assert (client.n_workers, client.cluster.requested) == (0, set())


def test_the_client_in_use_can_be_had(client, monkeypatch):
    # A traceback may hold a ParallelMap of another test, whose client is in use then.
    monkeypatch.setattr(current(), "users", [])
    with pytest.raises(ValueError, match="No global client found"):
        get_client()
    keep(client)
    try:
        assert get_client() is client
    finally:
        client.close()


INTERRUPTED = """
import os, signal
import acme_mpi

client = acme_mpi.local_cluster_setup()
os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.once
@pytest.mark.parametrize("options", [[], ["-m", "acme_mpi"]])
def test_ctrl_c_says_that_the_client_is_shut_down(mpiexec, write_script, options):
    ran = mpiexec(0, *options, write_script(INTERRUPTED))

    assert ran.stderr.count("INFO: Successfully shut down <Client: ") == 1
    assert ran.stderr.rstrip().endswith("KeyboardInterrupt")


CELLS = """
import os, signal
import acme_mpi
print(acme_mpi.local_cluster_setup())
os.kill(os.getpid(), signal.SIGINT)
acme_mpi.cluster_cleanup()
client = acme_mpi.local_cluster_setup()
raise acme_mpi.StoppedError("as compute() does")
print("then:", client.status)
client = acme_mpi.local_cluster_setup()
1 / 0
print("still:", client.status)
"""


@pytest.mark.once
def test_ctrl_c_in_ipython_shuts_down_the_client_alone(mpiexec, tmp_path):
    """Ctrl-C in IPython shuts the client down and the session goes on."""
    pytest.importorskip("IPython")
    env = {"IPYTHONDIR": str(tmp_path)}

    ran = mpiexec(0, "-m", "IPython", "--simple-prompt", "--colors=NoColor", env=env, input=CELLS)

    assert ran.returncode == 0
    assert ran.stderr.count("INFO: Successfully shut down <Client: ") == 2
    assert "No dangling clients or clusters found." in ran.stderr
    assert "then: closed" in ran.stdout
    assert "still: running" in ran.stdout
