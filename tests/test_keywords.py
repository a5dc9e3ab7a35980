"""ACME's keywords: what each of them accepts, and what is said of all else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from acme_mpi import keywords
from acme_mpi.errors import InputError, InputTypeError

pytestmark = pytest.mark.once

ACCEPTED: list[tuple[Any, tuple[Any, ...], Any]] = [
    (keywords.check_flag, ("dryrun", False), False),
    (keywords.check_count, ("timeout", 0, 0), 0),
    (keywords.check_count, ("n_workers", 3.0, 1), 3),
    (keywords.check_count, ("n_workers", np.int32(3), 1), 3),
    (keywords.check_count_or_auto, ("n_inputs", "auto"), None),
    (keywords.check_count_or_auto, ("n_inputs", 7), 7),
    (keywords.check_memory, ("auto",), None),
    (keywords.check_memory, ("8GB",), None),
    (keywords.check_memory, ("0.5GB",), None),
    (keywords.check_memory, ("1500 MB",), None),
    (keywords.check_partition, ("8GBXS",), None),
    (keywords.check_stop_client, ("auto",), None),
    (keywords.check_stop_client, (True,), True),
    (keywords.check_output_dir, (None,), None),
    (keywords.check_output_dir, ("out",), "out"),
    (keywords.check_verbose, (None,), None),
    (keywords.check_log_file, ("my.log",), "my.log"),
    (keywords.check_dtype, ("float32",), "float32"),
    (keywords.check_dtype, (np.dtype("f4"),), np.dtype("f4")),
    (keywords.check_dtype, (np.float32,), np.float32),
]
REFUSED: list[tuple[Any, tuple[Any, ...], type[InputError], str]] = [
    (
        keywords.check_flag,
        ("dryrun", 1),
        InputTypeError,
        "`dryrun` has to be `True` or `False`, not 1",
    ),
    (
        keywords.check_count,
        ("timeout", True, 0),
        InputTypeError,
        "`timeout` has to be a scalar, not <class 'bool'>",
    ),
    (
        keywords.check_count,
        ("timeout", [3], 0),
        InputTypeError,
        "`timeout` has to be a scalar, not <class 'list'>",
    ),
    (
        keywords.check_count,
        ("timeout", -1, 0),
        InputError,
        "`timeout` has to be an integer between 0 and inf, not -1",
    ),
    (
        keywords.check_count,
        ("timeout", 3.6, 0),
        InputError,
        "`timeout` has to be an integer between 0 and inf, not 3.6",
    ),
    (
        keywords.check_count,
        ("timeout", np.inf, 0),
        InputError,
        "`timeout` has to be an integer between 0 and inf, not inf",
    ),
    (
        keywords.check_count,
        ("timeout", np.nan, 0),
        InputError,
        "`timeout` has to be an integer between 0 and inf, not nan",
    ),
    (
        keywords.check_count_or_auto,
        ("n_workers", "all"),
        InputError,
        "`n_workers` has to be 'auto' or an integer >= 1, not 'all'",
    ),
    (
        keywords.check_count_or_auto,
        ("n_workers", 0),
        InputError,
        "`n_workers` has to be an integer between 1 and inf, not 0",
    ),
    (
        keywords.check_memory,
        (8,),
        InputTypeError,
        "Memory specification `mem_per_worker` has to be a string, not 8",
    ),
    *(
        (
            keywords.check_memory,
            (text,),
            InputError,
            "`mem_per_worker` has to be a valid memory specifier (e.g., '8GB', '12000MB'), "
            f"not {text!r}",
        )
        for text in ("", "8", "GB", "0GB", "-8GB", "8TB", "8GB/task", "8GB\n9GB")
    ),
    (
        keywords.check_partition,
        (None,),
        InputTypeError,
        "`partition` has to be 'auto' or a valid SLURM partition name, not <class 'NoneType'>",
    ),
    (
        keywords.check_stop_client,
        ("never",),
        InputError,
        "`stop_client` has to be 'auto' or Boolean, not 'never'",
    ),
    (
        keywords.check_stop_client,
        (1,),
        InputTypeError,
        "`stop_client` has to be `True` or `False`, not 1",
    ),
    (
        keywords.check_output_dir,
        (Path("out"),),
        InputTypeError,
        f"`output_dir` has to be either `None` or str, not {type(Path())}",
    ),
    (
        keywords.check_output_dir,
        ("a\0b",),
        InputError,
        r"`output_dir` holds a NUL character, which no path can: 'a\x00b'",
    ),
    (
        keywords.check_log_file,
        ("a\0b",),
        InputError,
        r"`logfile` holds a NUL character, which no path can: 'a\x00b'",
    ),
    (
        keywords.check_verbose,
        ("yes",),
        InputTypeError,
        "`verbose` has to be `True`, `False` or `None`, not 'yes'",
    ),
    (
        keywords.check_log_file,
        (3,),
        InputTypeError,
        "`logfile` has to be `None`, `True`, `False` or a valid file-name, not <class 'int'>",
    ),
    (
        keywords.check_dtype,
        (3,),
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
    @pytest.mark.parametrize(("check", "args", "expected"), ACCEPTED)
    def test_what_is_meant_is_returned(self, check, args, expected):
        assert check(*args) == expected

    @pytest.mark.parametrize(("check", "args", "kind", "text"), REFUSED)
    def test_what_cannot_be_meant_is_refused_in_acmes_words(self, check, args, kind, text):
        with pytest.raises(InputError) as caught:
            check(*args)

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
