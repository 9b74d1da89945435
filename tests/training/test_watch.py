import socket
from collections.abc import Iterator
from contextlib import ExitStack
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from gptlab.training import watch
from gptlab.training.watch import Watch

TOKEN = "secret"


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """Connections of four ranks to rank 0, which listens to them; a stranger has tried to be the second."""
    monkeypatch.setattr(watch, "COLLECT", 0.2)
    server = socket.create_server(("127.0.0.1", 0))
    address = server.getsockname()
    hub = Thread(target=watch._run_hub, args=(server, TOKEN, "rank 0 on a", 4), daemon=True)
    hub.start()
    with ExitStack() as stack:
        connections = []
        for line in (f"{TOKEN} rank 0 on a", "guess rank 1 on b", *(f"{TOKEN} rank {rank} on b" for rank in (1, 2, 3))):
            connections.append(stack.enter_context(socket.create_connection(address, timeout=20)))
            connections[-1].sendall(f"{line}\n".encode())
        del connections[1]
        yield connections
    hub.join(20)
    assert not hub.is_alive()


def test_all_ranks_hear_which_one_has_died_and_not_what_failed_because_of_it(ranks: list[socket.socket]) -> None:
    ranks[2].sendall(b"rank 2 on b failed: RuntimeError: Connection closed by peer\n")
    ranks[3].close()
    for rank in ranks[:3]:
        assert watch._receive(rank) == "rank 3 on b has died\n"
        assert watch._receive(rank) == ""


def test_the_first_failure_is_the_one_that_counts(ranks: list[socket.socket]) -> None:
    ranks[1].sendall(b"rank 1 on b failed: ValueError: no\n")
    assert watch._receive(ranks[0]) == "rank 1 on b failed: ValueError: no\n"


def test_ranks_that_end_in_order_are_not_missed(ranks: list[socket.socket]) -> None:
    ranks[1].sendall(b"\n")
    ranks[1].close()
    ranks[2].settimeout(2 * watch.COLLECT)
    assert watch._receive(ranks[2]) == ""
    ranks[0].sendall(b"\n")
    ranks[2].settimeout(20)
    assert watch._receive(ranks[2]) == "\n"


def test_one_rank_opens_no_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "create_server")
    trainer: Any = SimpleNamespace(world_size=1, global_rank=0, strategy=SimpleNamespace(launcher=None))
    alone = Watch(trainer, run_dir=None)  # type: ignore[arg-type]
    alone.setup(trainer, None, "fit")
    alone.on_exception(trainer, None, RuntimeError("no"))
    assert alone.other_rank() is None
    alone.close()
