"""The example of the Go profiler's documentation, in Python: hash, sleep, 15 rounds, with labels.

    conprof run --export-to file:///tmp/profiles -- python example_apps/md5_loop.py
    go tool pprof -top /tmp/profiles/*.pb.gz

Nothing in it starts a profiler; with ``conprof.start()`` at its top it would run without
``conprof run`` just as well. ``MD5_LOOP_WORK`` scales the work of a round (default 1).
"""

from __future__ import annotations

import hashlib
import os
import time

import conprof_core as conprof

ROUNDS = 15
HASHES = int(120_000 * float(os.environ.get("MD5_LOOP_WORK", "1")))


def md5_loop(count: int) -> str:
    """Hash a digest again and again; pure CPU time."""
    digest = b"conprof"
    for _ in range(count):
        digest = hashlib.md5(digest).digest()
    return digest.hex()


def checksum(text: str) -> int:
    """A little pure-Python work beside it."""
    total = 0
    for _ in range(HASHES // 40):
        for character in text:
            total = (total * 31 + ord(character)) % 1_000_003
    return total


def main() -> None:
    """Do the rounds: even ones for one tenant, odd ones for another."""
    for number in range(1, ROUNDS + 1):
        with conprof.labels(job="md5", tenant="even" if number % 2 == 0 else "odd"):
            digest = md5_loop(HASHES)
            print(f"round {number:2} of {ROUNDS}: {digest} {checksum(digest)}", flush=True)
        time.sleep(0.05)


if __name__ == "__main__":
    main()
