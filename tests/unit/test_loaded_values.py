"""Values that cannot be pickled back, or shown: they cost their own task at most."""

from __future__ import annotations

import logging
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest

import acme_mpi
from acme_mpi.runner.shown import texts_of
from acme_mpi.tasks.pickling import Frozen, dump_values, load_values

pytestmark = pytest.mark.once


class TwoWords(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def restore_by_exit(code):
    raise SystemExit(code)


class Leaving:
    def __reduce__(self):
        return restore_by_exit, (3,)


class Refusing:
    def __init__(self):
        self.x = 1

    def __setstate__(self, state):
        raise RuntimeError("not again")


KINDS = {1: lambda: TwoWords("a", "b"), 3: Leaving, 5: Refusing, 6: lambda: {"k": [TwoWords(1, 2)]}}


def odd(x):
    return KINDS[x]() if x in KINDS else {"value": x}


@pytest.mark.parametrize("isolate", [True, False])
def test_a_value_that_does_not_unpickle_fails_its_task_alone(isolate):
    with pytest.raises(acme_mpi.TaskError) as caught:
        acme_mpi.map(odd, range(8), write_worker_results=False, isolate=isolate)

    assert [failure.index for failure in caught.value.failures] == list(KINDS)
    assert all("cannot be loaded" in failure.message for failure in caught.value.failures)
    assert caught.value.results == [None if x in KINDS else {"value": x} for x in range(8)]


def test_a_pickle_that_cannot_be_read_is_no_result(tmp_path):
    pmap = acme_mpi.ParallelMap(odd, range(8), write_pickle=True, output_dir=str(tmp_path / "o"))
    with pytest.raises(acme_mpi.TaskError) as caught:
        pmap.compute()

    assert [failure.index for failure in caught.value.failures] == list(KINDS)


HERE = os.getpid()


class OnlyThere:
    """Loads in the process that has made it."""

    def __init__(self):
        self.pid = os.getpid()

    def __setstate__(self, state):
        if state["pid"] != os.getpid():
            raise RuntimeError("elsewhere")


def only_there(x):
    return OnlyThere() if x == 2 else x


def test_what_only_the_caller_cannot_load_fails_its_task_alone():
    with pytest.raises(acme_mpi.TaskError, match=r"task 2 .*RuntimeError: elsewhere") as caught:
        acme_mpi.map(only_there, range(4), write_worker_results=False)

    assert caught.value.results == [0, 1, None, 3]


def test_plain_values_and_arrays_are_not_loaded_as_a_trial(monkeypatch):
    """Plain values and arrays are not loaded to see whether they can be."""
    values = [{"a": [1, (2.0, None)]}, [np.arange(3), np.float64(2)], {np.dtype("f4"): {1, "x"}}]

    def refuse(data):
        raise AssertionError("loaded")

    monkeypatch.setattr(pickle, "loads", refuse)
    frozen = [Frozen(value) for value in values]
    monkeypatch.undo()

    data, buffers = dump_values(frozen)
    loaded, unloadable = load_values(data, buffers)
    assert (str(loaded), unloadable) == (str(values), {})


class Raising:
    def __repr__(self):
        raise ValueError("no")


class Wordless:
    def __repr__(self):
        return 5


class Exiting:
    def __repr__(self):
        sys.exit(4)


class Blocking:
    def __repr__(self):
        time.sleep(1000)


def test_what_has_no_text_is_shown_as_such():
    values = [1, Raising(), Wordless(), "a", Exiting(), Blocking(), Blocking(), [2], None]

    texts = texts_of(values, patience_s=0.2)

    shown = [k for k, text in enumerate(texts) if text.startswith("<unprintable ")]
    assert shown == [1, 2, 4, 5, 6]
    assert [texts[k] for k in (0, 3, 7, 8)] == ["1", "a", "[2]", "None"]


SHOWN = """
import os
import sys
class Dying:
    def __repr__(self): os._exit(5)
class Raising:
    def __repr__(self): raise ValueError("no")
class TwoWords(Exception):
    def __init__(self, first, second): super().__init__(first)
class Sink:
    def write(self, text): return len(text)
    def flush(self): pass
def f(x):
    sys.stdout = Sink()
    return [Raising(), "\\xe4\\u20ac\\udc80", x][x]
def die(x):
    return [Dying(), [x]][x]
def two(x):
    return TwoWords(1, 2) if x == 1 else x
"""


def command(write_script, func, n_tasks, **options):
    path = write_script(SHOWN, "shown.py")
    words = [f"{path}:{func}", "--set", f"x={list(range(n_tasks))}", "--no-write", "-q"]
    return subprocess.Popen(
        [sys.executable, "-m", "acme_mpi", *words],
        stderr=subprocess.PIPE,
        text=True,
        cwd=path.parent,
        **options,
    )


def test_values_are_shown_whatever_they_and_stdout_are(write_script):
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    process = command(write_script, "f", 3, stdout=subprocess.PIPE, env=env)
    out, err = process.communicate(timeout=60)

    first, *others = out.splitlines()
    assert first.startswith("<unprintable Raising")
    assert others == [r"\xe4\u20ac\udc80", "2"]
    assert ("Traceback" in err, process.returncode) == (False, 0)


def test_a_value_that_ends_the_process_is_shown_as_such(write_script):
    process = command(write_script, "die", 2, stdout=subprocess.PIPE)
    first, other = process.communicate(timeout=60)[0].splitlines()

    assert first.startswith("<unprintable Dying")
    assert (other, process.returncode) == ("[1]", 0)


def test_no_reader_of_the_values_is_no_error(write_script):
    reading, writing = os.pipe()
    os.close(reading)
    process = command(write_script, "f", 3, stdout=writing)
    os.close(writing)

    err = process.communicate(timeout=60)[1]

    assert ("Traceback" in err, process.returncode) == (False, 0)


def test_a_full_device_is_told_as_such(write_script):
    with open("/dev/full", "w") as full:
        process = command(write_script, "f", 3, stdout=full)
        err = process.communicate(timeout=60)[1]

    assert "cannot write to standard output: No space left on device" in err
    assert (process.returncode, "Traceback" in err) == (74, False)


def test_the_command_line_shows_all_values_that_load(write_script):
    """The command line shows all values but that which does not load."""
    process = command(write_script, "two", 4, stdout=subprocess.PIPE)
    out, err = process.communicate(timeout=60)

    assert out.splitlines() == ["0", "None", "2", "3"]
    assert (process.returncode, "task 1 " in err, "Traceback" in err) == (1, True, False)


class TestSuccess:
    """It is said once the values are with who has asked for them."""

    def test_not_before_standard_output_has_taken_them(self, write_script):
        path = write_script(SHOWN, "shown.py")
        line = [sys.executable, "-m", "acme_mpi", f"{path}:two", "--set", "x=[0]", "--no-write"]
        with open("/dev/full", "w") as full:
            ran = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)

        assert (ran.returncode, "SUCCESS" in ran.stderr) == (74, False)
        assert "tasks were not run" not in ran.stderr

    def test_not_where_the_caller_cannot_load_one(self, caplog):
        with caplog.at_level(logging.INFO, "acme_mpi"), pytest.raises(acme_mpi.TaskError):
            acme_mpi.map(only_there, [1, 2], write_worker_results=False)

        assert "SUCCESS" not in caplog.text
        assert "1 of 2 tasks failed" in caplog.text

    def test_not_in_the_log_file_either(self, tmp_path):
        options = {"write_worker_results": False, "logfile": str(tmp_path / "log")}
        with pytest.raises(acme_mpi.TaskError):
            acme_mpi.ParallelMap(only_there, [1, 2], **options).compute()
        for debug in (False, True):
            with acme_mpi.ParallelMap(only_there, [0, 1], **options) as pmap:
                assert pmap.compute(debug=debug) == [0, 1]

        said = (tmp_path / "log").read_text()
        assert said.count("SUCCESS!") == 2
        assert said.index("1 of 2 tasks failed") < said.index("SUCCESS!")

    def test_a_script_that_is_served_says_when_it_has_them(self, mpiexec, write_script):
        script = write_script(SERVED)

        ran = mpiexec(2, "-m", "acme_mpi", script)

        assert ran.returncode == 0, ran.stderr
        assert ran.stderr.count("SUCCESS!") == 2
        assert ran.stderr.count("2 of 2 tasks failed") == 1
        assert ran.stdout.splitlines() == ["failed [0, 1]", "interrupted", "[0, 1]", "done [2, 3]"]


SERVED = """
import os
import acme_mpi

class Odd:
    def __init__(self, x): self.x = x
    def __setstate__(self, state):
        self.x = state["x"]
        if os.getpid() == int(os.environ.get("SCRIPT", 0)):
            raise KIND

def f(x):
    return Odd(x)

if __name__ == "__main__":
    os.environ["SCRIPT"] = str(os.getpid())
    def call(xs):
        return [odd.x for odd in acme_mpi.map(f, xs, write_worker_results=False)]
    KIND = ValueError
    try:
        call([0, 1])
    except acme_mpi.TaskError as error:
        print("failed", [failure.index for failure in error.failures], flush=True)
    KIND = KeyboardInterrupt
    try:
        call([0, 1])
    except KeyboardInterrupt:
        print("interrupted", flush=True)
    os.environ["SCRIPT"] = "0"
    print(call([0, 1]), flush=True)
    print("done", call([2, 3]), flush=True)
"""
