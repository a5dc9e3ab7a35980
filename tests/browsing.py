"""A real browser, Chromium without a window, that tests tell what to do by its DevTools protocol.

It is spoken through two pipes, so it takes no port and no library for websockets.
"""

from __future__ import annotations

import base64
import itertools
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("google-chrome") or ""
PATIENCE_S = 60.0
# Nothing but this machine is there: what a page wants from elsewhere fails.
OFFLINE = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost"
FLAGS = (
    "--headless",
    "--no-sandbox",  # it needs user namespaces, which containers often do not have
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--remote-debugging-pipe",
    OFFLINE,
)


class Browser:
    """One process of the browser; see `browser`."""

    def __init__(self, home: str) -> None:
        down, self._out = os.pipe()
        self._in, up = os.pipe()
        flags = [*FLAGS, f"--user-data-dir={home}/profile"]
        line = ["bash", "-c", f'exec "$@" 3<&{down} 4>&{up}', "bash", PROGRAM, *flags]
        with open(os.path.join(home, "log"), "w") as log:
            self._process = subprocess.Popen(
                line, pass_fds=(down, up), stdout=log, stderr=log, env={**os.environ, "HOME": home}
            )
        os.close(down)
        os.close(up)
        self._numbers = itertools.count(1)
        self._data = b""
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, session: str = "", **params: Any) -> dict[str, Any]:
        """Have a method carried out, and return its result; what happens meanwhile is kept."""
        number = next(self._numbers)
        message = {"id": number, "method": method, "params": params}
        if session:
            message["sessionId"] = session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        stop_s = time.monotonic() + PATIENCE_S
        while (answer := self._receive(stop_s)).get("id") != number:
            self.events.append(answer)
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self, stop_s: float) -> dict[str, Any]:
        while b"\0" not in self._data:
            left_s = max(0.0, stop_s - time.monotonic())
            if not select.select([self._in], [], [], left_s)[0]:
                raise TimeoutError("the browser says nothing")
            data = os.read(self._in, 1 << 20)
            if not data:
                raise EOFError("the browser has ended")
            self._data += data
        text, _, self._data = self._data.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        return message

    def open(self, url: str, width: int = 1100, height: int = 1400) -> Tab:
        """Return a tab that has loaded a page."""
        tab = Tab(self, self.call("Target.createTarget", url="about:blank")["targetId"])
        tab.resize(width, height)
        tab.go(url)
        return tab

    def close(self) -> None:
        """End the browser, and wait for it."""
        os.close(self._out)  # by which it ends
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._in)


class Tab:
    """One page in a browser."""

    def __init__(self, browser: Browser, target: str) -> None:
        self._browser = browser
        attached = browser.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def resize(self, width: int, height: int, scale: float = 1.0) -> None:
        sizes = {"width": width, "height": height, "deviceScaleFactor": scale}
        self.call("Emulation.setDeviceMetricsOverride", mobile=False, **sizes)

    def go(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    def value(self, expression: str) -> Any:
        """Return what an expression of JavaScript is worth."""
        said = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in said:
            raise RuntimeError(str(said["exceptionDetails"]))
        return said["result"].get("value")

    def until(self, condition: str, patience_s: float = PATIENCE_S) -> None:
        """Wait until an expression is true."""
        stop_s = time.monotonic() + patience_s
        while time.monotonic() < stop_s:
            if self.value(condition):
                return
            self.value("new Promise((resolve) => setTimeout(resolve, 50))")
        raise TimeoutError(f"this does not become true: {condition}")

    def mouse(self, kind: str, x: float, y: float, **more: Any) -> None:
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **more)

    def drag(self, x: float, to: float, y: float) -> None:
        self.mouse("mousePressed", x, y, button="left", clickCount=1)
        self.mouse("mouseMoved", to, y, button="left")
        self.mouse("mouseReleased", to, y, button="left", clickCount=1)

    def click(self, selector: str) -> None:
        """Click into the middle of an element, as a person would."""
        x, y = self.middle(selector)
        self.mouse("mousePressed", x, y, button="left", clickCount=1)
        self.mouse("mouseReleased", x, y, button="left", clickCount=1)

    def middle(self, selector: str) -> tuple[float, float]:
        x, y = self.value(
            f"(() => {{ const each = document.querySelector({json.dumps(selector)});"
            "each.scrollIntoView({block: 'center'}); const box = each.getBoundingClientRect();"
            "return [box.x + box.width / 2, box.y + box.height / 2]; })()"
        )
        return x, y

    def events(self, method: str) -> list[dict[str, Any]]:
        """Return what has happened of one kind."""
        self.value("1")
        found = [each for each in self._browser.events if each.get("sessionId") == self._session]
        return [each["params"] for each in found if each["method"] == method]

    @property
    def requests(self) -> list[str]:
        """The addresses that were asked for."""
        return [each["request"]["url"] for each in self.events("Network.requestWillBeSent")]

    @property
    def complaints(self) -> list[str]:
        """What the browser did not like: refused by the policy, not found, or raised."""
        said = [each["entry"]["text"] for each in self.events("Log.entryAdded")]
        return said + [str(each) for each in self.events("Runtime.exceptionThrown")]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def browser() -> Iterator[Browser]:
    """Context with a browser of its own."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        found = Browser(home)
        try:
            yield found
        finally:
            found.close()
