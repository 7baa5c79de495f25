"""A headless Chromium, spoken to by the DevTools protocol over a pair of pipes."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
PATIENCE = 60.0


def find() -> str | None:
    """The program: the one that GBN_CHROMIUM names, or the first that is installed."""
    return os.environ.get("GBN_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Visit:
    """What a page did while it was open.

    requests: addresses that it asked for, itself excepted; faults: console errors, exceptions and log entries.
    """

    requests: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)


class Browser:
    """One page in a browser of its own, without a profile and without a network.

    Raises:
        RuntimeError: the browser ended, or answered with an error.
    """

    def __init__(self, program: str) -> None:
        self._profile = tempfile.TemporaryDirectory(prefix="gbn-chromium-", ignore_cleanup_errors=True)
        arguments = [
            program, "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={self._profile.name}",
            "--no-first-run", "--no-default-browser-check", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-extensions", "--disable-background-networking", "--disable-component-update",
            "--host-resolver-rules=MAP * ~NOTFOUND", "--hide-scrollbars", "--force-color-profile=srgb",
            *(["--no-sandbox"] if os.geteuid() == 0 else []), "about:blank",
        ]  # fmt: skip
        self._process, self._commands, self._events = _spawn(arguments)
        self._buffer, self._count, self._queue = b"", 0, list[dict[str, Any]]()
        self._session: str | None = None
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        os.kill(self._process, signal.SIGTERM)
        os.waitpid(self._process, 0)
        os.close(self._commands)
        os.close(self._events)
        self._profile.cleanup()

    def send(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method of the protocol and return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._commands, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                result: dict[str, Any] = answer["result"]
                return result
            self._queue.append(answer)

    def _receive(self) -> dict[str, Any]:
        watch = threading.Timer(PATIENCE, os.kill, (self._process, signal.SIGKILL))
        watch.start()
        try:
            while b"\0" not in self._buffer:
                more = os.read(self._events, 1 << 16)
                if not more:
                    raise RuntimeError("the browser ended, or did not answer in time")
                self._buffer += more
        finally:
            watch.cancel()
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def open(self, path: Path, width: int, dark: bool, height: int = 900) -> Visit:
        """Open a file at a width in CSS pixels, for eyes that prefer dark or light."""
        self.send("Page.navigate", url="about:blank")
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.send("Emulation.setEmulatedMedia", features=[scheme])
        self._queue.clear()
        address = path.resolve().as_uri()
        failed = self.send("Page.navigate", url=address).get("errorText")
        if failed:
            raise RuntimeError(f"{path}: {failed}")
        visit = Visit()
        loaded = False
        while not loaded:
            event = self._queue.pop(0) if self._queue else self._receive()
            loaded = event.get("method") == "Page.loadEventFired"
            _note(visit, event, address)
        # Whatever the page starts after it has loaded happens within two frames, or by a timer.
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")
        while self._queue:
            _note(visit, self._queue.pop(0), address)
        return visit

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript, promises awaited."""
        found = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in found:
            raise RuntimeError(f"{expression}: {found['exceptionDetails']}")
        return found["result"].get("value")

    def screenshot(self, selector: str = "body", scale: float = 1.0) -> bytes:
        """The PNG of one element, whole, whatever the window shows."""
        box: Mapping[str, float] = self.evaluate(
            f"(() => {{ const b = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return {x: b.x + scrollX, y: b.y + scrollY, width: b.width, height: b.height}; })()"
        )
        shot = self.send("Page.captureScreenshot", captureBeyondViewport=True, clip={**box, "scale": scale})
        return base64.b64decode(shot["data"])


def _spawn(arguments: list[str]) -> tuple[int, int, int]:
    """Start a program: its process, and the ends of the pipes to its descriptor 3 and from its descriptor 4."""
    (read, commands), (events, write) = os.pipe(), os.pipe()
    # Out of the way of the descriptors that they become.
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in (read, write)]
    null = os.open(os.devnull, os.O_RDWR)
    moves = [(null, 0), (null, 1), (null, 2), (high[0], 3), (high[1], 4)]
    actions = [(os.POSIX_SPAWN_DUP2, source, target) for source, target in moves]
    process = os.posix_spawn(arguments[0], arguments, os.environ, file_actions=actions)
    for end in (read, write, null, *high):
        os.close(end)
    return process, commands, events


def _note(visit: Visit, event: Mapping[str, Any], address: str) -> None:
    params = event.get("params", {})
    match event.get("method"):
        case "Network.requestWillBeSent":
            url = params["request"]["url"]
            if url != address and not url.startswith(("data:", "about:")):
                visit.requests.append(url)
        case "Runtime.consoleAPICalled" if params["type"] in ("error", "assert", "warning"):
            visit.faults.append(f"console.{params['type']}: {[a.get('value') for a in params['args']]}")
        case "Runtime.exceptionThrown":
            visit.faults.append(f"exception: {params['exceptionDetails'].get('text')}")
        case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
            visit.faults.append(f"log: {params['entry']['text']} {params['entry'].get('url', '')}")
