"""Ranks that notice when one of them dies.

Every rank holds a TCP connection to rank 0. The operating system closes it when a process ends, however it ends, so no
time-out decides, and a rank that saves or compiles for minutes is never taken for dead.
"""

import logging
import math
import os
import secrets
import selectors
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from typing import Any

import lightning as L

from gptlab.files import write_json
from gptlab.training.run_files import SUMMARY, read_summary
from gptlab.training.stops import Interrupted, NonFiniteError

log = logging.getLogger("gptlab")

CONNECT = 60.0  # seconds for all ranks to connect to rank 0
COLLECT = 1.0  # seconds in which rank 0 waits for further news: a death makes other ranks fail
GRACE = 5.0  # seconds in which the main thread, or a launched rank, may end by itself
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3}
"""A connection to a machine that has vanished ends after 40 s. macOS lacks the first setting."""


class Watch(L.Callback):
    """Ends all processes of a run if one of its ranks dies or fails. Does nothing if there is one rank.

    Rank 0 tells all ranks which one it was. The main thread can then end the run, as most collectives fail; if it
    hangs, a thread ends the process.
    """

    def __init__(self, trainer: L.Trainer, run_dir: Path) -> None:
        self._trainer, self._run_dir = trainer, run_dir
        self._name = f"rank {trainer.global_rank} on {socket.gethostname()}"
        self._connection: socket.socket | None = None  # to rank 0
        self._hub: Thread | None = None  # of rank 0
        self._said: str | None = None  # what this rank has told rank 0
        self._sentence = ""  # which rank died or failed
        self._has_sentence, self._is_closed = Event(), Event()

    def setup(self, trainer: L.Trainer, module: Any, stage: str) -> None:
        """Connect all ranks. The process group is up."""
        if trainer.world_size == 1:
            return
        address, offer = os.environ["MASTER_ADDR"], (0, "", "")
        if trainer.is_global_zero:
            host = address if address in ("127.0.0.1", "::1", "localhost") else ""  # "": all addresses
            server = socket.create_server((host, 0), family=socket.getaddrinfo(address, 0)[0][0], backlog=4096)
            offer = server.getsockname()[1], secrets.token_hex(), self._name
        port, token, rank_0 = trainer.strategy.broadcast(offer)
        if trainer.is_global_zero:
            self._hub = Thread(target=_run_hub, args=(server, token, rank_0, trainer.world_size), daemon=True)
            self._hub.start()
        self._connection = socket.create_connection((address, port), timeout=CONNECT)
        _keep_alive(self._connection)
        _send(self._connection, f"{token} {self._name}")
        Thread(target=self._wait, args=(self._connection, rank_0), daemon=True).start()
        if launched := getattr(trainer.strategy.launcher, "procs", None):
            trainer.strategy.launcher.procs = list(launched)  # type: ignore[union-attr]
            launched.clear()  # Lightning's observer, which would kill this process without a word, ends

    def on_exception(self, trainer: L.Trainer, module: Any, exception: BaseException) -> None:
        """Tell the others of a failure that is this rank's alone, or the consequence of another's."""
        if not isinstance(exception, Interrupted | NonFiniteError):
            self._say(f"{self._name} failed: {type(exception).__name__}: {exception}".splitlines()[0])

    def other_rank(self) -> str | None:
        """After a failure: the sentence about another rank that caused it, if there is one."""
        if self._connection is not None:
            self._has_sentence.wait(CONNECT)
        return None if self._sentence.startswith(f"{self._name} ") else self._sentence or None

    def close(self) -> None:
        """The main thread ends the run, in order or after a failure."""
        self._is_closed.set()
        self._say("")
        if self._hub is not None:
            self._hub.join(CONNECT)
        if self._said:
            self._end_launched()

    def _say(self, what: str) -> None:
        """Send rank 0 one line, the first that there is. An empty one says that this rank ends in order."""
        if self._said is None:
            self._said = what
            if self._connection is not None:
                _send(self._connection, what)

    def _wait(self, connection: socket.socket, rank_0: str) -> None:
        """Wait for a sentence. End the process if the main thread does not."""
        line = _receive(connection)
        if line == "\n":  # rank 0 ends in order, and so do all
            return
        self._sentence = line.strip() or f"{rank_0} has died"
        self._has_sentence.set()
        if self._is_closed.wait(GRACE):
            return
        try:
            log.error("failed: %s; resume=%s resumes the run", self._sentence, self._run_dir)  # on all ranks
            if self._trainer.is_global_zero:
                ended = {"status": "failed", "failure": self._sentence}
                write_json(self._run_dir / SUMMARY, read_summary(self._run_dir) | ended)
            self._end_launched()
        finally:
            os._exit(1)

    def _end_launched(self) -> None:
        """Kill the ranks that this one has launched, if they do not end by themselves."""
        if (launcher := self._trainer.strategy.launcher) is not None:
            deadline = time.monotonic() + GRACE
            while any(p.poll() is None for p in getattr(launcher, "procs", ())) and time.monotonic() < deadline:
                time.sleep(0.05)
            launcher.kill(signal.SIGKILL)


def _run_hub(server: socket.socket, token: str, rank_0: str, n_ranks: int) -> None:
    """Listen to all ranks until rank 0 ends in order or a rank dies or fails; then tell all of them which one."""
    ranks: list[socket.socket] = []
    ends: list[tuple[bool, str]] = []  # deaths come before failures, which may follow from them
    deadline = math.inf
    with server, selectors.DefaultSelector() as selector:
        server.settimeout(CONNECT)
        while len(ranks) < n_ranks:
            try:
                connection, _ = server.accept()
            except TimeoutError:
                ends.append((True, "a rank has not connected to the first one"))
                deadline = 0
                break
            connection.settimeout(CONNECT)
            its_token, _, name = _receive(connection).strip().partition(" ")
            if secrets.compare_digest(its_token.encode(), token.encode()):
                _keep_alive(connection)
                ranks.append(connection)
                selector.register(connection, selectors.EVENT_READ, name)
        while time.monotonic() < deadline:
            for key, _ in selector.select(COLLECT):
                selector.unregister(key.fileobj)
                line = _receive(key.fileobj)
                if line != "\n":
                    ends.append((bool(line), line.strip() or f"{key.data} has died"))
                    deadline = min(deadline, time.monotonic() + COLLECT)
                elif key.data == rank_0:
                    deadline = 0
    for connection in ranks:
        _send(connection, min(ends, default=(False, ""), key=lambda end: end[0])[1])


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
    """The next line, with its end. Empty if the connection has ended."""
    received = b""
    with suppress(OSError):
        while not received.endswith(b"\n") and (byte := connection.recv(1)):
            received += byte
    return received.decode(errors="replace")
