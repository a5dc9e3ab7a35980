"""A file that HDF5 changes: its bytes are there, whatever the medium takes of them."""

from __future__ import annotations

import errno

import numpy as np
import pytest

from acme_mpi.storage import deferring, hdf5
from acme_mpi.storage.deferring import JOINED_BYTES, DeferringFile

pytestmark = pytest.mark.once


@pytest.mark.parametrize("is_full", [False, True])
def test_it_holds_what_was_written_last(is_full, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    if is_full:
        monkeypatch.setattr(deferring, "write_all", refuse)
    random = np.random.default_rng(0)
    file, expected = DeferringFile(str(tmp_path / "f")), np.zeros(4 * JOINED_BYTES, np.uint8)
    for size in [1, 100, JOINED_BYTES - 1, JOINED_BYTES, JOINED_BYTES + 1, 2 * JOINED_BYTES] * 4:
        data = random.integers(1, 256, size, np.uint8)
        first = int(random.integers(len(expected) - size))
        file.seek(first)
        assert file.write(memoryview(data)) == size
        expected[first : first + size] = data
        data[:] = 0  # the caller uses its memory again

    file.seek(0)
    found = np.frombuffer(file.read(len(expected)), np.uint8)
    assert np.array_equal(found, expected)
    if is_full:
        with pytest.raises(OSError, match="No space left"):
            file.settle()
    file.close()


def test_a_large_array_is_written_without_a_copy(tmp_path, monkeypatch):
    written = []

    def write(descriptor, data, offset):
        written.append((not isinstance(data, bytes | bytearray), len(data)))
        whole(descriptor, data, offset)

    whole = deferring.write_all
    monkeypatch.setattr(deferring, "write_all", write)
    with hdf5.changing(str(tmp_path / "f.h5")) as file:
        file["x"] = np.arange(JOINED_BYTES)

    assert (True, 8 * JOINED_BYTES) in written
