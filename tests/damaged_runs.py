"""A program: damages what runs have left, at random, and looks at what becomes of it.

``python damaged_runs.py FOLDER LAYOUT SEED N`` prints a line for each time that neither the right
results nor a clear message came of it, and ends with 1 if there was one.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import h5py
import numpy as np

import acme_mpi
from acme_mpi.cli.commands import run_command
from acme_mpi.errors import AcmeMpiError

HERE = Path(__file__).parent
N_TASKS = 8
LONGEST_S = 60.0
MOST_BYTES = 2 * 1024**3
DIES = "DAMAGED_RUNS_DIE"


def perhaps_die(x):
    if x == N_TASKS - 1 and DIES in os.environ:
        os.kill(os.getpid(), signal.SIGKILL)


def several(x):
    perhaps_die(x)
    return np.arange(3.0) + x, f"text {x}", np.arange(x), np.full(9000, float(x))


def row(x):
    perhaps_die(x)
    return np.arange(3.0) + x


def large(x):
    perhaps_die(x)
    return np.full(9000, float(x))


def ragged(x):
    perhaps_die(x)
    return np.arange(x + 1.0)


def odd(x):
    return row(x), f"text {x}"


LAYOUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "rank": (several, {}),
    "rank-rows": (row, {"result_shape": (None, 3)}),
    "rank-large": (large, {"result_shape": (None, 9000)}),
    "rank-ragged": (ragged, {"result_shape": (None, np.inf)}),
    "rank-more": (odd, {"result_shape": (None, 3)}),
    "computation": (several, {"payload": "computation"}),
    "computation-rows": (row, {"payload": "computation", "result_shape": (None, 3)}),
    "computation-more": (odd, {"payload": "computation", "result_shape": (None, 3)}),
    "single": (several, {"single_file": True}),
    "single-rows": (row, {"single_file": True, "result_shape": (None, 3)}),
    "single-ragged": (ragged, {"single_file": True, "result_shape": (None, np.inf)}),
    "single-more": (odd, {"single_file": True, "result_shape": (None, 3)}),
}


def run(directory: Path, layout: str, **more: Any) -> None:
    func, options = LAYOUTS[layout]
    acme_mpi.map(
        func, list(range(N_TASKS)), output_dir=str(directory), isolate=False, **options, **more
    )


def content(directory: Path, layout: str) -> list[Any]:
    """Return all that a user reads."""
    found: list[Any] = []

    def walk(item: Any, path: str) -> None:
        if isinstance(item, h5py.Dataset):
            found.append((path, item.dtype.str, item.shape, repr(item[()]), sorted(item.attrs)))
        else:
            for name in item:
                walk(item[name], f"{path}/{name}")

    with h5py.File(directory / f"{LAYOUTS[layout][0].__name__}.h5", "r") as file:
        walk(file, "")
    return found


def end_of(action: Any) -> str:
    """Return what came of an action: ``"done"``, the words of an error of ours, or a traceback."""
    begin_s = time.monotonic()
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            action()
        end = "done"
    except AcmeMpiError as error:
        end = str(error) or "no words"
    except BaseException:
        end = traceback.format_exc()
    took_s = time.monotonic() - begin_s
    return end if took_s < LONGEST_S else f"Traceback: took {took_s:.0f} s"


def check(directory: Path) -> tuple[int, str]:
    told = io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):
        code = run_command(["check", str(directory)])
    return code, told.getvalue()


def replace(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def damage(path: Path, others: list[Path], draw: random.Random) -> str:
    """Change a file; return how."""
    data = path.read_bytes()
    how = draw.choice(
        [
            *["flip"] * 4,
            "zero",
            "cut",
            "append",
            "noise",
            "empty",
            "folder",
            "loop",
            "dangling",
            "exchange",
            "remove",
            "touch",
        ]
    )
    at = draw.randrange(len(data)) if data else 0
    match how:
        case "flip" if data:
            path.write_bytes(
                data[:at] + bytes([data[at] ^ 1 << draw.randrange(8)]) + data[at + 1 :]
            )
        case "zero":
            path.write_bytes(data[:at] + bytes(min(512, len(data) - at)) + data[at + 512 :])
        case "noise":
            path.write_bytes(data[:at] + draw.randbytes(min(64, len(data) - at)) + data[at + 64 :])
        case "cut":
            path.write_bytes(data[:at])
        case "append":
            path.write_bytes(data + draw.randbytes(300))
        case "empty":
            path.write_bytes(b"")
        case "folder":
            path.unlink()
            path.mkdir()
        case "loop":
            path.unlink()
            path.symlink_to(path.name)
        case "dangling":
            path.unlink()
            path.symlink_to("nowhere")
        case "exchange":
            other = draw.choice(others)
            path.write_bytes(other.read_bytes())
            if draw.random() < 0.5:
                other.write_bytes(data)
            return f"{how} with {other.name}"
        case "remove":
            path.unlink()
        case "touch":
            os.utime(path)
    return f"{how} at {at} of {len(data)}"


def files_in(directory: Path) -> list[Path]:
    return sorted(p for p in directory.rglob("*") if p.is_file() and p.suffix != ".log")


def try_once(pristine: Path, layout: str, expected: list[Any], draw: random.Random) -> str:
    """Return what is wrong, empty if nothing is."""
    place = pristine.with_name("tried")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(pristine, place, symlinks=True)
    files = files_in(place)
    path = draw.choice(files)
    what = f"{layout}: {pristine.name}: {path.relative_to(place)}: {damage(path, files, draw)}"
    checked: list[tuple[int, str]] = []
    end = end_of(lambda: checked.append(check(place)))
    if end != "done" or "Traceback" in checked[0][1]:
        return f"{what}: check: {end} {checked}"
    if checked[0][0] == 0 and pristine.name == "whole":
        try:
            is_right = content(place, layout) == expected
        except Exception as error:
            is_right, end = False, str(error)
        if not is_right:
            return f"{what}: check says {checked[0][1]}, but: {end}"
    end = end_of(lambda: run(place, layout, resume=True))
    if "Traceback" in end:
        return f"{what}: resume: {end}"
    if end == "done":
        try:
            is_right = content(place, layout) == expected
        except Exception as error:
            is_right, end = False, str(error)
        if not is_right:
            return f"{what}: the resume ended well, but: {end}"
        code, told = check(place)
        journal_is_hit = "journal" in path.name or path.suffix == ".json"
        if code != 0 and not (journal_is_hit and "damaged: " in told):
            return f"{what}: the resume ended well, but check says {told}"
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return "" if peak < MOST_BYTES else f"{what}: {peak} bytes of memory"


def main() -> int:
    base, layout, seed, n = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    logging.getLogger("acme_mpi").propagate = False
    logging.getLogger("acme_mpi").addHandler(logging.NullHandler())
    pristine = base / "whole"
    run(pristine, layout)
    expected = content(pristine, layout)
    killed = base / "killed"
    program = f"import damaged_runs as d; d.run(d.Path({str(killed)!r}), {layout!r})"
    subprocess.run([sys.executable, "-c", program], env={**os.environ, DIES: "1"}, cwd=HERE)
    draw = random.Random(seed)
    wrong = [
        words
        for k in range(n)
        if (words := try_once((pristine, killed)[k % 2], layout, expected, draw))
    ]
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
