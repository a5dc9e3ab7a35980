"""Site files and variables: what they say, which overrules which, and what a mistake is told."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import acme_mpi
from acme_mpi import InputError, Local, Slurm, launcher_of
from acme_mpi.cli.commands import run_command
from acme_mpi.launchers import site as site_module
from acme_mpi.launchers.site import VARIABLES, read_site

pytestmark = pytest.mark.once

SITE = """\
launch = "esi"
prologue = ["module load openmpi"]
ports = "60001-63000"

[launchers.esi]
kind = "slurm"
partition = "8GBS"
time = "2h"
n = 64

[launchers.here]
kind = "local"
n = 2
"""


@pytest.fixture(autouse=True)
def write(tmp_path, monkeypatch):
    """Return a function that writes the site's and the user's file; there are none at first."""
    site, user = tmp_path / "site.toml", tmp_path / "config" / "acme_mpi.toml"
    user.parent.mkdir()
    monkeypatch.setattr(site_module, "SYSTEM_FILE", str(site))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(user.parent))
    for variable in VARIABLES.values():
        monkeypatch.delenv(variable, raising=False)

    def both(text: str, of_user: str = "") -> None:
        site.write_text(text)
        user.write_text(of_user)

    return both


def test_without_files_nothing_is_said():
    assert launcher_of() == Local()
    assert launcher_of("local", n=3) == Local(3)
    assert launcher_of("slurm", n=3, time="2h", mem=None) == Slurm(3, time="2h")
    assert Slurm(1).prologue == ()
    assert read_site().ports is None


def test_a_name_stands_for_a_launcher_and_words_overrule_it(write):
    write(SITE)
    esi = Slurm(64, partition="8GBS", time="2h", prologue=["module load openmpi"])

    assert launcher_of() == launcher_of("esi") == esi
    assert launcher_of(n=8, time=None).n == launcher_of("esi", n=8).n == 8
    assert launcher_of("here") == Local(2)
    assert launcher_of(esi) is esi
    assert launcher_of(esi, time="1h").time == "01:00:00"
    assert read_site().ports == range(60001, 63001)
    assert "module load openmpi" in launcher_of("esi").prologue
    assert Slurm(1, prologue=[]).prologue == Local(1, prologue=[]).prologue == ()


def test_the_user_overrules_the_site_word_by_word_and_variables_overrule_both(write, monkeypatch):
    write(SITE, 'launch = "here"\n[launchers.esi]\naccount = "me"\nn = 8\n')
    assert launcher_of() == Local(2)
    assert launcher_of("esi") == Slurm(8, partition="8GBS", time="2h", account="me")

    monkeypatch.setenv("ACME_MPI_LAUNCH", "esi")
    monkeypatch.setenv("ACME_MPI_PROLOGUE", "module purge\nmodule load mpich")
    monkeypatch.setenv("ACME_MPI_PORTS", "7000")
    assert launcher_of().kind == "slurm"
    assert launcher_of().prologue == ("module purge", "module load mpich")
    assert read_site().ports == range(7000, 7001)

    monkeypatch.setenv("ACME_MPI_LAUNCH", "none")  # which is about ranks that calls start
    assert launcher_of() == Local(2)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('lunch = "esi"', "there is no `lunch` (did you mean 'launch'?); there are launch, prol"),
        ("launch = 3", "`launch` has to be the name of a launcher in quotes, not 3"),
        ("prologue = 3", "`prologue` has to be a list of str, not 3"),
        ("ports = 60001", "`ports` has to be '60001-63000', or one number in quotes"),
        ('ports = "63000-60001"', "not '63000-60001'"),
        ('ports = "1-65536"', "from 1 to 65535, not '1-65536'"),
        ("launchers = 3", "`launchers.NAME` has to be a table"),
        ("[launchers]\nesi = 3", "`launchers.esi` has to be a table, [launchers.esi]"),
        ('[launchers.slurm]\nkind = "slurm"', "is none of local, slurm, sge, none"),
        ("[launchers.esi]\nn = 3", "`launchers.esi` needs a `kind`: 'local' or 'slurm' or 'sge'"),
        ('[launchers.esi]\nkind = "slum"', "'slum' (did you mean 'slurm'?)"),
        (
            '[launchers.esi]\nkind = "slurm"\npartitoin = "a"',
            "`launchers.esi`: `partitoin` is no word of Slurm (did you mean 'partition'?); there",
        ),
        (
            '[launchers.esi]\nkind = "slurm"\ntime = 2',
            "`launchers.esi`: `time` has to be a str such as '2h'",
        ),
        ("launch = [", "is no TOML file"),
        (b'launch = "\xff"', "is no TOML file"),
    ],
)
def test_a_mistake_is_told_with_its_file_and_what_is_allowed(write, tmp_path, text, told):
    write("")
    path = tmp_path / "site.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(InputError) as caught:
        launcher_of("esi", n=1)
    assert str(caught.value).startswith(str(path))
    assert told in str(caught.value)


def test_unknown_names_are_told_what_is_known_and_what_was_read(write, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=r"no site file was found; not there: .*site.toml, .*conf"):
        launcher_of("esi")
    write(SITE)
    with pytest.raises(InputError) as caught:
        launcher_of("ezi")
    assert str(caught.value) == (
        "`launch` has to be one of 'local', 'slurm', 'sge', 'esi', 'here', not 'ezi' (did you mean "
        f"'esi'?)\n  read: {tmp_path}/site.toml, {tmp_path}/config/acme_mpi.toml"
    )
    monkeypatch.setenv("ACME_MPI_LAUNCH", "ezi")
    with pytest.raises(InputError, match=r"^the variable ACME_MPI_LAUNCH: `launch` has to be"):
        launcher_of()
    monkeypatch.setenv("ACME_MPI_PORTS", "all")
    with pytest.raises(InputError, match=r"^the variable ACME_MPI_PORTS: .*not 'all'"):
        Slurm(1)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path):
    (tmp_path / "site.toml").mkdir()

    with pytest.raises(InputError, match=r"cannot read .*site.toml: Is a directory"):
        launcher_of("local")


@pytest.mark.parametrize(
    ("launch", "words", "told"),
    [
        (3, {}, "`launch` has to be the name of a launcher, acme_mpi.Local"),
        ("slurm", {}, "-n 64 on the command line, or acme_mpi.launcher_of('slurm', n=64) as"),
        ("local", {"time": "2h"}, "`time` is no word of Local; there are n, prologue"),
        (Slurm(1, prologue=[]), {"tiem": "2h"}, "no word of Slurm (did you mean 'time'?)"),
        ("slurm", {"n": 0}, "`n` has to be a whole number >= 1, not 0"),
    ],
)
def test_wrong_words_of_a_call_are_refused(launch, words, told):
    with pytest.raises(InputError) as caught:
        launcher_of(launch, **words)
    assert told in str(caught.value)


def test_calls_and_the_command_line_take_names(write, module_folder, monkeypatch, capfd):
    """Words of the command line overrule the file's, and a call needs no more than a name."""
    write(SITE)
    monkeypatch.chdir(module_folder)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "mymod", raising=False)

    def printed(*words: str) -> str:
        call = ("--print", "mymod:f", "args.npz", "--output-dir", "out")
        status = run_command(["submit", *words, *call])
        out, err = capfd.readouterr()
        return out if status == 0 else err

    script = printed("-n", "8", "--time", "1h")
    for line in ("--ntasks=8", "--partition=8GBS", "--time=01:00:00"):
        assert f"#SBATCH {line}\n" in script
    assert "\nmodule load openmpi\n" in script
    assert "-n 2 " in printed("--launch", "here")
    assert "--account=a" in printed("--launch", "esi", "--account", "a")
    assert "`time` is no word of Local" in printed("--launch", "here", "--time", "1h")
    assert "give one of them" in printed("--local", "--launch", "esi")
    for call in (acme_mpi.submit, acme_mpi.map, acme_mpi.ParallelMap):
        with pytest.raises(InputError, match="not 'ezi'"):
            call(len, ["a", "b"], launch="ezi")
    sys.modules.pop("mymod", None)


def test_ranks_and_processes_without_jobs_read_no_file():
    code = (
        "import sys, acme_mpi.cli.main, acme_mpi.session.rank_main, acme_mpi.jobs.running; "
        "sys.exit('acme_mpi.launchers.site' in sys.modules or 'tomllib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], env=os.environ, timeout=60).returncode == 0
