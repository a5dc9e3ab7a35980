"""Results with names: where they are, who else finds them, and what is said of wrong ones."""

from __future__ import annotations

import re
from collections import namedtuple
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from computing import ON_DISK, failure_of
from parallel_map_program import MEMORY

import acme_mpi
from acme_mpi import InputError, ParallelMap, PlaceError

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("module_runner", "folder")]

N_LARGE = 2**14

Spectrum = namedtuple("Spectrum", "power phase")

LAYOUTS = [
    *ON_DISK,
    {"single_file": True, "n_large": N_LARGE},
    {"payload": "rank", "n_large": N_LARGE},
    {"n_large": N_LARGE},
]


def spectrum(x, n_large=3):
    """The large one is neither the first, nor the last."""
    return {"power": x / 2, "Größe": np.full(n_large, x), "at": f"task {x}"}


def computed(func: Any, *args: Any, **keywords: Any) -> Path:
    pmap = ParallelMap(func, *args, output_dir="out", **keywords)
    pmap.compute()
    return Path(pmap.results_container)


@pytest.mark.parametrize("keywords", LAYOUTS)
def test_names_are_those_of_datasets_and_numbers_are_links(keywords):
    with h5py.File(computed(spectrum, [4, 6, 8], **keywords)) as file:
        group = file["comp_1"]
        links = {name: group.get(name, getlink=True) for name in group}

        assert list(file) == ["comp_0", "comp_1", "comp_2"]
        assert list(group) == ["power", "result_0", "Größe", "result_1", "at", "result_2"]
        numbers = {name: link.path for name, link in links.items() if name.startswith("result")}
        assert numbers == {"result_0": "power", "result_1": "Größe", "result_2": "at"}
        assert group["power"][()] == 3.0
        assert group["at"].asstr()[()] == "task 6"
        np.testing.assert_array_equal(group["Größe"], np.full(keywords.get("n_large", 3), 6))


@pytest.mark.parametrize("keywords", ON_DISK)
def test_who_reads_by_numbers_finds_all(keywords):
    """As scripts for ACME do: the groups of a container in turn, and in them ``result_<k>``."""
    pmap = ParallelMap(spectrum, range(12), output_dir="out", **keywords)
    files = pmap.compute()

    found = {}
    with h5py.File(pmap.results_container, "r") as container:
        for name in container:
            found[int(name.split("_")[1])] = container[name]["result_0"][()]
        stacked = np.stack([container[f"comp_{k}/result_1"][:] for k in range(12)])
    assert found == {k: k / 2 for k in range(12)}
    np.testing.assert_array_equal(stacked, np.arange(12)[:, None] * np.ones(3))
    if len(files) == 12:  # one for each call
        with h5py.File(files[7], "r") as file:
            assert file["result_0"][()] == 3.5


def test_users_give_names_to_what_brings_none():
    path = computed(lambda x: (x, [x, x]), [1, 2], result_names=("power", "phase"))

    with h5py.File(path) as file:
        assert list(file["comp_0"]) == ["power", "result_0", "phase", "result_1"]


def test_tasks_whose_names_differ_fail_in_map_and_say_which():
    def choose(x):
        return {"power": x, ("phase" if x < 2 else "angle"): 1.0}

    with pytest.raises(acme_mpi.TaskError) as caught:
        acme_mpi.map(choose, range(4), output_dir="out", isolate=False)

    assert [each.index for each in caught.value.failures] == [2, 3]
    assert "missing: phase; not expected: angle" in str(caught.value)
    assert all(each.message.startswith("expected results") for each in caught.value.failures)


def test_the_name_of_what_cannot_be_stored_is_told():
    with pytest.raises(acme_mpi.TaskError) as caught:
        acme_mpi.map(lambda x: {"power": x, "fit": {"slope": 1}}, [1], output_dir="out")

    message = caught.value.failures[0].message
    assert "the function returned a value of type builtins.dict" in message
    assert message.endswith("(result 'fit')")


def test_one_shape_for_a_dict_is_told_how_to_name_the_shapes():
    with pytest.raises(acme_mpi.TaskError) as caught:
        acme_mpi.map(lambda x: {"p": x, "q": 1}, [1], output_dir="out", result_shape=(None,))

    message = caught.value.failures[0].message
    assert message.startswith(
        "the function returned a dict of p, q, and `result_shape` is that of one"
    )
    assert message.endswith("name the shape of each: {'p': (None, ...), ...}")


def test_in_a_parallel_map_they_are_pickled():
    files = ParallelMap(lambda x: {f"name_{x}": x}, range(3)).compute()

    assert [Path(file).suffix for file in files] == [".h5", ".pickle", ".pickle"]


def test_a_resumed_run_keeps_the_names():
    def first(x):
        if x == 0:
            return {"b": x, "a": x}
        if not Path("mended").exists():
            raise ValueError("bad")
        return {"a": x, "b": x}

    error = failure_of(ParallelMap(first, range(3), output_dir="out"))
    Path("mended").touch()
    path = computed(first, range(3), resume="failed")

    assert len(error.failures) == 2
    with h5py.File(path) as file:
        assert [list(group) for group in file.values()] == [["b", "result_0", "a", "result_1"]] * 3


@pytest.mark.parametrize("resume", [True, "force"])
def test_other_names_are_another_form(resume):
    def f(x):
        return x, 2

    computed(f, [1, 2], result_names=("a", "b"))

    for names in (("a", "c"), None):
        with pytest.raises(PlaceError, match="in another form") as caught:
            computed(f, [1, 2], result_names=names, resume=resume)
        assert re.search("`result_names` .*was 'a', 'b'", str(caught.value))
        assert "resume=" not in str(caught.value)
    assert computed(f, [1, 2], result_names=["a", "b"], resume=resume).name == "f.h5"


def test_in_memory_values_stay_as_they_are():
    values = ParallelMap(lambda x: Spectrum(x, {1: x}), [4, 5], **MEMORY).compute()

    assert values == [Spectrum(4, {1: 4}), Spectrum(5, {1: 5})]
    assert type(values[0]) is Spectrum


def test_names_are_not_for_results_in_memory():
    with pytest.raises(InputError, match="`result_names` name datasets; leave out write_worker"):
        ParallelMap(lambda x: x, [1, 2], result_names=("a",), **MEMORY)
