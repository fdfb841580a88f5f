"""kill -9 at any moment of the intake: what was acknowledged is there afterwards."""

from __future__ import annotations

import http.client
import random
import threading
import time
from pathlib import Path

import pytest
from support import agent as make

ROUNDS = 50
SENDERS = 3


@pytest.mark.slow
def test_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    chance = random.Random(9)
    acknowledged: set[str] = set()
    kills_during_uploads = 0
    serial = 0
    now = time.time()
    for _ in range(ROUNDS):
        agent = make.Agent(tmp_path)
        lock = threading.Lock()
        in_flight = 0

        def send(agent: make.Agent = agent, lock: threading.Lock = lock) -> None:
            nonlocal serial, in_flight
            while True:
                with lock:
                    serial += 1
                    name = f"r{serial}"
                    in_flight += 1
                content = [([make.MAIN, make.HOT], {"n": name}, [1000, 1])]
                try:
                    status, _ = agent.post(make.upload(now - serial % 600, content=content))
                except (OSError, http.client.HTTPException):
                    return  # in_flight keeps it: this one was cut off by the kill
                with lock:
                    in_flight -= 1
                    if status == 200:
                        acknowledged.add(name)

        senders = [threading.Thread(target=send) for _ in range(SENDERS)]
        for sender in senders:
            sender.start()
        # Killed after some answers, at any moment of the next upload.
        wanted = len(acknowledged) + chance.randrange(1, 6)
        deadline = time.monotonic() + 20
        while len(acknowledged) < wanted and time.monotonic() < deadline:
            time.sleep(0.001)
        time.sleep(chance.uniform(0, 0.03))
        agent.kill()
        for sender in senders:
            sender.join()
        kills_during_uploads += in_flight > 0
    assert kills_during_uploads > ROUNDS // 2, "the agent was hardly ever killed at work"
    assert len(acknowledged) > ROUNDS
    with make.Agent(tmp_path) as agent:
        stored: set[str] = set()
        rows = agent.get("table", by="n", service="shop", **{"from": "-1d", "to": now + 60})["rows"]
        for row in rows:
            stored.add(row["value"])
            assert row["total"] == 1000, "an upload is there once, and whole"
    missing = acknowledged - stored
    assert not missing
