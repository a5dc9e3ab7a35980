"""A store that nobody else knows: a folder in the layout of Zarr's format 2, of plain files.

It shows what a new store has to bring, and is not meant for use: each row, and each further value
of a task, is one chunk.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from acme_mpi.history.folders import note_linked
from acme_mpi.history.journal import FileKey
from acme_mpi.history.records import Records, missing_tasks, share_records
from acme_mpi.results.checksum import Digest, new_digest
from acme_mpi.results.parts import note_of
from acme_mpi.results.spec import RowSpec
from acme_mpi.runner.base import Outcome
from acme_mpi.storage import Stored, StoreKind
from acme_mpi.storage.base import refusals, together
from acme_mpi.storage.forms import names_at, parts_at, pieces_of
from acme_mpi.storage.pickles import write_file
from acme_mpi.storage.recorded import RecordedStore, digest_like

ZARR = StoreKind(
    "zarr",
    f"{__name__}:ZarrStore",
    "{container}, a folder",
    suffix=".zarr",
    has_payloads=True,
    is_movable=False,
    holds_ragged=False,
)


class ZarrStore(RecordedStore):
    """Each task writes chunks of its own, so that ranks need not know of each other."""

    has_own_files = True

    def write(self, outcome: Outcome) -> None:
        for tasks, form, first in pieces_of(outcome.succeeded(), outcome.content, self.spec):
            for position, index in enumerate(tasks, first):
                parts, digest = parts_at(outcome.content, position), new_digest()
                digest.add_parts(index, parts)
                files = [self._write_part(index, k, part) for k, part in enumerate(parts)]
                for k, name in enumerate(names_at(outcome.content, position)):
                    self._give_name(index, k, name)
                if outcome.content.parts and (note := note_of(outcome.content.parts[position])):
                    folder = Path(self.layout.container, f"comp_{index}")
                    (folder / ".zattrs").write_text(json.dumps({"acme_mpi": note}))
                record = self.record(outcome, range(index, index + 1), digest, form=form)
                complete = [(str(self._chunk(index, 0, np.ndim(parts[0]))), FileKey(first=index))]
                self._committer.commit(files, [record], complete=complete)
                for file in files:
                    os.close(file)

    @property
    def _columns(self) -> Sequence[RowSpec]:
        return self.spec.columns if self.spec else ()

    def _write_part(self, index: int, k: int, part: Any) -> int:
        path = self._chunk(index, k, np.ndim(part))
        values = np.array(np.nan) if part is None else part
        values = values.astype("U") if values.dtype.kind == "O" else values
        with refusals(str(path)):
            if k >= len(self._columns):
                attributes = {"is_none": True} if part is None else {}
                describe(path.parent, values.shape, values.shape, values.dtype, attributes)
            path.parent.mkdir(parents=True, exist_ok=True)
            return write_file(str(path), values.tobytes())

    def _give_name(self, index: int, k: int, name: str) -> None:
        folder = Path(self.layout.container, f"comp_{index}", f"result_{k}")
        if name and name != folder.name:
            folder.with_name(name).symlink_to(folder.name)

    def _chunk(self, index: int, k: int, n_axes: int) -> Path:
        """Return the file of a part: one chunk of the common array, or all of its own."""
        if k >= len(self._columns):
            folder = Path(self.layout.container, f"comp_{index}", f"result_{k}")
            return folder / (".".join("0" * n_axes) or "0")
        spec = self._columns[k]
        at = np.unravel_index(index, spec.grid) if spec.grid else (index,)
        corner = (*[0] * spec.axis, *at, *[0] * (n_axes - spec.axis))
        return Path(self.layout.container, spec.dataset, ".".join(map(str, corner)))

    def commit(self, root: int | None = None) -> Stored:
        records = share_records(self.world, self.layout)
        together(self.world, lambda: self._finish(records) if self.world.is_master else None)
        return self.stored(records)

    def _finish(self, records: Records) -> None:
        container = Path(self.layout.container)
        missing = missing_tasks(records, self.n_tasks).tolist()
        with refusals(str(container)):
            container.mkdir(exist_ok=True)
            (container / ".zgroup").write_text('{"zarr_format": 2}')
            for spec in self._columns:
                chunk = (*spec.row_shape[: spec.axis], *[1] * (len(spec.grid) or 1))
                chunk = (*chunk, *spec.row_shape[spec.axis :])
                attributes = {"missing": missing} if missing else {}
                shape, dtype = spec.whole_shape(self.n_tasks), np.dtype(spec.dtype)
                describe(container / spec.dataset, shape, chunk, dtype, attributes)
        note_linked(self.layout)

    def stored(self, done: Records) -> Stored:
        return Stored(self.layout.container, [self.layout.container])

    def path_of(self, key: FileKey) -> str:
        return str(self._chunk(key.first, 0, len(self.spec.shape) if self.spec else 1))

    def measure(self, record: Any) -> Digest:
        index, digest = int(record["first"]), digest_like(record)
        digest.add_parts(index, self._read(index))
        return digest

    def _read(self, index: int) -> Iterator[Any]:
        for k, spec in enumerate(self._columns):
            row = np.fromfile(self._chunk(index, k, len(spec.shape)), spec.dtype)
            yield row.reshape(spec.row_shape)
        k = len(self._columns)
        while (folder := self._chunk(index, k, 0).parent).exists():
            said = json.loads((folder / ".zarray").read_text())
            chunk = self._chunk(index, k, len(said["shape"]))
            values = np.fromfile(chunk, dtype_of(said["dtype"])).reshape(said["shape"])
            is_none = (folder / ".zattrs").exists()
            yield None if is_none else values.astype("O") if values.dtype.kind == "U" else values
            k += 1


def describe(folder: Path, shape: Any, chunks: Any, dtype: Any, attributes: Any) -> None:
    """Make an array of Zarr's format 2, without its chunks."""
    folder.mkdir(parents=True, exist_ok=True)
    said = {"zarr_format": 2, "shape": shape, "chunks": chunks, "order": "C"}
    said |= {"dtype": dtype.descr if dtype.names else dtype.str, "compressor": None}
    said |= {"fill_value": "NaN" if dtype.kind in "fc" else 0, "filters": None}
    (folder / ".zarray").write_text(json.dumps(said))
    (folder.parent / ".zgroup").write_text('{"zarr_format": 2}')
    if attributes:
        (folder / ".zattrs").write_text(json.dumps(attributes))


def dtype_of(said: Any) -> np.dtype[Any]:
    """Return the dtype that an array says it has."""
    if isinstance(said, str):
        return np.dtype(said)
    return np.dtype([(name, code, *map(tuple, shape)) for name, code, *shape in said])
