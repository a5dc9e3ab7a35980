"""Every combination of parameters, and random numbers of each task's own."""

from __future__ import annotations

import itertools
import pickle
import sys
import tracemalloc

import h5py
import numpy as np
import pytest

import acme_mpi
from acme_mpi import Grid, InputError, ParallelMap, PerTask
from acme_mpi.tasks.changes import changes
from acme_mpi.tasks.distributing import distribute
from acme_mpi.tasks.fingerprint import fingerprint_of
from acme_mpi.tasks.packing import pack, unpack

pytestmark = pytest.mark.once


def f(sigma, seed, y=0):
    return sigma, seed, y


def calls(tasks, start=0, stop=None):
    """Return what each task passes, by name."""
    found = []
    for args, kwargs in tasks.calls(start, tasks.n_tasks if stop is None else stop):
        found.append((*args, *kwargs.values()))
    return found


class TestGrid:
    def test_the_last_parameter_changes_fastest(self):
        tasks = distribute(f, [Grid(sigma=[1, 2, 4], seed=range(2))], {"y": 4})

        product = itertools.product([1, 2, 4], range(2))
        assert [f(*args, **kwargs) for args, kwargs in tasks.calls(0, 6)] == [
            (sigma, seed, 4) for sigma, seed in product
        ]

    def test_its_order_counts_and_not_that_of_the_parameters(self):
        tasks = distribute(f, [Grid(seed=[1, 2], sigma=["x", "y"])], {})

        found = [f(*args, **kwargs)[:2] for args, kwargs in tasks.calls(0, 4)]
        assert found == [("x", 1), ("y", 1), ("x", 2), ("y", 2)]

    @pytest.mark.parametrize("start", [0, 1, 5, 11])
    def test_any_piece_is_that_of_the_whole(self, start):
        tasks = distribute(f, [Grid(sigma=np.arange(3.0), seed=[7, 8, 9, 10])], {})
        whole = calls(tasks)

        assert calls(tasks, start, 12) == whole[start:]
        assert whole[start][:2] == (start // 4, 7 + start % 4)

    def test_a_hundred_million_tasks_take_no_memory(self):
        tracemalloc.start()
        tasks = distribute(f, [Grid(sigma=range(10_000), seed=range(10_000))], {})
        _, unpacked = unpack(pack(None, tasks))
        last = calls(unpacked, 10**8 - 2, 10**8)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        assert tasks.n_tasks == 10**8
        assert last == [(9999, 9998), (9999, 9999)]
        assert peak < 1024**2

    def test_what_a_task_changes_is_not_changed_for_others(self):
        tasks = distribute(f, [Grid(sigma=[[1], [2]], seed=range(3))], {})
        _, unpacked = unpack(pack(None, tasks))
        for args, _ in unpacked.calls(0, 6):
            assert len(args[0]) == 1
            args[0].append("changed")

    def test_it_stands_beside_arguments_of_the_same_length(self):
        tasks = distribute(f, [Grid(sigma=[1, 2], seed=[3, 4])], {"y": PerTask([5, 6, 7, 8])})

        assert [call[-1] for call in calls(tasks)] == [5, 6, 7, 8]

    @pytest.mark.parametrize("shared", [[5, 6, 7], [5, 6, 7, 8]])
    def test_a_list_beside_it_is_shared_whatever_its_length(self, shared):
        tasks = distribute(f, [Grid(sigma=[1, 2], seed=[3, 4])], {"y": shared})

        assert calls(tasks)[0][-1] == shared

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: Grid(), "needs the values of one parameter"),
            (lambda: Grid(x=[]), "axis `x` of the grid has no values"),
            (lambda: Grid(x="abc"), "has to be a list, range or array of values, not 'abc'"),
            (lambda: Grid(x=3), "not 3"),
            (lambda: Grid(x=np.ones((2, 2))), r"one dimension, not the shape \(2, 2\)"),
            (lambda: distribute(f, [Grid(sigma=[1]), Grid(seed=[1])], {}), "give one Grid"),
            (lambda: distribute(f, [Grid(sigma=[1])], {"sigma": 2, "seed": 1}), "given twice"),
            (lambda: distribute(f, [], {"sigma": Grid(x=[1]), "seed": 1}), "`sigma` cannot be"),
            (lambda: distribute(f, [Grid(sigam=[1], seed=[2])], {}), "did you mean 'sigma'"),
            (
                lambda: distribute(f, [Grid(sigma=[1, 2], seed=[2])], {"y": PerTask([1, 2, 3])}),
                "need one length: 'sigma' has 2, 'seed' has 2, 'y' has 3",
            ),
        ],
    )
    def test_mistakes_are_told(self, make, message):
        with pytest.raises(InputError, match=message):
            make()

    def test_arguments_of_other_lengths_are_told_of_it(self):
        with pytest.raises(InputError, match=r"every combination: --grid NAME .*Grid\(name=x"):
            distribute(f, [[1, 2], [3, 4, 5]], {})

    def test_another_grid_is_another_computation(self):
        prints = [
            fingerprint_of(f, distribute(f, [grid], {}), {})
            for grid in (Grid(sigma=[1, 2], seed=[3, 4]), Grid(seed=[3, 4], sigma=[1, 2]))
        ]

        assert "argument `sigma` has changed" in changes(*prints)
        assert changes(prints[0], prints[0]) == []

    def test_the_plan_shows_the_axes(self):
        tasks = distribute(f, [Grid(sigma=[1, 2], seed=range(3))], {})

        assert tasks.describe() == [
            "sigma: an axis of the grid: list of 2",
            "seed: an axis of the grid: range of 3",
        ]

    def test_all_dialects_take_it(self):
        grid = Grid(sigma=[1, 2], seed=[3, 4])
        expected = [(1, 3, 5), (1, 4, 5), (2, 3, 5), (2, 4, 5)]

        assert acme_mpi.map(f, grid, y=5, write_worker_results=False) == expected
        with ParallelMap(f, grid, y=5, write_worker_results=False) as pmap:
            assert [tuple(map(int, each)) for each in pmap.compute()] == expected


def product_of(sigma, seed):
    return [sigma * seed, -1]


class TestStackedResults:
    """The axes of the grid stand where the tasks' axis would."""

    grid = Grid(seed=[1, 2, 3], sigma=[10, 20])
    expected = np.stack([np.outer([1, 2, 3], [10, 20]), np.full((3, 2), -1)], axis=-1)

    def test_in_memory(self):
        stack = acme_mpi.map(
            product_of, self.grid, result_shape=(None, 2), write_worker_results=False
        )

        assert np.array_equal(stack, self.expected)

    @pytest.mark.parametrize("words", [{}, {"single_file": True}, {"payload": "computation"}])
    def test_in_files_also_of_a_run_that_resumes(self, words, tmp_path):
        words = {"result_shape": (2, None), "output_dir": str(tmp_path / "out"), **words}
        acme_mpi.map(product_of, self.grid, **words)
        acme_mpi.map(product_of, self.grid, resume=True, **words)

        with h5py.File(tmp_path / "out" / "product_of.h5") as file:
            assert np.array_equal(file["result_0"], np.moveaxis(self.expected, -1, 0))

    def test_parallel_map_too(self, tmp_path):
        words = {"result_shape": (None, 2), "output_dir": str(tmp_path / "out")}
        with ParallelMap(product_of, self.grid, **words) as pmap:
            pmap.compute()

        with h5py.File(pmap.results_container) as file:
            assert np.array_equal(file["result_0"], self.expected)

    def test_axes_of_one_value_keep_their_place(self):
        grid = Grid(sigma=[10], seed=[1, 2, 3])
        stack = acme_mpi.map(
            lambda sigma, seed, y: sigma * seed,
            grid,
            y=acme_mpi.Shared(0),
            result_shape=(None,),
            write_worker_results=False,
        )

        assert stack.tolist() == [[10, 20, 30]]

    def test_too_many_axes_are_refused(self):
        with pytest.raises(InputError, match="31 dimensions on a grid of 2"):
            acme_mpi.map(product_of, self.grid, result_shape=(None, *[1] * 31))


def draw(x, rng):
    return float(rng.random())


def with_seed(x, seed):
    return seed


class TestSeed:
    def test_each_task_has_the_numbers_of_its_index(self):
        values = acme_mpi.map(draw, range(5), seed=7, write_worker_results=False)

        assert values == [
            np.random.default_rng(np.random.SeedSequence(7, spawn_key=(k,))).random()
            for k in range(5)
        ]

    def test_any_task_alone_has_the_same(self):
        tasks = distribute(draw, [range(5)], {}, seed=7)
        whole = [draw(*args, **kwargs) for args, kwargs in tasks.calls(0, 5)]

        args, kwargs = next(tasks.only(3).calls(0, 1))
        assert draw(*args, **kwargs) == whole[3]
        _, unpacked = unpack(pack(None, tasks))
        assert [draw(*args, **kwargs) for args, kwargs in unpacked.calls(3, 5)] == whole[3:]

    def test_a_parameter_called_seed_is_an_argument(self):
        assert acme_mpi.map(with_seed, [1, 2], seed=3, write_worker_results=False) == [3, 3]

    def test_parallel_map_takes_it(self):
        with ParallelMap(draw, range(3), seed=7, write_worker_results=False) as pmap:
            values = pmap.compute()

        assert values == acme_mpi.map(draw, range(3), seed=7, write_worker_results=False)

    def test_another_seed_is_another_computation(self):
        prints = [fingerprint_of(draw, distribute(draw, [[1]], {}, seed=s), {}) for s in (1, 2)]

        assert changes(*prints) == ["`seed` is 2 and was 1"]

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda: distribute(f, [[1], 2], {}, seed=1), "called 'rng', and f has none; it is f"),
            (lambda: distribute(max, [[1]], {}, seed=1), "and max has none"),
            (lambda: distribute(draw, [[1]], {"rng": 2}, seed=1), "leave out one of them"),
            (lambda: distribute(draw, [[1]], {}, seed=-1), "whole number >= 0, not -1"),
            (lambda: distribute(draw, [[1]], {}, seed="a"), "not 'a'"),
        ],
    )
    def test_mistakes_are_told(self, make, message):
        with pytest.raises(InputError, match=message):
            make()


def test_the_command_line_takes_both(mpiexec, tmp_path):
    (tmp_path / "mymod.py").write_text(
        "def f(a, b, rng):\n    return 10 * a + b + int(rng.random() < 2)\n"
    )
    args = [
        *["--set", "a=[1,2]", "--set", "b=[3,4,5]", "--grid", "b", "--grid", "a", "--seed", "5"]
    ]

    ran = mpiexec(0, "-m", "acme_mpi", "mymod:f", *args, "--no-write", cwd=tmp_path)
    wrong = mpiexec(0, "-m", "acme_mpi", "mymod:f", *args[:-2], "--grid", "c", cwd=tmp_path)

    values = [line.rpartition(" ")[2] for line in ran.stdout.splitlines()]
    assert values == ["14", "24", "15", "25", "16", "26"], ran.stderr
    assert wrong.returncode == 2
    assert "--grid c: there is no such argument; given are: a, b" in wrong.stderr
    assert pickle.loads(pickle.dumps(Grid(a=[1]))).axes == {"a": [1]}
    assert sys.getsizeof(Grid(a=range(10**8))) < 100
