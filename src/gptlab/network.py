"""Whether a host answers at all, within a time that a person is glad to wait."""

import socket
import threading
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

PATIENCE = 1.5
"""Seconds."""


def is_reachable(url: str, seconds: float = PATIENCE) -> bool:
    """Whether the host of a URL, or the proxy that stands before it, takes a connection.

    HTTP clients give each address of a host a time of its own, and the look-up of its name any time that it takes:
    behind a firewall that drops packets, a minute can pass. This asks all addresses at once and looks at one clock.
    """
    try:
        host, port = _place(url)
    except ValueError:  # no address at all
        return False
    has_answered, is_over = threading.Event(), threading.Event()

    def connect(address: tuple) -> None:
        try:
            socket.create_connection(address[:2], timeout=seconds).close()
        except OSError:
            return
        has_answered.set()
        is_over.set()

    def ask_all() -> None:
        try:
            addresses = {found[4][:2] for found in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
            threads = [threading.Thread(target=connect, args=(address,), daemon=True) for address in addresses]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        except OSError:  # no such name
            pass
        is_over.set()

    threading.Thread(target=ask_all, daemon=True).start()
    is_over.wait(seconds)
    return has_answered.is_set()


def _place(url: str) -> tuple[str, int]:
    """Host and port to knock at: the URL's own, or its proxy's. Raises ValueError where there is none."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme) or getproxies().get("all")
    if proxy is not None and parts.hostname is not None and not proxy_bypass(parts.hostname):
        parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    if parts.hostname is None:
        raise ValueError(url)
    return parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
