"""Files that are read while a run may be changing them: which stay open, and what counts."""

import h5py
import pytest

from acme_mpi.errors import StoreError
from acme_mpi.storage import settled
from acme_mpi.storage.settled import MOST_OPEN, SettledFiles

pytestmark = pytest.mark.once


def write(path, value):
    path.unlink(missing_ok=True)
    with h5py.File(path, "w") as file:
        file["x"] = value
    return str(path)


@pytest.fixture
def opened(monkeypatch):
    """Return the paths of all files that are opened from now on, in order."""
    paths, open_apart = [], settled.open_apart

    def count(path, *more):
        paths.append(path)
        return open_apart(path, *more)

    monkeypatch.setattr(settled, "open_apart", count)
    return paths


@pytest.fixture
def files():
    found = SettledFiles(lambda: False)
    yield found
    found.close()


def x_of(files, path):
    return files.attempt(lambda: int(files.open(path)["x"][()]))


def test_files_that_are_read_in_turn_are_opened_once(files, opened, tmp_path):
    paths = [write(tmp_path / f"{k}.h5", k) for k in range(MOST_OPEN)]

    assert [x_of(files, path) for path in paths * 3] == [*range(MOST_OPEN)] * 3
    assert opened == paths


def test_no_more_than_some_stay_open(files, opened, tmp_path):
    paths = [write(tmp_path / f"{k}.h5", k) for k in range(MOST_OPEN + 1)]
    for path in paths:
        x_of(files, path)
    del opened[:]

    assert x_of(files, paths[-1]) == MOST_OPEN
    assert x_of(files, paths[1]) == 1
    assert opened == []
    assert x_of(files, paths[0]) == 0
    assert opened == [paths[0]]


def test_one_attempt_may_need_more_than_that(files, tmp_path):
    paths = [write(tmp_path / f"{k}.h5", k) for k in range(MOST_OPEN + 3)]

    def read():
        found = [files.open(path) for path in paths]
        return [int(file["x"][()]) for file in found]

    assert files.attempt(read) == [*range(MOST_OPEN + 3)]


def test_a_file_that_was_replaced_is_opened_again(files, opened, tmp_path):
    path = write(tmp_path / "a.h5", 1)
    assert x_of(files, path) == 1

    write(tmp_path / "a.h5", 2)

    assert x_of(files, path) == 2
    assert opened == [path, path]


def test_what_cannot_be_read_is_said_and_read_once_it_can_be(files, tmp_path):
    path = tmp_path / "a.h5"
    with pytest.raises(StoreError, match=r"a\.h5"):
        x_of(files, str(path))

    assert x_of(files, write(path, 3)) == 3


def test_closed_files_are_opened_again(files, opened, tmp_path):
    path = write(tmp_path / "a.h5", 1)
    x_of(files, path)
    files.close()

    assert x_of(files, path) == 1
    assert opened == [path, path]
