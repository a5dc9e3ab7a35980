"""Script mode runs what Python runs, and as Python runs it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from conftest import start_environment

from acme_mpi.linux.processes import command_line, image_of

pytestmark = pytest.mark.once

SCRIPT = """
'''What it is for.'''
import json
import os
import shutil
import sys

import neighbour


def f(x: int) -> float:
    return x


spec = __spec__ and [__spec__.name, __spec__.origin]
with open("facts.json", "w") as file:
    json.dump({
        "argv": sys.argv,
        "path": sys.path[0],
        "safe": sys.flags.safe_path,
        "file": __file__,
        "name": __name__,
        "package": __package__,
        "spec": spec,
        "cached": __cached__ and "cached",
        "doc": __doc__,
        "loader": type(__loader__).__name__,
        "builtins": type(__builtins__).__name__,
        "annotations": [str(each) for each in f.__annotations__.values()],
        "main": sys.modules["__main__"].__dict__ is globals(),
    }, file)
"""
STARTS = {
    "a script": ["script.py", "-x", "1"],
    "below": ["real/script.py"],
    "behind a symbolic link": ["link.py"],
    "without a suffix": ["./tool", "word"],
    "without a suffix, by its bare name": ["tool"],
    "a folder": ["folder", "--own"],
    "an archive": ["archive.pyz"],
    "a module": ["-m", "package.module", "word"],
    "a package": ["-m", "package"],
    "safe": ["script.py"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scripts")
    for place in ("script.py", "real/script.py", "tool", "folder/__main__.py"):
        path = folder / place
        path.parent.mkdir(exist_ok=True)
        path.write_text(SCRIPT)
        (path.parent / "neighbour.py").touch()
    for name in ("module.py", "__main__.py", "__init__.py"):
        (folder / "package").mkdir(exist_ok=True)
        (folder / "package" / name).write_text(SCRIPT if name != "__init__.py" else "")
    (folder / "link.py").symlink_to("real/script.py")
    with zipfile.ZipFile(folder / "archive.pyz", "w") as archive:
        archive.writestr("__main__.py", SCRIPT)
        archive.writestr("neighbour.py", "")
    return folder


@pytest.mark.parametrize("start", STARTS)
def test_a_script_finds_what_it_finds_under_python(folder, start):
    facts = folder / "facts.json"
    found = []
    root = str(Path(__file__).parents[2])
    paths = [root, str(folder)] if start == "safe" else [root]
    env = {**start_environment(), "PYTHONPATH": os.pathsep.join(paths)}
    for mode in ([], ["-m", "acme_mpi", "-q"]):
        flags = ["-P"] if start == "safe" else []
        command = [sys.executable, *flags, *mode, *STARTS[start]]
        ran = subprocess.run(command, cwd=folder, env=env, capture_output=True, timeout=60)
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"", b"")
        found.append(json.loads(facts.read_text()))
        facts.unlink()

    assert found[1] == found[0]


def test_a_script_that_replaces_itself_is_told_what_it_loses(mpiexec, tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, sys\n"
        "if 'again' not in sys.argv:\n"
        "    os.execv(sys.executable, [sys.executable, 'script.py', 'again'])\n"
        "os.read(os.open('gate', os.O_RDWR), 1)\n"
    )
    os.mkfifo(tmp_path / "gate")

    ran = mpiexec(2, "-m", "acme_mpi", "-q", "script.py", cwd=tmp_path)

    assert ran.returncode == 2
    assert ran.stderr.count("has replaced its own process by another program (os.execv)") == 1


def test_one_that_ends_soon_after_it_has_replaced_itself_is_told_so_too(mpiexec, tmp_path):
    (tmp_path / "script.py").write_text(
        "import os, sys, acme_mpi\n"
        "if 'again' not in sys.argv:\n"
        "    os.execv(sys.executable, [sys.executable, 'script.py', 'again'])\n"
    )

    ran = mpiexec(2, "-m", "acme_mpi", "-q", "script.py", cwd=tmp_path)

    assert ran.returncode == 0
    assert ran.stderr.count("has replaced its own process by another program (os.execv)") == 1


def test_a_python_behind_a_wrapper_has_not_replaced_itself(tmp_path):
    """As Nix has it: `sys.executable` names a program that becomes Python."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "lib").symlink_to(Path(sys.prefix) / "lib")
    shutil.copy(Path(sys.prefix) / "pyvenv.cfg", tmp_path)
    wrapper = tmp_path / "bin/python"
    wrapper.write_text(f'#!/bin/bash\nexec -a "$0" {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    (tmp_path / "script.py").write_text(
        "import os, sys, threading\n"
        "os.closerange(3, 256)\n"  # as a daemon does: the ranks see the end of the channel
        "threading.Event().wait(0.1)\n"  # and look at what goes on meanwhile
        "print(sys.executable)\n"
    )

    command = [wrapper, "-m", "acme_mpi", "-q", "script.py"]
    env = {**start_environment(), "PYTHONPATH": str(Path(__file__).parents[2])}
    ran = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, timeout=60)

    assert (ran.returncode, ran.stdout.decode(), ran.stderr) == (0, f"{wrapper}\n", b"")


def test_a_program_with_another_title_is_still_the_same(tmp_path):
    program = (
        "import ctypes, os, sys\n"
        "first_argument = int(open('/proc/self/stat').read().split()[47])\n"
        "print(flush=True), input()\n"
        "ctypes.memset(first_argument, ord('x'), 3)\n"
        "print(flush=True), input()\n"
        "os.execv('/bin/sh', ['sh', '-c', 'echo; read line'])\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "bufsize": 1}
    with subprocess.Popen([sys.executable, "-c", program], **pipes) as process:
        process.stdout.readline()  # until then the kernel may be starting it
        image, words = image_of(process.pid), command_line(process.pid)
        process.stdin.write("\n")
        process.stdout.readline()
        assert command_line(process.pid) != words
        assert image_of(process.pid) == image != b""

        process.stdin.write("\n")
        process.stdout.readline()
        assert image_of(process.pid) not in (image, b"")
        process.communicate("\n")
    assert image_of(process.pid) == b""
