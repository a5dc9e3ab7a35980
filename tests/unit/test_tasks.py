"""Distribution of arguments over tasks: the rule, its markers, and what its errors promise."""

from __future__ import annotations

import array
import collections
import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import acme_mpi
from acme_mpi import InputError, PerTask, Shared
from acme_mpi.tasks.distributing import distribute
from acme_mpi.tasks.signature import signature_of
from acme_mpi.tasks.taskset import TaskSet, function_name

pytestmark = pytest.mark.once


def f(x, y, z=3):
    return (x + y) * z


def call_all(func, *args, n_inputs="auto", **kwargs):
    """Return the results of all tasks, called one after the other."""
    tasks = distribute(func, args, kwargs, n_inputs)
    return [func(*a, **k) for a, k in tasks.calls(0, tasks.n_tasks)]


def listed(calls):
    """Return calls as ([args], {kwargs})."""
    return [(list(args), dict(kwargs)) for args, kwargs in calls]


def split_labels(tasks: TaskSet) -> list[str]:
    """Return the names of the arguments that are split."""
    return [argument.label for argument in tasks.arguments if argument.per_task]


def error_of(func, *args, n_inputs="auto", **kwargs) -> str:
    """Return the text of the InputError that a call gets."""
    with pytest.raises(InputError) as caught:
        distribute(func, args, kwargs, n_inputs)
    return str(caught.value)


class TestGuess:
    def test_seeds_of_the_manual(self):
        assert call_all(f, [2, 4, 6, 8], 4) == [18, 24, 30, 36]

    @pytest.mark.parametrize(
        "sequence", [[1, 2, 3], (1, 2, 3), range(1, 4), np.array([1, 2, 3]), iter([1, 2, 3])]
    )
    def test_sequences_and_1d_arrays_and_iterators_are_split(self, sequence):
        assert call_all(f, sequence, 4) == [15, 18, 21]

    @pytest.mark.parametrize(
        "whole", ["abc", b"abc", {"a": 1, "b": 2, "c": 3}, {1, 2, 3}, np.ones((3, 3)), None, 3.5]
    )
    def test_everything_else_is_shared(self, whole):
        results = call_all(lambda x, y: y, [1, 2, 3], whole)

        assert all(each is whole for each in results)

    def test_a_0d_array_is_shared(self):
        assert split_labels(distribute(f, [[1, 2], np.array(4)], {})) == ["x"]

    def test_arguments_of_one_length_are_split_together(self):
        assert call_all(f, [1, 2], [10, 20], z=[2, 3]) == [22, 66]

    def test_a_list_like_its_default_is_meant_whole(self):
        def g(x, w=(1, 2)):
            return x, w

        assert call_all(g, [5, 6], w=[3, 4]) == [(5, [3, 4]), (6, [3, 4])]

    def test_a_list_of_another_length_than_its_default_is_split(self):
        def g(x, w=(1, 2, 3)):
            return x, w

        assert call_all(g, [5, 6], w=[3, 4]) == [(5, 3), (6, 4)]

    def test_an_array_whose_default_is_an_array_is_meant_whole(self):
        def g(x, w=np.zeros(7)):  # noqa: B008 (the default is the point)
            return w

        whole = np.ones(2)

        assert all(each is whole for each in call_all(g, [5, 6], w=whole))

    def test_one_empty_list_makes_no_tasks(self):
        assert distribute(f, [[], 4], {}).n_tasks == 0

    def test_arguments_by_name_arrive_at_their_parameters(self):
        """Arguments by name in any order arrive at their parameters."""

        def g(a, b, c):
            return a, b, c

        assert call_all(g, c=[5, 6], b=2, a=[1, 3]) == [(1, 2, 5), (3, 2, 6)]

    def test_defaults_stay_with_the_function(self):
        def g(x, y=10, z=100):
            return x + y + z

        assert call_all(g, [1, 2], z=0) == [11, 12]
        assert listed(distribute(f, [[1, 2], 4], {}).calls(0, 2)) == [([1, 4], {}), ([2, 4], {})]

    def test_a_function_that_empties_its_keywords_does_no_harm(self):
        """A function that empties its keyword arguments does no harm."""

        def g(x, **named):
            size = len(named)
            named.clear()
            return size

        assert call_all(g, [1, 2, 3], a=4, b=[5, 6, 7]) == [2, 2, 2]


class TestMarkers:
    def test_shared_overrules_the_guess(self):
        results = call_all(lambda x, y: (x, y), [1, 2], Shared([3, 4]))

        assert results == [(1, [3, 4]), (2, [3, 4])]

    @pytest.mark.parametrize("axis", [0, 1, 2, -1, -3])
    def test_per_task_splits_arrays_along_any_axis(self, axis):
        array = np.arange(24).reshape(2, 3, 4)

        results = call_all(lambda x: x, PerTask(array, axis))

        assert len(results) == array.shape[axis]
        for index, item in enumerate(results):
            np.testing.assert_array_equal(item, array.take(index, axis))

    @pytest.mark.parametrize("axis", [0, 1])
    def test_per_task_keeps_masks_and_other_kinds_of_arrays(self, axis):
        class Length(np.ndarray):
            pass

        masked = np.ma.array([[1.0, 99.0], [3.0, 4.0]], mask=[[0, 1], [0, 0]])

        results = call_all(lambda x: np.ma.sum(x), PerTask(masked, axis))
        lengths = call_all(lambda x: type(x), PerTask(np.ones((2, 2)).view(Length), axis))

        assert results == np.ma.sum(masked, 1 - axis).tolist()
        assert lengths == [Length, Length]

    def test_per_task_splits_nested_lists_along_a_later_axis(self):
        results = call_all(lambda x: x.tolist(), PerTask([[1, 2, 3], [4, 5, 6]], axis=1))

        assert results == [[1, 4], [2, 5], [3, 6]]

    def test_per_task_keeps_items_of_sequences_as_they_are(self):
        items = [{"a": 1}, None, "text"]

        assert call_all(lambda x: x, PerTask(items)) == items

    def test_per_task_takes_iterators(self):
        assert call_all(lambda x: x, PerTask(iter("ab"))) == ["a", "b"]

    def test_a_marker_decides_between_candidates(self):
        results = call_all(lambda x, y: (x, y), PerTask([1, 2]), [7, 8, 9])

        assert results == [(1, [7, 8, 9]), (2, [7, 8, 9])]

    @pytest.mark.parametrize(
        "items",
        [
            [1, 2],
            (1, 2),
            range(1, 3),
            collections.deque([1, 2]),
            collections.UserList([1, 2]),
            array.array("q", [1, 2]),
            memoryview(array.array("q", [1, 2])),
            bytearray([1, 2]),
            iter([1, 2]),
            map(int, "12"),
            (x for x in (1, 2)),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_items_are_of_the_type_that_the_caller_put_in(self, items):
        assert [(x, type(x)) for x in call_all(lambda x: x, PerTask(items))] == [(1, int), (2, int)]

    def test_items_of_an_array_stay_those_of_numpy(self):
        assert {type(x) for x in call_all(lambda x: x, PerTask(np.arange(3)))} == {np.int64}

    def test_items_of_any_numbered_container_are_taken_as_they_are(self):
        class Numbered:
            def __len__(self):
                return 2

            def __getitem__(self, k):
                return [True, 7**30][k]

        assert call_all(lambda x: x, PerTask(Numbered())) == [True, 7**30]

    def test_items_of_a_series_are_taken_as_pandas_gives_them(self):
        pandas = pytest.importorskip("pandas")
        dates = pandas.Series(pandas.to_datetime(["2024-01-02", "2024-01-03"]))

        assert call_all(lambda x: x, PerTask(dates)) == list(dates)
        assert [type(x) for x in call_all(lambda x: x, PerTask(pandas.Index([1, 2])))] == [int, int]

    @pytest.mark.parametrize(
        "items",
        [
            {"a": 1, "b": 2},
            {"a": 1}.keys(),
            {"a": 1}.values(),
            {"a": 1}.items(),
            {1, 2},
            frozenset({1}),
        ],
        ids=lambda value: type(value).__name__,
    )
    def test_what_has_no_numbered_items_is_refused(self, items):
        """What has no numbered items is refused with the way to give it."""
        text = error_of(lambda x: x, PerTask(items))

        assert "argument 'x' cannot be split" in text
        assert f"it is a {type(items).__name__} of {len(items)}" in text
        assert "PerTask(list(x))" in text

    @pytest.mark.parametrize("value", ["abc", b"abc", collections.UserDict(a=1)])
    def test_what_is_text_or_a_mapping_is_not_split(self, value):
        assert "cannot be split along axis 0" in error_of(lambda x: x, PerTask(value))

    def test_per_task_overrules_a_default_of_the_same_length(self):
        def g(w=(1, 2)):
            return w

        assert call_all(g, w=PerTask([3, 4])) == [3, 4]

    def test_markers_work_by_name_and_in_var_arguments(self):
        def g(*values, **named):
            return values, named

        results = call_all(g, [1, 2], Shared([0]), a=PerTask((5, 6)))

        assert results == [((1, [0]), {"a": 5}), ((2, [0]), {"a": 6})]


class TestSignatures:
    def test_positional_only_parameters_are_passed_by_position(self):
        def g(x, /, y):
            return x, y

        assert call_all(g, [1, 2], y=5) == [(1, 5), (2, 5)]

    def test_keyword_only_parameters_are_passed_by_name(self):
        def g(x, *, scale):
            return x * scale

        assert call_all(g, [1, 2], scale=[3, 4]) == [3, 8]

    def test_var_positional_arguments_keep_their_order(self):
        def g(first, *rest):
            return first, rest

        assert call_all(g, [1, 2], 7, [8, 9]) == [(1, (7, 8)), (2, (7, 9))]

    def test_var_keyword_arguments_keep_their_names(self):
        def g(**named):
            return named

        assert call_all(g, a=[1, 2], b="x") == [{"a": 1, "b": "x"}, {"a": 2, "b": "x"}]

    def test_a_name_may_be_positional_only_and_a_further_keyword(self):
        """Python lets ``def g(x, /, **named)`` be called as ``g(1, x=2)``."""

        def g(x, /, **named):
            return x, named

        assert call_all(g, [1, 2], x=[3, 4]) == [(1, {"x": 3}), (2, {"x": 4})]

    @pytest.mark.parametrize("func", [max, math.hypot])
    def test_without_a_signature_arguments_arrive_as_given(self, func):
        """Functions without a signature get the arguments as given."""
        assert call_all(func, [3, 5], 4) == [func(3, 4), func(5, 4)]

    def test_functions_without_a_signature_call_arguments_by_number(self):
        assert signature_of(max) is None, "needs a function without a signature"
        assert "'number 0' has 2, 'number 1' has 3" in error_of(max, [1, 2], [1, 2, 3])

    def test_partial_functions_are_understood(self):
        assert call_all(functools.partial(f, z=10), [1, 2], 0) == [10, 20]

    def test_bound_methods_and_callable_objects_are_understood(self):
        class Scale:
            def by(self, x, factor):
                return x * factor

            def __call__(self, x):
                return -x

        assert call_all(Scale().by, [1, 2], 3) == [3, 6]
        assert call_all(Scale(), [1, 2]) == [-1, -2]

    @pytest.mark.parametrize(
        ("args", "kwargs", "problem"),
        [
            ([[1, 2]], {}, "missing a required argument: 'y'"),
            ([1, 2, 3, 4], {}, "too many positional arguments"),
            ([[1, 2], 3], {"w": 1}, "unexpected keyword argument 'w'"),
            ([[1, 2], 3], {"x": 1}, "multiple values for argument 'x'"),
        ],
    )
    def test_arguments_that_do_not_fit_show_the_signature(self, args, kwargs, problem):
        """Arguments that do not fit are refused with the signature."""
        text = error_of(f, *args, **kwargs)

        assert problem in text
        assert "f(x, y, z=3)" in text

    @pytest.mark.parametrize("func", ["f", None, 3])
    def test_what_cannot_be_called_is_refused(self, func):
        with pytest.raises(InputError, match=r"has to be callable, not <class"):
            distribute(func, [[1]], {})

    def test_what_only_begins_when_it_is_called_is_refused(self):
        async def later(x):
            return x

        async def each_later(x):
            yield x

        def each(x):
            yield x

        for func, way in [
            (later, "later is an async function.* asyncio.run"),
            (each_later, "each_later is an async generator"),
            (each, r"each is a generator.* list\(each\(x\)\)"),
            (functools.partial(each), "each is a generator"),
        ]:
            with pytest.raises(InputError, match=way):
                distribute(func, [[1]], {})


class TestTaskID:
    def test_it_is_the_index_of_the_task(self):
        def g(x, taskID):
            return x, taskID

        assert call_all(g, [7, 8]) == [(7, 0), (8, 1)]

    def test_a_default_of_it_is_replaced(self):
        def g(x, taskID=None):
            return taskID

        assert call_all(g, [7, 8, 9]) == [0, 1, 2]

    def test_it_may_stand_anywhere(self):
        def g(*values, taskID, **named):
            return values, taskID, named

        assert call_all(g, [7, 8], a=1) == [((7,), 0, {"a": 1}), ((8,), 1, {"a": 1})]

    @pytest.mark.parametrize("given", [{"taskID": 5}, {"taskID": Shared(5)}])
    def test_a_value_of_the_caller_counts(self, given):
        def g(x, taskID):
            return taskID

        assert call_all(g, [7, 8], **given) == [5, 5]

    def test_a_value_given_by_position_counts(self):
        def g(x, taskID):
            return taskID

        assert call_all(g, [7, 8], [1, 2]) == [1, 2]

    def test_it_counts_from_the_start_of_the_run_in_every_chunk(self):
        def g(x, taskID):
            return taskID

        tasks = distribute(g, [range(10)], {})

        assert [kwargs["taskID"] for _, kwargs in tasks.calls(4, 7)] == [4, 5, 6]

    def test_it_alone_gives_no_number_of_tasks(self):
        def g(taskID):
            return taskID

        assert call_all(g, n_inputs=3) == [0, 1, 2]
        assert "--n-inputs" in error_of(g)


class TestNInputs:
    def test_equal_calls(self):
        assert call_all(f, 2, 3, n_inputs=4) == [15, 15, 15, 15]

    def test_it_chooses_among_candidates(self):
        results = call_all(lambda x, y: (x, y), [1, 2], [3, 4, 5], n_inputs=2)

        assert results == [(1, [3, 4, 5]), (2, [3, 4, 5])]

    def test_a_list_of_one_is_passed_whole_to_several_calls(self):
        assert call_all(lambda x: x, [5], n_inputs=3) == [[5], [5], [5]]

    def test_a_list_of_one_is_unpacked_for_one_call(self):
        assert call_all(lambda x: x, [5], n_inputs=1) == [5]

    @pytest.mark.parametrize("number", [2, 2.0, np.int64(2), np.float32(2)])
    def test_whole_numbers_of_any_type_are_taken(self, number):
        assert distribute(f, [[1, 2], 3], {}, number).n_tasks == 2

    @pytest.mark.parametrize(
        "number", [0, -1, 1.5, True, "many", None, [2], {}, math.inf, math.nan, 2j]
    )
    def test_anything_else_is_refused(self, number):
        text = error_of(f, [1, 2], 3, n_inputs=number)

        assert f"`n_inputs` has to be 'auto' or an integer >= 1, not {number!r}" in text

    def test_without_such_a_length_all_lengths_are_shown(self):
        """Without an argument of that length it is refused with all lengths and the fix."""
        text = error_of(f, [1, 2], [3, 4, 5], n_inputs=4)

        assert "required length of 4 matching `n_inputs`: 'x' has 2, 'y' has 3" in text
        assert "--share NAME" in text
        assert "Shared(x)" in text

    def test_it_has_to_agree_with_markers(self):
        text = error_of(f, PerTask([1, 2]), 4, n_inputs=3)

        assert "'x' has 2" in text
        assert "`n_inputs` is 3" in text


class TestErrors:
    @pytest.mark.parametrize(
        "whole",
        [{"a": 1}.values(), {1, 2}, collections.deque([1, 2]), array.array("d", [1.0]), {"a": 1}],
        ids=lambda value: type(value).__name__,
    )
    def test_what_a_list_would_split_is_named(self, whole):
        """What would be split as a list is named where nothing is split."""
        text = error_of(f, 1, y=whole)

        assert "automatic input distribution failed" in text
        assert f"'y' is a {type(whole).__name__} of {len(whole)};" in text
        assert "PerTask(list(x)) gives each task one item" in text

    def test_a_wrong_name_is_named_beside_what_is_missing(self):
        text = error_of(f, xs=[1, 2], y=3, zz=4)

        assert "missing a required argument: 'x'" in text
        assert "no parameter is called 'xs'" in text
        assert "no parameter is called 'zz'" in text

    def test_a_nearly_right_name_is_answered_by_the_right_one(self):
        """A name that is nearly right is answered by the right one."""

        def g(data, scale=1):
            return data

        assert "'scael' (did you mean 'scale'?)" in error_of(g, [1], scael=2)
        for call in (acme_mpi.map, acme_mpi.ParallelMap):
            with pytest.raises(InputError, match=r"'ouput_dir' \(did you mean 'output_dir'\?\)"):
                call(g, [1], ouput_dir="out")

    def test_different_lengths_are_all_listed_with_the_fixes(self):
        text = error_of(f, range(100), np.zeros(99), z=(1, 2))

        assert "found 3 objects containing 2 to 100 elements" in text
        assert "'x' has 100, 'y' has 99, 'z' has 2" in text
        for fix in ("--share NAME", "Shared(x)", "--split NAME", "PerTask(x)", "--n-inputs N"):
            assert fix in text

    def test_length_one_is_not_neutral(self):
        assert "'x' has 1, 'y' has 3" in error_of(f, [2], [1, 2, 3])

    def test_nothing_to_split_suggests_how_to_say_what_is_meant(self):
        text = error_of(f, np.ones((3, 2)), 4)

        assert "found 0 objects" in text
        for fix in ("--split NAME[:AXIS]", "PerTask(x, axis=0)", "--n-inputs N", "n_inputs=N"):
            assert fix in text

    def test_markers_of_different_lengths_are_all_listed(self):
        text = error_of(f, PerTask([1, 2]), PerTask(np.ones((4, 3)), 1))

        assert "'x' has 2, 'y' has 3" in text

    @pytest.mark.parametrize(
        ("value", "axis"),
        [
            (np.ones((2, 3)), 2),
            (np.ones((2, 3)), -3),
            (5, 0),
            ("abc", 0),
            ({1: 2}, 0),
            (np.ones((2, 3)), 1.0),
            (np.ones((2, 3)), "x"),
            ([[1, 2], [3]], 1),
        ],
    )
    def test_an_axis_that_is_not_there_is_refused_with_the_shape(self, value, axis):
        text = error_of(f, PerTask(value, axis), 4)

        assert f"argument 'x' cannot be split along axis {axis}" in text

    def test_every_error_is_a_value_error_of_this_package(self):
        with pytest.raises(ValueError, match="distribution failed"):
            distribute(f, [1, 2], {})


class TestText:
    @pytest.mark.parametrize(
        ("func", "name"),
        [
            (f, "f"),
            (functools.partial(f, 1), "f"),
            (functools.partial(functools.partial(f, 1), 2), "f"),
            (lambda: None, "lambda"),
            (max, "max"),
            (TestErrors().test_length_one_is_not_neutral, "test_length_one_is_not_neutral"),
        ],
    )
    def test_function_name(self, func, name):
        assert function_name(func) == name

    def test_a_name_never_leaves_the_output_directory(self):
        def g():
            pass

        g.__name__ = "../g"

        assert "/" not in function_name(g)

    def test_a_call_is_one_line_with_long_values_shortened(self):
        def g(x, y, *, z):
            pass

        tasks = distribute(g, [[1, 2], np.zeros((100, 100))], {"z": "a\nb" * 1000})

        text = tasks.call_text("g", 1)

        assert text.startswith("g(2, <array (100, 100) float64>, z='a")
        assert "\n" not in text
        assert len(text) < 200

    def test_numpy_scalars_in_a_call_read_like_numbers(self):
        tasks = distribute(f, [np.array([1.5, 2.5]), 4], {})

        assert tasks.call_text("f", 0) == "f(1.5, 4)"

    def test_times_are_written_as_what_they_are(self):
        nat = np.datetime64("NaT", "D")  # NumPy 2.5 warns of times without a unit
        for time in (np.datetime64("2020-01-01"), np.timedelta64(5, "ns"), nat):
            text = distribute(f, [PerTask([1.5]), time], {}).call_text("f", 0)

            assert text == f"f(1.5, {time!r})"

    def test_describe_says_of_every_argument_how_it_is_distributed(self):
        def g(x, y, taskID):
            pass

        assert distribute(g, [[1, 2], np.ones((2, 2))], {}).describe() == [
            "x: split, one item per task: list of 2",
            "y: shared by all tasks: array (2, 2) float64",
            "taskID: the task's index",
        ]


def everything(*args, **kwargs):
    return args, kwargs


def shared_values():
    scalars = st.none() | st.integers() | st.sampled_from(["", "abc"]) | st.just({"a": 1})
    return scalars | st.builds(Shared, st.lists(st.integers(), max_size=4) | scalars)


@st.composite
def argument_sets(draw):
    """Return (n_tasks, args, kwargs, naive), where naive(i) is task i's call by plain indexing."""
    n_tasks = draw(st.integers(1, 7))

    def one():
        kind = draw(st.sampled_from(["list", "range", "array", "per task", "axis", "shared"]))
        items = draw(st.lists(st.integers(-99, 99), min_size=n_tasks, max_size=n_tasks))
        if kind == "list":
            return items, items.__getitem__
        if kind == "range":
            start = draw(st.integers(-5, 5))
            return range(start, start + n_tasks), lambda i: start + i
        if kind == "array":
            return np.array(items), items.__getitem__
        if kind == "per task":
            return PerTask(tuple(items)), items.__getitem__
        if kind == "axis":
            table = np.array(items)[:, None] * np.arange(3)
            return PerTask(table.T, 1), lambda i: table[i].tolist()
        value = draw(shared_values())
        plain = value.value if isinstance(value, Shared) else value
        return value, lambda i: plain

    n_args, names = draw(st.integers(0, 3)), draw(st.sets(st.sampled_from("abcd"), max_size=3))
    positional = [one() for _ in range(n_args)]
    named = {name: one() for name in sorted(names)}
    # One argument that surely is split, so that the guess has something to go by.
    positional.append((list(range(n_tasks)), lambda i: i))

    def naive(i):
        return [pick(i) for _, pick in positional], {k: pick(i) for k, (_, pick) in named.items()}

    args = [value for value, _ in positional]
    return n_tasks, args, {name: value for name, (value, _) in named.items()}, naive


def plain(value):
    """Return arrays and NumPy scalars as plain Python values, inside containers too."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [plain(each) for each in value]
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value


@settings(deadline=None, max_examples=50)
@given(argument_sets(), st.data())
def test_each_task_gets_exactly_its_items(arguments, data):
    n_tasks, args, kwargs, naive = arguments
    tasks = distribute(everything, args, kwargs)
    start = data.draw(st.integers(0, n_tasks))
    stop = data.draw(st.integers(start, n_tasks))

    assert tasks.n_tasks == n_tasks
    assert plain(listed(tasks.calls(start, stop))) == plain([naive(i) for i in range(start, stop)])


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 5), min_size=0, max_size=5))
def test_the_guess_is_made_only_where_lengths_agree(lengths):
    args = [list(range(n)) for n in lengths]

    if len(set(lengths)) == 1:
        assert distribute(everything, args, {}).n_tasks == lengths[0]
    else:
        text = error_of(everything, *args)
        assert all(f"'args[{k}]' has {n}" in text for k, n in enumerate(lengths))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_any_division_into_chunks_gives_the_same_calls(chunk_sizes):
    edges = [0, *itertools.accumulate(chunk_sizes)]
    tasks = distribute(everything, [range(edges[-1])], {"y": "shared"})

    chunked = [call for a, b in itertools.pairwise(edges) for call in tasks.calls(a, b)]

    assert listed(chunked) == listed(tasks.calls(0, edges[-1]))
