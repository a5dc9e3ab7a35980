"""Who watches a run sees it as it is, and nobody else does; the run does not notice."""

from __future__ import annotations

import http.client
import os
import re
import socket
import stat
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from journalling import START_S, Folder, done, failed, long, write_run

from acme_mpi.cli.commands import run_command
from acme_mpi.errors import InputError
from acme_mpi.history.lease import Lease
from acme_mpi.report.looking import Watch
from acme_mpi.report.server import Serving

pytestmark = pytest.mark.once


@pytest.fixture
def folder(tmp_path) -> Folder:
    folder = Folder(tmp_path)
    folder.describe(n_tasks=10, n_ranks=2, start_s=START_S)
    folder.write(done(0, 3), failed(3, message="<b>bad</b>", traceback="Traceback: <i>here</i>"))
    return folder


@pytest.fixture
def running(folder):
    """Return a folder in which this process works."""
    lease = Lease.take(str(folder.path), notify=pytest.fail)
    yield folder
    lease.release()


class Clock:
    """Time that passes when a test says so."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


@contextmanager
def served(watch: Watch, where: str = "0", hosts: tuple[str, ...] = ()) -> Iterator[Serving]:
    with Serving(watch, where, hosts) as serving:
        thread = threading.Thread(target=serving.serve)
        thread.start()
        try:
            yield serving
        finally:
            serving.stop()
            thread.join()


class Answer:
    """What a server has said."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        response = connection.getresponse()
        self.status, self.headers = response.status, response.headers
        self.text = response.read().decode()
        connection.close()


def ask(serving: Serving, path: str = "/", method: str = "GET", **headers: str) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", serving.port, timeout=10)
    connection.request(method, path, headers=headers)
    return Answer(connection)


def path_of(serving: Serving, path: str = "/", **query: str) -> str:
    return path + "?" + "&".join(f"{k}={v}" for k, v in {"token": serving.token, **query}.items())


class TestLooking:
    def test_it_is_read_again_after_two_seconds_and_not_before(self, running, tmp_path):
        clock = Clock()
        watch = Watch(str(tmp_path), clock)
        running.write(done(4, 5), rank=2)

        clock.now_s = 1.9
        assert (watch.view().number, watch.view().runs[0].status.n_done) == (1, 3)
        clock.now_s = 2.0
        assert (watch.view().number, watch.view().runs[0].status.n_done) == (2, 4)

    def test_what_takes_long_is_not_done_all_the_time(self, running, tmp_path, monkeypatch):
        clock = Clock()
        watch = Watch(str(tmp_path), clock)
        look = watch._look

        def long_look():
            clock.now_s += 10.0
            return look()

        monkeypatch.setattr(watch, "_look", long_look)
        clock.now_s = 2.0
        assert watch.view().number == 2  # until 12 s
        clock.now_s = 61.0
        assert watch.view().number == 2
        clock.now_s = 62.0
        assert watch.view().number == 3

    def test_it_is_over_when_nobody_works_there(self, running, tmp_path):
        assert not Watch(str(tmp_path)).view().is_over
        write_run(Folder(tmp_path, "g"), 10, 2)
        assert not Watch(str(tmp_path)).view().is_over

    def test_what_cannot_be_read_any_more_is_said_beside_what_was(self, folder, tmp_path):
        clock = Clock()
        watch = Watch(str(tmp_path), clock)
        os.rename(tmp_path / ".acme_mpi", tmp_path / "elsewhere")
        clock.now_s = 2.0

        view = watch.view()

        assert "holds no run" in view.error
        assert view.runs[0].status.n_done == 3

    def test_a_directory_without_runs_is_refused(self, tmp_path, capsys):
        assert run_command(["watch", str(tmp_path)]) == 2
        assert "holds no run" in capsys.readouterr().err


class TestServer:
    def test_a_viewer_with_the_token_gets_the_page(self, folder, tmp_path):
        with served(Watch(str(tmp_path))) as serving:
            answer = ask(serving, path_of(serving))

        assert (answer.status, "3 of 10 tasks done" in answer.text) == (200, True)
        assert "&lt;i&gt;here&lt;/i&gt;" in answer.text

    @pytest.mark.parametrize("way", ["cookie", "token", "Bearer"])
    def test_the_token_may_come_in_a_header(self, folder, tmp_path, way):
        with served(Watch(str(tmp_path))) as serving:
            if way == "cookie":
                kept = ask(serving, path_of(serving)).headers["Set-Cookie"].split(";")[0]
                answer = ask(serving, Cookie=kept)
            else:
                answer = ask(serving, Authorization=f"{way} {serving.token}")

        assert answer.status == 200

    @pytest.mark.parametrize("path", ["/", "/main", "/nowhere", "HTTP://[x/"])
    @pytest.mark.parametrize("token", ["", "?token=", "?token=wrong", "?token=%C3%A4", "?after=1"])
    def test_nobody_else_gets_anything(self, folder, tmp_path, path, token):
        with served(Watch(str(tmp_path))) as serving:
            answer = ask(serving, path + token, Cookie="a=b; ;;=")

        assert answer.status == 403
        assert "tasks" not in answer.text

    @pytest.mark.parametrize(
        ("host", "status"),
        [
            ("localhost", 200),
            ("LOCALHOST:8888", 200),
            ("127.0.0.1:1", 200),
            ("[::1]:8888", 200),
            ("hub.example.org", 200),
            ("evil.example.org", 403),
            ("localhost.evil.org:80", 403),
            ("", 403),
        ],
    )
    def test_names_that_are_not_its_own_are_refused(self, folder, tmp_path, host, status):
        with served(Watch(str(tmp_path)), hosts=("Hub.example.org",)) as serving:
            assert ask(serving, path_of(serving), Host=host).status == status

    @pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
    def test_nothing_can_be_done_but_to_read(self, folder, tmp_path, method):
        with served(Watch(str(tmp_path))) as serving:
            assert ask(serving, path_of(serving), method).status == 501

    def test_head_has_no_body(self, folder, tmp_path):
        with served(Watch(str(tmp_path))) as serving:
            answer = ask(serving, path_of(serving), "HEAD")

        assert (answer.status, answer.text) == (200, "")

    def test_a_page_may_do_nothing_but_what_is_its_own(self, folder, tmp_path):
        with served(Watch(str(tmp_path))) as serving:
            headers = ask(serving, path_of(serving)).headers

        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "HttpOnly; SameSite=Strict" in headers["Set-Cookie"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"

    def test_only_what_is_new_is_sent_again(self, running, tmp_path):
        clock = Clock()
        with served(Watch(str(tmp_path), clock)) as serving:
            same = ask(serving, path_of(serving, "/main", after="1"))
            running.write(done(4, 9), rank=2)
            clock.now_s = 2.0
            newer = ask(serving, path_of(serving, "/main", after="1"))

        assert (same.status, same.text) == (204, "")
        assert (newer.status, newer.headers["X-Version"]) == (200, "2")
        assert newer.headers["X-Is-Over"] == "0"
        assert "8 of 10 tasks done" in newer.text
        assert "<html" not in newer.text

    def test_fifty_viewers_cost_as_much_as_one(self, running, tmp_path):
        clock = Clock()
        watch = Watch(str(tmp_path), clock)
        with served(watch) as serving, ThreadPoolExecutor(50) as viewers:
            clock.now_s = 2.0
            answers = list(
                viewers.map(lambda _: ask(serving, path_of(serving, "/main")), range(50))
            )

        assert {(each.status, each.headers["X-Version"]) for each in answers} == {(200, "2")}

    def test_a_viewer_that_leaves_disturbs_nobody(self, folder, tmp_path, capfd):
        with served(Watch(str(tmp_path))) as serving:
            for _ in range(3):
                with socket.create_connection(("127.0.0.1", serving.port)) as connection:
                    connection.sendall(b"GET / HT")
            answer = ask(serving, path_of(serving))

        assert answer.status == 200
        assert capfd.readouterr().err == ""


class TestSocket:
    def connect(self, serving: Serving) -> Answer:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(serving.path)
        connection.request("GET", path_of(serving))
        return Answer(connection)

    def test_it_is_for_this_user_alone(self, folder, tmp_path):
        path = str(tmp_path / "page")
        with served(Watch(str(tmp_path)), path) as serving:
            mode = os.stat(path).st_mode
            answer = self.connect(serving)

        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o600)
        assert answer.status == 200
        assert not os.path.exists(path)

    def test_one_that_was_left_is_taken_over_and_one_in_use_is_not(self, folder, tmp_path):
        path = str(tmp_path / "page")
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(path)
        with served(Watch(str(tmp_path)), path):
            with pytest.raises(InputError, match="Address already in use"):
                Serving(Watch(str(tmp_path)), path)
            assert os.path.exists(path)

    def test_a_file_is_no_socket(self, folder, tmp_path):
        (tmp_path / "file").write_text("mine")

        with pytest.raises(InputError, match="cannot serve at"):
            Serving(Watch(str(tmp_path)), str(tmp_path / "file"))

        assert (tmp_path / "file").read_text() == "mine"


class TestWays:
    def test_they_are_said_with_the_tunnel(self, folder, tmp_path):
        with Serving(Watch(str(tmp_path)), "0") as serving:
            url, tunnel, *_ = serving.ways({})

        assert url == f"http://localhost:{serving.port}/?token={serving.token}"
        assert f"ssh -L {serving.port}:127.0.0.1:{serving.port} {socket.gethostname()}" in tunnel

    def test_a_hub_has_a_way_of_its_own(self, folder, tmp_path):
        with Serving(Watch(str(tmp_path)), "0") as serving:
            *_, hub = serving.ways({"JUPYTERHUB_SERVICE_PREFIX": "/user/me/"})

        assert f"/user/me/proxy/{serving.port}/?token=" in hub

    @pytest.mark.parametrize("where", ["out", "-1", "70000", "80x", "\u0663"])
    def test_what_is_neither_port_nor_path_is_refused(self, folder, tmp_path, where):
        with pytest.raises(InputError, match="takes a port, or the path of a socket"):
            Serving(Watch(str(tmp_path)), where)


class TestTerminal:
    def test_a_run_that_has_ended_is_shown_once(self, folder, tmp_path, capsys):
        folder.write(*[done(k, k + 1) for k in range(4, 10)], rank=2)

        assert run_command(["watch", str(tmp_path)]) == 0

        shown = capsys.readouterr().out
        assert "f: finished" in shown
        assert "9 of 10 tasks done, 1 failed, 0 left" in shown
        assert "1 x ValueError at f.py:3: <b>bad</b> (task 3)" in shown

    def test_ranks_and_late_tasks_are_listed(self, running, tmp_path, capsys):
        rich = pytest.importorskip("rich.console")
        from acme_mpi.report.terminal import drawn

        running.write(done(4, 5), long(5, 5), rank=2)
        console = rich.Console(width=120, force_terminal=False)
        console.print(drawn(Watch(str(tmp_path)).view()))

        shown = capsys.readouterr().out
        assert re.search(r"1 +node1 +3 +1 ", shown)
        assert "task 5 has been running for" in shown

    def test_what_others_wrote_moves_no_cursor(self, folder, tmp_path, capsys):
        folder.write(failed(5, message="[red]\x1b[2J[/red]", location="[bold]\x07"), rank=2)

        run_command(["watch", str(tmp_path)])

        shown = capsys.readouterr().out
        assert r"[bold]\x07: [red]\x1b[2J[/red]" in shown
        assert "\x1b" not in shown

    def test_without_rich_it_is_said_what_to_install(self, folder, tmp_path, capsys, monkeypatch):
        monkeypatch.setitem(__import__("sys").modules, "rich.live", None)

        assert run_command(["watch", str(tmp_path)]) == 2

        assert "pip install 'acme-mpi[watch]'" in capsys.readouterr().err
