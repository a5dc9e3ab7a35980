"""One job at a time writes a folder, and a dead one keeps nobody out."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from acme_mpi.errors import StoreError
from acme_mpi.history import lease as lease_module
from acme_mpi.history.lease import GOING_S, POLL_S, SILENT_S, Holder, Lease, holder

pytestmark = pytest.mark.once

ELSEWHERE = {"host": "elsewhere"}

TAKE = """
import sys
from acme_mpi.errors import StoreError
from acme_mpi.history.lease import Lease

def never(*args):
    sys.exit(f"waited: {args}")

print("ready", flush=True)
sys.stdin.readline()
try:
    lease = Lease.take(sys.argv[1], never, lambda seconds: None)
    print("taken", flush=True)
except StoreError as error:
    print("refused", flush=True)
sys.stdin.read()
"""


def no_time(seconds):
    """Stand for a sleep."""


def never(*args):
    pytest.fail(f"waited or notified: {args}")


@pytest.fixture
def take(tmp_path):
    """Return a function that takes the lease of the folder; it is given back at the end."""
    taken = []

    def take(notify=never, sleep=never, **options):
        taken.append(Lease.take(str(tmp_path), notify, sleep, **options))
        return taken[-1]

    yield take
    for lease in taken:
        lease.release()


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a process that is ready to take the lease."""
    started = []

    def start():
        process = subprocess.Popen(
            [sys.executable, "-c", TAKE, str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert answer_of(process) == "ready"
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def answer_of(process) -> str:
    return process.stdout.readline().strip()


def go(process) -> None:
    process.stdin.write("\n")
    process.stdin.flush()


def ended_pid() -> int:
    """Return the id of a process that has ended."""
    with subprocess.Popen(["true"]) as process:
        process.wait()
    return process.pid


def write_lease(folder, age_s=0.0, **changes) -> Path:
    """Write a lease of this process with some fields changed, last renewed `age_s` ago."""
    path = folder / "lease"
    path.write_text(json.dumps(dataclasses.asdict(lease_module._claim()) | changes))
    make_older(path, age_s)
    return path


def make_older(path, by_s) -> None:
    status = os.stat(path)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - int(by_s * 1e9)))


class FakeSleep:
    """Notes how long it was slept, and does something after so many seconds."""

    def __init__(self, after_s=None, action=None):
        self.slept_s, self.after_s, self.action = 0.0, after_s, action

    def __call__(self, seconds):
        self.slept_s += seconds
        if self.after_s is not None and self.slept_s >= self.after_s:
            self.after_s = None
            self.action()


class TestTake:
    def test_a_folder_without_a_lease_is_taken_at_once(self, take, tmp_path):
        take()

        assert os.listdir(tmp_path) == ["lease"]

    def test_a_second_one_is_refused_with_folder_host_pid_and_time(self, take, tmp_path):
        take()

        with pytest.raises(StoreError) as caught:
            take(sleep=no_time)
        text = str(caught.value)
        assert f"{tmp_path} is being written by process {os.getpid()} on {os.uname()[1]}" in text
        assert f"(since {time.strftime('%Y-')}" in text
        assert "--output-dir" in text
        assert os.listdir(tmp_path) == ["lease"]

    def test_a_lease_given_back_can_be_taken_again(self, take):
        take().release()

        assert not take().lost

    @pytest.mark.parametrize("changes", [{"started": 1}, {"pid": None}])
    def test_the_lease_of_an_ended_process_is_taken_over_at_once(self, take, tmp_path, changes):
        """Also where another process has got its id since."""
        write_lease(tmp_path, **{key: value or ended_pid() for key, value in changes.items()})
        take()

        assert os.listdir(tmp_path) == ["lease"]

    def test_a_zombie_has_ended(self, take, tmp_path):
        process = subprocess.Popen(["true"])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        started = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[19]
        write_lease(tmp_path, pid=process.pid, started=int(started))
        take()
        process.wait()

    def test_a_folder_that_is_gone_is_an_error_with_path_and_reason(self, tmp_path):
        folder = tmp_path / "gone"

        with pytest.raises(StoreError, match=f"{folder}/lease: No such file or directory"):
            Lease.take(str(folder), never, never)

    def test_what_is_no_folder_is_an_error_with_path_and_reason(self, tmp_path):
        (tmp_path / "file").touch()

        with pytest.raises(StoreError, match="file/lease: Not a directory"):
            Lease.take(str(tmp_path / "file"), never, never)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_a_read_only_folder_is_an_error_with_its_path(self, take, tmp_path):
        """A folder that cannot be written is an error with path and reason."""
        tmp_path.chmod(0o500)

        with pytest.raises(StoreError, match=f"{tmp_path}/lease: Permission denied"):
            take()
        tmp_path.chmod(0o700)

    def test_a_medium_that_refuses_is_an_error_and_leaves_nothing(
        self, take, tmp_path, monkeypatch
    ):
        def refuse(*args):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))

        monkeypatch.setattr(os, "link", refuse)

        with pytest.raises(StoreError, match=f"{tmp_path}/lease: Read-only file system"):
            take()
        assert os.listdir(tmp_path) == []

    def test_a_name_that_leads_nowhere_is_not_tried_for_ever(self, take, tmp_path):
        (tmp_path / "lease").symlink_to("nowhere")

        with pytest.raises(StoreError, match=r"damaged: .*/lease: it is a link that leads nowhere"):
            take()

    def test_a_file_system_without_hard_links_will_do(self, take, tmp_path, monkeypatch):
        def refuse(*args):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))

        monkeypatch.setattr(os, "link", refuse)
        take()

        assert os.listdir(tmp_path) == ["lease"]
        with pytest.raises(StoreError, match="is being written by"):
            take(sleep=no_time)


class TestElsewhere:
    @pytest.mark.parametrize(
        "changes", [ELSEWHERE, {"boot_id": "another boot"}, {"pid_namespace": 1}, {"boot_id": ""}]
    )
    def test_a_lease_that_nobody_renews_is_taken_over(self, take, tmp_path, changes):
        """A lease that nobody renews is taken over after the silence."""
        texts, sleep = [], FakeSleep()
        write_lease(tmp_path, age_s=10, **changes)

        take(texts.append, sleep)

        assert sleep.slept_s == pytest.approx(SILENT_S - 10, abs=2)
        [text] = texts
        assert "waiting up to 20 s" in text or "waiting up to 19 s" in text
        assert f"process {os.getpid()} on {changes.get('host', os.uname()[1])}" in text

    def test_a_long_silent_one_is_taken_over_at_once(self, take, tmp_path):
        """One that has been silent for long is taken over at once."""
        write_lease(tmp_path, age_s=SILENT_S + 1, **ELSEWHERE)

        take()

    def test_a_sign_of_life_refuses_at_once(self, take, tmp_path):
        path = write_lease(tmp_path, **ELSEWHERE)
        sleep = FakeSleep(4, path.touch)

        with pytest.raises(StoreError, match=r"is being written by process \d+ on elsewhere"):
            take(lambda text: None, sleep)
        assert sleep.slept_s == 4

    def test_a_lease_from_the_future_makes_nobody_wait_longer(self, take, tmp_path):
        write_lease(tmp_path, age_s=-3600, **ELSEWHERE)
        sleep = FakeSleep()

        take(lambda text: None, sleep)

        assert sleep.slept_s == SILENT_S

    def test_a_lease_given_back_meanwhile_is_taken(self, take, tmp_path):
        path = write_lease(tmp_path, **ELSEWHERE)
        sleep = FakeSleep(3, path.unlink)

        take(lambda text: None, sleep)

        assert sleep.slept_s == 3

    def test_a_lease_taken_meanwhile_by_a_living_process_refuses(self, take, tmp_path):
        write_lease(tmp_path, **ELSEWHERE)
        sleep = FakeSleep(POLL_S, lambda: write_lease(tmp_path))

        with pytest.raises(StoreError, match=f"process {os.getpid()} on {os.uname()[1]}"):
            take(lambda text: None, sleep)

    @pytest.mark.parametrize("text", ["", "{", "[1]", '{"host": 1}', "\udcff"])
    def test_a_lease_that_cannot_be_understood_is_judged_by_its_age(self, take, tmp_path, text):
        path = tmp_path / "lease"
        path.write_text(text, errors="surrogateescape")

        since = pytest.approx(path.stat().st_mtime)
        assert holder(str(tmp_path)) == Holder("?", 0, since, True)
        sleep = FakeSleep()
        take(lambda text: None, sleep)
        assert sleep.slept_s == pytest.approx(SILENT_S, abs=POLL_S)


class TestRenewing:
    def test_a_renewed_lease_is_young(self, take, tmp_path):
        lease = take()
        make_older(tmp_path / "lease", 1000)

        lease.renew()

        assert time.time() - (tmp_path / "lease").stat().st_mtime < 100
        assert not lease.lost

    def test_a_daemon_thread_does_it(self, take, tmp_path, monkeypatch):
        monkeypatch.setattr(lease_module, "RENEW_S", 0.001)
        lease = take()
        assert lease._thread.daemon

        write_lease(tmp_path, **ELSEWHERE)
        lease._thread.join(60)

        assert not lease._thread.is_alive()
        assert lease.lost

    def test_a_lease_taken_over_is_lost_to_somebody(self, take, tmp_path):
        lease = take()
        path = write_lease(tmp_path, age_s=1000, **ELSEWHERE)
        before = path.stat().st_mtime_ns

        lease.renew()

        assert f"{tmp_path} has been taken over by process {os.getpid()} on else" in lease.lost
        assert path.stat().st_mtime_ns == before, "another's lease must not be renewed"

    def test_a_lease_that_is_gone_twice_in_a_row_is_lost(self, take, tmp_path):
        lease = take()
        (tmp_path / "lease").rename(tmp_path / "aside")
        lease.renew()
        assert not lease.lost
        (tmp_path / "aside").rename(tmp_path / "lease")
        lease.renew()
        (tmp_path / "lease").unlink()
        lease.renew()
        assert not lease.lost

        lease.renew()

        assert f"{tmp_path}/lease is gone" in lease.lost

    def test_a_lease_that_cannot_be_renewed_is_lost_in_time(self, take, tmp_path):
        """A lease that cannot be renewed is lost when others may think so."""
        now = [100.0]
        lease = take(clock=lambda: now[0])
        (tmp_path / "lease").unlink()
        (tmp_path / "lease").mkdir()  # opening it fails
        now[0] += SILENT_S - 1
        lease.renew()
        assert not lease.lost

        now[0] += 1
        lease.renew()

        assert "could not be renewed for 30 s: Is a directory" in lease.lost


class TestRelease:
    def test_it_removes_the_lease_and_ends_the_thread(self, take, tmp_path):
        lease = take()

        lease.release()
        lease.release()

        assert os.listdir(tmp_path) == []
        assert not lease._thread.is_alive()

    def test_it_leaves_a_lease_of_somebody_else(self, take, tmp_path):
        lease = take()
        path = write_lease(tmp_path)

        lease.release()

        assert path.exists()

    def test_it_does_not_mind_a_folder_that_is_gone(self, take, tmp_path):
        lease = take()
        (tmp_path / "lease").unlink()
        tmp_path.rmdir()

        lease.release()

    def test_a_forked_child_keeps_the_lease_of_its_parent(self, take, tmp_path):
        """A forked child does not release the lease of its parent."""
        lease = take()
        lease._claim = dataclasses.replace(lease._claim, pid=os.getpid() + 1)

        lease.release()

        assert (tmp_path / "lease").exists()
        lease._claim = dataclasses.replace(lease._claim, pid=os.getpid())


class TestHolder:
    def test_there_is_none_without_a_lease(self, tmp_path):
        assert holder(str(tmp_path)) is None
        assert holder(str(tmp_path / "gone")) is None

    def test_a_living_process_here_is_alive_however_old_the_lease(self, take, tmp_path):
        take()
        make_older(tmp_path / "lease", 1000)

        found = holder(str(tmp_path))

        assert (found.host, found.pid, found.is_alive) == (os.uname()[1], os.getpid(), True)
        assert abs(found.since - time.time()) < 100

    def test_an_ended_process_is_not_alive_by_a_young_lease(self, tmp_path):
        """A process that has ended is not alive however young the lease."""
        write_lease(tmp_path, pid=ended_pid())

        assert not holder(str(tmp_path)).is_alive

    @pytest.mark.parametrize(("age_s", "is_alive"), [(1, True), (SILENT_S + 1, False)])
    def test_elsewhere_the_age_decides(self, tmp_path, age_s, is_alive):
        write_lease(tmp_path, age_s, **ELSEWHERE)

        assert holder(str(tmp_path)).is_alive is is_alive
        assert os.listdir(tmp_path) == ["lease"]

    def test_it_can_be_told_without_writing(self, tmp_path, monkeypatch):
        write_lease(tmp_path, **ELSEWHERE)

        def refuse(path, flags, *args):
            if flags & os.O_CREAT:
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
            return real(path, flags, *args)

        real = os.open
        monkeypatch.setattr(os, "open", refuse)

        assert holder(str(tmp_path)).is_alive

    def test_an_unreadable_lease_is_an_error_with_its_path(self, tmp_path):
        """A lease that cannot be read is an error with path and reason."""
        (tmp_path / "lease").mkdir()

        with pytest.raises(StoreError, match=f"{tmp_path}/lease: Is a directory"):
            holder(str(tmp_path))


class TestContest:
    def test_of_many_at_the_same_time_exactly_one_wins(self, tmp_path):
        n_tries, barrier = 8, threading.Barrier(8)
        for _ in range(8):
            write_lease(tmp_path, started=1)
            results = [None] * n_tries

            def try_it(k, results=results):
                barrier.wait()
                try:
                    results[k] = Lease.take(str(tmp_path), never, no_time)
                except StoreError:
                    results[k] = None

            threads = [threading.Thread(target=try_it, args=(k,)) for k in range(n_tries)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            [winner] = [lease for lease in results if lease is not None]
            winner.renew()
            assert not winner.lost
            winner.release()
            assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(("changes", "age_s"), [({"started": 1}, 0), (ELSEWHERE, SILENT_S + 1)])
    def test_who_was_killed_while_it_took_over_keeps_nobody_out(
        self, take, tmp_path, changes, age_s
    ):
        write_lease(tmp_path, **changes).rename(tmp_path / "lease.turn")
        make_older(tmp_path / "lease.turn", age_s)
        write_lease(tmp_path, started=1)

        take()

        assert os.listdir(tmp_path) == ["lease"]

    def test_while_another_takes_over_it_is_waited_for(self, take, tmp_path):
        write_lease(tmp_path).rename(tmp_path / "lease.turn")
        write_lease(tmp_path, started=1)
        sleep = FakeSleep(3, lambda: (tmp_path / "lease.turn").rename(tmp_path / "lease"))

        with pytest.raises(StoreError, match="is being written by"):
            take(sleep=sleep)
        assert sleep.slept_s == pytest.approx(3 + GOING_S)

    def test_it_is_not_waited_for_ever(self, take, tmp_path):
        write_lease(tmp_path).rename(tmp_path / "lease.turn")
        write_lease(tmp_path, started=1)
        sleep = FakeSleep()

        with pytest.raises(StoreError, match="others are about to; try again"):
            take(sleep=sleep)
        assert SILENT_S < sleep.slept_s < 100

    def test_a_lease_renamed_by_mistake_is_put_back(self, take, tmp_path, monkeypatch):
        path = write_lease(tmp_path, started=1)
        dead = lease_module._read(str(path))
        path.unlink()
        lease = take()
        read = lease_module._read
        answers = iter([dead])
        monkeypatch.setattr(lease_module, "_read", lambda p: next(answers, None) or read(p))

        lease_module._remove(str(path), dead)

        lease.renew()
        assert not lease.lost
        assert os.listdir(tmp_path) == ["lease"]

    def test_a_lease_renewed_at_the_last_moment_is_put_back(self, tmp_path, monkeypatch):
        path = write_lease(tmp_path, age_s=100, **ELSEWHERE)
        silent = lease_module._read(str(path))
        path.touch()
        renewed = lease_module._read(str(path))
        read = lease_module._read
        answers = iter([silent])
        monkeypatch.setattr(lease_module, "_read", lambda p: next(answers, None) or read(p))

        lease_module._remove(str(path), silent)

        assert read(str(path)) == renewed

    @pytest.mark.slow
    def test_a_living_process_refuses_and_a_killed_one_does_not(self, start, take):
        process = start()
        go(process)
        assert answer_of(process) == "taken"
        with pytest.raises(StoreError, match=f"process {process.pid} on"):
            take(sleep=no_time)

        process.kill()
        process.wait()

        take()

    def test_a_process_that_goes_is_waited_for(self, take, tmp_path, monkeypatch):
        """It may be killed already, and still be there."""

        def gone(pid):
            return None

        write_lease(tmp_path)
        sleep = FakeSleep(GOING_S / 2, lambda: monkeypatch.setattr(lease_module, "start_of", gone))

        with pytest.raises(StoreError, match="is being written by"):
            take(sleep=no_time)
        take(sleep=sleep)

        assert sleep.slept_s < GOING_S

    def test_what_killed_processes_have_left_is_removed(self, take, tmp_path):
        for k, changes in enumerate([{"started": 1}, {"pid": ended_pid()}]):
            write_lease(tmp_path, **changes).rename(tmp_path / f"lease.{k}")
        (tmp_path / "lease.torn").write_text("{")
        (tmp_path / "lease.empty").touch()
        write_lease(tmp_path).rename(tmp_path / "lease.of the living")
        write_lease(tmp_path, **ELSEWHERE).rename(tmp_path / "lease.of who knows whom")

        take()

        left = {"lease", "lease.of the living", "lease.of who knows whom"}
        assert set(os.listdir(tmp_path)) == left

    def test_a_claim_that_is_swept_away_is_made_again(self, take, tmp_path, monkeypatch):
        link, removed = os.link, []

        def sweep_and_link(source, path):
            if not removed:
                removed.append(source)
                os.unlink(source)
            link(source, path)

        monkeypatch.setattr(os, "link", sweep_and_link)

        assert not take().lost
        assert os.listdir(tmp_path) == ["lease"]

    @pytest.mark.slow
    def test_of_two_that_take_over_at_once_exactly_one_wins(self, start, tmp_path):
        """Of two processes that take over at the same time exactly one wins."""
        write_lease(tmp_path, pid=ended_pid())
        processes = [start(), start()]
        for process in processes:
            go(process)

        assert sorted(answer_of(process) for process in processes) == ["refused", "taken"]
        assert os.listdir(tmp_path) == ["lease"]
