"""Pages of runs in a real browser, without a network."""

from __future__ import annotations

import base64
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browsing import PROGRAM, Browser, Tab, browser
from journalling import START_S, Folder, done, failed, slow

from acme_mpi.history.layout import Layout
from acme_mpi.history.lease import Lease
from acme_mpi.report.looking import Watch
from acme_mpi.report.server import Serving
from acme_mpi.report.written import write_report

pytestmark = [
    pytest.mark.once,
    pytest.mark.slow,
    pytest.mark.skipif(not PROGRAM, reason="there is no chromium"),
]

XSS = "</pre><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with browser() as found:
        yield found


@pytest.fixture
def folder(tmp_path) -> Folder:
    folder = Folder(tmp_path)
    folder.describe(n_tasks=40, n_ranks=2, start_s=START_S)
    folder.write(*[done(k, k + 1, k, 1) for k in range(10)], slow(3, 3, 1), rank=0)
    folder.write(failed(10, message=XSS, traceback=f"Traceback: {XSS}", start=1), rank=1)
    return folder


@pytest.fixture
def tab(chromium, folder, tmp_path) -> Tab:
    """Return a tab with the report."""
    layout = Layout(str(tmp_path), "f")
    write_report([layout], layout.report)
    return chromium.open(Path(layout.report).as_uri())


@contextmanager
def served(tmp_path: Path) -> Iterator[Serving]:
    with Serving(Watch(str(tmp_path)), "0") as serving:
        thread = threading.Thread(target=serving.serve)
        thread.start()
        try:
            yield serving
        finally:
            serving.stop()
            thread.join()


def test_the_page_needs_nothing_but_itself(tab):
    assert [each for each in tab.requests if not each.startswith("data:")] == [
        tab.value("location.href")
    ]
    assert tab.complaints == []


def test_charts_are_there_and_have_a_size(tab):
    names = tab.value(
        "[...document.querySelectorAll('svg.chart[aria-label]')]"
        ".filter((each) => each.getBoundingClientRect().height > 40)"
        ".map((each) => each.getAttribute('aria-label'))"
    )

    assert names[:3] == ["running", "done or failed, failed", "timeline of the ranks"]
    assert "durations of tasks" in names


def test_a_traceback_unfolds(tab):
    is_seen = "document.querySelector('details pre').checkVisibility()"
    assert not tab.value(is_seen)

    tab.click("details summary")

    assert tab.value(is_seen)
    assert tab.value("document.querySelector('details pre').textContent") == f"Traceback: {XSS}"


def test_what_others_wrote_is_not_obeyed(tab):
    assert tab.value("document.title") == "f"
    assert tab.value("document.querySelectorAll('img').length") == 0


def test_values_are_told_where_one_points(tab):
    tab.mouse("mouseMoved", *tab.middle(".chart.time .plot"))

    told = tab.value("document.getElementById('tip').hidden ? '' : tip.textContent")

    assert told.splitlines() == ["5.01 s", "running: 1"]


def test_a_drag_zooms_and_a_double_click_shows_all(tab):
    x, y = tab.middle(".chart.time .plot")
    views = "[...document.querySelectorAll('.plot')].map((each) => each.viewBox.baseVal.width)"

    tab.drag(x, x + 100, y)
    narrow = tab.value(views)
    tab.mouse("mousePressed", x, y, button="left", clickCount=2)
    tab.mouse("mouseReleased", x, y, button="left", clickCount=2)

    assert len(narrow) == 3
    assert all(20 < each < 80 for each in narrow)
    assert tab.value(views) == [480] * 3


def test_it_is_dark_where_that_is_wanted(tab):
    colour = "getComputedStyle(document.body).backgroundColor"
    light = tab.value(colour)
    wanted = [{"name": "prefers-color-scheme", "value": "dark"}]

    tab.call("Emulation.setEmulatedMedia", features=wanted)

    assert (light, tab.value(colour)) == ("rgb(255, 255, 255)", "rgb(21, 24, 28)")


def test_it_prints_with_all_tracebacks(tab):
    printed = base64.b64decode(tab.call("Page.printToPDF", printBackground=True)["data"])

    assert printed.startswith(b"%PDF")
    assert tab.value("document.querySelector('details').open") is True


class TestLive:
    def test_the_page_follows_the_run(self, chromium, folder, tmp_path):
        lease = Lease.take(str(folder.path), notify=pytest.fail)
        with served(tmp_path) as serving:
            tab = chromium.open(serving.ways()[0].replace("localhost", "127.0.0.1"))
            shown = "document.querySelector('.counts').textContent"
            before = tab.value(shown)
            tab.click("details summary")
            folder.write(*[done(20 + k, 21 + k, k, 1) for k in range(10)], rank=3)

            tab.until(f"{shown}.startsWith('20 of 40')")
            is_open = tab.value("document.querySelector('details').open")
            folder.write(done(11, 20, 20, 1), done(30, 40, 20, 1), rank=4)
            lease.release()
            tab.until("document.querySelector('.state').textContent === 'finished'")

        assert before == "10 of 40 tasks done, 1 failed, 29 left"
        assert is_open
        assert tab.value("location.search") == ""  # the token is not in the history
        assert tab.complaints == []

    def test_a_wrong_token_shows_nothing(self, chromium, folder, tmp_path):
        with served(tmp_path) as serving:
            tab = chromium.open(f"http://127.0.0.1:{serving.port}/?token=wrong")
            (status,) = {
                each["response"]["status"]
                for each in tab.events("Network.responseReceived")
                if each["type"] == "Document"
            }

        assert status == 403
        assert "token is missing or wrong" in tab.value("document.body.textContent")
