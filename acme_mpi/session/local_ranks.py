"""Ranks on this machine that a process starts for itself, without being one."""

from __future__ import annotations

import atexit
import contextlib
import os
import select
import signal
import subprocess
import time

from acme_mpi.comm import unpack_error
from acme_mpi.comm.launcher import END_TIME
from acme_mpi.comm.mpiexec import environment_of_local_ranks, mpiexec
from acme_mpi.errors import LaunchError
from acme_mpi.linux.descriptors import occupy_standard_descriptors
from acme_mpi.linux.gpus import PER_RANK, refuse_too_few_gpus
from acme_mpi.linux.ulimits import fault_of_limits
from acme_mpi.runner.channel import Channel, Kind
from acme_mpi.runner.launched import without_launcher
from acme_mpi.runner.process import python_command
from acme_mpi.session.dialling import VARIABLE, Dialled, Listener
from acme_mpi.session.printed import outputs_of_this_process
from acme_mpi.session.ranks import Ranks

STARTED_S = 60.0  # within which all ranks are there
ENDED_S = 5.0  # within which all ranks have left that were told to
LAST_WORDS_S = 2.0  # within which mpiexec has said why ranks have gone
N_LAST_LINES = 10  # of what mpiexec has said, in an error
# The batch job in which this process runs, as far as ranks have to know of it: when it ends.
_OF_BATCH_JOB = ("SLURM_JOB_ID", "SLURM_JOB_END_TIME", END_TIME)


class LocalRanks(Ranks):
    """Ranks on this machine that serve this process, until it ends or does not want them any more.

    Parameters
    ----------
    n : int
        How many, >= 1; more than there are cores take each other's time.
    gpus_per_rank : int, optional
        GPUs that each sees, >= 1; default all of the node.

    Attributes
    ----------
    ranks : list of (str, int)
        Host and process id of each rank, by its number.

    Raises
    ------
    LaunchError
        There is no mpiexec, or it has not started the ranks.
    InputError
        There are too few GPUs, or a limit of this process is too low.
    """

    title = "the ranks that this process has started"
    is_direct = True
    what_next = "a new call starts others"

    def __init__(self, n: int, gpus_per_rank: int | None = None) -> None:
        if gpus_per_rank is not None:
            refuse_too_few_gpus(n, gpus_per_rank)
        if (fault := fault_of_limits()) is not None:
            raise fault
        program = mpiexec()
        occupy_standard_descriptors()
        self.ranks: list[tuple[str, int]] = []
        self.environment = environment_of_local_ranks(without_launcher(os.environ))
        if gpus_per_rank is not None:
            self.environment[PER_RANK] = str(gpus_per_rank)
        self._program, self._pid = program, os.getpid()
        self._dialled: list[Dialled] = []
        self._channel: Channel | None = None
        self._said = os.memfd_create("acme_mpi_mpiexec", os.MFD_CLOEXEC)
        self._last_words = ""
        self._outputs = outputs_of_this_process()
        self._process: subprocess.Popen[bytes] | None = None
        listener = Listener(self._outputs.descriptors)
        try:
            self._process = self._start(n, listener)
            self._meet(listener)
        except BaseException:
            self._end(0.0)
            raise
        finally:
            listener.close()
        self._outputs.begin()
        atexit.register(self.stop)

    def _start(self, n: int, listener: Listener) -> subprocess.Popen[bytes]:
        command = python_command("acme_mpi.session.rank_main")
        return subprocess.Popen(
            [self._program, "-n", str(n), *command],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=self._said,
            env={**self.environment, VARIABLE: listener.word},
            # A terminal's Ctrl-C, and what a notebook sends to its kernel's group, is not for it.
            start_new_session=True,
        )

    def _meet(self, listener: Listener) -> None:
        """Wait until all ranks have dialled, and rank 0 has said which they are."""
        assert self._process is not None
        pidfd, give_up_s = os.pidfd_open(self._process.pid), time.monotonic() + STARTED_S
        try:
            while not self.ranks:
                first = [each.channel for each in self._dialled if each.rank == 0]
                left_s = max(0.0, give_up_s - time.monotonic())
                awaited = [listener.fileno(), pidfd, *(channel.fileno() for channel in first)]
                ready, _, _ = select.select(awaited, [], [], left_s)
                if listener.fileno() in ready and (dialled := listener.accept()) is not None:
                    self._dialled.append(dialled)
                for channel in first:
                    if channel.fileno() in ready:
                        self._hear(channel)
                if not ready or ready == [pidfd]:
                    how = "has ended" if ready else f"has started none within {STARTED_S:.0f} s"
                    raise LaunchError(f"{self._program} was to start ranks, and {how}{self.said()}")
        finally:
            os.close(pidfd)

    def _hear(self, channel: Channel) -> None:
        """Take what rank 0 says of all ranks, and tell it what it needs to know."""
        try:
            message = channel.receive()
        except EOFError:
            text = f"the ranks that {self._program} has started have gone{self.said()}"
            raise LaunchError(text) from None
        assert message is not None
        ranks, error = message[1]
        if error is not None:
            raise unpack_error(error)
        self.ranks, self._channel = ranks, channel
        job = {name: os.environ[name] for name in _OF_BATCH_JOB if name in os.environ}
        channel.send(Kind.HELLO, job)

    @property
    def channel(self) -> Channel:
        """To rank 0's agent."""
        assert self._channel is not None
        return self._channel

    def status(self) -> str:
        """Return ``"running"`` or ``"ended"``."""
        process = self._process
        return "running" if process is not None and process.poll() is None else "ended"

    def said(self) -> str:
        """Return what mpiexec has said at last, as the end of a sentence, and what cures it."""
        if self._process is not None:
            # It says why they have gone once it has noticed.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(LAST_WORDS_S)
        return self._words()

    def _words(self) -> str:
        if self._process is None:
            return self._last_words
        size = os.fstat(self._said).st_size
        data = os.pread(self._said, 4096, max(0, size - 4096))
        text = data.decode(errors="replace")
        lines = text.strip().splitlines()[-N_LAST_LINES:]
        if not lines:
            return ""
        from acme_mpi.symptoms import cures_for  # a long table

        said = "".join(f"\n  {line}" for line in lines)
        return f"; it has said:{said}{cures_for(text)}"

    def show_printed(self) -> None:
        """Show all that tasks have printed by now."""
        self._outputs.drain()

    def stop(self) -> None:
        """End the ranks; what runs on them is dropped. A second call does nothing."""
        if self._process is None or self._pid != os.getpid():
            return
        atexit.unregister(self.stop)
        self._end(ENDED_S)

    def _end(self, patience_s: float) -> None:
        """Have the ranks leave, kill what stays after some seconds, and free everything."""
        self._last_words = self._words()
        process, self._process = self._process, None
        if self._channel is not None:
            self._channel.hang_up()
        if process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(patience_s)
            self._kill(process)
            process.wait()
        for dialled in self._dialled:
            dialled.close()
        self._dialled.clear()
        self._outputs.close()
        os.close(self._said)

    def _kill(self, process: subprocess.Popen[bytes]) -> None:
        for dialled in self._dialled:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(dialled.pidfd, signal.SIGKILL)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def let_go(self) -> None:
        """Have no part in them in a process that was forked from theirs."""
        atexit.unregister(self.stop)
        for dialled in self._dialled:
            dialled.close()

    def __repr__(self) -> str:
        return f"<acme_mpi.LocalRanks: {len(self.ranks)} ranks, {self.status()}>"
