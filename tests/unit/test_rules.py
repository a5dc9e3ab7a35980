"""What users may write as rules, what it means, and what an error says."""

from __future__ import annotations

import dataclasses
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.rules import Rules, parse_bytes, parse_duration

pytestmark = pytest.mark.once


class TestRules:
    def test_by_default_there_are_no_limits(self):
        rules = Rules()

        assert (rules.retries, rules.crash_limit) == (0, None)
        assert (rules.timeout_s, rules.timeout_ratio, rules.time_limit_s) == (0.0, 0.0, 0.0)
        assert (rules.memory_bytes, rules.halt_when) == (0, "")
        assert not rules.must_halt(1000, 1000)

    def test_a_timeout_is_a_duration_or_a_share_of_the_median(self):
        assert (Rules(timeout="5m").timeout_s, Rules(timeout="5m").timeout_ratio) == (300.0, 0.0)
        assert (Rules(timeout="200%").timeout_s, Rules(timeout="200%").timeout_ratio) == (0.0, 2.0)
        assert Rules(timeout=0.5).timeout_s == 0.5

    def test_limits_are_given_in_seconds_and_bytes(self):
        rules = Rules(memory="2G", time_limit="1-00:00:00")

        assert (rules.memory_bytes, rules.time_limit_s) == (2 * 1024**3, 86400.0)

    @pytest.mark.parametrize(
        ("given", "seconds"),
        [({}, 5.0), ({"sync": "1m"}, 60.0), ({"sync": 0}, 0.0), ({"sync": "0s"}, 0.0)],
    )
    def test_results_are_brought_to_the_disk_every_so_often_or_each_time(self, given, seconds):
        assert Rules(**given).sync_s == seconds

    def test_they_travel_as_plain_values(self):
        rules = Rules(
            np.int64(2), np.int32(3), "now,fail=1", np.float32(0.5), np.int64(2**31), "2h"
        )

        fields = json.loads(json.dumps(dataclasses.asdict(rules)))
        assert Rules(**fields) == rules == pickle.loads(pickle.dumps(rules))

    @pytest.mark.parametrize(
        ("crash_limit", "n_deaths", "by_itself", "from_outside"),
        [(None, 1, True, False), (None, 2, True, True), (1, 1, True, True), (3, 2, False, False)],
    )
    def test_a_kill_from_outside_is_held_against_nobody_at_first(
        self, crash_limit, n_deaths, by_itself, from_outside
    ):
        rules = Rules(crash_limit=crash_limit)

        assert rules.gives_up(n_deaths, is_from_outside=False) is by_itself
        assert rules.gives_up(n_deaths, is_from_outside=True) is from_outside

    def test_they_cannot_be_changed(self):
        with pytest.raises(dataclasses.FrozenInstanceError):
            Rules().retries = 3  # type: ignore[misc]

    @pytest.mark.parametrize(
        ("given", "problem"),
        [
            ({"retries": -1}, "`retries` has to be >= 0, not -1"),
            ({"crash_limit": 0}, "`crash_limit` has to be >= 1, not 0"),
            ({"timeout": "100%"}, "more than 100%, not '100%'"),
            ({"timeout": "50%"}, "more than 100%, not '50%'"),
            ({"timeout": 0}, "`timeout`: a duration has to be .* more than 0, not 0"),
            ({"timeout": "soon"}, "not 'soon'; or give a percentage: '300%'"),
            ({"memory": "lots"}, "`memory`: an amount of memory has to be .*'2G'.* not 'lots'"),
            ({"memory": 0}, "`memory`: .* not 0"),
            ({"time_limit": "200%"}, "`time_limit`: a duration has to be .* not '200%'"),
            ({"sync": "often"}, "`sync`: a duration has to be .* not 'often'; or 0 for each time"),
            ({"sync": -1}, "`sync`: a duration has to be .* not -1; or 0 for each time"),
            ({"halt": "fail=1"}, "`halt` has to be 'soon,fail=N'.* not 'fail=1'"),
            ({"halt": "soon,fail=0"}, "not 'soon,fail=0'"),
            ({"halt": "soon,fail=0%"}, "not 'soon,fail=0%'"),
            ({"halt": "soon,fail=101%"}, "not 'soon,fail=101%'"),
            ({"halt": "now,success=1"}, "not 'now,success=1'"),
            ({"halt": ""}, "not ''"),
        ],
    )
    def test_a_wrong_value_is_named_with_what_is_allowed(self, given, problem):
        with pytest.raises(InputError, match=problem) as caught:
            Rules(**given)

        assert not isinstance(caught.value, InputTypeError)

    @pytest.mark.parametrize(
        "given",
        [
            {"retries": "3"},
            {"retries": True},
            {"retries": 1.0},
            {"crash_limit": "2"},
            {"timeout": [1]},
            {"timeout": True},
            {"memory": 2.5},
            {"memory": True},
            {"time_limit": b"2h"},
            {"halt": 3},
        ],
    )
    def test_a_value_of_the_wrong_type_is_named_in_a_type_error(self, given):
        """A value of the wrong type is a type error that names it."""
        with pytest.raises(InputTypeError, match=f"`{next(iter(given))}`"):
            Rules(**given)


class TestHalt:
    @pytest.mark.parametrize("when", ["soon", "now"])
    def test_it_says_whether_running_tasks_may_end(self, when):
        assert Rules(halt=f"{when},fail=1").halt_when == when

    @pytest.mark.parametrize(("n_failed", "must"), [(0, False), (2, False), (3, True), (4, True)])
    def test_a_number_is_a_number_of_failed_tasks(self, n_failed, must):
        assert Rules(halt="soon,fail=3").must_halt(n_failed, 10**6) is must

    @pytest.mark.parametrize(
        ("halt", "n_failed", "n_tasks", "must"),
        [
            ("soon,fail=30%", 29, 100, False),
            ("soon,fail=30%", 30, 100, True),
            ("soon,fail=30%", 1, 4, False),
            ("soon,fail=30%", 2, 4, True),
            ("now,fail=0.1%", 0, 10, False),
            ("now,fail=0.1%", 1, 10, True),
            ("now,fail=100%", 9, 10, False),
            ("now,fail=100%", 10, 10, True),
        ],
    )
    def test_a_percentage_is_one_of_all_tasks_of_the_run(self, halt, n_failed, n_tasks, must):
        assert Rules(halt=halt).must_halt(n_failed, n_tasks) is must

    @given(st.integers(1, 100), st.integers(1, 10**9))
    def test_a_percentage_is_not_rounded(self, percent, n_tasks):
        rules = Rules(halt=f"soon,fail={percent}%")
        n_least = -(-percent * n_tasks // 100)

        assert rules.must_halt(n_least, n_tasks)
        assert not rules.must_halt(n_least - 1, n_tasks)


class TestDuration:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            (90, 90),
            (0.25, 0.25),
            (np.float32(0.5), 0.5),
            ("90", 90),
            (".5", 0.5),
            ("90s", 90),
            ("30m", 1800),
            ("2h", 7200),
            ("1d", 86400),
            ("1h30m", 5400),
            ("1.5h", 5400),
            ("2d3.5h16.6m4s", 2 * 86400 + 3.5 * 3600 + 16.6 * 60 + 4),
            (" 2H ", 7200),
            ("05:30", 330),
            ("90:00", 5400),
            ("01:30:00", 5400),
            ("2-12", 2.5 * 86400),
            ("2-12:30", 2.5 * 86400 + 1800),
            ("2-12:30:15", 2.5 * 86400 + 1815),
        ],
    )
    def test_forms(self, text, seconds):
        assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)

    @pytest.mark.parametrize(
        "text",
        [
            "",
            " ",
            "s",
            "h30",
            "30m1h",
            "1h 30",
            "-5",
            "5 minutes",
            "1:2:3:4",
            "1-",
            "-1:00",
            "1e3",
            "0",
            "0s",
            "00:00",
            0,
            -1,
            float("nan"),
            float("inf"),
            "inf",
            "nan",
        ],
    )
    def test_what_is_none_is_refused_with_the_forms(self, text):
        with pytest.raises(InputError, match=r"'1h30m', or '\[D-\]HH:MM:SS'"):
            parse_duration(text)

    @given(st.integers(0, 1000), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
    def test_slurms_form_and_units_mean_the_same(self, d, h, m, s):
        if d + h + m + s:
            units = parse_duration(f"{d}d{h}h{m}m{s}s")
            assert parse_duration(f"{d}-{h:02}:{m:02}:{s:02}") == units


class TestBytes:
    @pytest.mark.parametrize(
        ("text", "n_bytes"),
        [
            (1, 1),
            (np.int64(2**40), 2**40),
            ("4096", 4096),
            ("100B", 100),
            ("512K", 512 * 1024),
            ("1500M", 1500 * 1024**2),
            ("2G", 2 * 1024**3),
            ("2GB", 2 * 1024**3),
            ("2GiB", 2 * 1024**3),
            ("2 GB", 2 * 1024**3),
            ("1.5g", 3 * 1024**3 // 2),
            ("1T", 1024**4),
        ],
    )
    def test_forms(self, text, n_bytes):
        assert parse_bytes(text) == n_bytes

    @pytest.mark.parametrize("text", ["", "G", "2X", "2GiG", "-1", "1e9", "0", "0.1B", 0, -5, "½G"])
    def test_what_is_none_is_refused_with_the_forms(self, text):
        with pytest.raises(InputError, match="'512K', '1500M' or '2G'"):
            parse_bytes(text)
