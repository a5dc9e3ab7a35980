"""Stores of real ranks. This file is also the script by which they write."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

import pytest
from storing import CASES, expected_content, write_case

from acme_mpi.comm import finalize, make_world

# Parallel HDF5 is used for the rows of a single file, and where rows of payloads are copied.
BY_REAL_RANKS = [("single_file", name) for name in CASES] + [
    (kind, name)
    for kind in ("rank", "computation")
    for name in CASES
    if name.startswith("ragged-") or name in ("free-mixed", "rows-axis 1", "rows-further values")
]


def main(directory: str) -> None:
    """Write every case in every kind of store as one rank of a real world."""
    world = make_world()
    for kind, name in BY_REAL_RANKS:
        try:
            write_case(world, kind, folder_of(directory, kind, name), CASES[name])
        except BaseException:
            # Alone here, this rank would keep the others waiting.
            print(f"{kind} {name}: {traceback.format_exc()}", file=sys.stderr, flush=True)
            world.abort(1)
    finalize()


def folder_of(directory: Path | str, kind: str, name: str) -> Path:
    return Path(directory) / f"{kind}-{list(CASES).index(name)}"


@pytest.fixture(scope="module")
def written_by_real_ranks(mpiexec, tmp_path_factory) -> Path:
    """Return the directory in which three real ranks have written everything."""
    directory = tmp_path_factory.mktemp("real")
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}  # for what this file imports
    done = mpiexec(3, __file__, directory, env=env, timeout_s=120)
    assert done.returncode == 0, done.stderr
    return directory


@pytest.mark.parametrize(("kind", "name"), BY_REAL_RANKS)
@pytest.mark.slow
def test_real_ranks_write_the_same(kind, name, written_by_real_ranks, content_of):
    """With a parallel build of h5py this is parallel HDF5, with a serial one it is not."""
    folder = folder_of(written_by_real_ranks, kind, name)

    assert content_of(folder / "f.h5") == expected_content(CASES[name])


if __name__ == "__main__":
    main(sys.argv[1])
