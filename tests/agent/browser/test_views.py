"""What is drawn: the table of routes, the flame graph, the top table."""

# ruff: noqa: E501 - scripts for the page
from __future__ import annotations

import pytest
from support import agent as make
from support.browser import EVIL, GRAPH, MARKS, go, names, open_flame

pytestmark = MARKS


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


def middle(page, name: str) -> tuple[float, float]:
    """Where on the page a frame of this function is drawn."""
    return tuple(
        page.evaluate(
            f"(name) => {{ const g = {GRAPH}, t = g.tree, b = g.canvas.getBoundingClientRect();"
            "const n = [...Array(t.length).keys()].find((i) => t.name(i) === name);"
            "const x = (t.x[n] + t.weight[n] / 2 - g.view[0]) / (g.view[1] - g.view[0]);"
            "return [b.x + b.width * x, b.y + t.depth[n] * 20 + 10]; }",
            name,
        )
    )


def colour_at(page, x: float, y: float) -> list[int]:
    return page.evaluate(
        f"([x, y]) => {{ const c = {GRAPH}.canvas, b = c.getBoundingClientRect(), d = devicePixelRatio;"
        "return [...c.getContext('2d').getImageData((x - b.x) * d, (y - b.y) * d, 1, 1).data]; }",
        [x, y],
    )


def test_pixels_have_the_colours_that_css_would_give(page, agent: make.Agent) -> None:
    go(page, agent)
    worst = page.evaluate(
        """async () => {
          const { packed } = await import("/raster.js");
          const { frameColour, changeColour } = await import("/colors.js");
          const c = new OffscreenCanvas(1, 1).getContext("2d");
          const colours = ["#e9e5dd", "#2d2f34", "#7a3fc4"];
          for (const dark of [false, true]) {
            for (let i = 0; i < 60; i += 1) {
              for (const kind of ["own", "library", "stdlib", "runtime"]) {
                for (const mode of ["module", "own"]) colours.push(frameColour(["", "", `m${i}`, kind], mode, dark));
              }
              colours.push(changeColour(i / 30 - 1, dark));
            }
          }
          let worst = 0;
          for (const colour of colours) {
            c.fillStyle = "#123456";
            c.fillStyle = colour;
            c.fillRect(0, 0, 1, 1);
            const drawn = c.getImageData(0, 0, 1, 1).data;
            const ours = new Uint8Array(new Uint32Array([packed(colour)]).buffer);
            for (let n = 0; n < 4; n += 1) worst = Math.max(worst, Math.abs(drawn[n] - ours[n]));
          }
          return [colours.length, worst];
        }"""
    )
    assert worst[0] > 1000
    assert worst[1] <= 1


def test_own_code_is_warm_and_libraries_are_cool(page, agent: make.Agent) -> None:
    open_flame(page, agent)
    for mode in ("module", "own"):
        page.select_option("[aria-label=Colours]", mode)
        page.wait_for_function(f"{GRAPH}.mode === '{mode}'")
        page.wait_for_timeout(50)
        x, y = middle(page, "hot")
        red, _, blue, _ = colour_at(page, x, y + 7)
        assert red > blue, "hot is the shop's"
        x, y = middle(page, "cold")
        red, _, blue, _ = colour_at(page, x, y + 7)
        assert blue >= red, "cold is Django's"
    legend = page.locator(".legend").inner_text()
    assert "own code" in legend
    assert "libraries" in legend


def test_a_search_fades_what_it_did_not_find(page, agent: make.Agent) -> None:
    open_flame(page, agent)
    x, y = middle(page, "hot")
    before = colour_at(page, x, y + 7)
    page.fill(".search", "cold")
    page.wait_for_selector(".found >> text=in 1 frames")
    page.wait_for_timeout(50)
    assert colour_at(page, x, y + 7)[3] < before[3]
    page.fill(".search", "no such function")
    page.wait_for_selector(".found.nothing")


def test_the_wheel_zooms_and_the_path_leads_back(page, agent: make.Agent) -> None:
    open_flame(page, agent)
    whole = page.evaluate(f"{GRAPH}.view[1] - {GRAPH}.view[0]")
    x, y = middle(page, "cold")
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -60)
    page.keyboard.up("Control")
    page.wait_for_function(f"{GRAPH}.view[1] - {GRAPH}.view[0] < {whole} * 0.7")
    assert page.evaluate("visualViewport.scale") == 1, "the graph is zoomed, not the page"
    view = page.evaluate(f"{GRAPH}.view[0]")
    page.mouse.wheel(-40, 0)
    page.wait_for_function(f"{GRAPH}.view[0] < {view}")
    page.mouse.click(*middle(page, "cold"))
    page.wait_for_selector(".crumb >> text=cold")
    page.click(".crumb >> text=main")
    page.wait_for_function(f"{GRAPH}.tree.name({GRAPH}.zoomed) === 'main'")
    page.click(".crumb >> text=everything")
    page.wait_for_function(f"{GRAPH}.zoomed === 0")


@pytest.mark.parametrize("way", ["double click", "Alt and click", "button"])
def test_ways_into_the_sandwich(page, agent: make.Agent, way: str) -> None:
    open_flame(page, agent)
    if way == "double click":
        page.mouse.dblclick(*middle(page, "hot"))
    elif way == "Alt and click":
        page.keyboard.down("Alt")
        page.mouse.click(*middle(page, "hot"))
        page.keyboard.up("Alt")
    else:
        page.mouse.click(*middle(page, "hot"))
        page.click(".crumbs >> text=Sandwich")
    page.wait_for_selector("h3 >> text=Callers")
    assert page.locator(".crumbs .chip-value").inner_text() == "hot"
    callers = page.evaluate(
        f"(() => {{ const t = {GRAPH}.tree; return [...Array(t.length).keys()].map((n) => t.name(n)); }})()"
    )
    assert callers == ["56.3\u2009% of everything", "hot", "main"]
    page.keyboard.press("Escape")
    page.wait_for_function("!window.conprof.state.focus")


def test_the_top_table_sorts_and_searches(page, agent: make.Agent) -> None:
    go(page, agent, "&view=top")
    page.wait_for_selector("td >> text=hot")
    page.click("th >> text=Total")
    assert names(page)[0].startswith("main")
    page.click("th >> text=Function")
    assert sorted(names(page)) == names(page)
    page.fill(".search", "views.py")
    assert [name.split("…")[0].split("/")[0] for name in names(page)] == ["hot"]
    assert page.locator(".found").inner_text().startswith("1 of 4 functions")
    assert "views.py:20" in page.locator("tbody tr").inner_text(), "the hottest line"
    page.fill(".search", "nothing at all")
    page.wait_for_selector("td >> text=No function matches.")


@pytest.mark.parametrize(
    ("kind", "title", "per_request", "shown"),
    [
        ("lock_wait", "Lock wait", "Lock wait per second", "90.0\u2009ms"),
        ("loop_blocked", "Event loop blocked", "Event loop blocked per second", "2.00\u2009ns"),
        ("gc_pause", "GC pauses", "GC pauses per second", "3.00\u2009ns"),
        ("tea_time", "Tea time", "Tea per second", "1.50\u2009s"),
        ("cable_length", "Cable length", "Cable length per second", "12 fathoms"),
    ],
)
def test_types_that_nobody_foresaw_have_names_and_units(
    page, agent: make.Agent, kind: str, title: str, per_request: str, shown: str
) -> None:
    page.goto(f"{agent.url}?service=odd&type={kind}&span=900")
    page.wait_for_selector("tbody tr")
    picked = page.locator("[aria-label='Profile type'] option:checked")
    assert picked.inner_text() == title
    assert per_request in page.locator("thead").inner_text()
    assert shown in page.locator("tbody tr").inner_text()
    page.click("#tab-flame")
    page.wait_for_function(f"{GRAPH}?.drawn > 1")
    page.mouse.move(*middle(page, "hot"))
    page.wait_for_selector(f".card:visible >> text={shown}")


def test_a_hundred_thousand_frames_are_drawn_and_zoomed(page, agent: make.Agent) -> None:
    """3000 different ways of 40 calls: more than is shown, and the page says how many are not."""
    stacks = [
        (
            [(f"f{(n // 3**level) % 97}_{level}", f"/srv/m{level}.py", 1) for level in range(40)],
            {},
            [10 + n, 1],
        )
        for n in range(3000)
    ]
    assert agent.post(make.upload(content=stacks, tags_profiler="service:deep"))[0] == 200
    page.goto(f"{agent.url}?service=deep&span=900&view=flame")
    page.wait_for_function(f"{GRAPH}?.drawn > 1000")
    nodes = page.evaluate(f"{GRAPH}.tree.length")
    note = page.locator(".under .note").inner_text()
    assert 90_000 < nodes <= 100_000, nodes
    assert "of the smallest frames are not drawn" in note
    page.evaluate(f"{GRAPH}.zoomTo({GRAPH}.tree.length - 1)")
    page.wait_for_function(
        f"Math.abs({GRAPH}.view[1] - {GRAPH}.view[0] - {GRAPH}.tree.weight[{GRAPH}.zoomed]) < 1e-6"
    )
