"""What is said on the console and in the log file."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from acme_mpi.engine.messages import (
    ANNOUNCE,
    ConsoleFormatter,
    Said,
    add_console_handler,
    collected,
    log_path,
    run_messages,
)

pytestmark = pytest.mark.once

logger = logging.getLogger("acme_mpi")
acme_logger = logging.getLogger("ACME")


@pytest.fixture
def console(capsys) -> Iterator[Callable[[], list[str]]]:
    """Let the dialects speak as in a fresh process; return the function that says what was said."""
    loggers = (acme_logger, logger)
    saved = [(each.handlers[:], each.level) for each in loggers]
    for each in loggers:
        each.handlers[:] = []
        each.setLevel(logging.NOTSET)
    add_console_handler()
    yield lambda: capsys.readouterr().err.splitlines()
    for each, (handlers, level) in zip(loggers, saved, strict=True):
        each.handlers[:] = handlers
        each.setLevel(level)


class TestConsole:
    def test_a_message_has_the_name_of_its_dialect_and_its_level(self, console):
        logger.info("using %d ranks", 3)
        logger.log(ANNOUNCE, "SUCCESS!")
        logger.warning("careful", extra={"dialect": "cluster_cleanup"})

        assert console() == [
            "<ParallelMap> INFO: using 3 ranks",
            "<ParallelMap> ANNOUNCE: SUCCESS!",
            "<cluster_cleanup> WARNING: careful",
        ]

    def test_a_run_of_another_dialect_has_its_own_name(self, console):
        with run_messages("", ""):
            logger.info("a run of `map`")
        with run_messages("", "Other"):
            logger.info("within")
        logger.info("after")

        assert console() == [
            "a run of `map`",
            "<Other> INFO: within",
            "<ParallelMap> INFO: after",
        ]

    def test_a_second_handler_is_not_added(self, console):
        add_console_handler()
        logger.info("once")

        assert console() == ["<ParallelMap> INFO: once"]

    def test_the_level_that_a_user_has_set_is_kept(self, console):
        acme_logger.setLevel(logging.ERROR)
        add_console_handler()
        logger.warning("unheard")

        assert console() == []

    def test_handlers_on_acmes_logger_get_every_message(self, console):
        seen: list[str] = []
        handler = logging.Handler()
        handler.emit = lambda record: seen.append(record.getMessage())
        acme_logger.addHandler(handler)

        logger.info("Preparing %d parallel calls", 4)

        assert seen == ["Preparing 4 parallel calls"]

    @pytest.mark.slow
    def test_importing_the_package_adds_no_handler(self):
        program = (
            "import logging, acme_mpi\n"
            "names = (None, 'ACME', 'acme_mpi')\n"
            "print([logging.getLogger(name).handlers for name in names])"
        )
        ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)

        assert ran.stdout == "[[], [], []]\n"


class TestLogFile:
    def test_its_name_tells_function_and_time(self):
        pattern = r"/somewhere/ACME_f_\d{8}-\d{6}\.log"

        assert re.fullmatch(pattern, log_path("/somewhere", "f"))

    def test_a_message_is_in_the_file_as_soon_as_it_is_said(self, tmp_path):
        path = tmp_path / "log"

        with run_messages(str(path)):
            logger.info("3 of 4 tasks done")
            text = path.read_text()

        assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} INFO 3 of 4 tasks done\n", text)

    def test_an_existing_file_is_appended_to(self, tmp_path):
        path = tmp_path / "log"
        path.write_text("before\n")

        with run_messages(str(path)):
            logger.info("now")

        assert path.read_text().startswith("before\n")
        assert path.read_text().endswith(" INFO now\n")

    @pytest.mark.parametrize(
        ("level", "expected"),
        [
            (None, ["INFO", "WARNING"]),
            (logging.DEBUG, ["DEBUG", "INFO", "WARNING"]),
            (logging.WARNING, ["INFO", "WARNING"]),
        ],
    )
    def test_it_has_all_from_info_on_and_more_by_the_level(self, tmp_path, level, expected):
        """It has all from info on and more if the level lets it through."""
        path = tmp_path / "log"

        with run_messages(str(path), level=level):
            for each in (logging.DEBUG, logging.INFO, logging.WARNING):
                logger.log(each, "a message")

        assert [line.split()[2] for line in path.read_text().splitlines()] == expected

    def test_after_the_run_all_is_as_before_also_after_an_error(self, tmp_path):
        before = logger.level, logger.handlers[:], ConsoleFormatter.running
        path = tmp_path / "log"

        with (
            pytest.raises(ZeroDivisionError),
            run_messages(str(path), "ParallelMap", logging.DEBUG),
        ):
            logger.info("%s", 1 // 0)

        assert (logger.level, logger.handlers, ConsoleFormatter.running) == before

    def test_a_file_that_cannot_be_made_is_a_warning(self, tmp_path, console):
        with run_messages(str(tmp_path / "missing" / "log"), "ParallelMap"):
            logger.info("the run goes on")

        first, second = console()
        assert first.startswith("<ParallelMap> WARNING: there is no log file: ")
        assert second == "<ParallelMap> INFO: the run goes on"

    def test_others_get_what_their_level_lets_through(self, tmp_path, console):
        acme_logger.setLevel(logging.WARNING)

        with run_messages(str(tmp_path / "log"), "ParallelMap"):
            logger.info("for the file")
            logger.warning("for both")

        assert console() == ["<ParallelMap> WARNING: for both"]
        assert len((tmp_path / "log").read_text().splitlines()) == 2

    def test_what_was_said_before_there_was_a_file_stands_in_it(self, tmp_path, console):
        said: list[Said] = []
        acme_logger.setLevel(logging.WARNING)

        with collected(said):
            logger.info("quiet and early")
            logger.warning("early")
        with run_messages(str(tmp_path / "log"), earlier=said):
            logger.info("now")

        assert console() == ["<ParallelMap> WARNING: early"]
        text = [line.split(" ", 2)[2] for line in (tmp_path / "log").read_text().splitlines()]
        assert text == ["INFO quiet and early", "WARNING early", "INFO now"]
