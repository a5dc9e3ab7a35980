"""Tasks see what their caller is: environment, directory, umask, options, in any session."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

import pytest
from conftest import by_stacks

from acme_mpi.runner.process import interpreter_flags
from acme_mpi.runner.surroundings import Surroundings, changed, changes, need_a_new_process

RELOADED = """
import functools, importlib, json, os, pathlib

def write(k, helper):
    func = f"import half\\ndef f(x): return {k} * x * half.H"
    for path, text in {"half.py": f"H = {helper}", "mine.py": func}.items():
        pathlib.Path(path).write_text(text)
        os.utime(path, (k * helper, k * helper))  # what was compiled is out of date

write(1, 1)
import half, mine
import acme_mpi

pool, executor, memory = acme_mpi.Pool(), acme_mpi.Executor(), {"write_worker_results": False}
ranks = range(pool.size)

def meet(x, place):
    # Return once all ranks have imported the module.
    mine.f(x)
    pathlib.Path(f"{place}{x}").touch()
    while not all(os.path.exists(f"{place}{k}") for k in ranks):
        os.sched_yield()

def say():
    with acme_mpi.Pool() as other:
        found = [
            acme_mpi.map(mine.f, [1, 2], **memory),
            acme_mpi.map(mine.f, [1, 2], isolate=False, **memory),
            acme_mpi.map(lambda x: mine.f(x), [1, 2], **memory),
            pool.map(mine.f, [1, 2]),
            pool.map(lambda x: mine.f(x), [1, 2]),
            other.map(mine.f, [1, 2]),
            [executor.submit(mine.f, x).result() for x in (1, 2)],
        ]
    print(json.dumps([found[0], all(each == found[0] for each in found)]), flush=True)

say()
acme_mpi.map(meet, ranks, "runner", **memory)
pool.map(functools.partial(meet, place="pool"), ranks, chunksize=1)
write(10, 1)
say()  # an edit alone changes nothing
importlib.reload(mine)
say()
write(10, 3)
importlib.reload(half)
say()
"""


@pytest.mark.every
def test_a_module_that_was_reloaded_is_imported_anew(tmp_path):
    """In a notebook the ranks stay, and a function is mended in its module."""
    (tmp_path / "program.py").write_text(RELOADED)
    environment = {**os.environ, "ACME_MPI_LAUNCH": ""}
    ran = subprocess.run(
        [sys.executable, "program.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )

    assert [json.loads(line) for line in ran.stdout.splitlines()] == [
        [[1, 2], True],
        [[1, 2], True],
        [[10, 20], True],
        [[30, 60], True],
    ], ran.stderr


def test_the_process_that_has_reloaded_a_module_keeps_it(tmp_path, monkeypatch):
    """It takes on its own surroundings where tasks are called in it."""
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "reloaded_here.py").write_text("x = 1")
    module = importlib.import_module("reloaded_here")
    before = Surroundings.here().modules
    importlib.reload(module)

    here = Surroundings.here()
    here._replace(filters=b"").take_on()

    assert here.modules != before
    assert sys.modules["reloaded_here"] is module


PROGRAM = """
import json
import os
import sys
import warnings

import acme_mpi


class OwnWarning(UserWarning):
    pass


def seen(i):
    umask = os.umask(0o22)
    os.umask(umask)
    try:
        warnings.warn("careful", OwnWarning)
        is_error = False
    except OwnWarning:
        is_error = True
    flags = [sys.flags.optimize, sys.flags.utf8_mode, sys.flags.dont_write_bytecode]
    flags += [sys.flags.safe_path, "mine" in sys._xoptions]
    flags += ["error::ImportWarning" in sys.warnoptions, sys.argv[-1]]
    names = ("A", "B", "OMP_NUM_THREADS", "OMPI_MCA_mine", "PMIX_RANK", "OMPI_COMM_WORLD_RANK")
    variables = [os.environ.get(name) for name in names]
    return [*variables, os.path.basename(os.getcwd()), sys.path[0], oct(umask), is_error, flags]


def crash(i):
    if i == 1:
        os.kill(os.getpid(), 11)
    return seen(i)


def call(func=seen, n=4, **options):
    try:
        found = acme_mpi.map(func, range(n), write_worker_results=False, **options)
    except acme_mpi.TaskError as error:
        found = [each for each in error.results if each is not None]
    (each,) = {json.dumps(each) for each in found}
    return json.loads(each)


if __name__ == "__main__":
    facts = [call()]
    os.makedirs("below", exist_ok=True)
    os.chdir("below")
    os.umask(0o27)
    os.environ.update({"A": "1", "B": "2"})
    sys.path.insert(0, "/own/path")
    warnings.simplefilter("error", OwnWarning)
    facts.append(call())
    del os.environ["A"]
    os.environ["B"] = "3"
    os.environ["OMP_NUM_THREADS"] = "7"
    os.environ["OMPI_MCA_mine"] = "4"
    warnings.simplefilter("ignore", OwnWarning)
    facts += [call(), call(isolate=False), call(crash)]
    with open(f"facts{os.getpid()}.json", "w") as file:
        json.dump(facts, file)
    acme_mpi.map(abs, [-1], output_dir="out", single_file=True)
"""
FLAGS = ["-X", "utf8", "-X", "mine", "-W", "error::ImportWarning"]
# By ranks. Not both at once: each process would compile all that it imports.
OPTIMIZE_OR_KEEP_NOTHING = {0: "-O", 2: "-B"}


@pytest.mark.parametrize("mode", [(), ("-m", "acme_mpi")], ids=["itself", "served"])
@pytest.mark.parametrize("n", by_stacks([0, 2], twice=[2]))
def test_tasks_see_what_the_caller_is_at_each_call(mpiexec, tmp_path, n, mode):
    (tmp_path / "program.py").write_text(PROGRAM)
    start = {"A": "0", "OMP_NUM_THREADS": "1", "UNCHANGED": "1"}

    flags = OPTIMIZE_OR_KEEP_NOTHING[n], *FLAGS
    ran = mpiexec(n, *flags, *mode, "program.py", "word", cwd=tmp_path, env=start)

    assert ran.returncode == 0, ran.stderr
    found = [json.loads(path.read_text()) for path in (tmp_path / "below").glob("facts*.json")]
    flags = [int(n == 0), 1, int(n == 2), False, True, True, "word"]
    folder, own = [tmp_path.name, str(tmp_path)], ["below", "/own/path"]
    first = ["0", None, "1", None, None, None, *folder, "0o22", False, flags]
    second = ["1", "2", "1", None, None, None, *own, "0o27", True, flags]
    third = [None, "3", "7", "4", None, None, *own, "0o27", False, flags]
    assert [facts[:3] for facts in found] == [[first, second, third]] * (n if n and not mode else 1)
    for *_, inline, replaced in found:
        assert replaced == third
        assert inline[:4] + inline[6:] == third[:4] + third[6:]  # of its rank, and launched
    assert (tmp_path / "below/out/abs.h5").stat().st_mode & 0o777 == 0o640


@pytest.mark.once
def test_options_that_subprocess_forgets_are_passed_on(monkeypatch):
    """Options of the interpreter that subprocess forgets are passed on."""
    monkeypatch.setattr(sys, "_xoptions", {"dev": True, "own": "7", "int_max_str_digits": "900"})

    assert interpreter_flags()[-4:-2] == ["-X", "own=7"]
    assert interpreter_flags()[-2:] == ["-X", "int_max_str_digits=900"]


@pytest.mark.once
@pytest.mark.once
def test_each_look_at_the_environment_sees_what_has_changed(monkeypatch):
    start = dict(os.environ)
    here = Surroundings.here()
    monkeypatch.setenv("ACME_TEST", "1")
    seen = [here.beside(start).variables for _ in range(2)]
    monkeypatch.delenv("ACME_TEST")
    monkeypatch.setenv("ACME_OTHER", "2")
    seen += [here.beside(start).variables, here.beside({**start, "ACME_TEST": "3"}).variables]

    assert seen[:2] == [{"ACME_TEST": "1"}] * 2
    assert seen[2:] == [{"ACME_OTHER": "2"}, {"ACME_OTHER": "2", "ACME_TEST": None}]


def test_changes_lead_from_one_environment_to_the_other():
    before, after = {"A": "1", "B": "2"}, {"B": "3", "C": "4"}

    assert changed(before, changes(before, after)) == after
    assert changes(after, after) == {}


@pytest.mark.once
@pytest.mark.parametrize("name", ["LD_LIBRARY_PATH", "PYTHONHASHSEED", "RAYON_NUM_THREADS", "TZ"])
def test_what_is_read_at_the_start_needs_a_new_process(name):
    assert need_a_new_process({"A": "1", name: None})
    assert not need_a_new_process({"A": "1"})
