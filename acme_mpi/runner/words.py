"""The page of 64-bit words that a runner and its agent share: the number of each word."""

from __future__ import annotations

# 0: index of the running task, -1: none. 1: its start, or that of the tasks that share a look at
# the clock with it, in nanoseconds of `time.monotonic_ns`.
DRAIN = 2  # by which the agent wishes that no further task is started
N_RUNNING = 3  # how many calls of a stream the first word stands for
SKIP_FROM, SKIP_TO = 4, 5  # numbers of the calls that are taken back
N_WORDS = 6

Words = memoryview | list[int]
