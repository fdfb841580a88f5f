"""Two selections beside each other, and what grew from one to the other."""

# ruff: noqa: E501 - scripts for the page
from __future__ import annotations

import time

import pytest
from support import agent as make
from support.browser import MARKS, go

pytestmark = MARKS


def test_two_values_of_a_label_are_compared(page, agent: make.Agent) -> None:
    go(page, agent, "&view=diff")
    page.wait_for_selector("text=Compare with what?")
    page.select_option("[aria-label='Label to compare by']", "http.route")
    page.select_option("[aria-label='Baseline value']", "/")
    page.select_option("[aria-label='Selected value']", "/cart/<int:id>")
    page.wait_for_selector(".versus")
    assert "+50.0" in page.locator(".versus").inner_text()
    change = page.evaluate(
        "(() => { const g = window.conprof.views.diff.graph(), t = g.tree;"
        "return Object.fromEntries([...Array(t.length).keys()].map((n) => [t.name(n), g.change(n)])); })()"
    )
    assert change["hot"] == 1
    assert change["cold"] == -1
    assert page.locator("tbody tr:has-text('hot')").inner_text().count("new") == 1


def test_two_ranges_are_compared_by_shift_and_drag(page, agent: make.Agent) -> None:
    go(page, agent)
    page.wait_for_selector("tbody tr")
    box = page.locator(".timeline canvas").bounding_box()
    page.keyboard.down("Shift")
    page.mouse.move(box["x"] + box["width"] * 0.4, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.6, box["y"] + 30, steps=4)
    page.mouse.up()
    page.keyboard.up("Shift")
    page.wait_for_selector(".versus")
    assert page.evaluate("window.conprof.state.base.from") > 0


def test_a_state_is_called_an_average(page, agent: make.Agent) -> None:
    heap = make.pprof((("inuse_space", "bytes"),), [([make.MAIN], {}, [3 << 20])])
    for age in (300, 5):
        body = make.multipart(
            make.part(
                "event", make.event(time.time() - age, tags_profiler="service:heaps"), "event.json"
            ),
            make.part("heap.pprof", heap, "heap.pprof"),
        )
        assert agent.post(body)[0] == 200
    page.goto(f"{agent.url}?service=heaps&type=heap_space&span=900")
    page.wait_for_selector("tbody tr")
    heads = page.locator("thead").inner_text()
    assert "Average" in heads
    assert "Total" not in heads
    assert "per second" not in heads
    now = int(time.time() * 1000)
    page.goto(
        f"{agent.url}?service=heaps&type=heap_space&span=900&view=diff&from={now - 100_000}&to={now}"
        f"&base.from={now - 400_000}&base.to={now - 200_000}"
    )
    page.wait_for_selector(".versus")
    measure = page.locator("[aria-label='Compare by'] option").first
    assert measure.inner_text() == "average"
    assert page.locator(".versus").inner_text().count("3.00\u2009MiB") == 2


def open_growth(page, agent: make.Agent) -> None:
    page.goto(f"{agent.url}?service=leaky&type=heap_space&span=900")
    page.click("button >> text=What grew?")
    page.wait_for_selector(".versus")


def rows_of(page, heading: str) -> list[list[str]]:
    """Cells of the table under a heading."""
    return page.evaluate(
        "(text) => { const h = [...document.querySelectorAll('h3')].find((e) => e.textContent.startsWith(text));"
        "return [...h.parentElement.querySelectorAll('tbody tr')].map((r) => [...r.cells].map((c) => c.innerText)); }",
        heading,
    )


def test_what_grew_is_answered_by_route_and_by_function(page, agent: make.Agent) -> None:
    """Of thirty windows the first and the last tenth: 1, 2, 3 MiB against 28, 29, 30."""
    open_growth(page, agent)
    assert "Growth" in page.locator(".versus").inner_text()
    assert "+27.0\u2009MiB" in page.locator(".versus").inner_text()
    routes = rows_of(page, "What grew most")
    assert routes[0] == [
        "/leaky",
        "+27.0\u2009MiB",
        "+1350\u2009%",
        "2.00\u2009MiB",
        "29.0\u2009MiB",
    ]
    assert routes[1][:2] == ["/cached", "±0"]
    functions = rows_of(page, "Functions that grew most")
    assert functions[0][0].startswith("forget_to_free")
    assert functions[0][1] == "+27.0\u2009MiB"
    graph = "window.conprof.views.diff.graph()"
    change = page.evaluate(
        f"(() => {{ const g = {graph}, t = g.tree; return Object.fromEntries("
        "[...Array(t.length).keys()].map((n) => [t.name(n), g.change(n)])); })()"
    )
    assert change["forget_to_free"] == pytest.approx(27 / 29, abs=0.01)
    assert change["fill_cache"] == 0
    page.click("tbody tr:has-text('/leaky')")
    page.wait_for_selector(".chip-value >> text=/leaky")
    page.wait_for_function(f"{graph}.tree.length === 3")


def test_growth_is_offered_where_it_makes_sense(page, agent: make.Agent) -> None:
    go(page, agent)
    page.wait_for_selector("tbody tr")
    assert not page.locator("button >> text=What grew?").is_visible()
    go(page, agent, "&view=diff")
    page.wait_for_selector("text=Compare with what?")
    assert page.locator("button:visible >> text=What grew").count() == 0
    page.goto(f"{agent.url}?service=leaky&type=heap_space&span=900&view=diff")
    page.click(".choices >> text=What grew in this range")
    page.wait_for_selector(".versus >> text=Growth")


def test_a_range_is_compared_with_the_one_before(page, agent: make.Agent) -> None:
    now = int(time.time() * 1000)
    go(page, agent, f"&view=diff&from={now - 250_000}&to={now}")
    page.click(".choices >> text=The range before this one")
    page.wait_for_selector(".versus")
    base = page.evaluate("window.conprof.state.base")
    assert (base["from"], base["to"]) == (now - 500_000, now - 250_000)
    page.select_option("[aria-label='Compare by']", "share")
    page.wait_for_function("document.querySelector('.versus').innerText.includes('100\u2009%')")
    page.select_option("[aria-label='Compare by']", "rate")
    page.wait_for_function("document.querySelector('.versus').innerText.includes('ms/s')")
    assert {"/", "/cart/<int:id>"} <= {row[0] for row in rows_of(page, "What changed most")}
    page.select_option("[aria-label='Changes by']", "host")
    page.wait_for_function(
        "document.querySelector('.changed + .table-wrap').innerText.includes('web-1')"
    )
    page.click(".compare >> text=Clear")
    page.wait_for_selector("text=Compare with what?")
    page.click(".compare >> text=Yesterday")
    page.wait_for_selector(".versus >> text=nothing in the baseline")
    base = page.evaluate("window.conprof.state.base")
    assert base["to"] == now - 86_400_000
    page.click(".compare >> text=Previous range")
    page.wait_for_function(f"window.conprof.state.base.to === {now - 250_000}")


def test_two_empty_sides_are_said_to_be_empty(page, agent: make.Agent) -> None:
    now = int(time.time() * 1000)
    nothing = f"&from={now - 800_000}&to={now - 790_000}&base.from={now - 830_000}&base.to={now - 820_000}"
    go(page, agent, f"&view=diff{nothing}")
    page.wait_for_selector("h2 >> text=Nothing on either side")
    page.click("text=Choose again")
    page.wait_for_selector("text=Compare with what?")


def test_the_card_and_the_command_have_both_sides(page, agent: make.Agent) -> None:
    open_growth(page, agent)
    box = page.locator(".flame canvas").bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 30)
    page.wait_for_selector(".card:visible >> text=baseline")
    assert "+27.0\u2009MiB" in page.locator(".card").inner_text()
    page.keyboard.press("i")
    page.wait_for_function("window.conprof.state.invert")
    tops = page.evaluate(
        "(() => { const t = window.conprof.views.diff.graph().tree; return [...t.childrenOf(0)].map((n) => t.name(n)).sort(); })()"
    )
    assert tops == ["fill_cache", "forget_to_free"]
    page.click("button:has-text('Export')")
    page.click("text=Copy the go tool pprof command")
    page.wait_for_selector(".toast.shown")
    command = page.evaluate("navigator.clipboard.readText()")
    assert command.startswith("go tool pprof -http=: -diff_base 'http://127.0.0.1:")
    assert command.count("type=heap_space") == 2
