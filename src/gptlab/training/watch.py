"""Ranks that notice when one of them dies.

Every rank holds a TCP connection to rank 0. The operating system closes it when a process ends, however it ends, so no
time-out decides, and a rank that saves or compiles for minutes is never taken for dead.
"""

import os
import secrets
import selectors
import signal
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import lightning as L

from gptlab.training.stops import Interrupted, NonFiniteError

CONNECT = 60.0  # seconds for all ranks to connect to rank 0
COLLECT = 1.0  # seconds in which rank 0 waits for further news: one death makes other ranks fail
GRACE = 5.0  # seconds in which the main thread, or a launched rank, may end by itself
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A connection to a machine that has vanished ends after 40 s. macOS lacks the first setting."""


class Watch(L.Callback):
    """Ends all processes of a run if one of its ranks dies or fails. Does nothing if there is one rank.

    Rank 0 tells all ranks which one it was. The main thread can then end the run, as most collectives fail; if it
    hangs, a thread ends the process.

    Args:
        trainer: of the run.
        report: called with the sentence that names the rank, before a thread ends the process.
    """

    def __init__(self, trainer: L.Trainer, report: Callable[[str], None]) -> None:
        self._launcher: Any = trainer.strategy.launcher
        self._report = report
        self._name = f"rank {trainer.global_rank} on {socket.gethostname()}"
        self._connection: socket.socket | None = None  # to rank 0
        self._hub: threading.Thread | None = None  # of rank 0
        self._sentence: str | None = None  # which rank died or failed
        self._decided, self._closed = threading.Event(), threading.Event()
        self._has_spoken = self._has_failed = False

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Connect all ranks. The process group is up."""
        if trainer.world_size == 1:
            return
        address, mine = os.environ["MASTER_ADDR"], None
        if trainer.is_global_zero:
            host = address if address in ("127.0.0.1", "::1", "localhost") else ""  # "": all addresses
            server = socket.create_server((host, 0), family=socket.getaddrinfo(address, 0)[0][0], backlog=4096)
            mine = server.getsockname()[1], secrets.token_hex(), self._name
        port, token, rank_0 = trainer.strategy.broadcast(mine)
        if trainer.is_global_zero:
            self._hub = threading.Thread(target=_run_hub, args=(server, token, rank_0, trainer.world_size), daemon=True)
            self._hub.start()
        self._connection = socket.create_connection((address, port), timeout=CONNECT)
        _keep_alive(self._connection)
        _send(self._connection, f"{token} {self._name}")
        threading.Thread(target=self._wait, args=(self._connection, rank_0), daemon=True).start()
        if launched := getattr(self._launcher, "procs", None):
            self._launcher.procs = list(launched)
            launched.clear()  # Lightning's observer, which would kill this process without a word, ends

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        """Tell the others of a failure that is this rank's alone, or the consequence of another's."""
        if not isinstance(exception, Interrupted | NonFiniteError):
            self._has_failed = isinstance(exception, Exception)
            what = f"failed: {type(exception).__name__}: {exception}" if self._has_failed else "was interrupted"
            self._say(f"{self._name} {what}".splitlines()[0])

    def other_rank(self) -> str | None:
        """After a failure: the sentence about another rank that caused it, if there is one."""
        if self._connection is not None:
            self._decided.wait(CONNECT)
        is_own = self._sentence is None or self._sentence.startswith(f"{self._name} ")
        return None if is_own else self._sentence

    def close(self) -> None:
        """The main thread ends the run, in order or with a failure."""
        self._closed.set()
        self._say("")
        if self._hub is not None:
            self._hub.join(2 * COLLECT)
        if self._has_failed:
            self._end_launched()

    def _say(self, what: str) -> None:
        """Send rank 0 one line, the first that there is. An empty one says that this rank ends in order."""
        if self._connection is not None and not self._has_spoken:
            self._has_spoken = True
            _send(self._connection, what)

    def _wait(self, connection: socket.socket, rank_0: str) -> None:
        """Wait for a sentence. End the process if the main thread does not."""
        line = _receive(connection)
        if line == "\n":  # rank 0 ends in order, and so do all
            return
        self._sentence = line.strip() or f"{rank_0} has died"
        self._decided.set()
        if not self._closed.wait(GRACE):
            try:
                self._report(self._sentence)
                self._end_launched()
            finally:
                os._exit(1)

    def _end_launched(self) -> None:
        """Kill the ranks that this one has launched, if they do not end by themselves."""
        deadline = time.monotonic() + GRACE
        for process in getattr(self._launcher, "procs", []):
            while process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.05)
        if self._launcher is not None:
            self._launcher.kill(signal.SIGKILL)


def _run_hub(server: socket.socket, token: str, rank_0: str, n_ranks: int) -> None:
    """Listen to all ranks until rank 0 ends in order or a rank dies or fails; then tell all of them which one."""
    names: dict[Any, str] = {}
    died: list[str] = []
    failed: list[str] = []
    deadline = None
    with server, selectors.DefaultSelector() as selector:
        server.settimeout(CONNECT)
        while len(names) < n_ranks:
            connection, _ = server.accept()
            _keep_alive(connection)
            its_token, _, name = _receive(connection).strip().partition(" ")
            if secrets.compare_digest(its_token.encode(), token.encode()):
                names[connection] = name
                selector.register(connection, selectors.EVENT_READ)
        while deadline is None or time.monotonic() < deadline:
            for key, _ in selector.select(None if deadline is None else max(0, deadline - time.monotonic())):
                selector.unregister(key.fileobj)
                line, name = _receive(key.fileobj), names[key.fileobj]
                if line.strip():
                    failed.append(line.strip())
                elif not line:
                    died.append(f"{name} has died")
                elif name == rank_0:
                    deadline = 0.0
            if deadline is None and (died or failed):
                deadline = time.monotonic() + COLLECT
        for connection in names:
            _send(connection, ", ".join(died) or "".join(failed[:1]))


def _keep_alive(connection: socket.socket) -> None:
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _send(connection: socket.socket, line: str) -> None:
    with suppress(OSError):  # the other end is gone
        connection.sendall(f"{line}\n".encode())


def _receive(connection: Any) -> str:
    """A line, with its end. Empty if the connection has ended first."""
    received = b""
    with suppress(OSError):
        while not received.endswith(b"\n") and (part := connection.recv(4096)):
            received += part
    return received.decode(errors="replace")
