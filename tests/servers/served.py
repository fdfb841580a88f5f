"""Starts a real server with an example shop, visits it, stops it, and reads what was uploaded."""

from __future__ import annotations

import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from support.fake_agent import FakeAgent, Upload
from support.process import Running, run_command, start_command

from example_apps import traffic, work

ROOT = Path(__file__).parents[2]
ROUTE = "trace endpoint"

VISITS = {
    "recommend": 40,
    "report": 40,
    "order": 20,
    "home": 5,
    "product": 5,
    "supplier": 3,
    "export": 3,
    "missing": 3,
}
STATUSES = {200: 96, 201: 20, 404: 3}
# CPU seconds that the requests of VISITS use, by the function that uses them.
TRUTH_S = {
    "recommend": VISITS["recommend"] * work.RECOMMEND_CPU_S,
    "report": VISITS["report"] * work.REPORT_CPU_S,
    "confirm": VISITS["order"] * work.CONFIRM_CPU_S,
}


@dataclass(frozen=True)
class Shop:
    """One example application and its templates."""

    name: str
    wsgi: str = ""
    asgi: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)

    @property
    def routes(self) -> dict[str, str]:
        """Function that uses the CPU → route it must be charged to."""
        number, year = self.parameters["number"], self.parameters["year"]
        return {
            "recommend": f"/recommend/{number}",
            "report": f"/reports/{year}",
            "confirm": f"/orders/{number}",
        }


DJANGO = Shop(
    "django_shop",
    wsgi="example_apps.django_shop.wsgi:application",
    asgi="example_apps.django_shop.asgi:application",
    parameters={"number": "<int:number>", "year": "<year>"},
)
FLASK = Shop(
    "flask_shop",
    wsgi="example_apps.flask_shop.app:app",
    parameters={"number": "<int:number>", "year": "<int:year>"},
)
STARLETTE = Shop(
    "starlette_shop",
    asgi="example_apps.starlette_shop.app:app",
    parameters={"number": "{number}", "year": "{year}"},
)


def free_port() -> int:
    """Return a TCP port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(
    command: Sequence[str], shop: Shop, agent: FakeAgent, tmp_path: Path, **more: str
) -> Iterator[tuple[Running, str]]:
    """Start ``command`` (``{port}`` is filled in) and yield the process and its URL."""
    port = free_port()
    env = {
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")]),
        "SHOP_DATABASE": str(tmp_path / "shop.sqlite"),
        "BLACKFIRE_AGENT_SOCKET": agent.url,
        "BLACKFIRE_CONPROF_PERIOD": "3600",
        "BLACKFIRE_CONPROF_CPU_PROFILERATE": "250",
        "BLACKFIRE_LOG_LEVEL": "3",
        "PYTHONUNBUFFERED": "1",
        "DJANGO_SETTINGS_MODULE": "example_apps.django_shop.settings",
        **more,
    }
    if shop is DJANGO:
        run_command([sys.executable, "-m", "django", "prepare"], env=env, cwd=ROOT)
    filled = [part.format(port=port) for part in command]
    with start_command(filled, env=env, cwd=ROOT) as process:
        url = f"http://127.0.0.1:{port}"
        try:
            traffic.wait_until_up(url)
        except TimeoutError:
            raise AssertionError(process.finish(0.1).describe()) from None
        yield process, url


def visit(url: str, concurrency: int = 4, *, skip: str = "") -> None:
    """Make the visits of ``VISITS``, but for one kind, and check the answers."""
    visits = {name: count for name, count in VISITS.items() if name != skip}
    wanted = {**STATUSES, 200: STATUSES[200] - (VISITS[skip] if skip else 0)}
    statuses = traffic.visit(url, traffic.plan(visits), concurrency, keep_alive=False)
    assert dict(statuses) == wanted, f"{dict(statuses)}, not {wanted}"


def stop(process: Running, number: int = signal.SIGTERM, *, codes: Sequence[int] = (0,)) -> str:
    """Stop gracefully; returns what the server wrote."""
    process.signal(number)
    result = process.finish(20)
    assert result.returncode in codes, result.describe()
    return result.stdout + result.stderr


def check(
    uploads: Sequence[Upload], shop: Shop, *, workers: int, supervisor: int | None = None
) -> None:
    """Assert everything that the issue asks of an upload.

    ``workers`` is how many processes must have reported (at least one with requests); the process
    ``supervisor`` must not be among them.
    """
    processes = {upload.tags["process_id"] for upload in uploads}
    assert len({upload.tags["runtime-id"] for upload in uploads}) == len(processes)
    assert len(processes) == workers, f"{len(processes)} processes reported"
    if supervisor is not None:
        assert str(supervisor) not in processes, "the supervisor reported"
    assert {upload.tags["service"] for upload in uploads} == {shop.name}
    found = _cpu(uploads)
    truth_total = sum(TRUTH_S.values())
    total = sum(found.values())
    assert 0.95 < total / truth_total < 1.1, f"{total:.2f} s of {truth_total:.2f} s arrived"
    for function, route in shop.routes.items():
        share = found.pop((function, route), 0.0) / total
        wanted = TRUTH_S[function] / truth_total
        assert abs(share - wanted) < 0.02, f"{function}: {share:.3f} for {wanted:.3f}; {found}"
    strange = {key: seconds for key, seconds in found.items() if seconds / total > 0.01}
    assert not strange, f"charged elsewhere: {strange}"
    check_no_leak(uploads, shop)


def _cpu(uploads: Sequence[Upload]) -> dict[tuple[str, str], float]:
    """(function of the truth, route) → CPU seconds."""
    found: dict[tuple[str, str], float] = {}
    for upload in uploads:
        profile = upload.profile
        column = profile.column(profile.time_type)
        for sample in profile.samples:
            route = sample.labels.get(ROUTE, "")
            for frame in sample.frames:
                if frame.filename.endswith("example_apps/work.py") and frame.function in TRUTH_S:
                    key = (frame.function, route)
                    found[key] = found.get(key, 0.0) + sample.values[column] / 1e9
                    break
    return found


def check_no_leak(uploads: Sequence[Upload], shop: Shop) -> None:
    """No concrete number or path stands anywhere in the labels or in the text of an upload."""
    concrete = re.compile(
        r"/(?:products|recommend|supplier|orders|nothing)/\d|/reports/(?:19|20)\d\d|all-\d"
    )
    for upload in uploads:
        texts = [*upload.profile.strings, *upload.tags.values(), *map(str, upload.event.values())]
        leaked = [text for text in texts if concrete.search(text)]
        assert not leaked, leaked
        routes = {sample.labels.get(ROUTE) for sample in upload.profile.samples}
        assert routes <= {None, *_known_routes(shop)}, routes


def _known_routes(shop: Shop) -> set[str]:
    number = shop.parameters["number"]
    name = {"django_shop": "<str:name>", "flask_shop": "<name>"}.get(shop.name, "{name}")
    return {
        *shop.routes.values(),
        "/",
        f"/products/{number}",
        f"/supplier/{number}",
        f"/export/{name}.csv",
        "<unmatched>",
    }


def wait_for_children(pid: int, count: int, timeout_s: float = 20.0) -> list[int]:
    """Return the children of ``pid`` once there are at least ``count``."""
    deadline = time.monotonic() + timeout_s
    while True:
        path = Path(f"/proc/{pid}/task/{pid}/children")
        children = [int(child) for child in path.read_text().split()]
        if len(children) >= count:
            return children
        assert time.monotonic() < deadline, f"{len(children)} of {count} children"
        time.sleep(0.02)
