"""A headless Chromium that is told what to do over a pipe (the DevTools protocol), with nothing but the standard
library."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
HOW = "apt-get install chromium, or set CHROMIUM to the program of one"


def find_chromium() -> str | None:
    """The program of $CHROMIUM, or of one on PATH, that runs; None where there is none.

    Raises:
        ValueError: $CHROMIUM names no program that runs.
    """
    named = os.environ.get("CHROMIUM")
    for name in [named] if named else NAMES:
        program = shutil.which(name)
        # Ubuntu's package may be a stub that only says where to get the browser.
        if program and subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0:
            return program
    if named:
        raise ValueError(f"CHROMIUM={named} is no program that runs")
    return None


class Browser:
    """Context with one page of a browser; what the page asks for and complains about is kept."""

    def __init__(self, program: str, profile: Path, *, timeout: float = 60.0) -> None:
        self._program = program
        self._profile = profile
        self._timeout = timeout
        self._number = 0
        self._unread = b""
        self.events: list[dict[str, Any]] = []

    def __enter__(self) -> Browser:
        ours_out, theirs_in = os.pipe()[::-1]
        ours_in, theirs_out = os.pipe()
        words = [self._program, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        words += ["--remote-debugging-pipe", "--no-first-run", f"--user-data-dir={self._profile}"]
        # Its own requests (updates, lists of bad sites) are none of the page's.
        words += ["--disable-background-networking", "--disable-component-update", "--disable-sync", "about:blank"]
        # Chromium reads from descriptor 3 and writes to 4.
        shell = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        self._process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *words],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = ours_out, ours_in
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session: str | None = None
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._out)
        os.close(self._in)
        self._process.kill()
        self._process.wait()

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command and its result. RuntimeError where the browser refuses it, TimeoutError where it is silent."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if getattr(self, "_session", None):
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])
            self.events.append(answer)

    def open(self, url: str, *, width: int, height: int, dark: bool = False, scale: float = 1.0) -> None:
        """Show `url` at a size in CSS pixels (a phone's below 600 in width) and wait until it is loaded."""
        mobile = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=mobile
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.events.clear()
        self.call("Page.navigate", url=url)
        while not any(event.get("method") == "Page.loadEventFired" for event in self.events):
            self.events.append(self._read())

    def evaluate(self, expression: str) -> Any:
        """The value of an expression of JavaScript in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def requests(self) -> list[str]:
        """Every address that the page has asked for since it was opened, its own first."""
        sent = (event for event in self.events if event.get("method") == "Network.requestWillBeSent")
        return [event["params"]["request"]["url"] for event in sent]

    def complaints(self) -> list[str]:
        """Script errors, console messages and the log of the page since it was opened."""
        kinds = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
        return [json.dumps(event["params"]) for event in self.events if event.get("method") in kinds]

    def _read(self) -> dict[str, Any]:
        end = time.monotonic() + self._timeout
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._in], [], [], max(0.0, end - time.monotonic()))
            part = os.read(self._in, 1 << 20) if ready else b""
            if not part:
                raise TimeoutError(f"{self._program} did not answer within {self._timeout:g} s, or has ended")
            self._unread += part
        message, _, self._unread = self._unread.partition(b"\0")
        return dict(json.loads(message))
