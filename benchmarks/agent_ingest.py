"""How many uploads a second the agent takes, each durable before it is answered.

    python benchmarks/agent_ingest.py [--uploads 2000] [--senders 8] [--stacks 100]

Uploads as conprof sends them: two sample types, labels of route, method and thread, gzip. Senders
are threads of this process over keep-alive connections, so the figure includes their cost on the
same machine. The bodies are made before the clock starts.
"""

# ruff: noqa: E501 - multipart heads
from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

from conprof_core._engine import Row
from conprof_core._pprof import encode_profile
from conprof_core.exporters import naming

BOUNDARY = "b" * 32
ROUTES = ("/", "/cart", "/products/<int:id>", "/search", "/checkout", "/reports/<year>")


def body(number: int, stacks: int, now: float) -> bytes:
    """Return one upload; the same stacks come again, with other weights."""
    chance = random.Random(number)
    rows = []
    for stack in range(stacks):
        shape = random.Random(stack)
        # A common way in, then a walk through a call tree, as requests of one program make.
        frames = [
            (f"level_{level}_{shape.randrange(1 + level // 3)}", f"/srv/shop/{level}.py", 10, 1)
            for level in range(12 + shape.randrange(10))
        ][::-1]
        labels = (("http.request.method", "GET"), ("http.route", ROUTES[stack % len(ROUTES)]))
        samples = 1 + chance.randrange(4)
        rows.append(
            Row(tuple(frames), labels, f"worker-{stack % 4}", samples, samples * 10_000_000)
        )
    start = now - 45 * (number // 20 + 1)
    names = naming.blackfire()
    raw = encode_profile(
        rows,
        names.shapes[0],
        names,
        start_ns=int(start * 1e9),
        end_ns=int((start + 45) * 1e9),
        mapping_file="python",
    )
    stamp = lambda t: time.strftime("%Y-%m-%dT%H:%M:%S.000000000Z", time.gmtime(t))  # noqa: E731
    process = number % 20
    event = {"start": stamp(start), "end": stamp(start + 45), "family": "python", "version": "4"}
    event["tags_profiler"] = (
        f"service:shop,process_id:{process},runtime-id:{process:032x},profile_seq:{number}"
    )
    parts = (
        ("event", "event.json", json.dumps(event).encode()),
        ("profile.pprof", "profile.pprof", gzip.compress(raw, 6)),
    )
    out = b""
    for name, file, content in parts:
        out += f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{file}"\r\n\r\n'.encode()
        out += content + b"\r\n"
    return out + f"--{BOUNDARY}--\r\n".encode()


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--uploads", type=int, default=2000)
    parser.add_argument("--senders", type=int, default=8)
    parser.add_argument("--stacks", type=int, default=100)
    arguments = parser.parse_args()
    now = time.time()
    bodies = [body(number, arguments.stacks, now) for number in range(arguments.uploads)]
    print(f"{len(bodies)} uploads, {sum(map(len, bodies)) / len(bodies):.0f} bytes each")
    with tempfile.TemporaryDirectory() as directory:
        agent = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "conprof_core.cli.main",
                "agent",
                "--listen=127.0.0.1:0",
                f"--data={directory}",
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert agent.stdout is not None
        found = re.search(r":(\d+)/", agent.stdout.readline())
        assert found is not None
        port = int(found[1])
        waiting = iter(bodies)
        lock = threading.Lock()
        failed = 0

        def send() -> None:
            nonlocal failed
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            while True:
                with lock:
                    content = next(waiting, None)
                if content is None:
                    return
                headers = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}
                connection.request("POST", "/profiling/v1/input", content, headers)
                answer = connection.getresponse()
                answer.read()
                failed += answer.status != 200

        senders = [threading.Thread(target=send) for _ in range(arguments.senders)]
        start = time.perf_counter()
        for sender in senders:
            sender.start()
        for sender in senders:
            sender.join()
        seconds = time.perf_counter() - start
        with open(f"/proc/{agent.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        cpu = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        with open(f"/proc/{agent.pid}/status") as status:
            resident = next(line for line in status if line.startswith("VmRSS"))
        agent.send_signal(signal.SIGTERM)
        agent.wait(30)
    print(f"{len(bodies) / seconds:.0f} uploads/s, {failed} failed, {seconds:.1f} s")
    print(
        f"agent: {cpu / len(bodies) * 1000:.2f} ms of CPU an upload, {resident.split()[1]} KiB resident"
    )


if __name__ == "__main__":
    main()
