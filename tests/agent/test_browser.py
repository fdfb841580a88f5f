"""The viewer in a real browser: every control, and what it draws."""

# ruff: noqa: E501 - scripts for the page
from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator

import pytest
from support import agent as make

playwright = pytest.importorskip("playwright.sync_api")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or ""
pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.skipif(not CHROMIUM, reason="Debian's chromium is not installed"),
]
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
EVIL = '<img src=x onerror="window.hacked=1">'
GRAPH = "window.conprof.views.flame.graph()"


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[make.Agent]:
    with make.Agent(tmp_path_factory.mktemp("data")) as running:
        now = time.time()
        for n in range(60):
            content = make.samples(cpu_ms=70 if n < 30 else 20)
            content.append(
                ([make.MAIN, (EVIL, "/srv/<b>.py", 5)], {"trace endpoint": EVIL}, [5_000_000, 1])
            )
            tags = f"service:shop,host:web-{n % 2},runtime-id:r{n % 2}"
            counts = {"/": 5, "/cart/<int:id>": 10}
            body = make.upload(
                now - 10 * n, content=content, tags_profiler=tags, endpoint_counts=counts
            )
            assert running.post(body)[0] == 200
        assert running.post(make.upload(now, tags_profiler="service:other"))[0] == 200
        yield running


@pytest.fixture(scope="module")
def browser():
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


def go(page, agent: make.Agent, query: str = "") -> None:
    page.goto(f"{agent.url}?service=shop&span=900{query}")
    page.wait_for_selector("section.view, .empty")


def open_flame(page, agent: make.Agent, query: str = "") -> None:
    go(page, agent, f"&view=flame{query}")
    page.wait_for_function(f"{GRAPH}?.tree && {GRAPH}.drawn > 1")


def names(page) -> list[str]:
    return page.eval_on_selector_all("tbody tr td:first-child", "c => c.map(x => x.textContent)")


def test_routes_come_first_with_their_cost(page, agent: make.Agent) -> None:
    page.goto(agent.url)
    page.select_option("[aria-label=Service]", "shop")
    page.wait_for_selector('text="/cart/<int:id>"')
    row = page.locator("tbody tr", has_text="/cart/<int:id>").inner_text()
    assert "4.50\u2009ms" in row  # 45 ms in a window of ten requests
    assert "600" in row
    assert "%" in row
    assert page.locator("tbody tr", has_text=EVIL).count() == 1
    assert page.locator("img").count() == 0
    page.click("text=Requests")
    assert names(page)[0] == "/cart/<int:id>"
    page.click("th >> text=Requests")
    assert names(page)[-1] == "/cart/<int:id>"
    assert "sort=requests" in page.url


def test_another_label_groups_the_table(page, agent: make.Agent) -> None:
    go(page, agent)
    page.select_option("[aria-label='Group by']", "host")
    page.wait_for_selector("td >> text=web-1")
    assert sorted(names(page)) == ["web-0", "web-1"]


def test_a_row_opens_the_flame_graph_of_its_route(page, agent: make.Agent) -> None:
    go(page, agent)
    page.click("tbody tr:has-text('/cart/<int:id>')")
    page.wait_for_function(f"{GRAPH}?.tree?.length === 3")
    assert page.locator(".chip-value").inner_text() == "/cart/<int:id>"
    page.click(".chip-sign")  # all but this route
    page.wait_for_function(f"{GRAPH}.tree.length === 4")
    page.click(".chip-x")
    page.wait_for_function(f"{GRAPH}.tree.length === 5")


def test_filters_offer_values_with_shares(page, agent: make.Agent) -> None:
    go(page, agent)
    page.click(".add-filter")
    page.click(".keys >> text=host")
    page.click(".value:has-text('web-1')")
    page.wait_for_selector(".chip-value >> text=web-1")
    page.keyboard.press("Escape")
    assert page.locator(".panel-menu").count() == 0
    assert "label=host%3Dweb-1" in page.url


def test_type_and_range_pickers(page, agent: make.Agent) -> None:
    go(page, agent)
    page.select_option("[aria-label='Profile type']", "cpu_samples")
    page.wait_for_selector("th >> text=CPU samples per second")
    page.click(".segment >> text=6 h")
    page.wait_for_function("window.conprof.state.span === 21600")
    assert page.locator(".segment[aria-pressed=true]").inner_text() == "6 h"


def test_dragging_on_the_timeline_selects_and_a_click_clears(page, agent: make.Agent) -> None:
    go(page, agent)
    page.wait_for_selector("tbody tr")
    whole = page.locator(".toolbar .note").inner_text()
    box = page.locator(".timeline canvas").bounding_box()
    y = box["y"] + 30
    page.mouse.move(box["x"] + box["width"] * 0.8, y)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] * 0.95, y, steps=4)
    page.mouse.up()
    page.wait_for_selector(".range-text:visible")
    page.wait_for_function(f"document.querySelector('.toolbar .note').textContent !== {whole!r}")
    state = page.evaluate("window.conprof.state")
    assert state["to"] - state["from"] == pytest.approx(135_000, abs=5000)
    page.mouse.click(box["x"] + 40, y)
    page.wait_for_function("window.conprof.state.from === null")


def test_the_flame_graph_draws_zooms_and_walks(page, agent: make.Agent) -> None:
    open_flame(page, agent)
    # The root row is full of its colour and the canvas is not empty below it.
    pixels = page.evaluate(
        f"(() => {{ const c = {GRAPH}.canvas, d = window.devicePixelRatio;"
        "const at = (x, y) => [...c.getContext('2d').getImageData(x * d, y * d, 1, 1).data];"
        "return [at(600, 3), at(600, 23), at(600, 43), at(600, 400)]; })()"
    )
    assert pixels[0][3] == pixels[1][3] == pixels[2][3] == 255
    assert pixels[1] != pixels[0]
    assert pixels[3][3] == 0
    hot = page.evaluate(
        f"(() => {{ const g = {GRAPH}, t = g.tree;"
        "const n = [...Array(t.length).keys()].find((i) => t.name(i) === 'hot');"
        "const b = g.canvas.getBoundingClientRect();"
        "return [b.x + b.width * (t.x[n] + t.weight[n] / 2) / t.weight[0], b.y + 50]; })()"
    )
    page.mouse.move(*hot)
    page.wait_for_selector('.card:visible >> text="/srv/shop/views.py:20"')
    assert "own code" in page.locator(".card").inner_text()
    page.mouse.click(*hot)
    page.wait_for_function(f"{GRAPH}.tree.name({GRAPH}.zoomed) === 'hot'")
    page.wait_for_function(
        f"Math.abs({GRAPH}.view[1] - {GRAPH}.view[0] - {GRAPH}.tree.weight[{GRAPH}.zoomed]) < 1"
    )
    assert "hot" in page.locator(".crumbs").inner_text()
    page.click("text=Reset zoom")
    page.wait_for_function(f"{GRAPH}.zoomed === 0")
    page.focus(".flame")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_function(f"{GRAPH}.tree.name({GRAPH}.zoomed) === 'hot'")
    page.keyboard.press("Escape")
    page.wait_for_function(f"{GRAPH}.zoomed === 0")


def test_search_tells_the_share_it_found(page, agent: make.Agent) -> None:
    open_flame(page, agent)
    page.keyboard.press("/")
    page.keyboard.type("cold")
    page.wait_for_selector(".found >> text=in 1 frames")
    assert "37.5" in page.locator(".found").inner_text()  # 30 of 45 + 30 + 5 ms
    assert page.evaluate(f"{GRAPH}.matches.filter(Boolean).length") == 1


def test_invert_puts_leaves_first(page, agent: make.Agent) -> None:
    open_flame(page, agent)
    page.click("button:has-text('Invert')")
    page.wait_for_function("window.conprof.state.invert")
    tops = page.evaluate(f"[...{GRAPH}.tree.childrenOf(0)].map((n) => {GRAPH}.tree.name(n)).sort()")
    assert tops == sorted([EVIL, "cold", "hot"])


def test_sandwich_shows_callers_and_callees(page, agent: make.Agent) -> None:
    open_flame(page, agent)
    page.focus(".flame")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("s")
    page.wait_for_selector("h3 >> text=Callees")
    assert page.locator(".flame").count() == 2
    assert page.locator(".crumbs .chip-value").inner_text() == "main"
    page.click("[aria-label='Leave the sandwich']")
    page.wait_for_function("document.querySelectorAll('.flame').length === 1")


def test_colours_by_own_code(page, agent: make.Agent) -> None:
    open_flame(page, agent)
    before = page.evaluate(f"[...new Set({GRAPH}.colours)]")
    page.select_option("[aria-label=Colours]", "own")
    page.wait_for_function("window.conprof.state.colour === 'own'")
    after = page.evaluate(f"[...new Set({GRAPH}.colours)]")
    assert before != after


def test_the_top_table_filters_and_opens_a_sandwich(page, agent: make.Agent) -> None:
    go(page, agent, "&view=top")
    page.wait_for_selector("td >> text=hot")
    assert names(page)[0].startswith("hot")
    page.check("text=Own code only")
    assert not any(name.startswith("cold") for name in names(page))
    page.click("tbody tr:has-text('hot')")
    page.wait_for_selector("h3 >> text=Callers")


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


def test_a_link_restores_the_view(page, agent: make.Agent, browser) -> None:
    open_flame(page, agent, "&query=hot&invert=1&colour=own")
    page.click("text=Copy link")
    page.wait_for_selector(".toast.shown")
    link = page.evaluate("navigator.clipboard.readText()")
    assert "end=" in link
    page.goto(link)
    page.wait_for_function(f"{GRAPH}?.drawn > 1")
    assert page.locator(".search").input_value() == "hot"
    assert page.locator(".toggle").get_attribute("aria-pressed") == "true"
    page.go_back()


def test_export_gives_a_profile(page, agent: make.Agent) -> None:
    go(page, agent)
    page.click("button:has-text('Export')")
    with page.expect_download() as download:
        page.click("a.item:has-text('folded')")
    with open(download.value.path()) as file:
        assert "main;hot " in file.read()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_reaches_the_canvas(page, agent: make.Agent, theme: str) -> None:
    page.emulate_media(color_scheme="dark" if theme == "light" else "light")
    open_flame(page, agent)
    before = page.evaluate(f"{GRAPH}.colours[1]")
    page.keyboard.press("t")
    if theme == "dark":
        page.keyboard.press("t")
    page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
    page.wait_for_function(f"{GRAPH}.colours[1] !== {before!r}")


def test_keys_change_views_and_help_lists_them(page, agent: make.Agent) -> None:
    go(page, agent)
    for key, name in (("2", "flame"), ("3", "top"), ("4", "diff"), ("1", "routes")):
        page.keyboard.press(key)
        page.wait_for_selector(f"#tab-{name}[aria-selected=true]")
    page.keyboard.press("?")
    page.wait_for_selector("dialog >> text=Keyboard")
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")


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


def test_the_newest_bar_is_no_drop(page, agent: make.Agent) -> None:
    """Half of the last bucket is still to come: it is narrow, not low."""
    go(page, agent)
    page.wait_for_selector("tbody tr")
    scaled = page.evaluate(
        """async () => {
          const { scaleEnds } = await import("/timeline.js");
          const d = { start_ms: 0, step_ms: 100, covered: [50, 325], lines: [{ values: [5, 10, 10, 2.5] }] };
          return scaleEnds(d).lines[0].values;
        }"""
    )
    assert scaled == [10, 10, 10, 10]
    answer = agent.get("series", service="shop", step=60)
    start, end = answer["covered"]
    assert end - start == pytest.approx(600_000, abs=2_000)


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
