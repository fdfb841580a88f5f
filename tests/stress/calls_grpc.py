"""Real calls of gRPC over loopback: of every kind, from many threads, to a server in this process.

Not collected with the other tests: ``libraries.py`` runs it where grpcio is installed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from concurrent import futures
from typing import Any

import grpc
import pytest

CALLS = 300


def one(request: bytes, context: Any) -> bytes:
    if request == b"refuse":
        context.abort(grpc.StatusCode.FAILED_PRECONDITION, "as asked")
    return request[::-1]


def many(request: bytes, context: Any) -> Iterator[bytes]:
    for number in range(int(request)):
        yield b"%d" % number


def sums(requests: Iterable[bytes], context: Any) -> bytes:
    return b"%d" % sum(map(int, requests))


def each(requests: Iterable[bytes], context: Any) -> Iterator[bytes]:
    for request in requests:
        yield request * 2


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    handlers = {
        "one": grpc.unary_unary_rpc_method_handler(one),
        "many": grpc.unary_stream_rpc_method_handler(many),
        "sums": grpc.stream_unary_rpc_method_handler(sums),
        "each": grpc.stream_stream_rpc_method_handler(each),
    }
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("stress", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as made:
        yield made
    server.stop(1).wait()


def test_unary(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/stress/one")
    for number in range(CALLS):
        text = b"%d" % (1000 + number)
        assert call(text, timeout=20) == text[::-1]


def test_error(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/stress/one")
    for _ in range(CALLS):
        with pytest.raises(grpc.RpcError) as raised:
            call(b"refuse", timeout=20)
        assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_answers_in_a_stream(channel: grpc.Channel) -> None:
    call = channel.unary_stream("/stress/many")
    for _ in range(20):
        assert list(call(b"200", timeout=20)) == [b"%d" % number for number in range(200)]


def test_requests_in_a_stream(channel: grpc.Channel) -> None:
    call = channel.stream_unary("/stress/sums")
    for _ in range(20):
        assert call((b"%d" % number for number in range(200)), timeout=20) == b"19900"


def test_both_in_a_stream(channel: grpc.Channel) -> None:
    call = channel.stream_stream("/stress/each")
    for _ in range(20):
        asked = [b"%d" % number for number in range(100)]
        assert list(call(iter(asked), timeout=20)) == [text * 2 for text in asked]


def test_deadline(channel: grpc.Channel) -> None:
    call = channel.stream_unary("/stress/sums")
    held = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"1"
        held.wait(5)

    with pytest.raises(grpc.RpcError) as raised:
        call(requests(), timeout=0.3)
    held.set()
    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_many_threads_and_futures(channel: grpc.Channel) -> None:
    call = channel.unary_unary("/stress/one")

    def work(number: int) -> int:
        waiting = [call.future(b"%d" % (n + 1000), timeout=30) for n in range(number, number + 50)]
        return sum(int(future.result()[::-1]) for future in waiting)

    with futures.ThreadPoolExecutor(16) as pool:
        totals = list(pool.map(work, range(40)))
    assert totals == [sum(range(n + 1000, n + 1050)) for n in range(40)]
