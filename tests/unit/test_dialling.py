"""Only the ranks that a process has started are taken for its ranks, and only it for theirs."""

from __future__ import annotations

import os
import socket
import threading

import pytest

from acme_mpi.errors import LaunchError
from acme_mpi.runner.channel import Kind
from acme_mpi.session import dialling
from acme_mpi.session.dialling import KEY_BYTES, Listener, dial

pytestmark = pytest.mark.once


@pytest.fixture
def pipe():
    """Return the ends of a pipe: two descriptors for the ranks to print to."""
    ends = os.pipe()
    yield ends
    for end in ends:
        os.close(end)


@pytest.fixture
def listener(pipe):
    listener = Listener(pipe)
    yield listener
    listener.close()


@pytest.fixture
def dial_in(request):
    """Return a function that dials in a thread, and one that returns what came of it."""

    def begin(word, rank=0):
        found = []

        def call():
            try:
                found.append(dial(word, rank))
            except LaunchError as error:
                found.append(error)

        thread = threading.Thread(target=call)
        thread.start()

        def end():
            thread.join()
            return found[0]

        return end

    return begin


def accepted(listener):
    listener._socket.setblocking(True)
    return listener.accept()


def test_both_sides_can_talk_and_know_each_other(listener, dial_in, pipe):
    end = dial_in(listener.word, rank=3)
    theirs = accepted(listener)
    ours, outputs = end()

    assert theirs.rank == 3
    ours.channel.send(Kind.HELLO, "here")
    assert theirs.channel.receive() == (Kind.HELLO, "here")
    assert not any(each.has_ended() for each in (ours, theirs))
    assert [os.fstat(got).st_ino for got in outputs] == [os.fstat(each).st_ino for each in pipe]
    for each in (ours, theirs):
        each.close()
    for each in outputs:
        os.close(each)


@pytest.mark.parametrize("rest", [b"\0" * (KEY_BYTES + 4), b"short", b""])
def test_a_wrong_key_is_refused(listener, rest):
    name = listener.word.partition(":")[0]
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
        sock.connect(f"\0acme_mpi.{name}")
        sock.send(rest) if rest else sock.shutdown(socket.SHUT_WR)

        assert accepted(listener) is None
        assert sock.recv(1) == b""


def test_a_rank_refuses_a_process_with_a_wrong_key(listener, dial_in):
    end = dial_in(listener.word[:-1] + ("0" if listener.word[-1] != "0" else "1"))
    taken = accepted(listener)

    assert "does not have its key" in str(end())
    taken.close()


def test_another_user_is_refused(listener, dial_in, monkeypatch):
    """By both sides: who listens, and who dials."""
    end = dial_in(listener.word)
    monkeypatch.setattr(dialling.os, "geteuid", lambda: os.getuid() + 1)

    assert accepted(listener) is None
    assert isinstance(end(), LaunchError)
    assert "another user's" in str(dial_in(listener.word)())


def test_a_process_that_has_gone_is_not_waited_for(listener):
    word = listener.word
    listener.close()

    with pytest.raises(LaunchError, match="has gone"):
        dial(word, 0)


def test_nobody_dials_nobody(listener):
    assert listener.accept() is None
