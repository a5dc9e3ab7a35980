"""Open HDF5 files as arguments, and files of arguments (``.h5``, ``.json``).

One program passes open files, groups and datasets in every way, to `map` and to `ParallelMap`; it
runs in plain Python, in a script that two ranks serve, and on two ranks itself. What has nothing
to do with ranks is called in this process.
"""

from __future__ import annotations

import itertools
import json
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from conftest import by_stacks

import acme_mpi
from acme_mpi import InputError, ParallelMap, PerTask, TaskError, local_cluster_setup
from acme_mpi.tasks.argument_files import load_arguments

pytestmark = pytest.mark.slow

PROGRAM = """
import json
import os
import sys

import h5py
from mpi4py import MPI

import acme_mpi
from acme_mpi import InputError, ParallelMap, PerTask, TaskError
from acme_mpi.comm import launched_rank_and_size

MEMORY = {"write_worker_results": False}
rank, size = launched_rank_and_size()
is_first = rank == 0


def call_parallel_map(func, *args, **options):
    with ParallelMap(func, *args, **options) as pmap:
        return pmap.compute()


class Recording:
    def __init__(self, signal):
        self.signal = signal

    def at(self, i):
        return float(self.signal[i])


def item(i, dataset):
    return float(dataset[i])


def describe(i, value):
    return [type(value).__name__, value.name, value.file.mode, os.getpid() != caller]


def write_at_1(i, dataset):
    if i == 1:
        dataset[0] = 99.0
    return i


def whole(i, dataset):
    return dataset[()].tolist()


def refusal(call, value):
    try:
        call(item, range(4), value, output_dir="refused")
    except InputError as error:
        return str(error)


def observe(call):
    facts = {}
    with h5py.File("input.h5") as file:
        x, table = file["x"], file["group/table"]
        facts["dataset"] = call(item, range(4), x, **MEMORY)
        facts["kinds"] = [call(describe, [0], value, **MEMORY)[0]
                          for value in (x, file["group"], file)]
        facts["nested"] = call(lambda i, d: item(i, d["k"][1]), range(4), {"k": [0, x]}, **MEMORY)
        facts["closure"] = call(lambda i: float(x[i]), range(4), **MEMORY)
        facts["method"] = call(Recording(x).at, range(4), **MEMORY)
        facts["list"] = call(lambda d: d.shape, [x, table], **MEMORY)
        facts["rows"] = call(lambda row: row.tolist(), PerTask(table), **MEMORY)
        facts["columns"] = call(lambda c: float(c.sum()), PerTask(table, axis=1), **MEMORY)
        facts["beside"] = call(lambda row, i, d: [float(row[0]), i, float(d[i])],
                               PerTask(table), range(500), file["zeros"], **MEMORY)[::100]
        facts["files"] = call(item, range(4), x, output_dir=call.__name__, single_file=True,
                              result_shape=(None,))
        try:
            call(write_at_1, range(4), x, **MEMORY)
        except TaskError as error:
            facts["writing"] = [[f.index, f.type, f.location] for f in error.failures]
            facts["written"] = error.results
    if size > 1:
        MPI.COMM_WORLD.Barrier()  # all ranks have closed it
    if is_first:
        try:
            h5py.File("input.h5", "r+").close()
        except OSError as error:
            facts["locked"] = str(error)
    facts["closed"] = refusal(call, x)
    with h5py.File("memory.h5", "w", driver="core", backing_store=False) as file:
        file["x"] = [1.0, 2.0]
        facts["in memory"] = refusal(call, file["x"])
    facts["refused leaves"] = os.path.exists("refused")
    # The first rank writes, the others only have the file open.
    with h5py.File(call.__name__ + ".h5", "r+" if is_first else "r",
                   locking=None if is_first else False) as file:
        for key in ("changed", "grown"):
            facts[key] = []
            for number in range(3):
                dataset = file["chunked"]
                if is_first and key == "changed":
                    file["contiguous"][0] = dataset[0] = number
                if is_first and key == "grown":
                    dataset.resize((4 + number,))
                    dataset[-1] = number
                datasets = [file["contiguous"], dataset]
                facts[key].append([call(whole, [0], each, **MEMORY)[0] for each in datasets])
    return facts


caller = os.getpid()
observed = {call.__name__: observe(call) for call in (acme_mpi.map, call_parallel_map)}
if is_first:
    with open("observed.json", "w") as output:
        json.dump(observed, output)
"""
CALLS = ["map", "call_parallel_map"]
MODES = {"plain": (0,), "script": (2, "-m", "acme_mpi"), "spmd": (2,)}
TABLE = np.arange(1500.0).reshape(500, 3)


def make_input(folder: Path) -> None:
    """Write the files that the program opens."""
    with h5py.File(folder / "input.h5", "w") as file:
        file["x"] = np.arange(10.0)
        file["group/table"] = TABLE
        file["zeros"] = np.zeros(500)
    for name in CALLS:
        with h5py.File(folder / f"{name}.h5", "w") as file:
            file["contiguous"] = np.zeros(3)
            file.create_dataset("chunked", data=np.zeros(4), chunks=(2,), maxshape=(None,))


@pytest.fixture(scope="module")
def ran(mpiexec, tmp_path_factory) -> Callable[[str], tuple[Path, dict[str, Any], str]]:
    """Return the function that runs the program in a mode, once.

    It returns the program's folder, what it has observed, and its stderr.
    """
    done: dict[str, Any] = {}

    def run(mode: str) -> tuple[Path, dict[str, Any], str]:
        if mode not in done:
            folder = tmp_path_factory.mktemp(mode)
            (folder / "program.py").write_text(PROGRAM)
            make_input(folder)
            ended = mpiexec(*MODES[mode], "program.py", cwd=folder)
            done[mode] = folder, ended
        folder, ended = done[mode]
        if ended.returncode:
            pytest.fail(ended.stderr[-4000:])
        return folder, json.loads((folder / "observed.json").read_text()), ended.stderr

    return run


@pytest.fixture(params=by_stacks(MODES, twice=["plain", "spmd"]))
def started(request, ran) -> tuple[Path, dict[str, Any], str]:
    """Return what one mode has left."""
    return ran(request.param)


@pytest.fixture(params=CALLS)
def observed(request, started) -> dict[str, Any]:
    """Return what one way to call has observed in one mode."""
    return started[1][request.param]


class TestOpenFiles:
    @pytest.mark.parametrize("way", ["dataset", "nested", "closure", "method"])
    def test_a_dataset_is_read_wherever_it_stands(self, observed, way):
        assert observed[way] == [0, 1, 2, 3]

    def test_hdf5_objects_are_reopened_read_only_in_the_runners(self, observed):
        """Datasets groups and files are reopened read only in the runners."""
        assert observed["kinds"] == [
            ["Dataset", "/x", "r", True],
            ["Group", "/group", "r", True],
            ["File", "/", "r", True],
        ]

    def test_a_list_of_datasets_is_split(self, observed):
        assert observed["list"] == [[10], [500, 3]]

    def test_a_marked_dataset_is_split_by_rows(self, observed):
        assert observed["rows"] == TABLE.tolist()

    def test_a_marked_dataset_is_split_along_another_axis(self, observed):
        assert observed["columns"] == TABLE.sum(axis=0).tolist()

    def test_rows_come_together_with_other_arguments(self, observed):
        assert observed["beside"] == [[3.0 * i, i, 0.0] for i in range(0, 500, 100)]

    def test_results_go_to_files_as_ever(self, observed):
        with h5py.File(observed["files"][0], "r") as file:
            np.testing.assert_array_equal(file["result_0"][()], [0, 1, 2, 3])

    def test_writing_fails_that_task_only(self, observed):
        assert [failure[:2] for failure in observed["writing"]] == [[1, "OSError"]]
        assert observed["written"] == [0, None, 2, 3]

    def test_the_failure_names_the_line_that_writes(self, started, observed):
        line = PROGRAM.splitlines().index("        dataset[0] = 99.0") + 1

        assert observed["writing"][0][2] == f"{started[0] / 'program.py'}:{line}"

    def test_writing_changes_nothing(self, started):
        with h5py.File(started[0] / "input.h5", "r") as file:
            assert file["x"][0] == 0

    def test_the_caller_can_write_its_file_right_after_a_run(self, observed):
        """The caller can open its file for writing right after a run."""
        assert observed.get("locked") is None

    def test_data_that_was_written_just_before_a_run_is_seen_by_it(self, observed):
        assert observed["changed"] == [[[n, 0, 0], [n, 0, 0, 0]] for n in range(3)]

    def test_a_dataset_that_has_grown_between_runs_is_seen_as_it_is(self, observed):
        first = [2.0, 0, 0]  # by the last run with other data

        assert observed["grown"] == [
            [first, [2, 0, 0, 0]],
            [first, [2, 0, 0, 0, 1]],
            [first, [2, 0, 0, 0, 1, 2]],
        ]

    def test_a_closed_file_is_refused_with_the_cure(self, observed):
        assert "h5py.Dataset of a closed file; open it for the run" in observed["closed"]

    def test_a_file_in_memory_is_refused_with_the_cure(self, observed):
        assert "'memory.h5', which other processes cannot open" in observed["in memory"]

    def test_a_refusal_leaves_nothing(self, observed):
        assert not observed["refused leaves"]

    def test_ranks_with_the_same_file_are_not_said_to_differ(self, ran):
        assert "differs" not in ran("spmd")[2]


@pytest.fixture(scope="module")
def client() -> Iterator[None]:
    """Use one runner for all calls of this process, and end it."""
    with local_cluster_setup():
        yield


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """Work in a new directory with the program's files."""
    monkeypatch.chdir(tmp_path)
    make_input(tmp_path)
    return tmp_path


def values(func: Any, *args: Any, **keywords: Any) -> Any:
    """Return the results in memory."""
    return acme_mpi.map(func, *args, write_worker_results=False, **keywords)


@pytest.mark.usefixtures("client", "folder")
class TestOneProcess:
    def test_a_task_may_open_the_same_file_by_its_name(self):
        def both(i: int, dataset: Any, path: str) -> list[float]:
            with h5py.File(path) as file:
                return [dataset[i], file["x"][i]]

        with h5py.File("input.h5") as file:
            assert values(both, [1, 2], file["x"], "input.h5") == [[1, 1], [2, 2]]

    def test_it_works_without_isolation(self):
        with h5py.File("input.h5") as file:
            assert values(lambda i, d: d[i], [1, 2], file["x"], isolate=False) == [1, 2]

    def test_it_works_in_the_debugger(self):
        with h5py.File("input.h5") as file:
            pmap = ParallelMap(lambda i, d: d[i], [1, 2], file["x"], write_worker_results=False)

            assert pmap.compute(debug=True) == [1, 2]

    def test_a_dataset_behind_links_is_found(self):
        with h5py.File("links.h5", "w") as file:
            file["soft"] = h5py.SoftLink("/external")
            file["external"] = h5py.ExternalLink("input.h5", "x")

            assert values(lambda i, d: d[i], [1, 2], file["soft"]) == [1, 2]

    def test_a_dataset_is_read_in_small_pieces(self):
        n_rows, row_bytes, most_bytes = 400, 2**20, 2**26

        def bytes_in_memory(row: Any) -> int:
            return (row if row.base is None else row.base).nbytes

        with h5py.File("large.h5", "w") as file:  # takes no room, as nothing is written to it
            large = file.create_dataset("large", (n_rows, row_bytes), "u1", chunks=(1, row_bytes))
            pieces = values(bytes_in_memory, PerTask(large))

        assert len(pieces) == n_rows
        assert max(pieces) <= most_bytes

    def test_rows_that_cannot_be_read_fail_their_tasks(self):
        """Rows that cannot be read fail their tasks with the reason."""
        with h5py.File("broken.h5", "w") as file:
            table = file.create_dataset("table", data=TABLE[:8], chunks=(1, 3), compression="gzip")
            chunks = [table.id.get_chunk_info(row) for row in (0, 3, 4, 7)]
        with open("broken.h5", "r+b") as raw:
            for chunk in chunks:
                raw.seek(chunk.byte_offset)
                raw.write(b"\xff" * chunk.size)

        with h5py.File("broken.h5") as file, pytest.raises(TaskError) as caught:
            values(lambda row: row[0], PerTask(file["table"]))

        assert caught.value.results == [None, 3, 6, None, None, 15, 18, None]
        for failure in caught.value.failures:
            assert failure.type == "OSError"
            assert "filter" in failure.message or "inflate" in failure.message

    @pytest.mark.parametrize(
        ("choose", "text"),
        [
            (lambda file: file.create_dataset(None, data=[1]), "without a name"),
            (lambda file: file["x"].attrs, "AttributeManager.*give the h5py.File"),
            (lambda file: file["x"].id, "DatasetID.*give the h5py.File"),
        ],
        ids=["anonymous", "attrs", "id"],
    )
    def test_what_other_processes_cannot_find_is_refused(self, choose, text):
        with h5py.File("input.h5", "r+") as file, pytest.raises(InputError, match=text):
            acme_mpi.map(lambda i, value: i, [1, 2], choose(file), output_dir="out")

        assert not Path("out").exists()

    def test_a_closed_dataset_cannot_be_split(self):
        with h5py.File("input.h5") as file:
            table = PerTask(file["group/table"])

        with pytest.raises(InputError, match=r"cannot be split .* <Closed HDF5 dataset>"):
            values(lambda row: row, table)

    @pytest.mark.parametrize("data", [3.0, h5py.Empty("f8")], ids=["scalar", "empty"])
    def test_a_dataset_without_rows_cannot_be_split(self, data):
        with h5py.File("input.h5", "r+") as file:
            file["data"] = data
            with pytest.raises(InputError, match="cannot be split along axis 0"):
                values(lambda row: row, PerTask(file["data"]))

    def test_a_file_being_written_is_refused_with_the_cure(self):
        """A file being written in the newest format is refused with the cure."""
        with h5py.File("newest.h5", "w", libver="latest") as file:
            file["x"] = [1.0, 2.0]
            with pytest.raises(InputError, match=r"newest\.h5.*close it"):
                values(lambda i, d: d[i], [0, 1], file["x"])

    def test_an_unmarked_dataset_alone_asks_for_the_mark(self):
        with h5py.File("input.h5") as file, pytest.raises(InputError, match=r"PerTask\(x, axis=0"):
            values(lambda row: row, file["x"])


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Let this process grow by no more than 1 GiB."""
    limits = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**30, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.usefixtures("client", "little_memory")
@pytest.mark.parametrize("mark", [lambda x: x, PerTask], ids=["plain", "marked"])
@pytest.mark.parametrize(
    "endless",
    [itertools.count(), itertools.cycle([1]), itertools.repeat(1)],
    ids=lambda value: type(value).__name__,
)
def test_endless_iterators_are_refused(endless, mark):
    with pytest.raises(InputError, match=r"endless iterator.*give a list or a range"):
        values(lambda x: x, mark(endless))


def test_an_iterator_that_repeats_a_number_of_times_ends(client):
    assert values(lambda x: x, itertools.repeat(7, 3)) == [7, 7, 7]


@pytest.fixture
def arguments(tmp_path) -> Path:
    """Return a file with arguments in its root and in groups."""
    path = tmp_path / "args.h5"
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = [2, 4, 6, 8], 4
        file["g/x"], file["g/h/x"] = [1.5, 2.5], [True]
        file["only/groups/x"] = 1
        file["positional/arr_1"], file["positional/arr_0"] = "second", [1, 2]
        kinds = file.create_group("kinds")
        kinds["int"], kinds["float"], kinds["flag"] = 1, 0.5, True
        kinds["single"] = np.float32(0.5)
        kinds["text"], kinds["fixed"] = "Grüße", np.bytes_("ab")
        kinds["texts"] = ["a", "bc"]
        kinds["empty"], kinds["none"] = np.empty((0, 3)), h5py.Empty("f8")
    return path


class TestArgumentFiles:
    @pytest.mark.parametrize("suffix", ["", ":", ":/"])
    def test_datasets_of_the_root_are_arguments_by_name(self, arguments, suffix):
        args, kwargs = load_arguments(f"{arguments}{suffix}", allow_pickle=False)

        assert args == []
        assert kwargs["x"].tolist() == [2, 4, 6, 8]
        assert kwargs["y"] == 4
        assert list(kwargs) == ["x", "y"]  # no groups

    @pytest.mark.parametrize(
        ("group", "x"), [("/g", [1.5, 2.5]), ("g", [1.5, 2.5]), ("/g/", [1.5, 2.5]), ("/g/h", [1])]
    )
    def test_a_group_can_be_named(self, arguments, group, x):
        _, kwargs = load_arguments(f"{arguments}:{group}", allow_pickle=False)

        assert kwargs["x"].tolist() == x

    def test_numbered_arrays_are_positional(self, arguments):
        args, kwargs = load_arguments(f"{arguments}:/positional", allow_pickle=False)

        assert [list(args[0]), args[1:], kwargs] == [[1, 2], ["second"], {}]

    @pytest.mark.parametrize(
        ("name", "value"),
        [
            ("int", 1),
            ("float", 0.5),
            ("flag", True),
            ("single", np.float32(0.5)),
            ("text", "Grüße"),
            ("fixed", "ab"),
            ("none", None),
        ],
    )
    def test_scalars_come_as_python_would_write_them(self, arguments, name, value):
        _, kwargs = load_arguments(f"{arguments}:/kinds", allow_pickle=False)

        assert (kwargs[name], type(kwargs[name])) == (value, type(value))

    def test_arrays_of_strings_hold_str(self, arguments):
        _, kwargs = load_arguments(f"{arguments}:/kinds", allow_pickle=False)

        assert kwargs["texts"].tolist() == ["a", "bc"]

    def test_an_empty_array_keeps_its_shape(self, arguments):
        _, kwargs = load_arguments(f"{arguments}:/kinds", allow_pickle=False)

        assert kwargs["empty"].shape == (0, 3)

    def test_a_colon_in_a_name_is_no_group(self, arguments):
        path = arguments.rename(arguments.with_name("a:b.h5"))

        assert load_arguments(str(path), allow_pickle=False)[1]["y"] == 4

    @pytest.mark.parametrize(
        ("group", "text"),
        [
            ("/nowhere", r"has no group '/nowhere'; in its root are: g, kinds, only, positional"),
            ("/x", r"has no group '/x'"),
            ("/only", r"holds groups and no datasets; name one: .*args\.h5:/only/groups"),
        ],
    )
    def test_a_group_that_holds_no_arguments_is_refused(self, arguments, group, text):
        """A group that holds no arguments is refused with what is there."""
        with pytest.raises(InputError, match=text):
            load_arguments(f"{arguments}:{group}", allow_pickle=False)

    def test_a_link_to_nowhere_is_named(self, arguments):
        with h5py.File(arguments, "r+") as file:
            file["broken"] = h5py.ExternalLink("gone.h5", "/x")

        with pytest.raises(InputError, match="'broken'"):
            load_arguments(str(arguments), allow_pickle=False)

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ('{"x": [2, 4], "y": 4}', ([], {"x": [2, 4], "y": 4})),
            ('{"arr_1": 4, "arr_0": [2, 4], "z": 5}', ([[2, 4], 4], {"z": 5})),
            ('[[2, 4], "four", null]', ([[2, 4], "four", None], {})),
        ],
        ids=["object", "numbered", "array"],
    )
    def test_json_holds_names_or_positions(self, tmp_path, text, expected):
        path = tmp_path / "args.json"
        path.write_text(text)

        assert load_arguments(str(path), allow_pickle=False) == expected

    @pytest.mark.parametrize(
        ("name", "content", "text"),
        [
            ("args.json", b"5", "has to hold an object.*or an array.*not int"),
            ("args.json", b"{'x': 1}", "cannot be read as a JSON file: .*line 1 column 2"),
            ("args.json", b"\xff\xfe", "cannot be read as a JSON file"),
            ("args.h5", b"no HDF5", "cannot be read as an HDF5 file"),
            ("args.hdf5", b"", "cannot be read as an HDF5 file"),
            (
                "args.txt",
                b"x = 1",
                r"not a file of arguments \(\.npz, \.npy, \.h5, .*\.json, \.csv",
            ),
        ],
    )
    def test_what_is_no_such_file_is_refused_by_its_name(self, tmp_path, name, content, text):
        (tmp_path / name).write_bytes(content)

        with pytest.raises(InputError, match=rf"{name} .*{text}"):
            load_arguments(str(tmp_path / name), allow_pickle=False)

    def test_a_missing_file_is_named_without_the_group(self, tmp_path):
        with pytest.raises(InputError, match=r"no argument file '.*/gone\.h5' "):
            load_arguments(f"{tmp_path}/gone.h5:/g", allow_pickle=False)


@pytest.fixture
def group_file(module_folder) -> Path:
    """Return the folder of ``mymod.py`` with arguments in a group of ``args.h5``."""
    with h5py.File(module_folder / "args.h5", "w") as file:
        file["g/x"], file["g/y"] = [2, 4, 6, 8], 4
    return module_folder


def test_the_command_line_takes_a_group_of_a_file(mpiexec, group_file):
    ran = mpiexec(2, "-m", "acme_mpi", "mymod:f", "args.h5:/g", "--no-write", cwd=group_file)

    assert ran.stdout.split() == ["18", "24", "30", "36"], ran.stderr


def test_the_command_line_says_once_that_there_is_no_such_group(mpiexec, group_file):
    ran = mpiexec(2, "-m", "acme_mpi", "mymod:f", "args.h5:/k", cwd=group_file)

    assert ran.returncode == 2
    assert ran.stderr.count("args.h5 has no group '/k'; in its root are: g") == 1
    assert not list(group_file.glob("ACME_*"))
