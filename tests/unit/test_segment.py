"""Shared memory without a name."""

from __future__ import annotations

import os
import resource
from math import inf

import pytest

from acme_mpi.errors import StoreError
from acme_mpi.linux import segment
from acme_mpi.linux.segment import Segment, available_bytes

pytestmark = pytest.mark.once


def test_it_holds_its_pieces_one_after_the_other():
    assert bytes(Segment.of([b"spam", b"", memoryview(b"eggs")]).view()) == b"spameggs"


def test_an_empty_one_is_one_too():
    assert bytes(Segment.of([]).view()) == b""


def test_it_has_no_name_in_shared_memory():
    before = set(os.listdir("/dev/shm"))
    held = Segment.of([bytes(10_000)])

    assert held.n_bytes == 10_000
    assert set(os.listdir("/dev/shm")) <= before


def test_its_space_is_reserved():
    held = Segment.reserve(1_000_000)

    assert os.fstat(held.descriptor).st_blocks * 512 >= 1_000_000


def test_nobody_can_change_it():
    held = Segment.of([b"spam"])

    with pytest.raises(TypeError, match="read-only"):
        held.view()[0] = 1
    again = os.open(f"/proc/self/fd/{held.descriptor}", os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            os.pwrite(again, b"eggs", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(again, 0)
    finally:
        os.close(again)


def test_a_view_outlives_its_segment():
    view = Segment.of([b"spam"]).view()

    assert bytes(view) == b"spam"


def test_its_descriptor_is_closed_with_it():
    held = Segment.of([b"spam"])
    number = held.descriptor
    del held

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(number)


def test_others_find_it_by_its_address():
    held = Segment.of([b"spam"])

    assert bytes(Segment.at(held.address).view()) == b"spam"


def test_another_file_in_its_place_is_not_taken_for_it():
    held = Segment.of([b"spam"])
    address = held.address._replace(inode=held.address.inode + 1)

    with pytest.raises(FileNotFoundError):
        Segment.at(address)


@pytest.mark.parametrize("is_file", [False, True])
def test_it_is_a_file_where_memory_is_short(monkeypatch, tmp_path, is_file):
    data = b"spam" * segment.LITTLE_BYTES
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(segment, "available_bytes", lambda: len(data) - is_file)

    held = Segment.of([data])

    assert bytes(held.view()) == bytes(Segment.at(held.address).view()) == data
    assert (os.fstat(held.descriptor).st_dev == tmp_path.stat().st_dev) == is_file
    assert not os.listdir(tmp_path)


def test_what_has_room_nowhere_is_told():
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreError, match=r"take 1000000 bytes.*TMPDIR"):
            Segment.reserve(1_000_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_available_memory_is_what_the_kernel_tells(tmp_path, monkeypatch):
    told = tmp_path / "meminfo"
    told.write_text("MemTotal:  9 kB\nMemAvailable:    7 kB\n")
    silent = tmp_path / "old"
    silent.write_text("MemTotal:  9 kB\n")

    assert 0 < available_bytes() < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for left in (5000, 10_000, inf):  # what control groups leave changes from moment to moment
        monkeypatch.setattr(segment, "bytes_left", lambda left=left: left)
        assert available_bytes(str(told)) == min(7 * 1024, left)
        assert available_bytes(str(silent)) == left
