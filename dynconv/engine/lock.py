"""One process at a time in a run folder: a lock that the kernel releases when its holder ends, however that ends."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import logging
import os
import socket
import time
import weakref
from pathlib import Path
from types import ModuleType, TracebackType

from dynconv.distributed import is_main

log = logging.getLogger(__name__)

# POSIX alone has it.
fcntl: ModuleType | None = importlib.import_module("fcntl") if importlib.util.find_spec("fcntl") else None

# `holder` has the lock for some microseconds, and whoever wants to train must not take it for a training.
TRIES = 5
PAUSE = 0.02


class RunLock:
    """A lock on the file `path`, which stays there. Of several ranks the main one holds it for all of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._close: weakref.finalize[[int], RunLock] | None = None
        self._descriptor = -1

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._close is not None and self._close.alive

    def acquire(self) -> None:
        """Take the lock, unless this object holds it; its folder is made where it is not there.

        Raises:
            ValueError: Another process has it.
            OSError: The file cannot be made.
        """
        if self.held or not is_main():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if not _lock(descriptor, self.path):
                raise ValueError(in_use(self.path.parent, holder(self.path) or "another process"))
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)
        _held.add(self)

    def release(self) -> None:
        """Give the lock back, where this object holds it."""
        if self._close is None or not self._close.alive:
            return
        if fcntl is not None:
            # Closing is not enough where a child that was just forked still has the file open.
            with contextlib.suppress(OSError):
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        self._close()

    def forget(self) -> None:
        """Close the file of the parent's lock in a child process, which leaves the parent's lock as it is."""
        if self._close is not None:
            self._close()

    def __enter__(self) -> RunLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def in_use(folder: Path, who: str) -> str:
    """The message for a run folder that `who` trains in."""
    return f"--out {folder} is in use: {who} is training there; wait for it, stop it, or give another --out"


def holder(path: Path) -> str | None:
    """Who holds the lock `path`, as "process 12 on somewhere"; None where nobody does, or this cannot be known."""
    if fcntl is None or not path.exists():
        return None
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return os.read(descriptor, 200).decode(errors="replace").strip() or "another process"
    except OSError:
        # A file system without locks, of which `acquire` told.
        return None
    finally:
        os.close(descriptor)
    return None


def _lock(descriptor: int, path: Path) -> bool:
    """Lock the open file, or say where there are no locks; False where another process has it."""
    if fcntl is None:
        log.warning("this platform has no fcntl, so %s is not locked: train in it with one process at a time", path)
        return True
    for _ in range(TRIES):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(PAUSE)
        except OSError as error:
            log.warning("%s cannot be locked (%s): train in its folder with one process at a time", path, error)
            return True
    return False


_held: weakref.WeakSet[RunLock] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in _held:
        lock.forget()


# A forked worker inherits the open file, and with it the lock: it would keep a killed run's folder locked for as long
# as it outlives the run.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
