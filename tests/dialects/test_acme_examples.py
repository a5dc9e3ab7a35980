"""Every code example of ACME's README and user guide gives what it gives there, however it is run.

`acme_examples` is the script that holds them. It is started once per mode, and the tests look at
what it saw and left. What the documents do not print is compared with serial Python.
"""

from __future__ import annotations

import importlib.util
import pickle
import re
from pathlib import Path
from typing import Any

import acme_examples
import h5py
import numpy as np
import pytest
from acme_examples import f, matconstruct, matconstruct_multi, randfunc, randout, this_func
from conftest import by_stacks
from map_modes import canonical

pytestmark = pytest.mark.slow

PROGRAM = Path(acme_examples.__file__)
SCRIPT_MODE = ("-m", "acme_mpi")
MODES: dict[str, tuple[int, tuple[object, ...]]] = {  # ranks (0: no launcher) and command
    "plain": (0, (PROGRAM,)),
    "local": (0, (PROGRAM,)),  # with ranks that it starts
    "ipython": (0, ("-m", "IPython", PROGRAM)),
    "script-1": (1, (*SCRIPT_MODE, PROGRAM)),
    "script-2": (2, (*SCRIPT_MODE, PROGRAM)),
    "script-4": (4, (*SCRIPT_MODE, PROGRAM)),
    "pytest-2": (2, (*SCRIPT_MODE, "-m", "pytest", "-s", "test_file.py")),
    "spmd-2": (2, (PROGRAM, "spmd")),
    "spmd-3": (3, (PROGRAM, "spmd")),
}
TEST_FILE = """\
import acme_examples


def test_examples():
    acme_examples.main()
"""

Y_ROWS = np.array([[18.0] * 3, [24.0] * 3, [30.0] * 3, [36.0] * 3])
SCALARS = np.array([18.0, 24.0, 30.0, 36.0])
PRINTED = [
    ("walkthrough", "printed", "[18] [24] [30] [36]"),
    ("results_loaded_from_files", "out", SCALARS),
    ("results_in_memory", "results", [18, 24, 30, 36]),
    ("distribution_by_n_inputs", "results", list(Y_ROWS)),
    ("equal_calls", "results", [15, 15, 15, 15]),
    ("single_dataset", "keys", "<KeysViewHDF5 ['result_0']>"),
    ("single_dataset", "dataset", '<HDF5 dataset "result_0": shape (4, 3), type "<f8">'),
    ("single_dataset", "array", Y_ROWS),
    ("single_dataset_of_scalars", "out", SCALARS),
    ("array_in_memory", "results", Y_ROWS),
    ("array_of_scalars_in_memory", "result", SCALARS),
    ("reused_client", "lengths", (500, 1000)),
    ("debugged_calls", "type", "TypeError"),
    ("debugged_calls", "text", "unsupported operand type(s) for *: 'int' and 'NoneType'"),
    ("debugged_calls", "innermost frame", "f"),
    ("flattened_container", "links", ["HardLink"]),
    ("flattened_container", "values", [18, 24, 30, 36]),
]


class Start:
    """What one start of `acme_examples` has seen, said and left."""

    def __init__(self, mode: str, folder: Path, stderr: str) -> None:
        self.mode = mode
        self.n_ranks = max(MODES[mode][0], 1)
        self.folder = folder
        self.stderr = stderr
        self.reports = pickle.loads((folder / "seen.pickle").read_bytes())

    def __getitem__(self, example: str) -> dict[str, Any]:
        seen = self.reports[example]
        if "traceback" in seen:
            pytest.fail(seen["traceback"])
        return seen


@pytest.fixture(
    scope="module",
    params=by_stacks(MODES, twice=["script-2"], many=["script-1", "script-4", "spmd-2"]),
)
def start(request, mpiexec, tmp_path_factory) -> Start:
    """Run all examples once, in one mode."""
    mode = request.param
    if mode == "ipython" and importlib.util.find_spec("IPython") is None:
        pytest.skip("IPython is not installed")
    folder = tmp_path_factory.mktemp(mode)
    env = {"IPYTHONDIR": str(folder / "ipython")}
    if mode == "local":
        env["ACME_MPI_LAUNCH"] = ""
    if mode.startswith("pytest"):
        (folder / "test_file.py").write_text(TEST_FILE)
        env["PYTHONPATH"] = str(PROGRAM.parent)
    n, command = MODES[mode]
    ran = mpiexec(n, *command, cwd=folder, env=env, timeout_s=120)
    if ran.returncode != 0 or not (folder / "seen.pickle").exists():
        pytest.fail(f"{mode}: exit status {ran.returncode}\n{ran.stdout}{ran.stderr}"[-8000:])
    return Start(mode, folder, ran.stderr)


def values_in(container: str) -> list[Any]:
    """Return the scalars that a container holds, in task order."""
    with h5py.File(container) as file:
        return [file[f"comp_{i}/result_0"][0] for i in range(len(file))]


def payload_of(container: str, n: int) -> list[str]:
    """Return the paths of `n` payload files, as ACME names them."""
    path = Path(container)
    return [f"{path.parent}/{path.stem}_payload/{path.stem}_{i}.h5" for i in range(n)]


@pytest.mark.parametrize(
    ("example", "entry", "expected"), PRINTED, ids=[" ".join(case[:2]) for case in PRINTED]
)
def test_an_example_gives_what_its_document_prints(start, example, entry, expected):
    assert canonical(start[example][entry]) == canonical(expected)


def test_all_ranks_see_the_same(start):
    n_seeing = start.n_ranks if start.mode.startswith("spmd") else 1

    is_same = {example: start[example]["is same"] for example in start.reports}

    assert is_same == dict.fromkeys(acme_examples.EXAMPLES, [True] * n_seeing)


def test_files_go_to_a_new_directory_named_by_the_time(start):
    folder = Path(start["walkthrough"]["container"]).parent

    assert folder.parent == start.folder
    assert re.fullmatch(r"ACME_\d{8}-\d{6}-\d{6}", folder.name)


def test_results_are_the_payload_files_of_the_container(start):
    seen = start["walkthrough"]

    assert Path(seen["container"]).name == "f.h5"
    assert seen["results"] == payload_of(seen["container"], 4)


def test_output_dir_is_where_files_go(start):
    seen = start["output_directory"]

    assert seen["container"] == str(start.folder / "path/to/folder/f.h5")
    assert seen["results"] == payload_of(seen["container"], 4)


def test_an_ambiguous_distribution_is_refused(start):
    """An ambiguous distribution is refused as the user guide prints it."""
    text = start["ambiguous_distribution"]["text"].replace("`", "")

    assert text.startswith(
        "<ParallelMap> automatic input distribution failed: found 2 objects containing 3 to 4 "
        "elements. Please specify n_inputs manually."
    )


def test_a_kept_client_is_used_by_the_next_map(start):
    assert start["reused_client"]["is same client"]


def test_a_kept_client_computes_what_it_is_given(start):
    seen = start["reused_client"]

    assert values_in(seen["container"]) == [f(2, 4, z) for z in seen["z"]]


def test_maps_attach_to_the_client_that_was_set_up(start):
    assert start["recycled_client"]["is attached"]


def test_attaching_is_announced_as_the_user_guide_prints_it(start):
    said = re.findall(
        "^<ParallelMap> INFO: Attaching to global parallel computing client "
        r"<Client: 'mpi://\S+' processes=(\d+) threads=(\d+)>$",
        start.stderr,
        re.MULTILINE,
    )

    # Once to the client that was kept, twice to that which was set up.
    assert len(said) == 3
    if start.mode != "local":  # where each of them has the ranks that it asks for
        assert said == [(str(start.n_ranks),) * 2] * 3


def test_maps_on_one_client_have_their_own_results(start):
    seen = start["recycled_client"]
    f_container, g_container = seen["containers"]

    assert values_in(f_container) == [(20 + y) * z for z, y in enumerate(seen["y"])]
    assert values_in(g_container) == [(8 + y) * z * 8 for z, y in enumerate(seen["other_y"])]


def test_calls_that_raise_are_reported_with_their_error(start):
    text = start["failing_calls"]["text"]

    assert text.startswith("Parallel computation failed: 4/4 tasks failed or stalled")
    assert "TypeError: unsupported operand type(s) for *: 'int' and 'NoneType'" in text


def test_a_dry_run_says_what_one_call_takes(start):
    said = re.search(
        "^<ParallelMap> INFO: Performing a single dry-run of f simulating randomly picked worker "
        "#[0-3] with automatically distributed arguments\n"
        r"<ParallelMap> INFO: Dry-run completed\. Elapsed time is \d+\.\d{6} seconds, estimated "
        r"memory consumption was \d+\.\d\d MB\.$",
        start.stderr,
        re.MULTILINE,
    )

    assert said


def test_without_a_terminal_a_dry_run_is_followed_by_the_run(start):
    paths = [Path(path) for path in start["dry_run"]["results"]]

    assert [path.name for path in paths] == ["f_0.h5", "f_1.h5", "f_2.h5", "f_3.h5"]
    assert all(path.is_file() for path in paths)


def test_n_inputs_says_which_arguments_are_split(start):
    assert values_in(start["number_of_calls"]["container"]) == [(20 + 2) * 1, (20 + 2) * 2]


def test_each_return_value_is_a_dataset(start, content_of):
    content = content_of(start["three_return_values"]["container"])

    expected = {
        f"comp_{i}/result_{k}": value
        for i in range(50)
        for k, value in enumerate(this_func(i, i + 1, i + 2))
    }
    assert list(content) == list(expected)
    assert [bits for _, _, bits in content.values()] == [
        np.asarray(value).tobytes() for value in expected.values()
    ]


def test_a_payload_file_holds_the_return_values_of_one_call(start):
    seen = start["three_return_values"]

    assert seen["results"] == payload_of(seen["container"], 50)
    with h5py.File(seen["results"][33]) as file:
        assert list(file) == ["result_0", "result_1", "result_2"]
        assert file["result_1"][()].tolist() == [33, 34, 35]


@pytest.mark.parametrize("example", ["single_file", "stacked_matrices_in_single_file"])
def test_a_single_file_is_all_there_is(start, example):
    seen = start[example]
    folder = Path(seen["container"]).parent

    assert seen["results"] == [seen["container"]]
    assert [path.name for path in folder.rglob("*.h5")] == [Path(seen["container"]).name]


def test_a_single_file_holds_the_results_of_all_calls(start):
    seen = start["single_file"]

    assert values_in(seen["container"]) == [randout(x) for x in seen["x"]]


@pytest.mark.parametrize(
    ("example", "dtype", "tolerance"),
    [
        ("stacked_matrices", "float64", 1e-12),
        ("stacked_matrices_in_single_file", "float64", 1e-12),
        ("stacked_matrices_and_more", "float64", 1e-12),
        ("stacked_matrices_of_lower_precision", "float16", 1e-3),
    ],
)
def test_matrices_are_stacked_in_task_order(start, example, dtype, tolerance):
    seen = start[example]
    expected = [matconstruct(seen["a"], k) for k in range(200)]

    with h5py.File(seen["container"]) as file:
        stacked = file["result_0"][()]

    assert stacked.shape == (200, 10, 9)
    assert stacked.dtype == dtype
    np.testing.assert_allclose(stacked, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize(
    "example",
    [
        "stacked_matrices",
        "stacked_matrices_in_single_file",
        "stacked_matrices_of_lower_precision",
    ],
)
def test_stacked_results_are_the_only_dataset(start, example):
    assert start[example]["keys"] == ["result_0"]


def test_lower_precision_is_what_lies_on_the_disk(start):
    with h5py.File(start["stacked_matrices_of_lower_precision"]["results"][7]) as file:
        assert file["result_0"].dtype == "float16"


def test_further_return_values_lie_beside_the_stacked_one(start):
    seen = start["stacked_matrices_and_more"]

    with h5py.File(seen["container"]) as file:
        further = [file[f"comp_{k}/result_1"][()] for k in range(200)]

    assert sorted(seen["keys"]) == sorted([*(f"comp_{k}" for k in range(200)), "result_0"])
    assert further == [matconstruct_multi(seen["a"], k)[1] for k in range(200)]


def test_calls_with_a_task_id_all_differ(start):
    results = start["randomized_calls"]["results"]

    assert len(set(results)) == 5000
    assert results == [randfunc(np.pi, taskID=i) for i in range(5000)]


@pytest.mark.parametrize("place", ["stored", "results"])
def test_a_function_of_numpy_gives_what_a_loop_gives(start, place):
    seen = start["ragged_jobs"]

    assert canonical(seen[place]) == canonical(seen["serial"])
