"""What tasks are known by: arguments as arrays, and the file of them."""

from __future__ import annotations

import datetime
import io
import os
import subprocess
import time

import h5py
import numpy as np
import pandas
import pytest

import acme_mpi
from acme_mpi import Grid, PerTask, Shared
from acme_mpi.history.parsing import Damaged
from acme_mpi.jobs.saved_call import SavedCall, read_call
from acme_mpi.linux.segment import Segment
from acme_mpi.runner.channel import Channel, Kind
from acme_mpi.storage.labels import FILE, read_labels, sealed, write_labels
from acme_mpi.tasks.commit import commit_of
from acme_mpi.tasks.distributing import distribute
from acme_mpi.tasks.labels import Column, Labels, labels_of

pytestmark = pytest.mark.once

MIDNIGHT = datetime.datetime(2024, 5, 1)


def f(**arguments):
    return 0


def labels(*args, **kwargs):
    """Return the labels of a call with these arguments."""
    return labels_of(f, distribute(f, args, kwargs))


def column(items):
    """Return the label of an argument that is split into `items`."""
    return labels(x=PerTask(items)).arguments.get("x")


def on_disk(folder, made, n_tasks):
    """Return what is read of labels that are written."""
    damages = []
    write_labels(str(folder), made)
    found = read_labels(str(folder), n_tasks, damages.append)
    assert not damages
    return found


@pytest.mark.parametrize(
    "items",
    [
        [True, False],
        [1, 2],
        range(3, 9, 2),
        [0, 0.5],
        [1j, 2j],
        ["a", "ü"],
        [np.float32(1), np.float32(2)],
        np.array([1, 2], ">i2"),
        np.array(["x", "yy"]),
        np.array(["x", "yy"], object),
        np.array(["2024-05-01", "NaT"], "M8[ns]"),
        np.array([1, 2], "m8[s]"),
        np.array(["2024-05", "2024-06"], "M8[M]"),
        np.array(["0850", "3000", "NaT"], "M8[Y]"),
        np.array([1, 2], "m8[W]"),
        np.array(["2024-05", "2024-06"], "M8[10s]"),
    ],
)
def test_plain_items_are_labels_and_come_back(tmp_path, items):
    found = on_disk(tmp_path, labels(x=PerTask(items)), len(items))

    values = found.arguments["x"].decoded()
    assert np.array_equal(values, np.asarray(items), equal_nan=values.dtype.kind in "Mm")


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ([MIDNIGHT, MIDNIGHT], "2024-05-01"),
        ([MIDNIGHT.date()] * 2, "2024-05-01"),
        ([pandas.Timestamp("2024-05-01 00:00:00.000000001")] * 2, "2024-05-01T00:00:00.000000001"),
        (
            [
                datetime.datetime(
                    2024, 5, 1, 2, tzinfo=datetime.timezone(datetime.timedelta(0, 7200))
                )
            ],
            "2024-05-01",
        ),
    ],
)
def test_dates_are_labels_in_utc(items, expected):
    assert (column(items).decoded() == np.datetime64(expected)).all()


def test_durations_are_labels():
    items = [datetime.timedelta(seconds=1.5), datetime.timedelta(-1)]

    assert column(items).decoded().tolist() == items


@pytest.mark.parametrize(
    "items",
    [
        [1, None],
        [1, "a"],
        [True, 2],
        [b"a", b"b"],
        [2**70, 1],
        [2**63 + 1, -1],
        [2**53 + 1, 0.5],
        np.ma.array([1.5, 99.5], mask=[False, True]),
        np.array([1, 2], "M8[ps]"),
        [np.zeros(3), np.zeros(3)],
        [{}, {}],
        ["\ud800", "a"],
        ["a\0b", "c"],
        np.zeros((2, 3)),
        np.array([(1, 2.0)], "i4,f8"),
    ],
)
def test_what_is_no_plain_item_has_no_label(items):
    assert column(items) is None


def test_items_that_raise_have_no_label():
    class Odd:
        def to_datetime64(self):
            raise RuntimeError

    assert column([Odd(), Odd()]) is None


class TestGrids:
    def test_an_axis_has_its_own_values_only(self, tmp_path):
        made = labels(Grid(a=["p"], b=range(3), c=[1.5, 2.5], d=[7]), y=4)
        found = on_disk(tmp_path, made, 6)

        assert (found.axes, found.shape) == (("a", "b", "c", "d"), (1, 3, 2, 1))
        assert {name: len(each.values) for name, each in found.arguments.items()} == {
            "a": 1,
            "b": 3,
            "c": 2,
            "d": 1,
        }

    def test_an_axis_without_labels_is_an_axis(self, tmp_path):
        found = on_disk(tmp_path, labels(Grid(a=[{}, {}], b=[1, 2, 3])), 6)

        assert (found.axes, found.shape, list(found.arguments)) == (("a", "b"), (2, 3), ["b"])


def test_shared_arguments_are_kept_if_they_are_small(tmp_path):
    given = {
        "n": 3,
        "s": "ü",
        "none": None,
        "a": np.arange(4.0),
        "l": [1, 2],
        "large": np.zeros(1000),
        "o": object(),
        "t": "x" * 2000,
    }
    found = on_disk(tmp_path, labels(x=PerTask([1]), **given), 1).shared

    assert list(found) == list(given)
    assert (found["n"], found["s"], found["none"]) == (3, "ü", "None")
    assert np.array_equal(found["a"], np.arange(4.0))
    assert found["l"].tolist() == [1, 2]
    assert (found["large"], found["o"], found["t"]) == (
        "array (1000,) float64",
        "object",
        "str of 2000",
    )


def test_names_that_hdf5_cannot_hold_are_left_out(tmp_path):
    names = ["a b", "é", "a/b", ".", "", "a\0b", "\udc80"]
    given = {**{name: PerTask([1]) for name in names}, **{f"{name}\0": 2 for name in names}, "z": 3}

    found = on_disk(tmp_path, labels(**given), 1)
    assert list(found.arguments) == ["a b", "é"]
    assert list(found.shared) == ["z"]


def test_a_command_that_is_no_unicode_is_a_fact(tmp_path):
    made = labels_of(f, distribute(f, [], {"x": PerTask([1])}), ["run", "M\udcfchle"])

    assert on_disk(tmp_path, made, 1).facts["command"] == "run 'M\\udcfchle'"


def test_a_shared_argument_that_raises_is_its_type():
    class Odd(list):
        def __len__(self):
            raise RuntimeError

    assert labels(x=PerTask([1]), odd=Shared(Odd([1]))).shared["odd"].endswith("Odd")


def test_a_function_of_wrappers_without_end_has_no_commit():
    class Endless:
        def __getattr__(self, name):
            if name == "func":
                return self
            raise AttributeError(name)

    assert commit_of(Endless()) == ""


def test_labels_travel_as_plain_values():
    made = labels(x=list(map(str, range(3000))), y=range(3000), t=[MIDNIGHT] * 3000)
    one, other = Channel.pair()
    one.send(Kind.CALL, made)

    found = other.receive()[1]
    one.close(), other.close()
    assert all(
        np.array_equal(each.values, found.arguments[name].values)
        for name, each in made.arguments.items()
    )


def test_a_saved_call_holds_its_labels(tmp_path):
    path = str(tmp_path / "call")
    made = labels(x=np.arange(10**5))
    SavedCall({}, Segment.of([b"abc"]), {}, {}, made).write(path)

    found = read_call(path)
    assert np.array_equal(found.labels.arguments["x"].values, np.arange(10**5))
    assert bytes(found.packed.view()) == b"abc"


def test_a_million_tasks_are_labelled_within_a_second(tmp_path):
    n = 10**6
    tasks = distribute(f, [], {"x": list(map(float, range(n))), "y": range(n), "s": ["abc"] * n})
    began_s = time.process_time()
    write_labels(str(tmp_path), labels_of(f, tasks))

    assert time.process_time() - began_s < 1


def test_an_argument_above_the_limit_has_no_label():
    assert column(range(10**8)) is None


class TestDamage:
    """What is wrong with the file is told, and costs nothing but labels."""

    def told(self, folder, n_tasks=3):
        damages = []
        return read_labels(str(folder), n_tasks, damages.append), damages

    def test_no_file_is_no_damage(self, tmp_path):
        assert self.told(tmp_path) == (Labels(), [])

    @pytest.mark.parametrize("content", [b"", b"nonsense", b"\x89HDF\r\n\x1a\n" + bytes(100)])
    def test_a_file_of_something_else(self, tmp_path, content):
        (tmp_path / FILE).write_bytes(content)

        found, damages = self.told(tmp_path)
        assert found == Labels()
        assert [type(each) for each in damages] == [Damaged]

    def test_every_byte_may_be_damaged(self, tmp_path):
        write_labels(str(tmp_path), labels(x=[1, 2, 3], s=["a", "b", "c"], z=4))
        whole = (tmp_path / FILE).read_bytes()
        for at in range(0, len(whole), 61):
            torn = bytearray(whole)
            torn[at] ^= 0xFF
            (tmp_path / FILE).write_bytes(torn)
            found, _ = self.told(tmp_path)
            assert set(found.arguments) <= {"x", "s"}

    def test_labels_of_other_tasks_are_left_out(self, tmp_path):
        write_labels(str(tmp_path), labels(x=[1, 2, 3]))

        found, damages = self.told(tmp_path, n_tasks=4)
        assert not found.arguments
        assert "its shape is (3,), and not (4,)" in str(damages[0])

    def test_a_grid_of_other_tasks_is_refused(self, tmp_path):
        write_labels(str(tmp_path), labels(Grid(x=[1, 2], y=[1, 2])))

        found, damages = self.told(tmp_path)
        assert found == Labels()
        assert "for 3 tasks" in str(damages[0])

    def test_links_to_other_files_are_not_followed(self, tmp_path):
        write_labels(str(tmp_path), labels(x=[1, 2, 3]))
        image = io.BytesIO((tmp_path / FILE).read_bytes())
        with h5py.File(image, "r+") as file:
            file["arguments/y"] = h5py.ExternalLink("other.h5", "/y")
        (tmp_path / FILE).write_bytes(sealed(image))

        found, damages = self.told(tmp_path)
        assert list(found.arguments) == ["x"]
        assert "no dataset of this file" in str(damages[0])


def test_unknown_units_of_times_are_refused():
    with pytest.raises(ValueError, match="fortnights"):
        Column(np.arange(3), "fortnights since 1970-01-01").decoded()


def git(folder, *words):
    """Run git, whose own view is compared with ours."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": "/dev/null"}
    identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
    command = ["git", "-C", str(folder), *identity, *words]
    return subprocess.run(
        command, check=True, capture_output=True, text=True, env=environment
    ).stdout


@pytest.fixture
def repository(tmp_path):
    """Return the folder of a repository, and a function of a file in it."""
    folder = tmp_path / "repository"
    (folder / "inner").mkdir(parents=True)
    git(folder, "init", "-q")
    path = folder / "inner" / "module.py"
    path.write_text("def g(x):\n    return x\n")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


def function_in(path):
    """Return the function of the module at a path."""
    names = {}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return names["g"]


class TestCommit:
    @pytest.mark.parametrize("words", [[], ["pack-refs", "--all"], ["checkout", "-q", "--detach"]])
    def test_it_is_what_git_says(self, repository, words):
        if words:
            git(repository, *words)

        func = function_in(repository / "inner" / "module.py")
        assert commit_of(func) == git(repository, "rev-parse", "HEAD").strip()

    def test_of_a_worktree_it_is_that_of_the_worktree(self, repository, tmp_path):
        git(repository, "worktree", "add", "-q", "-b", "other", str(tmp_path / "other"))
        (tmp_path / "other" / "new.txt").write_text("")
        git(tmp_path / "other", "add", ".")
        git(tmp_path / "other", "commit", "-qm", "two")

        func = function_in(tmp_path / "other" / "inner" / "module.py")
        assert commit_of(func) == git(tmp_path / "other", "rev-parse", "HEAD").strip()

    def test_elsewhere_there_is_none(self, tmp_path):
        (tmp_path / "module.py").write_text("def g(x):\n    return x\n")

        assert commit_of(function_in(tmp_path / "module.py")) == ""
        assert commit_of(len) == commit_of(np.sum) == ""


def identity(x, y=0):
    return x


def test_a_run_leaves_its_labels_once(tmp_path):
    out = tmp_path / "out"
    folder = out / ".acme_mpi" / "identity"
    acme_mpi.map(identity, [1.5, 2.5], y=3, output_dir=str(out))
    before = (folder / FILE).stat().st_mtime_ns

    found = read_labels(str(folder), 2)
    assert found.arguments["x"].values.tolist() == [1.5, 2.5]
    assert found.shared["y"] == 3
    assert found.facts["function"] == "identity"
    assert {"source", "host", "started", "command", "python_version"} <= set(found.facts)
    acme_mpi.map(identity, [1.5, 2.5], y=3, output_dir=str(out), resume=True)
    assert (folder / FILE).stat().st_mtime_ns == before
    acme_mpi.map(identity, [1.5, 2.5, 3.5], y=3, output_dir=str(out), resume="force")
    assert read_labels(str(folder), 3).arguments["x"].values.tolist() == [1.5, 2.5, 3.5]
