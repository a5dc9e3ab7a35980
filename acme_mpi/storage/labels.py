"""The file of labels in a dot folder: what tasks are known by, and how the results were made.

Everything else in a dot folder does without it. So what is wrong with it is told, and costs nothing
but labels.

```
labels.hdf5   attributes   function, source, command, git_commit, host, started, versions
  arguments              attributes axes, shape: of the grid, the last axis changes fastest
    <name>               (n,) one value per task, or the values of an axis; attribute units: times;
                         attribute is_range: (start, stop, step) instead
  shared                 an attribute for each argument that all tasks share
```
"""

from __future__ import annotations

import io
import os
import struct
import time
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from acme_mpi.history.description import Description
from acme_mpi.history.journal import Tell, ignore, write_whole
from acme_mpi.history.parsing import Damaged, read_file
from acme_mpi.results.checksum import checksum
from acme_mpi.storage.hdf5 import LIBVER, STRING
from acme_mpi.tasks.fingerprint import VERSION
from acme_mpi.tasks.labels import MOST_BYTES, Column, Labels
from acme_mpi.tasks.unreadable import reason

FILE = "labels.hdf5"
ARGUMENTS, SHARED, AXES, SHAPE, UNITS = "arguments", "shared", "axes", "shape", "units"
RANGE = "is_range"
MOST_FILE_BYTES = 8 * MOST_BYTES
MAGIC, SEAL = b"ACMELABL", struct.Struct("<8sQ")  # and the checksum of all before it


def facts_of(description: Description, host: str) -> dict[str, str]:
    """Return what a run says of itself, as attributes of its results."""
    fingerprint = description.fingerprint
    versions = {
        f"{key.removeprefix(VERSION)}_version": value
        for key, value in fingerprint.items()
        if key.startswith(VERSION)
    }
    started = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(description.start_s))
    return {
        "function": description.name,
        "source": fingerprint.get("source", ""),
        "host": host,
        "started": started,
        **versions,
        "hdf5_version": h5py.version.hdf5_version,
    }


def write_labels(folder: str, labels: Labels) -> None:
    """Write the file into a dot folder, whole or not at all. Rank 0 only.

    Its name is durable when the first journal is, for which the folder is synchronised.

    Raises
    ------
    Exception
        Whatever h5py, or the medium, raises.
    """
    # In memory first: HDF5 may crash the process when the disk is full.
    image = io.BytesIO()
    with h5py.File(image, "w", libver=LIBVER) as file:
        _fill(file, labels)
    write_whole(os.path.join(folder, FILE), sealed(image))


def sealed(image: io.BytesIO) -> memoryview:
    """Return a file of HDF5 with what follows it: a checksum, where HDF5 does not look."""
    number = checksum(image.getbuffer())
    image.seek(0, io.SEEK_END)
    image.write(SEAL.pack(MAGIC, number))
    return image.getbuffer()


def _unsealed(path: str) -> io.BytesIO:
    """Return the file of HDF5 as it was written: what is damaged may make HDF5 end the process."""
    content = memoryview(read_file(path, MOST_FILE_BYTES))
    inner, seal = content[: -SEAL.size], content[-SEAL.size :]
    if seal != SEAL.pack(MAGIC, checksum(inner)):
        raise Damaged(path, "its checksum differs")
    return io.BytesIO(inner)


def _fill(file: h5py.File, labels: Labels) -> None:
    file.attrs.update({name: _text(fact) for name, fact in labels.facts.items()})
    shared = file.create_group(SHARED, track_order=True)
    for name, value in labels.shared.items():
        if name and name == _text(name):
            shared.attrs[name] = value
    arguments = file.create_group(ARGUMENTS, track_order=True)
    if labels.axes:
        arguments.attrs[AXES] = np.array([_text(axis) for axis in labels.axes], STRING)
        arguments.attrs[SHAPE] = np.array(labels.shape, np.int64)
    for name, column in labels.arguments.items():
        if not _is_nameable(name):
            continue
        values, kind = column.values, STRING if column.dtype.kind == "O" else None
        if isinstance(values, range):
            bounds = np.array([values.start, values.stop, values.step], np.int64)
            arguments.create_dataset(name, data=bounds).attrs[RANGE] = True
            continue
        dataset = arguments.create_dataset(name, data=values, dtype=kind)
        dataset.attrs.update(column.attributes)


def _is_nameable(name: str) -> bool:
    """Tell whether HDF5 takes it for one name."""
    return bool(name) and "/" not in name and name != "." and name == _text(name)


def _text(text: str) -> str:
    """Return a text as HDF5 holds it; what is no Unicode, as in names of files, is escaped."""
    return text.encode(errors="backslashreplace").decode().replace("\0", "\\0")


def has_labels(folder: str) -> bool:
    """Tell whether a dot folder has the file."""
    return os.path.lexists(os.path.join(folder, FILE))


def read_labels(folder: str, n_tasks: int, tell: Tell = ignore) -> Labels:
    """Return the labels of the results whose dot folder this is. Independent.

    Parameters
    ----------
    folder : str
        The dot folder.
    n_tasks : int
        Number of tasks.
    tell : callable
        Gets what is damaged, which is left out.

    Returns
    -------
    Labels
        Empty where there are none.
    """
    path = os.path.join(folder, FILE)
    try:
        with h5py.File(_unsealed(path), "r") as file:
            axes, shape = _grid(file, n_tasks, path)
            lengths = dict(zip(axes, shape, strict=True))
            columns = dict(_columns(file, lengths, n_tasks, path, tell))
            shared, facts = _attributes(file.get(SHARED)), _attributes(file)
    except FileNotFoundError:
        return Labels()
    except Damaged as damage:
        tell(damage)
        return Labels()
    except Exception as error:  # whatever h5py makes of a damaged file
        tell(Damaged(path, reason(error)))
        return Labels()
    texts = {name: value for name, value in facts.items() if isinstance(value, str)}
    return Labels(columns, axes, shape, shared, texts)


def _grid(file: h5py.File, n_tasks: int, path: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    attributes = file[ARGUMENTS].attrs
    axes = tuple(map(str, attributes.get(AXES, ())))
    shape = tuple(map(int, attributes.get(SHAPE, ())))
    if len(axes) != len(shape) or len(set(axes)) < len(axes):
        raise Damaged(path, f"its grid has the axes {axes} and the shape {shape}")
    if axes and (min(shape) < 1 or int(np.prod(shape, dtype=object)) != n_tasks):
        raise Damaged(path, f"its grid has the shape {shape}, for {n_tasks} tasks")
    return axes, shape


def _columns(
    file: h5py.File, lengths: Mapping[str, int], n_tasks: int, path: str, tell: Tell
) -> Iterator[tuple[str, Column]]:
    group = file[ARGUMENTS]
    for name in group:
        try:
            yield name, _column(group, name, lengths.get(name, n_tasks))
        except Exception as error:
            tell(Damaged(path, f"{ARGUMENTS}/{name}: {reason(error)}"))


def _column(group: h5py.Group, name: str, length: int) -> Column:
    """Return the values of one argument; raise ValueError if they cannot be."""
    link = group.get(name, getlink=True)
    dataset = group[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(dataset, h5py.Dataset) or dataset.is_virtual or dataset.external:
        raise ValueError("it is no dataset of this file")
    if dataset.attrs.get(RANGE, False):
        found = range(*map(int, dataset[:3]))
        if len(found) != length:
            raise ValueError(f"it has {len(found)} values, and not {length}")
        return Column(found)
    if dataset.shape != (length,) or dataset.nbytes > 2 * MOST_BYTES:  # a string takes 16 bytes
        raise ValueError(f"its shape is {dataset.shape}, and not ({length},)")
    is_text = h5py.check_string_dtype(dataset.dtype) is not None
    if not is_text and dataset.dtype.kind not in "biufc":
        raise ValueError(f"it holds {dataset.dtype}")
    values = np.asarray(dataset.asstr()[()] if is_text else dataset[()])
    column = Column(values, str(dataset.attrs.get(UNITS, "")))
    column.decoded()  # raises
    return column


def _attributes(found: Any) -> dict[str, Any]:
    if found is None:
        return {}
    return {str(name): found.attrs[name] for name in found.attrs}
