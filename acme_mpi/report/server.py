"""A live page for a browser: on this machine only, to who knows the token, and for reading only."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import shlex
import socket
import socketserver
import stat
from collections.abc import Collection, Iterator
from http.cookies import CookieError, SimpleCookie
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import parse_qs, urlsplit

from acme_mpi.errors import InputError
from acme_mpi.report.looking import View, Watch
from acme_mpi.report.markup import escaped, tag
from acme_mpi.report.page import content_policy, page_of
from acme_mpi.report.sections import body_of

logger = logging.getLogger("acme_mpi")

LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
PATIENCE_S = 30.0  # with a client that says nothing
TOKEN_BYTES = 24


class Pages:
    """What is told to whom; a server's handlers share it.

    Parameters
    ----------
    watch : Watch
        The runs.
    token : str
        What a viewer has to know.
    hosts : collection of str
        Names by which the server may be called, besides those of this machine's loopback.
    cookie : str
        Name of the cookie that keeps the token.
    """

    def __init__(self, watch: Watch, token: str, hosts: Collection[str], cookie: str) -> None:
        self._watch, self._token, self.cookie = watch, token.encode(), cookie
        self._hosts = {*LOOPBACK, *(each.lower() for each in hosts)}

    def is_for(self, host: str) -> bool:
        """Tell whether a request means this server: a name that leads here may be anybody's."""
        name = host.strip().lower()
        if not name.endswith("]"):
            name = name.rpartition(":")[0] or name
        return name in self._hosts

    def is_known(self, told: str) -> bool:
        """Tell whether a token is the right one."""
        return secrets.compare_digest(told.encode(errors="replace"), self._token)

    @property
    def keeping(self) -> str:
        """The cookie by which a browser need not be told the token again."""
        return f"{self.cookie}={self._token.decode()}; HttpOnly; SameSite=Strict"

    def page(self) -> str:
        """Return the page as it is now."""
        view = self._watch.view()
        names = ", ".join(each.status.name for each in view.runs)
        return page_of([_main(view)], names, str(view.number))

    def newer(self, after: str) -> tuple[View, str]:
        """Return the view, and what the page has to show; empty if it does already."""
        view = self._watch.view()
        return view, "" if after == str(view.number) else _main(view)


def _main(view: View) -> str:
    error = tag("p", escaped(view.error), **{"class": "warn"}) if view.error else ""
    return error + "".join(map(body_of, view.runs))


class _Handler(BaseHTTPRequestHandler):
    """One connection of a viewer."""

    server: Any
    server_version, sys_version = "acme_mpi", ""
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_S

    def do_GET(self) -> None:
        """Answer a request: only GET and HEAD are there."""
        pages: Pages = self.server.pages
        if not pages.is_for(self.headers.get("Host", "")):
            self._say(403, "this name is not that of the server; see `watch --help`, --behind")
        elif not any(map(pages.is_known, self._tokens(pages.cookie))):
            self._say(403, "the token is missing or wrong; take the address that `watch` prints")
        else:
            self._show(pages)

    do_HEAD = do_GET

    def _show(self, pages: Pages) -> None:
        path, query = self._asked()
        if path == "/":
            self._send(200, pages.page(), {"Set-Cookie": pages.keeping})
        elif path == "/main":
            view, text = pages.newer(query.get("after", [""])[0])
            said = {"X-Version": str(view.number), "X-Is-Over": str(int(view.is_over))}
            self._send(200 if text else 204, text, said)
        else:
            self._say(404, "there is nothing by this name")

    def _asked(self) -> tuple[str, dict[str, list[str]]]:
        try:
            parts = urlsplit(self.path)
        except ValueError:  # a host that begins with "[", and has no end
            return "", {}
        return parts.path, parse_qs(parts.query)

    def _tokens(self, cookie: str) -> Iterator[str]:
        yield from self._asked()[1].get("token", [])
        kind, _, token = self.headers.get("Authorization", "").partition(" ")
        if kind.lower() in ("token", "bearer"):
            yield token
        with contextlib.suppress(CookieError):
            kept = SimpleCookie(self.headers.get("Cookie", ""))
            if cookie in kept:
                yield kept[cookie].value

    def _say(self, status: int, text: str) -> None:
        self._send(status, f"<!DOCTYPE html><title>acme_mpi</title><p>{escaped(text)}</p>\n")

    def _send(self, status: int, text: str, said: dict[str, str] | None = None) -> None:
        body = text.encode(errors="replace")
        self.send_response(status)
        for name, value in {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": f"{content_policy()}; frame-ancestors 'self'",
            "X-Content-Type-Options": "nosniff",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
            **(said or {}),
        }.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: the terminal is the user's, and requests hold the token."""


class _TcpServer(socketserver.ThreadingTCPServer):
    """On a port of the loopback."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 64
    pages: Pages

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of viewers that leave in the midst of an answer."""
        logger.debug("a viewer has left", exc_info=True)


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """At a path of the file system."""

    daemon_threads = True
    request_queue_size = 64
    pages: Pages
    handle_error = _TcpServer.handle_error


class Serving:
    """A server that is bound to its address, and its address.

    Parameters
    ----------
    watch : Watch
        The runs.
    where : str
        A port, "0" for any that is free; or the path of a Unix socket, with a slash.
    hosts : collection of str
        As for `Pages`.

    Raises
    ------
    InputError
        `where` is neither, or cannot be had.
    """

    def __init__(self, watch: Watch, where: str, hosts: Collection[str] = ()) -> None:
        self.token = secrets.token_urlsafe(TOKEN_BYTES)
        self.path = os.path.abspath(where) if "/" in where else ""
        try:
            self._server = _unix_server(self.path) if self.path else _tcp_server(where)
        except OSError as error:
            reason = error.strerror or error
            raise InputError(f"cannot serve at {where}: {reason}; give another one") from None
        self.port = 0 if self.path else int(self._server.socket.getsockname()[1])
        self._server.pages = Pages(watch, self.token, hosts, f"acme_mpi_{self.port}")

    def __enter__(self) -> Serving:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the address to others."""
        self._server.server_close()
        if self.path:
            with contextlib.suppress(OSError):
                os.unlink(self.path)

    def serve(self) -> None:
        """Answer until `stop`, or an exception in this thread."""
        self._server.serve_forever(poll_interval=0.2)

    def stop(self) -> None:
        """Have `serve` return; for another thread."""
        self._server.shutdown()

    def ways(self, environ: dict[str, str] | os._Environ[str] = os.environ) -> list[str]:
        """Return how a browser gets here, a line each."""
        here, port = socket.gethostname(), self.port or 8888
        end = f"?token={self.token}"
        tunnel = self.path or f"127.0.0.1:{port}"
        url = f"http://localhost:{port}/{end}"
        lines = [url] if self.port else []
        lines.append(f"from another machine: ssh -L {shlex.quote(f'{port}:{tunnel}')} {here}")
        lines.append(f"  and there open {url}")
        if self.port and (prefix := environ.get("JUPYTERHUB_SERVICE_PREFIX")):
            lines.append(f"in JupyterHub, with --behind HUB: {prefix}proxy/{port}/{end}")
        return lines


def _tcp_server(where: str) -> _TcpServer:
    if not where.isascii() or not where.isdigit() or int(where) > 65535:
        raise InputError(
            f"--serve takes a port, or the path of a socket with a slash in it, not {where!r}; "
            "DIR comes before it"
        )
    return _TcpServer(("127.0.0.1", int(where)), _Handler)


def _unix_server(path: str) -> _UnixServer:
    _remove_left(path)
    mask = os.umask(0o177)  # only this user may connect, from the first moment on
    try:
        return _UnixServer(path, _Handler)
    finally:
        os.umask(mask)


def _remove_left(path: str) -> None:
    """Remove a socket at which nobody listens any more."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            if stat.S_ISSOCK(os.stat(path).st_mode):  # files refuse connections, too
                os.unlink(path)
        except OSError:
            return
