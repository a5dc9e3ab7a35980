"""Damaged and odd files of arguments: one error that names the file, and no memory taken for it."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import struct
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from acme_mpi import InputError
from acme_mpi.tasks.argument_files import load_arguments

pytestmark = pytest.mark.once

N_SOME, N_MANY = 12, 300
GROWTH_BYTES = 500 * 1024**2
KINDS = ["npz", "compressed.npz", "npy", "json", "h5"]


def make_file(folder: Path, kind: str) -> Path:
    """Return a file of arguments of a kind."""
    path = folder / f"args.{kind}"
    arrays = {"x": np.arange(40.0), "y": np.array(4), "words": np.array(["a", "bc"])}
    if kind == "npz":
        np.savez(path, **arrays)
    elif kind == "compressed.npz":
        np.savez_compressed(path, **arrays)
    elif kind == "npy":
        np.save(path, arrays["x"])
    elif kind == "json":
        path.write_text(json.dumps({"x": [1, 2.5e3, "text"], "y": {"a": [None, True]}}))
    else:
        # No strings of variable length: on a damaged heap of theirs HDF5 1.10 may crash, or loop.
        with h5py.File(path, "w") as file:
            file["x"], file["y"], file["g/x"] = arrays["x"], 4, 1
            file["words"] = arrays["words"].astype("S")
            file.create_dataset("z", data=np.arange(1000), chunks=(100,), compression="gzip")
    return path


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return a file's bytes as damage would leave them: cut, changed, moved."""
    changed = bytearray(data)
    here, there = rng.randrange(len(data)), rng.randrange(len(data))
    how = rng.randrange(5)
    if how == 0:
        del changed[here:]
    elif how == 1:
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(data))] = rng.randrange(256)
    elif how == 2:
        changed[here:here] = rng.randbytes(rng.randint(1, 20))
    elif how == 3:
        changed[here : here + 8] = rng.choice((b"\xff", b"\0")) * 8
    else:
        changed[here : here + 16] = data[there : there + 16]
    return bytes(changed)


def told_of(path: Path | str) -> str:
    """Return the error of a file, empty if it can be read."""
    try:
        load_arguments(str(path), allow_pickle=False)
    except InputError as error:
        return str(error)
    return ""


def ending_of(path: Path) -> str:
    """Return what is wrong with reading a file, in a process that the libraries may crash."""
    size_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)
        status = 1
        try:
            text = told_of(path)
            status = 0 if len(text) < 1000 and (not text or str(path) in text) else 2
            size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            status = 3 if size > GROWTH_BYTES + size_before else status
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {1: "another error", 2: "a bad text", 3: "too much memory", -14: "no end"}.get(
        status, ""
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", [N_SOME, pytest.param(N_MANY, marks=pytest.mark.many)])
def test_a_damaged_file_is_refused_by_its_name(tmp_path, kind, n):
    """Reading must not raise anything else; that HDF5 itself crashes is not counted."""
    path = make_file(tmp_path, kind)
    data = path.read_bytes()

    found = {}
    for seed in range(n):
        path.write_bytes(mutated(data, random.Random(seed)))
        found[seed] = ending_of(path)

    assert not {seed: ending for seed, ending in found.items() if ending}


def test_a_member_that_is_larger_than_memory_is_refused_unread(tmp_path):
    path = tmp_path / "args.npz"
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w", force_zip64=True):
        pass
    # Its size stands in the directory at the end, in 64 bits where 32 are all set.
    data = path.read_bytes()
    at = data.index(b"PK\1\2")
    head, rest = data[at : at + 46], data[at + 46 :]
    extra = struct.pack("<HHQ", 1, 8, 2**60)
    head = head[:24] + b"\xff" * 4 + head[28:30] + struct.pack("<H", len(extra)) + head[32:]
    end = bytearray(rest[len("x.npy") :])
    end[12:16] = struct.pack("<I", len(head) + len("x.npy") + len(extra))
    path.write_bytes(data[:at] + head + b"x.npy" + extra + end)

    assert f"'x' in {path} says that it has 1152921.5 TB" in told_of(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_LZMA, 99])
def test_compressions_that_numpy_does_not_write_are_refused(tmp_path, method):
    path = tmp_path / "args.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA if method == 14 else 0) as archive:
        archive.writestr("x.npy", b"\0" * 1000)
    data = bytearray(path.read_bytes())
    at = data.index(b"PK\1\2")
    data[at + 10 : at + 12] = struct.pack("<H", method)
    path.write_bytes(data)

    assert f"'x' in {path} cannot be read: its compression ({method})" in told_of(path)


def test_a_dataset_of_exabytes_is_refused_unread(tmp_path):
    path = tmp_path / "args.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", (2**59,), "f8", chunks=(1024,))

    text = told_of(path)

    assert f"'x' in {path} says that it has " in text
    assert "of memory" in text


@pytest.mark.parametrize("text", ['{"x": 1, "y": 2, "x": [3]}', '[{"x": 1, "x": 1}]'])
def test_json_has_each_name_once(tmp_path, text):
    path = tmp_path / "args.json"
    path.write_text(text)

    with pytest.raises(InputError, match=r"args.json cannot be .*: the name 'x' is there twice"):
        load_arguments(str(path), allow_pickle=False)


def test_json_may_be_nested_only_so_deep(tmp_path):
    path = tmp_path / "args.json"
    path.write_text("[" * 100_000)

    assert told_of(path) == f"{path} cannot be read as a JSON file: it is nested too deep"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
def test_json_comes_in_every_unicode_encoding(tmp_path, encoding):
    """JSON comes in every unicode encoding with a mark or not."""
    path = tmp_path / "args.json"
    path.write_text('{"x": "Größe"}', encoding=encoding)

    assert load_arguments(str(path), allow_pickle=False) == ([], {"x": "Größe"})


@pytest.mark.parametrize("names", [["arr_1", "arr_2"], ["arr_0", "arr_2"], ["arr_1"]], ids=str)
@pytest.mark.parametrize("suffix", ["npz", "json", "h5"])
def test_a_gap_in_the_positions_is_refused(tmp_path, names, suffix):
    path = tmp_path / f"args.{suffix}"
    values = {name: 1 for name in names}
    if suffix == "npz":
        np.savez(path, **values)
    elif suffix == "json":
        path.write_text(json.dumps(values))
    else:
        with h5py.File(path, "w") as file:
            file.update(values)

    missing = 1 if "arr_0" in names else 0
    assert f"{path} holds {names[-1]} but no arr_{missing}" in told_of(path)


@pytest.mark.parametrize("name", ["arr_01", "arr_\u00b2", "arr_\u0661", "arr_-1", "arr_"])
def test_other_names_with_numbers_are_names(tmp_path, name):
    (tmp_path / "args.json").write_text(json.dumps({name: 1}))

    assert load_arguments(str(tmp_path / "args.json"), allow_pickle=False) == ([], {name: 1})


def test_a_member_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "args.npz"
    np.savez(path, x=1)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("x.npy", archive.read("x.npy"))

    assert told_of(path) == f"'x' in {path} is there twice"


def test_a_member_that_is_no_array_is_refused(tmp_path):
    path = tmp_path / "args.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "no array")

    assert told_of(path) == f"'notes.txt' in {path} is no array"


def test_a_pickle_that_is_allowed_and_no_array_is_refused(tmp_path):
    path = tmp_path / "args.pickle"
    path.write_bytes(b"\x80\x04}\x94.")

    with pytest.raises(InputError, match="holds a pickled dict, and no arrays"):
        load_arguments(str(path), allow_pickle=True)


@pytest.mark.parametrize("content", [b"", b"x,y\n1,2\n"])
def test_a_file_of_another_kind_is_told_with_those_that_are_read(tmp_path, content):
    path = tmp_path / "table.xlsx"
    path.write_bytes(content)

    with pytest.raises(InputError, match=r"not a file of arguments \(.*\.npz.*\.mat.*\.csv"):
        load_arguments(str(path), False)
