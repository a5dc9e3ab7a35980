"""Quantiles from the histogram against NumPy's from all durations."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_mpi.engine.durations import BIN_RATIO, LONGEST_S, SHORTEST_S, Durations

pytestmark = pytest.mark.once

SECONDS = st.floats(SHORTEST_S, LONGEST_S)
ROUNDING = 1 + 1e-12  # of powers of the bins' ratio


def durations_of(values) -> Durations:
    """Return the histogram of single tasks."""
    durations = Durations()
    for value in values:
        durations.add(1, value)
    return durations


def test_before_the_first_task_everything_is_zero():
    empty = Durations()

    assert (empty.n, empty.median_s, empty.mean_s, empty.longest_s, empty.quantile(0.9)) == (0,) * 5


@given(st.lists(SECONDS, min_size=1), st.floats(0, 1))
def test_a_quantile_is_at_most_one_bin_above_the_true_one(values, q):
    """A quantile is never less than the true one and at most a bin more."""
    found = durations_of(values).quantile(q)

    true = float(np.quantile(values, q, method="higher"))
    assert true <= found <= true * BIN_RATIO * ROUNDING


@given(st.lists(SECONDS, min_size=1))
def test_the_median_is_never_less_than_numpys(values):
    assert durations_of(values).median_s * ROUNDING >= np.median(values)


@given(st.lists(SECONDS, min_size=1))
def test_mean_number_and_longest_are_exact(values):
    durations = durations_of(values)

    assert durations.n == len(values)
    assert durations.mean_s == pytest.approx(np.mean(values))
    assert durations.longest_s == max(values)


@given(st.lists(SECONDS, min_size=1))
def test_no_quantile_exceeds_the_longest_duration(values):
    assert durations_of(values).quantile(1.0) == max(values)


@pytest.mark.parametrize("value", [0.0, 1e-9, 2e7, 1e30])
def test_durations_outside_the_bins_are_known_by_the_longest(value):
    assert durations_of([value]).median_s == value


def test_tasks_measured_together_count_with_their_mean():
    durations = Durations()
    durations.add(1000, 1.0)
    durations.add(1, 5.0)

    assert durations.n == 1001
    assert 0.001 <= durations.median_s <= 0.001 * BIN_RATIO
    assert durations.quantile(1.0) == 5.0
    assert durations.mean_s == pytest.approx(6.0 / 1001)


def test_no_tasks_are_no_news():
    durations = Durations()
    durations.add(0, 3.0)

    assert (durations.n, durations.longest_s) == (0, 0.0)


def test_the_memory_does_not_grow():
    durations = Durations()
    before = durations._counts.nbytes
    durations.add(10**15, 1e12)
    durations.add(10**15, 1e9)

    assert durations._counts.nbytes == before
    assert durations.n == 2 * 10**15
