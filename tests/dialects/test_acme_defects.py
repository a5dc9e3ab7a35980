"""What upstream ACME (2026.6.2) gets wrong does not happen here; one test per number.

Arguments

1.  ``*args`` was taken for one more required argument.
2.  ``**opts`` was taken for one more required argument.
3.  ``**kwargs`` did not let further names through.
4.  Three arguments given by name in descending order were swapped.
5.  A `taskID` that the caller had given was replaced by None.
6.  An unknown keyword ended in a bare KeyError.
7.  A list, tuple or range of a million entries, nested ones counted, ended in a RecursionError.
8.  An array of one number was not split, though a list of one was.
9.  A list of one arrived whole or unpacked, as `n_inputs` was, and no caller could say which.
10. A failed automatic distribution did not say which arguments it had found.
11. An array of shape (1, N) counted as N inputs, but every call got all of it.
12. An array of shape (1, N) for a parameter with a default ended in an error.
13. A list was torn apart though the parameter's default was a list.
14. No argument could be marked as split, so an array of several axes never was.
15. A function among the arguments was said to be executed once, which it was not.
16. A generator was shared, and failed to be pickled.
17. Of equal calls in memory only one was made.

taskID

18. With results in files the function got the default of its own `taskID`.
19. In memory a function with a `taskID` had its results thrown away: `compute` returned None.

Return values

20. Several scalars became one dataset of a common type.
21. NumPy's booleans and bytes had the shape (), all other scalars (1,).
22. A function that returned nothing left pickles, and no container.
23. Scalars of mixed types, such as a number and a string, failed the task.
24. An array of strings failed the task.
25. datetime64 failed the task, and left an empty HDF5 file and no pickle.

result_shape

26. An infinity other than the object ``numpy.inf`` was taken for a length, and ended in an error.
27. A string in `result_shape` ended in a bare TypeError in memory mode.
28. Further return values that task 0 did not have were lost for all tasks.
29. `result_dtype` changed nothing in the payload files, and so saved no space.
30. A tuple of three floats was silently not the row of three that ACME's tutorial promises.
31. A result that was too short made the whole dataset unreadable.
32. A result that was too long was cut without a word.
33. A result with another number of axes killed the process that read it.
34. A scalar was broadcast to a whole row without a word.
35. A complex result could not be read back from a dataset of floats.
36. A string could not be read back from a dataset of floats.
37. The row of a failed task read as zeros.
38. The row of a payload file that is gone read as zeros.
39. After the directory was moved or renamed all rows read as zeros.
40. With ``numpy.inf`` in one file each result cut the dataset to its own length.
41. With ``numpy.inf`` in payload files short results were filled up with zeros.
42. With ``numpy.inf`` axes were guessed by their lengths, so equal lengths failed every task.
43. With ``numpy.inf`` a scalar result was stored, but could not be read.
44. In memory one failed task cost the results of all others.

single_file

45. What a task had returned was hidden behind an error of the lock.
46. With ``numpy.inf`` the dataset was cut into chunks of a few bytes.
47. A dry-run deleted the container, or ended in an IndexError.
48. A failed task left an empty group.

Pickles

49. One result that HDF5 cannot hold cost all tasks their container.
50. The pickles of tasks 5, 15 and 55 lost the 5 from their names, and replaced those of others.
51. A run with such a pickle was not reported as a success.
52. A result that could not be pickled either counted as done, and its path was returned.

Directories

53. Results went beside the source file of the function.
54. ``numpy.std``, ufuncs, builtins and partials have no source file, and ended in an error.
55. With `single_file` or `write_pickle` the output directory must not exist.
56. Old directories were deleted because of how their names begin.
57. More than 20 old directories led to a question in the middle of a script.
"""

from __future__ import annotations

import functools
import logging
import os
import pickle
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from acme_mpi import InputError, ParallelMap, PerTask, Shared, TaskError, local_cluster_setup

pytestmark = pytest.mark.slow

MODES: list[dict[str, Any]] = [{}, {"single_file": True}]


@pytest.fixture(scope="module", autouse=True)
def client() -> Iterator[None]:
    """Use one runner for all tests of this module, and end it."""
    with local_cluster_setup():
        yield


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Work in a new directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(params=MODES, ids=["files", "single_file"])
def mode(request) -> dict[str, Any]:
    """Return the keywords of a way to store results."""
    return request.param


def run(func: Any, *args: Any, **keywords: Any) -> Any:
    """Return what `compute` returns."""
    with ParallelMap(func, *args, **keywords) as pmap:
        return pmap.compute()


def values(func: Any, *args: Any, **keywords: Any) -> Any:
    """Return the results in memory."""
    return run(func, *args, write_worker_results=False, **keywords)


def container(func: Any, *args: Any, **keywords: Any) -> str:
    """Return the path of the results container."""
    pmap = ParallelMap(func, *args, **keywords)
    pmap.compute()
    assert pmap.results_container is not None
    return pmap.results_container


def rows_of(path: str | Path) -> Any:
    """Return the stacked dataset of a container."""
    with h5py.File(path, "r") as file:
        return file["result_0"][()]


def failed(func: Any, *args: Any, **keywords: Any) -> tuple[TaskError, str]:
    """Return the error of a computation of which tasks fail, and the path of the container."""
    pmap = ParallelMap(func, *args, **keywords)
    with pytest.raises(TaskError) as caught:
        pmap.compute()
    return caught.value, str(pmap.results_container)


def test_01_var_positional_parameters_are_optional():
    assert values(lambda x, *args: (x, args), [1, 2]) == [(1, ()), (2, ())]


def test_02_var_keyword_parameters_are_optional():
    assert values(lambda x, **opts: (x, opts), [1, 2]) == [(1, {}), (2, {})]


def test_03_var_keyword_parameters_take_any_name():
    assert values(lambda x, **kwargs: kwargs, [1, 2], w=3) == [{"w": 3}, {"w": 3}]


def test_04_arguments_by_name_arrive_in_any_order():
    assert values(lambda a, b, c: (a, b, c), c=[3, 30], b=2, a=1) == [(1, 2, 3), (1, 2, 30)]


def test_05_a_task_id_of_the_caller_counts():
    assert values(lambda x, taskID=None: taskID, [1, 2], taskID=7) == [7, 7]


def test_06_an_unknown_keyword_is_named_with_the_signature():
    with pytest.raises(InputError, match=r"unexpected keyword argument 'w'.* signature .*z=3"):
        ParallelMap(lambda x, z=3: x, [1, 2], w=1)


def test_07_a_list_of_a_million_entries_makes_a_million_calls():
    x = list(range(1_000_000))

    np.testing.assert_array_equal(values(float, x, result_shape=(None,)), x)


def test_07_a_shared_list_may_hold_a_million_entries():
    nested = [[1] * 500_000, [2] * 500_000]

    assert values(lambda x, w: sum(map(len, w)), [1, 2], Shared(nested)) == [1_000_000] * 2


def test_08_an_array_of_one_number_is_split():
    assert values(lambda x: float(x), np.array([5.0])) == [5.0]


@pytest.mark.parametrize("n_inputs", [1, 4])
def test_09_a_list_of_one_is_what_the_caller_says(n_inputs):
    assert values(lambda x: x, Shared([5]), n_inputs=n_inputs) == [[5]] * n_inputs


def test_10_a_failed_distribution_names_the_cure():
    """A failed distribution names what it has found and the cure."""
    with pytest.raises(InputError, match=r"(?s)'a' has 1, 'b' has 3.*Shared"):
        ParallelMap(lambda a, b: a, [2], [1, 2, 3])


def test_11_an_array_of_shape_1_n_does_not_count_as_n_inputs():
    with pytest.raises(InputError, match="found 0 objects"):
        ParallelMap(lambda x: x, np.ones((1, 3)))


def test_12_an_array_of_shape_1_n_is_shared_whole_by_name_too():
    assert values(lambda x, w=0: w.shape, [1, 2, 3], w=np.ones((1, 3))) == [(1, 3)] * 3


def test_13_a_list_like_its_default_is_shared():
    assert values(lambda x, w=(1, 2): w, [5, 6], w=[3, 4]) == [[3, 4]] * 2


@pytest.mark.parametrize(("axis", "expected"), [(0, [3, 12]), (1, [3, 5, 7])])
def test_14_an_array_is_split_along_the_axis_that_is_marked(axis, expected):
    x = PerTask(np.arange(6).reshape(2, 3), axis=axis)

    assert values(lambda row: int(row.sum()), x) == expected


def test_15_a_function_among_the_arguments_arrives_as_it_is(caplog):
    """A function among the arguments arrives as it is and no word is said."""
    assert values(lambda x, g: g(x), [1, 2], lambda x: 10 * x) == [10, 20]
    assert "callable" not in caplog.text


def test_16_a_generator_is_split():
    assert values(lambda x: x, (2 * n for n in range(3))) == [0, 2, 4]


def test_17_equal_calls_are_all_made():
    assert len(set(values(lambda x: uuid.uuid4().hex, 5, n_inputs=10))) == 10


def test_18_with_files_the_function_knows_its_task_id(content_of):
    content = content_of(container(lambda x, taskID=None: taskID, [7, 7, 7]))

    assert [np.frombuffer(bits, int)[0] for _, _, bits in content.values()] == [0, 1, 2]


def test_19_results_with_a_task_id_are_returned_in_memory():
    """In memory the results of a function with a task id are returned."""
    assert values(lambda x, taskID=None: (x, taskID), [7, 8]) == [(7, 0), (8, 1)]


def test_20_several_scalars_are_datasets_of_their_own_types(content_of):
    """Several scalars are separate datasets of their own types."""
    content = content_of(container(lambda x: (x, 2.5), [1]))

    assert {name: entry[:2] for name, entry in content.items()} == {
        "comp_0/result_0": ("<i8", ()),
        "comp_0/result_1": ("<f8", ()),
    }


@pytest.mark.parametrize("value", [np.True_, b"bytes"], ids=["bool", "bytes"])
def test_21_every_lone_scalar_has_the_shape_1(value, content_of):
    [(_, shape, _)] = content_of(container(lambda x: value, [1])).values()

    assert shape == (1,)


def test_22_nothing_is_an_empty_dataset_in_the_container(content_of):
    content = content_of(container(lambda x: None, [1, 2]))

    assert {name: shape for name, (_, shape, _) in content.items()} == {
        "comp_0/result_0": None,
        "comp_1/result_0": None,
    }


def test_23_scalars_of_mixed_types_are_stored(content_of):
    content = content_of(container(lambda x: (x, "a"), [1]))

    assert content["comp_0/result_0"][0] == "<i8"
    assert content["comp_0/result_1"] == ("str", (), ("a",))


def test_24_an_array_of_strings_is_stored(content_of):
    content = content_of(container(lambda x: np.array(["a", "bc"]), [1]))

    assert content == {"comp_0/result_0": ("str", (2,), ("a", "bc"))}


def test_25_a_date_is_pickled_and_leaves_no_other_file():
    dates = np.array(["2026-06-17"], "datetime64[D]")
    paths = run(lambda x: dates if x == 0 else x, [0, 1])

    payload = Path(paths[0]).parent
    assert sorted(os.listdir(payload)) == ["lambda_0.pickle", "lambda_1.h5"]
    assert pickle.loads(Path(paths[0]).read_bytes()) == [dates]


def test_26_every_infinity_marks_the_unlimited_axis():
    path = container(np.arange, [1, 2], result_shape=(None, float("inf")))

    assert rows_of(path).shape == (2, 2)


def test_27_a_string_in_the_shape_is_refused():
    """A string in the shape is refused with what is allowed."""
    with pytest.raises(InputError, match="must only contain numerical values, not 'a'"):
        values(lambda x: x, [1, 2], result_shape=(None, "a"))


def test_28_every_task_has_its_own_number_of_further_values(mode, content_of):
    path = container(lambda x: (float(x), *range(x)), [0, 2, 1], result_shape=(None,), **mode)

    further = {"comp_1/result_1", "comp_1/result_2", "comp_2/result_1"}
    assert set(content_of(path)) == {"result_0", *further}


def test_29_the_dtype_is_that_of_the_payload_files():
    paths = run(lambda x: x / 2, [1, 2], result_shape=(None,), result_dtype="float16")

    with h5py.File(paths[0], "r") as file:
        assert file["result_0"].dtype == np.float16


def test_30_a_tuple_of_numbers_is_a_row(mode):
    path = container(lambda x: (1.0, 2.0, 3.0), [1], result_shape=(None, 3), **mode)

    assert rows_of(path).tolist() == [[1, 2, 3]]


def test_30_another_tuple_where_a_row_was_declared_fails(mode):
    """Another tuple where a row was declared fails with the explanation."""
    error, _ = failed(lambda x: (1.0, [2.0, 3.0]), [1], result_shape=(None, 3), **mode)

    assert "a tuple is several return values, one row is one array" in str(error)


UNFIT = [
    pytest.param(np.zeros(2), "shape (2,)", id="31_too_short"),
    pytest.param(np.zeros(4), "shape (4,)", id="32_too_long"),
    pytest.param(np.zeros((3, 1)), "shape (3, 1)", id="33_another_number_of_axes"),
    pytest.param(1.0, "shape ()", id="34_a_scalar"),
    pytest.param(np.zeros(3) + 1j, "dtype complex128", id="35_complex"),
    pytest.param(["a", "b", "c"], "dtype object", id="36_strings"),
]


@pytest.mark.parametrize(("value", "got"), UNFIT)
def test_31_to_36_a_result_that_does_not_fit_fails_its_task(mode, value, got):
    """A result that does not fit fails its task and no other."""
    error, path = failed(
        lambda x: value if x else np.ones(3), [0, 1], result_shape=(None, 3), **mode
    )

    [failure] = error.failures
    assert (failure.index, failure.type) == (1, "ResultError")
    assert f"expected shape (3,) float64, got {got}" in failure.message
    np.testing.assert_array_equal(rows_of(path), [[1] * 3, [np.nan] * 3])


def test_37_the_row_of_a_failed_task_is_not_a_number(mode):
    _, path = failed(lambda x: 1 / x, [0, 1], result_shape=(None,), **mode)

    np.testing.assert_array_equal(rows_of(path), [np.nan, 1])


def test_38_the_row_of_a_payload_that_is_gone_is_not_a_number():
    path = container(lambda x: x, [1, 2], result_shape=(None,), output_dir="out")
    Path("out/lambda_payload/lambda_0.h5").unlink()

    np.testing.assert_array_equal(rows_of(path), [np.nan, 2])


def test_39_a_directory_can_be_moved():
    container(lambda x: x, [1, 2], result_shape=(None,), output_dir="out")
    Path("out").rename("elsewhere")

    np.testing.assert_array_equal(rows_of("elsewhere/lambda.h5"), [1, 2])


@pytest.mark.parametrize("mode", MODES, ids=["41_files", "40_single_file"], indirect=True)
def test_40_and_41_short_results_are_filled_up_with_nan(mode):
    """Short results cut nothing and are filled up with NaN."""
    path = container(np.arange, [4, 2], result_shape=(None, np.inf), **mode)

    np.testing.assert_array_equal(rows_of(path), [[0, 1, 2, 3], [0, 1, np.nan, np.nan]])


def test_42_axes_of_equal_length_are_not_confused(mode):
    shape = (None, 3, np.inf)
    path = container(lambda x: np.full((3, 4), x), range(4), result_shape=shape, **mode)

    np.testing.assert_array_equal(rows_of(path), np.arange(4)[:, None, None] * np.ones((3, 4)))


def test_43_a_scalar_does_not_fit_an_unlimited_axis(mode):
    error, _ = failed(lambda x: x, [1], result_shape=(None, np.inf), **mode)

    assert "expected shape (inf,) float64, got shape ()" in str(error)


def test_44_in_memory_a_failed_task_costs_its_own_row():
    error, _ = failed(lambda x: 1 / x, [0, 1], result_shape=(None,), write_worker_results=False)

    np.testing.assert_array_equal(error.results, [np.nan, 1])


def test_45_the_error_says_what_the_task_has_returned():
    error, _ = failed(lambda x: {x}, [1], single_file=True)

    assert "the function returned a value of type builtins.set" in error.failures[0].message


def test_46_rows_of_an_unlimited_axis_lie_together():
    path = container(np.arange, range(9), result_shape=(None, np.inf), single_file=True)

    with h5py.File(path, "r") as file:
        assert file["result_0"].chunks is None


@pytest.mark.parametrize("n_inputs", [1, 3])
def test_47_a_dry_run_leaves_the_one_file_to_the_run(n_inputs, content_of):
    quiet = {"dryrun": True, "setup_interactive": False, "single_file": True}
    content = content_of(container(lambda x: x, 5, n_inputs=n_inputs, **quiet))

    assert list(content) == [f"comp_{index}/result_0" for index in range(n_inputs)]


def test_48_a_failed_task_leaves_no_group(mode):
    _, path = failed(lambda x: 1 / x, [0, 1], **mode)

    with h5py.File(path, "r") as file:
        assert list(file) == ["comp_1"]


def test_49_what_hdf5_cannot_hold_spoils_no_other_result(content_of):
    """One result that HDF5 cannot hold leaves the others their container."""
    path = container(lambda x: {x} if x == 1 else x, [0, 1, 2])

    assert list(content_of(path)) == ["comp_0/result_0", "comp_2/result_0"]


def test_50_every_pickle_has_the_number_of_its_task():
    paths = run(lambda x: {x}, range(56))

    assert [Path(path).name for path in paths] == [f"lambda_{index}.pickle" for index in range(56)]
    assert [pickle.loads(Path(path).read_bytes()) for path in paths] == [[{i}] for i in range(56)]


def test_51_a_run_with_pickles_is_a_success(caplog):
    run(lambda x: {x}, [1])

    assert "SUCCESS!" in caplog.text


class Unpicklable:
    def __reduce__(self) -> Any:
        raise pickle.PicklingError("not this one")


@pytest.mark.parametrize("write_pickle", [False, True])
def test_52_what_cannot_be_pickled_either_fails_its_task(write_pickle):
    error, _ = failed(lambda x: Unpicklable() if x else x, [0, 1], write_pickle=write_pickle)

    assert "cannot be pickled: not this one" in error.failures[0].message
    assert error.results[1] is None


def test_53_results_go_to_the_working_directory(folder):
    pmap = ParallelMap(run, [1])  # a function of this very file

    assert Path(pmap.output_dir).parent == folder


@pytest.mark.parametrize(
    ("func", "x", "expected"),
    [
        (np.std, PerTask([[1, 3], [5, 5]]), [1, 0]),
        (np.sqrt, [4.0, 9.0], [2, 3]),
        (abs, [-1, 2], [1, 2]),
        (functools.partial(pow, 2), [3, 4], [8, 16]),
    ],
    ids=["numpy.std", "ufunc", "builtin", "partial"],
)
def test_54_functions_without_a_source_file_are_called(func, x, expected):
    path = container(func, x, result_shape=(None,))

    assert rows_of(path).tolist() == expected


@pytest.mark.parametrize("keyword", ["single_file", "write_pickle"])
def test_55_an_existing_directory_is_used(keyword, folder):
    (folder / "notes.md").touch()
    paths = run(lambda x: x, [1], output_dir=str(folder), **{keyword: True})

    assert [Path(path).parent for path in paths] == [folder]


def test_56_only_directories_of_runs_are_removed(folder):
    (folder / "ACME_thesis").mkdir()
    os.utime(folder / "ACME_thesis", (0, 0))
    old = ParallelMap(lambda x: x, [1])
    old.compute()

    new = ParallelMap(lambda x: x, [1], cleanup_threshold_days=0)
    new.compute()

    assert {path.name for path in folder.iterdir()} == {"ACME_thesis", Path(new.output_dir).name}


def test_57_many_old_directories_are_nobodys_business(folder, caplog, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("a question"))
    for number in range(25):
        (folder / f"ACME_{number}").mkdir()

    run(lambda x: x, [1])

    assert len(list(folder.iterdir())) == 26
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []
