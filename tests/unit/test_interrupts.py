"""Signals: the first is remembered, the second leaves; nothing of it stays after a run."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import threading

import pytest

from acme_mpi.linux.interrupts import SIGNALS, Interrupts, signal_name

pytestmark = pytest.mark.once


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_is_remembered_and_wakes(number):
    interrupts = Interrupts()
    with interrupts.caught():
        assert interrupts.number == 0
        assert select.select([interrupts.fileno()], [], [], 0)[0] == []
        os.kill(os.getpid(), number)

        assert interrupts.number == number
        assert select.select([interrupts.fileno()], [], [], 5)[0]


def test_afterwards_all_is_as_it_was():
    before = [signal.getsignal(number) for number in SIGNALS]
    interrupts = Interrupts()
    with interrupts.caught():
        os.kill(os.getpid(), signal.SIGUSR1)

    assert [signal.getsignal(number) for number in SIGNALS] == before
    assert (interrupts.number, interrupts.fileno()) == (0, -1)


def test_a_second_interrupt_of_a_script_is_pythons_own():
    with Interrupts().caught():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_in_another_thread_nothing_is_caught():
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def look() -> None:
        with Interrupts().caught():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()

    assert seen == [before]


@pytest.mark.parametrize(("is_own", "status"), [(True, 128 + 12), (False, -12)])
def test_a_second_signal_ends_the_process(is_own, status):
    script = (
        "import os, signal; from acme_mpi.linux.interrupts import Interrupts\n"
        f"Interrupts().catch({is_own})\n"
        "for _ in range(2): os.kill(os.getpid(), signal.SIGUSR2)\n"
    )

    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == status


def test_caught_twice_the_outer_one_counts():
    interrupts = Interrupts()
    interrupts.catch()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with interrupts.caught():
            pass
        assert signal.getsignal(signal.SIGTERM) == handler
        assert interrupts.fileno() >= 0
    finally:
        interrupts.restore()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"])
def test_a_forked_child_takes_signals_as_before(name):
    """Its parent decides on those that it gets itself; nobody waits for a child that ignores it."""
    script = f"""if True:
        import os, signal; from acme_mpi.linux.interrupts import Interrupts
        interrupts = Interrupts()
        interrupts.catch()
        pid = os.fork()
        if not pid:
            os.kill(os.getpid(), signal.{name})
            os._exit(7)
        print(os.waitpid(pid, 0)[1], interrupts.number)
    """

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=60)

    assert ran.stdout.split() == [b"%d" % getattr(signal, name), b"0"]


def test_signals_have_names():
    assert signal_name(signal.SIGUSR2) == "SIGUSR2"
    assert signal_name(40) == "signal 40"
