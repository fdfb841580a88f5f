"""Visits a shop: ``python -m example_apps.traffic http://127.0.0.1:8000 --seconds 30``.

All three shops have the same paths. ``visit()`` makes a fixed number of requests, for tests.
"""

from __future__ import annotations

import argparse
import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Final
from urllib.parse import urlsplit

__all__ = ["PATHS", "plan", "visit", "wait_until_up"]

# Name of a request → method, path; {n} becomes a number that no label may show.
PATHS: Final[Mapping[str, tuple[str, str]]] = {
    "home": ("GET", "/"),
    "product": ("GET", "/products/{n}"),
    "recommend": ("GET", "/recommend/{n}"),
    "report": ("GET", "/reports/{year}"),
    "supplier": ("GET", "/supplier/{n}"),
    "export": ("GET", "/export/all-{n}.csv"),
    "order": ("POST", "/orders/{n}"),
    "missing": ("GET", "/nothing/{n}"),
}
_USUAL: Final = {"home": 6, "product": 8, "recommend": 3, "report": 2, "supplier": 2, "export": 1}
_TIMEOUT_S: Final = 60.0


def plan(counts: Mapping[str, int], seed: int = 1) -> list[tuple[str, str]]:
    """Return (method, path) of each request, in an order that a seed decides."""
    chance = random.Random(seed)
    names = [name for name, count in counts.items() for _ in range(count)]
    chance.shuffle(names)
    made = []
    for name in names:
        method, path = PATHS[name]
        number, year = chance.randrange(101, 199), chance.randrange(1901, 2099)
        made.append((method, path.format(n=number, year=year)))
    return made


def visit(
    url: str, requests: Iterable[tuple[str, str]], concurrency: int = 4, *, keep_alive: bool = True
) -> Counter[int]:
    """Make the requests and return how often each status came; 0 stands for no answer."""
    address = urlsplit(url).netloc
    waiting = iter(requests)
    lock = threading.Lock()
    statuses: Counter[int] = Counter()

    def take() -> Iterator[tuple[str, str]]:
        while True:
            with lock:
                following = next(waiting, None)
            if following is None:
                return
            yield following

    def visitor() -> None:
        connection = http.client.HTTPConnection(address, timeout=_TIMEOUT_S)
        for method, path in take():
            try:
                connection.request(method, path)
                response = connection.getresponse()
                response.read()
                status = response.status
            except (OSError, http.client.HTTPException):
                status = 0
            if status == 0 or not keep_alive:
                connection.close()
            with lock:
                statuses[status] += 1
        connection.close()

    visitors = [threading.Thread(target=visitor) for _ in range(concurrency)]
    for thread in visitors:
        thread.start()
    for thread in visitors:
        thread.join()
    return statuses


def wait_until_up(url: str, timeout_s: float = 30.0) -> None:
    """Wait until something accepts connections; makes no request.

    Raises:
        TimeoutError: nothing did in time.
    """
    import socket

    address = urlsplit(url)
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection((address.hostname or "", address.port or 80), 1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise TimeoutError(f"nothing listens at {url}") from None
            time.sleep(0.02)


def _for_seconds(seconds: float) -> Iterator[tuple[str, str]]:
    deadline = time.monotonic() + seconds
    seed = 0
    while True:
        seed += 1
        for request in plan({**_USUAL, "order": 1, "missing": 1}, seed):
            if time.monotonic() > deadline:
                return
            yield request


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(prog="example_apps.traffic", description="visit a shop")
    parser.add_argument("url", nargs="?", default="http://127.0.0.1:8000")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long (default: 30)")
    parser.add_argument("--concurrency", type=int, default=2, help="visitors (default: 2)")
    arguments = parser.parse_args()
    wait_until_up(arguments.url)
    statuses = visit(arguments.url, _for_seconds(arguments.seconds), arguments.concurrency)
    print(", ".join(f"{count} times {status or 'no answer'}" for status, count in statuses.items()))


if __name__ == "__main__":
    main()
