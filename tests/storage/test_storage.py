"""Stores: what the runs of one form leave in HDF5, read back by plain h5py, bit by bit.

The store in memory is the oracle.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storing import (
    CASES,
    KINDS,
    N_LARGE,
    Case,
    encode,
    every_kind,
    every_size,
    expected_content,
    large,
    open_store,
    run_world,
    store_case,
)

from acme_mpi.comm import SerialWorld, World
from acme_mpi.history.journal import Block, pack_record, read_journal
from acme_mpi.history.records import read_history
from acme_mpi.results.checksum import SUM
from acme_mpi.storage import STORES, Layout, StoreKind, find_store, make_store
from acme_mpi.storage.faults import faults
from acme_mpi.storage.verify import look


def every_case_of(*stores: StoreKind) -> pytest.MarkDecorator:
    """Have a test called for each of some stores, with all cases that it can hold."""
    pairs = [
        pytest.param(store.name, case, id=f"{store.name}-{name}")
        for store in stores
        for name, case in CASES.items()
        if store.holds_ragged or case.spec is None or not case.spec.is_ragged
    ]
    return pytest.mark.parametrize(("kind", "case"), pairs)


@every_size
class Conformance:
    """What every store of the table does that makes a container.

    Subclasses say which `kind`, and the fixture `content_of` how its container is read.
    """

    def test_the_container_holds_what_memory_holds(self, kind, size, case, tmp_path, content_of):
        """And what is recorded, only that, is found again: `check` finds no fault."""
        path = store_case(kind, size, tmp_path / "out", case)

        assert content_of(path) == expected_content(case)
        layout, n_tasks = find_store(kind).layout(str(tmp_path / "out"), "f"), len(case.values)
        store = make_store(kind, SerialWorld(), layout, case.spec, n_tasks)
        history = read_history(layout.dot_folder)

        assert np.flatnonzero(~history.is_done(n_tasks)).tolist() == case.missing
        assert list(faults(store, history.done)) == []
        assert look(store, history)[0] == []


@every_case_of(*(STORES[kind] for kind in KINDS))
class TestConformance(Conformance):
    """Of the stores whose container is HDF5."""


def test_a_rank_that_releases_a_task_leaves_others_files(tmp_path, content_of):
    """The array was placed for a runner that died; another rank has the task now."""
    case = Case([large(0), (large(1), large(2))])

    def write(world: World) -> None:
        store = open_store(world, "computation", tmp_path / "out", case)
        if world.is_master:
            assert store.place(1, 0, (N_LARGE,), "<f8") is not None
            store.let_go(range(1, 2))
        world.barrier()
        if not world.is_master:
            store.write(encode(store, case, range(2)))
        world.barrier()
        store.close()
        world.barrier()
        store.commit()

    run_world(2, write)

    assert content_of(tmp_path / "out" / "f.h5") == expected_content(case)


@pytest.mark.parametrize("name", [name for name in CASES if "large" in name])
@every_kind
def test_some_large_arrays_may_be_refused_a_place(kind, name, tmp_path, content_of):
    case = CASES[name]
    path = store_case(
        kind, 1, tmp_path / "out", case, n_chunk=4, grants=lambda index, k: (index + k) % 3 != 1
    )

    assert content_of(path) == expected_content(case)
    layout, n_tasks = Layout(str(path.parent), "f"), len(case.values)
    store = make_store(kind, SerialWorld(), layout, case.spec, n_tasks)
    assert list(faults(store, read_history(layout.dot_folder).done)) == []


# Results whose 64-bit words add up to zero, or to the same in another order.
PLAIN = {
    "ones": (np.ones(2**16), np.zeros(2**16)),
    "threes": (np.full(2**17, 3.0), np.zeros(2**17)),
    "ordered": (np.arange(2.0**14), np.arange(2.0**14)[::-1]),
    "small": (np.arange(4.0), np.arange(4.0)[::-1]),
    "blocks": (np.repeat([1.0, 2.0], 2**14), np.repeat([2.0, 1.0], 2**14)),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("as_rows", [False, True], ids=["groups", "rows"])
@every_kind
def test_zeroed_and_exchanged_words_are_found(kind, as_rows, name, tmp_path):
    value, other = PLAIN[name]
    case = Case([value, value + 7, value + 9], (None, len(value)) if as_rows else None)
    path = store_case(kind, 1, tmp_path / "out", case, n_chunk=1)
    store = make_store(kind, SerialWorld(), Layout(str(path.parent), "f"), case.spec, 3)
    done = read_history(store.layout.dot_folder).done
    assert list(faults(store, done)) == []

    (file,) = {each for each in path.parent.rglob("*.h5") if value.tobytes() in each.read_bytes()}
    file.write_bytes(file.read_bytes().replace(value.tobytes(), other.tobytes()))

    found = list(faults(store, done))
    assert found
    assert found[0].startswith("tasks 0 to 0: ")


@pytest.mark.parametrize(
    "name",
    ["free-mixed", "free-large and small", "rows-further values", "rows-large", "rows-axis 1"],
)
@every_kind
def test_sums_of_earlier_versions_are_still_compared(kind, name, tmp_path):
    case = CASES[name]
    path = store_case(kind, 1, tmp_path / "out", case)
    layout, n_tasks = Layout(str(path.parent), "f"), len(case.values)
    store = make_store(kind, SerialWorld(), layout, case.spec, n_tasks)
    ((blocks, _),) = read_journal(layout.journal(0))
    blocks = blocks[blocks["kind"] == Block.DONE]  # of files they did not speak
    digests = [store.measure(SumOf(block)) for block in blocks]
    Path(layout.journal(0)).write_bytes(
        b"".join(
            pack_record(
                range(block["first"], block["first"] + block["count"]),
                form=int(block["form"]),
                payload=int(block["payload"]),
                offset=int(block["offset"]),
                n_bytes=digest.n_bytes,
                checksum=digest.number,
                digest=SUM,
            )
            for block, digest in zip(blocks, digests, strict=True)
        )
    )

    done = read_history(layout.dot_folder).done
    assert set(done["digest"]) == {SUM}
    assert list(faults(store, done)) == []
    done["checksum"][-1] ^= 1
    assert f"tasks {done['first'][-1]} to" in next(faults(store, done))


class SumOf(dict[str, Any]):
    """A record as an earlier version has written it."""

    def __init__(self, block: Any) -> None:
        super().__init__({name: block[name] for name in block.dtype.names}, rank=0, digest=SUM)
