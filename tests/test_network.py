"""Who answers, within the time that a person is glad to wait."""

import socket
import time

import pytest

from gptlab.network import is_reachable
from local_hub import LocalHub


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (
        "http_proxy",
        "https_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "no_proxy",
        "NO_PROXY",
        "all_proxy",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(variable, raising=False)


def test_a_server_is_reachable(hub: LocalHub) -> None:
    assert is_reachable(hub.address)


def test_a_closed_port_is_known_at_once() -> None:
    began = time.monotonic()
    assert not is_reachable("http://127.0.0.1:9", seconds=60)
    assert time.monotonic() - began < 30


def test_silence_ends_with_the_time() -> None:
    with socket.socket() as listener:  # full backlog: further connections are neither taken nor refused
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        address = listener.getsockname()
        waiting = [socket.socket() for _ in range(3)]
        for one in waiting:
            one.setblocking(False)
            one.connect_ex(address)
        began = time.monotonic()
        assert not is_reachable(f"http://127.0.0.1:{address[1]}", seconds=0.3)
        assert time.monotonic() - began < 10
        for one in waiting:
            one.close()


def test_no_host_and_no_such_name_are_not_reachable() -> None:
    assert not is_reachable("nonsense")
    assert not is_reachable("http://no-such-name.invalid", seconds=5)


def test_a_proxy_stands_for_what_is_behind_it(hub: LocalHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", hub.address)
    assert is_reachable("http://no-such-name.invalid")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert not is_reachable("http://no-such-name.invalid")
    monkeypatch.delenv("http_proxy")
    monkeypatch.setenv("all_proxy", hub.address)
    assert is_reachable("http://no-such-name.invalid")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert is_reachable(hub.address)
