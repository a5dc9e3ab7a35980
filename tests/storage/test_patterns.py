"""Files that are copies of a pattern are those that HDF5 would have written."""

import os

import h5py
import numpy as np
import pytest

import acme_mpi
from acme_mpi.storage.patterns import Patterns

POINT = np.dtype([("x", "<f8"), ("n", ">i2")])
VALUES = {
    "numbers": lambda x: (x, x * 0.5, x * 1j, x % 2 == 0),
    "arrays": lambda x: (np.arange(3) * x, np.full((2, 2), x, ">f4")),
    "records": lambda x: np.array([(x, x), (0.5, 1)], POINT),
    "bytes": lambda x: np.array(b"%5d" % x),
    "named": lambda x: {"power": float(x), "phase": np.full(2, x)},
    "texts": lambda x: (x, str(x)),
    "nothing": lambda x: (x, None),
    "empty": lambda x: np.zeros((0, 3)),
    "mixed": lambda x: float(x) if x % 2 else np.arange(x),
    "large": lambda x: np.full(10_000, x),
}
N_TASKS = 9


def files_of(func, folder):
    """Return the bytes of the files of all tasks, by name."""
    acme_mpi.map(func, range(N_TASKS), output_dir=str(folder), payload="computation", isolate=False)
    (payload,) = (path for path in folder.iterdir() if path.name.endswith("_payload"))
    return {path.name: path.read_bytes() for path in payload.iterdir()}


@pytest.mark.parametrize("kind", VALUES)
def test_they_have_the_same_bytes(kind, tmp_path, monkeypatch):
    found = files_of(VALUES[kind], tmp_path / "found")
    monkeypatch.setattr(Patterns, "write", lambda *_: False)

    assert found == files_of(VALUES[kind], tmp_path / "expected")
    assert len(found) == N_TASKS


@pytest.mark.parametrize(("kind", "n_patterns"), [("numbers", 1), ("named", 1), ("texts", 0)])
def test_one_file_of_a_form_is_enough(kind, n_patterns, tmp_path, monkeypatch):
    written, write = [], Patterns.write

    def note(self, *args):
        written.append(write(self, *args))
        return written[-1]

    monkeypatch.setattr(Patterns, "write", note)
    files_of(VALUES[kind], tmp_path)

    assert written == [False] + [bool(n_patterns)] * (N_TASKS - 1)


def test_a_file_that_is_in_the_way_is_replaced(tmp_path):
    """It is of a run that was killed; whoever has it open keeps what it was."""
    path = tmp_path / "f_1.h5"
    with h5py.File(path, "w", libver="latest") as file:
        file["result_0"] = 0.5
        offset = file["result_0"].id.get_offset()
    patterns, parts = Patterns(), [np.array(0.5)]
    with path.open("rb") as opened:
        patterns.learn(opened.fileno(), [""], parts, [offset])
        os.link(path, tmp_path / "kept")

        assert patterns.write(str(path), [""], [np.array(2.5)])

    with h5py.File(path) as file, h5py.File(tmp_path / "kept") as kept:
        assert (file["result_0"][()], kept["result_0"][()]) == (2.5, 0.5)
