"""Pickers, filters, timeline, keys, theme, links, exports: each does what it says."""

from __future__ import annotations

import time

import pytest
from support import agent as make
from support.browser import GRAPH, MARKS, go, open_flame

pytestmark = MARKS


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


def test_live_pauses_and_goes_on(page, agent: make.Agent) -> None:
    go(page, agent)
    page.click(".live >> text=Live")
    page.wait_for_selector(".live >> text=Paused")
    assert page.evaluate("window.conprof.state.end") == pytest.approx(
        time.time() * 1000, abs=60_000
    )
    page.click(".live")
    page.wait_for_function("window.conprof.state.end === null")


def test_another_service_starts_without_the_filters_of_the_last(page, agent: make.Agent) -> None:
    go(page, agent, "&label=host%3Dweb-1")
    page.wait_for_selector(".chip")
    page.select_option("[aria-label=Service]", "other")
    page.wait_for_function("window.conprof.state.service === 'other'")
    page.wait_for_selector(".chip", state="detached")
    page.go_back()
    page.wait_for_selector(".chip")
    assert page.evaluate("window.conprof.state.service") == "shop"
    page.click(".brand")
    page.wait_for_selector("tbody tr")
    assert page.evaluate("location.search").count("label") == 0


def test_the_theme_button_goes_round(page, agent: make.Agent) -> None:
    go(page, agent)
    button = page.locator("button[aria-label^=Theme]")
    colours = set()
    for theme in ("light", "dark", "as the system"):
        button.click()
        assert button.get_attribute("aria-label") == f"Theme: {theme}"
        colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert len(colours) == 2
    button.click()
    page.reload()
    assert page.evaluate("document.documentElement.dataset.theme") == "light"


def test_the_timeline_is_drawn_and_tells_what_it_shows(page, agent: make.Agent) -> None:
    go(page, agent)
    page.wait_for_selector("tbody tr")
    box = page.locator(".timeline canvas").bounding_box()
    pixel = (
        "([x, y]) => [...document.querySelector('.timeline canvas').getContext('2d')"
        ".getImageData(x * devicePixelRatio, y * devicePixelRatio, 1, 1).data]"
    )
    # Ten of fifteen minutes have windows, the newer five more CPU than the older.
    older, newer = box["width"] * 0.45 + 3, box["width"] * 0.85 + 3
    assert page.evaluate(pixel, [older, 68])[3] == 255
    assert page.evaluate(pixel, [newer, 68])[3] == 255
    assert page.evaluate(pixel, [older, 14])[3] == 0
    assert page.evaluate(pixel, [newer, 14])[3] == 255
    page.mouse.move(box["x"] + newer, box["y"] + 40)
    page.wait_for_selector(".timeline-tip:visible")
    tip = page.locator(".timeline-tip").inner_text()
    assert "/cart/<int:id>" in tip
    assert "ms/s" in tip


def test_the_timeline_obeys_the_keyboard(page, agent: make.Agent) -> None:
    go(page, agent)
    page.wait_for_selector("tbody tr")
    page.focus(".timeline")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(".range-text:visible")
    state = page.evaluate("window.conprof.state")
    page.keyboard.press("Shift+ArrowRight")
    page.wait_for_function(f"window.conprof.state.to > {state['to']}")
    assert page.evaluate("window.conprof.state.from") == pytest.approx(state["from"], abs=1)
    page.keyboard.press("Escape")
    page.wait_for_function("window.conprof.state.from === null")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector(".range-text:visible")
    page.click(".range-text")
    page.wait_for_selector(".range-text", state="hidden")


def test_filters_are_found_by_typing(page, agent: make.Agent) -> None:
    go(page, agent)
    page.click(".add-filter")
    page.fill("[aria-label='Find a value']", "nothing like it")
    page.wait_for_selector(".values >> text=No such value.")
    page.fill("[aria-label='Find a value']", "cart")
    assert page.locator(".value").count() == 1
    assert "%" in page.locator(".value-share").inner_text()
    page.press("[aria-label='Find a value']", "Enter")
    page.wait_for_selector('.chip-value >> text="/cart/<int:id>"')
    assert page.locator(".panel-menu").count() == 0
    page.wait_for_function("document.querySelectorAll('tbody tr').length === 1")
    page.click(".add-filter")
    page.click(".value:has-text('/cart/<int:id>') >> visible=true")
    page.wait_for_selector(".chip", state="detached")


@pytest.mark.parametrize(
    ("title", "begins"), [("pprof", b"\x1f\x8b"), ("speedscope", b'{"$schema"')]
)
def test_each_export_is_a_file_of_its_format(
    page, agent: make.Agent, title: str, begins: bytes
) -> None:
    go(page, agent)
    page.click("button:has-text('Export')")
    with page.expect_download() as download:
        page.click(f"a.item:has-text('{title}') >> nth=0")
    with open(download.value.path(), "rb") as file:
        assert file.read(len(begins)) == begins


def test_the_command_that_is_copied_asks_for_this_selection(page, agent: make.Agent) -> None:
    go(page, agent, "&label=host%3Dweb-1")
    page.wait_for_selector("tbody tr")
    page.click("button:has-text('Export')")
    page.click("text=Copy the go tool pprof command")
    page.wait_for_selector(".toast.shown")
    command = page.evaluate("navigator.clipboard.readText()")
    address = command.removeprefix("go tool pprof -http=: '").removesuffix("'")
    assert "label=host%3Dweb-1" in address
    status, content, _ = agent.request("GET", address.removeprefix(agent.url.rstrip("/")))
    assert (status, content[:2]) == (200, b"\x1f\x8b")


def test_tabs_and_tables_obey_the_keyboard(page, agent: make.Agent) -> None:
    go(page, agent)
    page.wait_for_selector("tbody tr")
    page.focus("#tab-routes")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#tab-flame[aria-selected=true]")
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#tab-routes[aria-selected=true]")
    page.wait_for_selector("main:not(.loading) tbody tr:visible")
    page.focus("tbody tr >> nth=0")
    page.keyboard.press("ArrowDown")
    name = page.evaluate("document.activeElement.cells[0].innerText")
    page.evaluate("window.conprof.load({ quiet: true })")  # as every ten seconds
    assert page.evaluate("document.activeElement.cells[0].innerText") == name
    page.keyboard.press("Enter")
    page.wait_for_selector("#tab-flame[aria-selected=true]")
    assert page.locator(".chip-value").inner_text() == name


def test_the_foot_tells_what_is_kept_and_what_was_lost(page, agent: make.Agent) -> None:
    go(page, agent)
    page.wait_for_selector("footer >> text=kept 30 days")
    foot = page.locator("footer").inner_text()
    assert "2 processes in range" in foot
    assert "lost or cut short: 30 truncated" in foot
    page.click("footer >> text=Keyboard")
    page.wait_for_selector("dialog >> text=search functions")
    page.click("dialog >> text=Close")
    page.wait_for_selector("dialog", state="detached")
