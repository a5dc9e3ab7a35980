"""What is called: functions of one task, the same for every side."""

import os
import time
from pathlib import Path

LONGEST_STAY_S = 5.0  # a farm may have given two tasks to one process


def empty(x):
    pass


def scalar(x):
    return 0.5 * x


def burn(seconds):
    """Use CPU time and not wall clock (two tasks on one core take twice as long); return both."""
    begin_s, end_cpu_s = time.monotonic(), time.thread_time() + seconds
    while time.thread_time() < end_cpu_s:
        pass
    return begin_s, time.monotonic()


def burn_1ms(x):
    return burn(0.001)


def burn_5ms(x):
    return burn(0.005)


def burn_100ms(x):
    return burn(0.1)


# CPU time in seconds that a call uses on purpose.
BUSY_S = {"burn_1ms": 0.001, "burn_5ms": 0.005, "burn_100ms": 0.1}


def nap(seconds):
    time.sleep(seconds)


def large(x):
    import numpy as np

    return np.full(1_000_000, float(x))


def arrive(x, array, n_expected):
    """Return who has got the array, and when; read all of it, and stay until all have got it."""
    arrived_s = time.monotonic()
    array[:: 4096 // array.itemsize].sum()
    Path(f"arrived_{array.size}_{os.getpid()}").touch()
    while (
        len(list(Path().glob(f"arrived_{array.size}_*"))) < n_expected
        and time.monotonic() < arrived_s + LONGEST_STAY_S
    ):
        time.sleep(0.01)
    return os.getpid(), arrived_s
