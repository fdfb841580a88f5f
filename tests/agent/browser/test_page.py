"""The page around the views: empty states, its own policy, narrow screens; the page in a file."""

# ruff: noqa: E501 - scripts for the page
from __future__ import annotations

import gzip

import pytest
from support import agent as make
from support.browser import EVIL, MARKS, go

from conprof_core.cli import main

pytestmark = MARKS


def test_empty_states_say_what_to_do(page, agent: make.Agent) -> None:
    page.goto(f"{agent.url}?service=shop&end=1500000000000")
    page.wait_for_selector("text=Nothing in this range")
    page.click("text=Show that time")
    page.wait_for_selector("tbody tr")


def test_an_agent_without_data_tells_how_to_send_some(browser, tmp_path) -> None:
    with make.Agent(tmp_path) as fresh:
        opened = browser.new_page()
        opened.goto(fresh.url)
        opened.wait_for_selector("text=Waiting for the first profile")
        assert f"tcp://127.0.0.1:{fresh.port}" in opened.inner_text(".empty")
        opened.close()


def test_the_pages_obey_their_own_policy(browser, agent: make.Agent) -> None:
    opened = browser.new_page()
    problems: list[str] = []
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    for view, shown in (("routes", "td"), ("flame", "canvas"), ("top", "td"), ("diff", ".choices")):
        opened.goto(f"{agent.url}?service=shop&view={view}")
        opened.wait_for_selector(f"section {shown}")
    opened.close()
    assert not problems


def test_narrow_screens_do_not_scroll_sideways(page, agent: make.Agent) -> None:
    page.set_viewport_size({"width": 400, "height": 800})
    for view in ("routes", "flame", "top", "diff"):
        go(page, agent, f"&view={view}")
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 400
    go(page, agent)
    page.wait_for_selector("tbody tr")
    cost = page.locator("tbody tr td.numeric b").first.bounding_box()
    assert cost["x"] + cost["width"] <= 400, "CPU per request is seen without scrolling"
    page.click("text=+ Filter")
    share = page.locator(".filter-panel .value-share").first.bounding_box()
    assert share["x"] + share["width"] <= 400


HEAP = (("inuse_space", "bytes"),)


@pytest.mark.parametrize(
    ("verb", "types", "shown"),
    [
        ("report", make.CPU, "100\u2009ms"),
        ("diff", make.CPU, "14.0\u2009ms/s"),
        ("diff", HEAP, "140\u2009B"),
    ],
    ids=["report", "diff of a flow", "diff of a state"],
)
def test_the_page_that_is_written_works_from_a_file(
    browser, tmp_path, verb: str, types, shown: str
) -> None:
    """Opened from the disk: no server, no network, and nothing against its own policy."""
    for name, cpu in (("a", 70), ("b", 140)):
        rows = make.samples(cpu_ms=cpu)
        if types is HEAP:
            rows = [(frames, labels, [values[0] // 1_000_000]) for frames, labels, values in rows]
        rows.append(([make.MAIN, (EVIL, "/srv/<b>.py", 5)], {}, [1] * len(types)))
        profile = make.pprof(types, rows) + make.number(10, 10_000_000_000)
        (tmp_path / f"{name}.pb.gz").write_bytes(gzip.compress(profile))
    sources = [str(tmp_path / "a.pb.gz"), str(tmp_path / "b.pb.gz")][: 1 if verb == "report" else 2]
    assert main.main([verb, *sources, "--html", str(tmp_path / "page.html")]) == 0
    opened = browser.new_page()
    problems: list[str] = []
    opened.on("pageerror", lambda error: problems.append(str(error)))
    opened.on("console", lambda m: problems.append(m.text) if m.type == "error" else None)
    opened.on("request", lambda r: None if r.url.startswith("file:") else problems.append(r.url))
    opened.goto(f"file://{tmp_path}/page.html")
    opened.wait_for_selector("tbody tr:has-text('/cart/<int:id>')")
    assert shown in opened.inner_text("#app")
    assert opened.locator("tbody tr", has_text=EVIL).count() == 1
    drawn = "(() => { const c = document.querySelector('.flame canvas'); return c.getContext('2d').getImageData(c.width / 2, 50, 1, 1).data[3]; })()"
    opened.wait_for_timeout(200)
    assert opened.evaluate(drawn) == 255, "third row of the graph"
    opened.fill(".search", "hot")
    opened.wait_for_selector(".found >> text=in 1 frames")
    opened.click("button >> text=Invert")
    opened.wait_for_selector("button[aria-pressed=true] >> text=Invert")
    opened.hover(".flame canvas", position={"x": 200, "y": 30})
    opened.wait_for_selector(".card:visible")
    assert opened.evaluate("window.hacked") is None
    opened.close()
    assert not problems


def test_a_token_is_shown_once_and_then_kept_in_a_cookie(browser, tmp_path) -> None:
    with make.Agent(tmp_path, "--token=s3cret") as guarded:
        context = browser.new_context()
        opened = context.new_page()
        assert opened.goto(guarded.url).status == 401
        opened.goto(f"{guarded.url}?token=s3cret&view=top")
        opened.wait_for_selector("text=Waiting for the first profile")
        assert "s3cret" not in opened.url
        assert opened.evaluate("document.cookie") == "", "out of reach of scripts"
        opened.goto(guarded.url)
        opened.wait_for_selector("text=Waiting for the first profile")
        context.close()
