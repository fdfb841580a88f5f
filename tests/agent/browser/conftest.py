"""One agent with data, a browser for each file, a page for each test."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
from support import agent as make
from support.browser import ARGUMENTS, CHROMIUM, EVIL

HEAP = (("heap-space", "bytes"), ("heap-live-samples", "count"))
ODD = (
    ("lock_wait", "nanoseconds"),
    ("loop_blocked", "nanoseconds"),
    ("gc_pause", "nanoseconds"),
    ("tea-time", "milliseconds"),
    ("cable_length", "fathoms"),
)
LEAK = ("forget_to_free", "/srv/shop/views.py", 40)
CACHE = ("fill_cache", "/srv/shop/cache.py", 50)


def attachments(end: float, tags: str, profile: bytes) -> bytes:
    return make.multipart(
        make.part("event", make.event(end, tags_profiler=tags), "event.json"),
        make.part("profile.pprof", profile, "profile.pprof"),
    )


def shop(now: float) -> Iterator[bytes]:
    """Ten minutes of two processes; the newer half uses more CPU."""
    for n in range(60):
        content = make.samples(cpu_ms=70 if n < 30 else 20)
        content.append(
            ([make.MAIN, (EVIL, "/srv/<b>.py", 5)], {"trace endpoint": EVIL}, [5_000_000, 1])
        )
        tags = f"service:shop,host:web-{n % 2},runtime-id:r{n % 2},conprof_lost_truncated:{n % 2}"
        counts = {"/": 5, "/cart/<int:id>": 10}
        yield make.upload(now - 10 * n, content=content, tags_profiler=tags, endpoint_counts=counts)


def leaky(now: float) -> Iterator[bytes]:
    """Five minutes in which one route keeps 1 MiB more in every window, and another 50 MiB."""
    for n in range(30):
        rows = [
            ([make.MAIN, LEAK], {"trace endpoint": "/leaky"}, [(n + 1) << 20, n + 1]),
            ([make.MAIN, CACHE], {"trace endpoint": "/cached"}, [50 << 20, 7]),
        ]
        yield attachments(now - 10 * (29 - n), "service:leaky", make.pprof(HEAP, rows))


@pytest.fixture(scope="session")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[make.Agent]:
    with make.Agent(tmp_path_factory.mktemp("data")) as running:
        now = time.time()
        odd = [([make.MAIN, make.HOT], {"trace endpoint": "/"}, [90_000_000, 2, 3, 1500, 12])]
        bodies = [
            *shop(now),
            *leaky(now),
            make.upload(now, tags_profiler="service:other"),
            attachments(now, "service:odd", make.pprof(ODD, odd)),
        ]
        for body in bodies:
            assert running.post(body)[0] == 200
        yield running


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield running
        running.close()


@pytest.fixture
def page(browser, agent: make.Agent):
    # The driver polls with eval, which the policy forbids; another test looks at the policy.
    context = browser.new_context(viewport={"width": 1280, "height": 800}, bypass_csp=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"], origin=agent.url.rstrip("/"))
    opened = context.new_page()
    opened.set_default_timeout(15_000)
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    opened.on(
        "request",
        lambda r: None if r.url.startswith((agent.url, "data:")) else problems.append(r.url),
    )
    yield opened
    assert opened.evaluate("window.hacked") is None
    context.close()
    assert not problems
