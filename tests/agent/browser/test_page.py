"""The page around the views: empty states, its own policy, narrow screens."""

from __future__ import annotations

from support import agent as make
from support.browser import MARKS, go

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
