"""ACME's keywords: what each of them accepts, and what is said of all else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acme_mpi.acme import cluster
from acme_mpi.errors import InputError, InputTypeError
from acme_mpi.session import keywords

pytestmark = pytest.mark.once

KINDS = cluster.KEYWORDS | keywords.KEYWORDS
ACCEPTED: list[tuple[str, Any, Any]] = [
    ("dryrun", False, False),
    ("timeout", 0, 0),
    ("n_workers", 3.0, 3),
    ("n_workers", np.int32(3), 3),
    ("n_inputs", "auto", None),
    ("n_inputs", 7, 7),
    ("mem_per_worker", "auto", None),
    ("mem_per_worker", "8GB", "8GB"),
    ("mem_per_worker", "0.5GB", "0.5GB"),
    ("mem_per_worker", "1500 MB", "1500 MB"),
    ("partition", "8GBXS", "8GBXS"),
    ("stop_client", "auto", None),
    ("stop_client", True, True),
    ("output_dir", None, None),
    ("output_dir", "out", "out"),
    ("verbose", None, None),
    ("logfile", "my.log", "my.log"),
    ("result_dtype", "float32", "float32"),
    ("result_dtype", np.dtype("f4"), np.dtype("f4")),
    ("result_dtype", np.float32, np.float32),
]
REFUSED: list[tuple[str, Any, type[InputError], str]] = [
    (
        "dryrun",
        1,
        InputTypeError,
        "`dryrun` has to be `True` or `False`, not 1",
    ),
    (
        "timeout",
        True,
        InputTypeError,
        "`timeout` has to be a scalar, not <class 'bool'>",
    ),
    (
        "timeout",
        [3],
        InputTypeError,
        "`timeout` has to be a scalar, not <class 'list'>",
    ),
    (
        "timeout",
        -1,
        InputError,
        "`timeout` has to be an integer between 0 and inf, not -1",
    ),
    (
        "timeout",
        3.6,
        InputError,
        "`timeout` has to be an integer between 0 and inf, not 3.6",
    ),
    (
        "timeout",
        np.inf,
        InputError,
        "`timeout` has to be an integer between 0 and inf, not inf",
    ),
    (
        "timeout",
        np.nan,
        InputError,
        "`timeout` has to be an integer between 0 and inf, not nan",
    ),
    (
        "n_workers",
        "all",
        InputError,
        "`n_workers` has to be 'auto' or an integer >= 1, not 'all'",
    ),
    (
        "n_workers",
        0,
        InputError,
        "`n_workers` has to be an integer between 1 and inf, not 0",
    ),
    (
        "mem_per_worker",
        8,
        InputTypeError,
        "Memory specification `mem_per_worker` has to be a string, not 8",
    ),
    *(
        (
            "mem_per_worker",
            text,
            InputError,
            "`mem_per_worker` has to be a valid memory specifier (e.g., '8GB', '12000MB'), "
            f"not {text!r}",
        )
        for text in ("", "8", "GB", "0GB", "-8GB", "8TB", "8GB/task", "8GB\n9GB")
    ),
    (
        "partition",
        None,
        InputTypeError,
        "`partition` has to be 'auto' or a valid SLURM partition name, not <class 'NoneType'>",
    ),
    (
        "stop_client",
        "never",
        InputError,
        "`stop_client` has to be 'auto' or Boolean, not 'never'",
    ),
    (
        "stop_client",
        1,
        InputTypeError,
        "`stop_client` has to be `True` or `False`, not 1",
    ),
    (
        "output_dir",
        Path("out"),
        InputTypeError,
        f"`output_dir` has to be either `None` or str, not {type(Path())}",
    ),
    (
        "output_dir",
        "a\0b",
        InputError,
        r"`output_dir` holds a NUL character, which no path can: 'a\x00b'",
    ),
    (
        "logfile",
        "a\0b",
        InputError,
        r"`logfile` holds a NUL character, which no path can: 'a\x00b'",
    ),
    (
        "verbose",
        "yes",
        InputTypeError,
        "`verbose` has to be `True`, `False` or `None`, not 'yes'",
    ),
    (
        "logfile",
        3,
        InputTypeError,
        "`logfile` has to be `None`, `True`, `False` or a valid file-name, not <class 'int'>",
    ),
    (
        "result_dtype",
        3,
        InputTypeError,
        "`result_dtype` has to be a string, not <class 'int'>",
    ),
]
RESULTS = {
    "write": True,
    "output_dir": None,
    "shape": None,
    "dtype": "float",
    "single_file": False,
    "write_pickle": False,
    "payload": "computation",
}


class TestKeywords:
    @pytest.mark.parametrize(("name", "value", "expected"), ACCEPTED)
    def test_what_is_meant_is_returned(self, name, value, expected):
        assert KINDS[name].check(name, value) == expected

    @pytest.mark.parametrize(("name", "value", "kind", "text"), REFUSED)
    def test_all_else_is_refused_in_acmes_words(self, name, value, kind, text):
        with pytest.raises(InputError) as caught:
            KINDS[name].check(name, value)

        assert (type(caught.value), str(caught.value)) == (kind, text)

    @pytest.mark.parametrize(
        ("given", "kind", "n_warnings"),
        [
            ({}, "computation", 0),
            ({"payload": "rank"}, "rank", 0),
            ({"single_file": True}, "single_file", 0),
            ({"write_pickle": True}, "pickle", 0),
            ({"write_pickle": True, "shape": (None, 3)}, "pickle", 1),
            ({"write": False}, "memory", 0),
            ({"write": False, "output_dir": "out", "single_file": True}, "memory", 2),
            ({"write": False, "write_pickle": True}, "memory", 1),
        ],
    )
    def test_the_kind_of_store_and_the_keywords_without_effect(self, given, kind, n_warnings):
        form = keywords.check_results(**{**RESULTS, **given})

        assert (form.kind, len(form.warnings)) == (kind, n_warnings)

    @pytest.mark.parametrize(
        ("given", "text"),
        [
            ({"payload": "node"}, "`payload` has to be 'rank' or 'computation', not 'node'"),
            (
                {"write_pickle": True, "single_file": True},
                "Pickling of results does not support single output file creation",
            ),
            (
                {"write": False, "shape": (None, np.inf)},
                "using `np.inf` in `result_shape` is only valid if `write_worker_results`",
            ),
        ],
    )
    def test_contradictions_are_refused(self, given, text):
        with pytest.raises(InputError, match=re.escape(text)):
            keywords.check_results(**{**RESULTS, **given})
