"""``script.py f`` may have meant ``script.py:f``: read off the script's text."""

from __future__ import annotations

import pytest

from acme_mpi.session.meant import function_meant

pytestmark = pytest.mark.once

ONLY = (
    "'''A docstring.'''\nimport os\nN: int = 3\n\n\ndef f(x):\n    pass\n\n\nclass C:\n    pass\n"
)


@pytest.mark.parametrize(
    ("text", "is_certain"),
    [
        (ONLY, True),
        (ONLY + "print(f(1))\n", False),
        (ONLY + "if __name__ == '__main__':\n    f(1)\n", False),
        (ONLY + "x = f(1)\n", False),
        (ONLY.replace("def f", "@register\ndef f"), False),
    ],
)
def test_a_function_behind_its_script_is_found(tmp_path, text, is_certain):
    """A function behind its script is found and how sure that is."""
    path = tmp_path / "script.py"
    path.write_text(text)

    meant = function_meant([str(path), "f", "args.npz", "--set", "x=[1, 2]"])

    assert meant is not None
    assert meant.is_certain is is_certain
    assert meant.text.endswith(f"python -m acme_mpi {path}:f args.npz --set 'x=[1, 2]'")


@pytest.mark.parametrize("word", ["g", "K.f", "K.L.f", "K.g"])
def test_lambdas_and_functions_inside_of_classes_are_found_too(tmp_path, word):
    path = tmp_path / "script.py"
    path.write_text(
        "g = lambda x: x\n"
        "class K:\n"
        "    def f(x): pass\n"
        "    g = lambda x: x\n"
        "    class L:\n"
        "        def f(x): pass\n"
    )
    meant = function_meant([str(path), word])

    assert meant is not None
    assert meant.is_certain
    assert meant.text.endswith(f"python -m acme_mpi {path}:{word}")
    assert function_meant([str(path), "K.h"]) is None


def test_so_it_is_behind_a_module(tmp_path, monkeypatch):
    (tmp_path / "pkg").mkdir()
    (tmp_path / "pkg" / "mod.py").write_text(ONLY)
    monkeypatch.chdir(tmp_path)

    meant = function_meant(["-m", "pkg.mod", "f"])

    assert meant is not None
    assert meant.text.endswith("python -m acme_mpi pkg.mod:f")


@pytest.mark.parametrize("words", [[], ["g"], ["C"], ["N"], ["os"], ["-f"], ["f.npz"]])
def test_any_other_word_is_the_scripts_own(tmp_path, words):
    (tmp_path / "script.py").write_text(ONLY)

    assert function_meant([str(tmp_path / "script.py"), *words]) is None


@pytest.mark.parametrize("text", ["def f(:\n", "\0", "(" * 1000, "\udcff"])
def test_what_cannot_be_parsed_means_nothing(tmp_path, text):
    (tmp_path / "script.py").write_bytes(text.encode(errors="surrogateescape"))

    assert function_meant([str(tmp_path / "script.py"), "f"]) is None
    assert function_meant([str(tmp_path / "gone.py"), "f"]) is None
    assert function_meant(["-m", "pytest", "f"]) is None
