"""The other side of a worker: ask with a time limit, and tell an answer from a failure, a hang and a crash."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from typing import IO, Any

__all__ = ["Absent", "Client", "PeerError"]


class PeerError(Exception):
    """A library did not do what it was asked; `kind` is "error", "crashed" or "hung"."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind, self.reason = kind, reason


class Absent(PeerError):
    """A library is not installed, or cannot be used here."""

    def __init__(self, reason: str) -> None:
        super().__init__("absent", reason)


class Client:
    """A worker process with one library; started at the first question, and again after a crash or hang.

    Parameters
    ----------
    driver : str
        "module:Class" of the library's driver.
    threads : int
        Given to the driver.
    environment : dict, optional
        Changes to this process's environment.
    """

    def __init__(self, driver: str, threads: int, environment: dict[str, str] | None = None) -> None:
        self.driver, self.threads, self.environment = driver, threads, environment or {}
        self._process: subprocess.Popen[str] | None = None
        self._errors: IO[str] | None = None
        self._answers: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def ask(self, op: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        """The worker's answer.

        Raises
        ------
        Absent
            The library cannot be imported or used.
        PeerError
            It raised ("error"), its process ended ("crashed") or did not answer in time ("hung"; it is then killed).
        """
        if not self.running:
            self._start()
        assert self._process is not None
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"op": op, **arguments}) + "\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.close(kill=True)
            raise PeerError("hung", f"no answer to {op!r} within {timeout:.0f} s; its process was ended") from None
        except OSError:
            line = None
        if line is None:
            raise PeerError("crashed", self._death())
        reply: dict[str, Any] = json.loads(line)
        if reply.pop("ok"):
            return reply
        raise Absent(reply["error"]) if reply.get("missing") else PeerError("error", reply["error"])

    def _start(self) -> None:
        self.close(kill=True)
        self._errors = tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115 - see close()
        # A group of its own, so that a hang can be ended together with the compilers it may have started.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "fastnn.bench.worker", self.driver, str(self.threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            encoding="utf-8",
            env={**os.environ, **self.environment},
            start_new_session=True,
        )
        self._answers = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(self._process.stdout, self._answers), daemon=True).start()

    @staticmethod
    def _read(stream: IO[str], answers: queue.SimpleQueue[str | None]) -> None:
        with contextlib.suppress(ValueError, OSError), stream:  # closed from the other side
            for line in stream:
                answers.put(line)
        answers.put(None)

    def _death(self) -> str:
        """How the process ended, with the last thing it said."""
        assert self._process is not None
        try:
            code = self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        said = ""
        if self._errors is not None:
            self._errors.seek(0)
            lines = [line.strip() for line in self._errors.read().splitlines() if line.strip()]
            said = f": {lines[-1][:200]}" if lines else ""
        self.close()
        return f"its process ended with {how}{said}"

    def close(self, kill: bool = False) -> None:
        """End the process, at once or by the end of its requests; nothing happens if there is none."""
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(OSError):
                if process.stdin is not None:
                    process.stdin.close()
            try:
                process.wait(timeout=0 if kill else 10)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if self._errors is not None:
            self._errors.close()
            self._errors = None

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: object, *error: object) -> None:
        self.close(kill=kind is not None)
