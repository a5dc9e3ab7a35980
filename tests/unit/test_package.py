"""The package as `pip` gets it: built from a copy of the checkout, installed into empty places."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

import acme_mpi

pytestmark = [pytest.mark.once, pytest.mark.slow]

ROOT = Path(__file__).parents[2]
VERSIONS = ("3.11", "3.12", "3.13")
# Neither compilers nor MPI's are on this PATH, and nothing of the tests' own environment.
BARE = {"PATH": "/nonexistent", "CC": "/bin/false", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
SHOWN = """
import acme_mpi
assert "site-packages" in acme_mpi.__file__, acme_mpi.__file__
assert all(getattr(acme_mpi, name) is not None for name in acme_mpi.__all__)
print(acme_mpi.__version__)
"""


def run(*words: object, **settings: Any) -> str:
    """Run a command, and return what it prints."""
    ran = subprocess.run([*map(str, words)], capture_output=True, text=True, **settings)
    assert ran.returncode == 0, f"{words}\n{ran.stdout}\n{ran.stderr}"
    return ran.stdout


def python(version: str) -> str:
    """Return the path of a Python; launchers of version managers may only say "not installed"."""
    name = f"python{version}"
    kept = Path.home().glob(f".pyenv/versions/{version}.*/bin/{name}")
    for candidate in (name, *map(str, kept)):
        try:
            words = [candidate, "-c", "import sys, venv; print(sys.executable)"]
            ran = subprocess.run(words, capture_output=True, text=True)
        except OSError:
            continue
        if ran.returncode == 0:
            return ran.stdout.strip()
    pytest.skip(f"there is no {name}")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the sdist, and the wheel that was built from it."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a checkout")
    copy = tmp_path_factory.mktemp("copy")
    files = run("git", "ls-files", "-z", "--", ":!tests", cwd=ROOT)
    for name in filter(None, files.split("\0")):
        if (ROOT / name).exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", copy / "dist", copy)
    return copy / "dist"


def bare(folder: Path) -> dict[str, str]:
    return {**BARE, "HOME": str(Path.home()), "TMPDIR": str(folder)}


def the(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def install(version: str, wheel: Path, place: Path) -> Path:
    """Install the wheel into a new environment of a Python; return the folder with its programs."""
    run(python(version), "-m", "venv", "--without-pip", place)
    # By our own pip: to install, and compile, one for each Python takes longer than all else.
    target = place / "lib" / f"python{version}" / "site-packages"
    options = "--quiet", "--no-compile", "--only-binary=:all:", "--python-version", version
    pip = sys.executable, "-m", "pip", "install", *options, "--target", target, wheel
    ran = subprocess.run([*map(str, pip)], capture_output=True, text=True, env=bare(place))
    if "No matching distribution found" in ran.stderr and not has_index(place):
        pytest.skip("there is no package index")
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr}"
    return target / "bin"


def has_index(folder: Path) -> bool:
    words = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), "tqdm"]
    return subprocess.run(words, capture_output=True).returncode == 0


def test_the_sdist_has_what_a_build_takes(built):
    with tarfile.open(the(built, "*.tar.gz")) as file:
        names = {name.partition("/")[2] for name in file.getnames()}

    assert {"LICENSE", "README.md", "pyproject.toml", "acme_mpi/__init__.py"} <= names


def test_the_wheel_has_the_package_and_nothing_else(built):
    with zipfile.ZipFile(the(built, "*.whl")) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}

    kept = run("git", "ls-files", "acme_mpi", cwd=ROOT).splitlines()
    assert names == {name for name in kept if (ROOT / name).exists()}


@pytest.mark.parametrize("version", VERSIONS)
def test_it_installs_where_there_is_no_compiler(version, built, tmp_path):
    place = tmp_path / "place"
    programs = install(version, the(built, "*.whl"), place)
    settings = {"env": bare(tmp_path), "cwd": tmp_path}

    imported = run(place / "bin" / "python", "-c", SHOWN, **settings)
    told = run(place / "bin" / "python", programs / "acme-mpi", "--version", **settings)

    assert imported.strip() == acme_mpi.__version__
    assert f"acme_mpi     {acme_mpi.__version__}" in told
