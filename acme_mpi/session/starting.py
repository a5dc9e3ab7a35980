"""Ranks that a launcher starts, and that wait for their client: how they begin.

All that both sides need lies in one folder, which has to be on a file system that both see:

============== ====================================================================
``ranks.json`` how they were started
``key``        who has it may have the ranks call any function
``script.sh``  what was submitted
``log``        what the job has printed
``id``         by what the launcher knows the job
``exit``       the status with which the script has ended
``rank0.json`` where rank 0 listens
``client-*``   of a client that cannot reach rank 0: where it listens, and a mailbox
============== ====================================================================
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import shutil
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

from acme_mpi.errors import LaunchError
from acme_mpi.history.journal import write_whole
from acme_mpi.history.parsing import Damaged, read_file
from acme_mpi.launchers.base import RUNNING, UNKNOWN, Launcher, Order, State
from acme_mpi.launchers.log import last_lines, log_end
from acme_mpi.launchers.named import KINDS
from acme_mpi.launchers.queue import queue_of
from acme_mpi.links.endpoint import RANK_0, Endpoint
from acme_mpi.links.key import make_key
from acme_mpi.linux.terminal import is_watched
from acme_mpi.spelling import whole_number
from acme_mpi.symptoms import cures_for
from acme_mpi.visible import say

RECORD, SCRIPT, LOG, ID, EXIT = "ranks.json", "script.sh", "log", "id", "exit"
PROGRAM = "acme_mpi.session.kept_main"
LOOK_S, LONGEST_LOOK_S = 0.02, 0.5  # between two looks for rank 0
_OURS = "ranks-"  # how the folders begin whose names nobody has chosen

logger = logging.getLogger("acme_mpi")


@dataclass(frozen=True)
class RanksFolder:
    """Ranks that were started, or are going to be, as their folder tells of them.

    Attributes
    ----------
    folder : str
        Absolute path.
    launcher : str
        Name of the launcher.
    words : mapping
        What it was told.
    idle_s : float
        How long they stay without a client, in seconds.
    environment : mapping
        The variables with which they were started.
    ports : (int, int) or None
        The first and the last port at which anybody listens; None: any.
    """

    folder: str
    launcher: str
    words: dict[str, Any]
    idle_s: float
    environment: dict[str, str]
    ports: tuple[int, int] | None = None

    @classmethod
    def read(cls, folder: str) -> RanksFolder:
        """Return the ranks of a folder.

        Raises
        ------
        LaunchError
            There are none.
        """
        path = os.path.join(folder, RECORD)
        try:
            said = json.loads(read_file(path))
            first, last = said["ports"] or (0, 0)
            ports = (int(first), int(last)) if first else None
            environment = {str(name): str(value) for name, value in said["environment"].items()}
            idle_s = float(said["idle_s"])
            found = cls(folder, said["launcher"], said["words"], idle_s, environment, ports)
            found.make_launcher()
        except FileNotFoundError:
            raise LaunchError(f"{folder} is no folder of ranks: {RECORD} is not there") from None
        except (OSError, Damaged, ValueError, TypeError, KeyError, AttributeError) as error:
            raise LaunchError(f"cannot read {path}: {error}") from None
        return found

    def make_launcher(self) -> Launcher:
        """Return the launcher that starts them."""
        return KINDS[self.launcher](**self.words)

    def path(self, name: str) -> str:
        """Return the path of a file of theirs."""
        return os.path.join(self.folder, name)

    def submit(self) -> None:
        """Make the folder and start the ranks.

        Raises
        ------
        LaunchError
            The launcher refuses it, for the reason that the message tells, or the folder cannot be
            made. Nothing is left then.
        """
        launcher = self.make_launcher()
        command = (sys.executable, "-m", PROGRAM, self.folder)
        order = Order("acme_mpi_ranks", self.folder, os.getcwd(), command, self.folder)
        try:
            os.makedirs(os.path.dirname(self.folder), exist_ok=True)
            os.mkdir(self.folder, 0o700)
        except OSError as error:
            raise LaunchError(f"cannot create {self.folder}: {error.strerror}") from None
        try:
            make_key(self.folder)
            write_whole(self.path(RECORD), json.dumps(asdict(self), indent=1))
            script = self.path(SCRIPT)
            with open(script, "x", encoding="utf-8", errors="surrogateescape") as file:
                file.write(launcher.script(order))
            write_whole(self.path(ID), launcher.submit(script, self.path(LOG), os.getcwd()))
        except OSError as error:
            self.remove()
            text = f"cannot write into {self.folder}: {error.strerror}"
            raise LaunchError(text) from None
        except BaseException:
            self.remove()
            raise

    @property
    def job_id(self) -> str:
        """By what the launcher knows their job: Slurm's number, or host and process."""
        with contextlib.suppress(OSError, Damaged):
            return read_file(self.path(ID)).decode(errors="replace").strip()
        return ""

    def state(self) -> State:
        """Return how their job is."""
        status = self._exit_status()
        if status is not None:
            return State("COMPLETED" if status == 0 else "FAILED")
        queue = queue_of(KINDS[self.launcher])
        found = queue.state(self.job_id, self.path(SCRIPT))
        if found is None:
            if self._exit_status() is not None:  # just now
                return self.state()
            return State(UNKNOWN, "it has gone without a word: killed, or its node was lost")
        return found

    def _exit_status(self) -> int | None:
        with contextlib.suppress(OSError, Damaged):
            return whole_number(read_file(self.path(EXIT)).decode(errors="replace").strip())
        return None

    def wait(self, time_s: float | None = None) -> Endpoint:
        """Wait until rank 0 listens; say meanwhile why that takes its time.

        Parameters
        ----------
        time_s : float, optional
            How long at most, in seconds; default as long as it takes.

        Raises
        ------
        LaunchError
            The job has ended.
        TimeoutError
            It has not begun within that time.
        """
        give_up_s = None if time_s is None else time.monotonic() + time_s
        pause_s, told = LOOK_S, ""
        while True:
            found, state = Endpoint.read(self.path(RANK_0)), self.state()
            if state.is_over:
                what = "not begun" if found is None else "ended"
                raise LaunchError(f"the ranks have {what}: {self.how_it_is(state)}")
            if found is not None:
                return found
            if state.is_pending and str(state) != told:
                told = str(state)
                _tell(f"job {self.job_id}: {state}")
            if give_up_s is not None and time.monotonic() > give_up_s:
                raise TimeoutError(f"the ranks have not begun: job {self.job_id} is {state}")
            time.sleep(pause_s)
            pause_s = min(1.5 * pause_s, LONGEST_LOOK_S)

    def how_it_is(self, state: State | None = None) -> str:
        """Return the state of the job and what it has said at last."""
        if state is None:
            queue_of(KINDS[self.launcher]).ask_again()
        found = self.state() if state is None else state
        title = KINDS[self.launcher].title
        said = "".join(f"\n  {line}" for line in last_lines(self.path(LOG)))
        text = f"job {self.job_id} on {title} is {found}"
        cures = cures_for(f"{text}\n{log_end(self.path(LOG))}")
        return f"{text}; it has said at last:{said}{cures}" if said else f"{text}{cures}"

    def cancel(self) -> None:
        """End the job, and forget it.

        Raises
        ------
        LaunchError
            The launcher refuses.
        """
        state = self.state()
        if not state.is_over:
            launcher = KINDS[self.launcher]
            launcher.cancel([self.job_id], force=state.name != RUNNING and not state.is_pending)
            queue_of(launcher).ask_again()
        self.remove()

    def remove(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def new_folder() -> str:
    """Return the path of a new folder of ranks below the user's own, and tidy up there."""
    parent = folder_of_all()
    for name in _names(parent):
        folder = os.path.join(parent, name)
        if os.path.exists(os.path.join(folder, EXIT)):
            shutil.rmtree(folder, ignore_errors=True)
    stamp = time.strftime("%Y%m%d-%H%M%S")
    return os.path.join(parent, f"{_OURS}{stamp}-{secrets.token_hex(3)}")


def newest_folder() -> str:
    """Return the folder of the ranks that were started last, by nobody's name, and are there.

    Raises
    ------
    LaunchError
        There are none.
    """
    parent = folder_of_all()
    for name in sorted(_names(parent), reverse=True):
        folder = os.path.join(parent, name)
        with contextlib.suppress(LaunchError):  # it is being made, or removed
            if not RanksFolder.read(folder).state().is_over:
                return folder
    raise LaunchError(f"there are no ranks in {parent}; acme_mpi.launch starts some")


def folder_of_all() -> str:
    """Return where the folders of ranks are; a cluster's nodes see the home directory, too."""
    home = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return os.path.join(home, "acme_mpi")


def _names(parent: str) -> list[str]:
    try:
        return [name for name in os.listdir(parent) if name.startswith(_OURS)]
    except OSError:
        return []


def _tell(text: str) -> None:
    # What a notebook writes to stderr is seen, though that is no terminal.
    if is_watched() or "ipykernel" in sys.modules:
        say(text, sys.stderr)
    else:
        logger.info("%s", text)
