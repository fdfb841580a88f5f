"""The flame tree: what is left out when there is too much, and averages that are less than one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from support import agent as make

from conprof_core.agent import query
from conprof_core.agent.intake import parse
from conprof_core.agent.merge import merge_into
from conprof_core.agent.selection import Selection
from conprof_core.agent.store import Store
from conprof_core.agent.tree import FlameTree

NOW = time.time()


def test_of_many_equal_frames_as_many_as_fit_are_kept() -> None:
    """A stack seen once is what most stacks are: no bound may drop them all together."""
    tree = FlameTree()
    for n in range(1000):
        tree.add_stack((("main", "/app.py", 1), (f"f{n}", "/app.py", n), ("leaf", "/l.py", 1)), 10)
    answer = tree.to_json(max_nodes=501)
    nodes = answer["nodes"]
    assert len(nodes["parent"]) == 501
    assert answer["hidden_nodes"] == len(tree) - 501
    assert answer["total"] == nodes["total"][0] == 10_000
    assert all(parent < number for number, parent in enumerate(nodes["parent"]))
    assert nodes["parent"].count(1) == 250, "root, main, and of f0, f1, … half, with their leaves"


def test_a_task_of_every_tenth_window_is_a_tenth_of_a_task(tmp_path: Path) -> None:
    store = Store(tmp_path)
    uploads = []
    for n in range(10):
        rows = [([make.MAIN], {}, [3])]
        if n == 4:
            rows.append(([make.MAIN, make.HOT], {"trace endpoint": "/rare"}, [1]))
        body = make.multipart(
            make.part("event", make.event(NOW - 10 * n), "event.json"),
            make.part(
                "goroutines.pprof",
                make.pprof((("goroutine", "count"),), rows),
                "goroutines.pprof",
            ),
        )
        uploads.append(parse(make.CONTENT_TYPE, body, NOW))
    assert store.write(uploads) == [None] * 10
    selection = Selection("goroutines", NOW - 1000, NOW + 100, "shop")
    tree = FlameTree()
    merge_into(tree, store, selection)
    answer = tree.to_json(100)
    by_name = dict(
        zip(
            (answer["functions"][f][0] for f in answer["nodes"]["function"]),
            answer["nodes"]["total"],
            strict=True,
        )
    )
    assert by_name["main"] == pytest.approx(3.1, abs=0.01)
    assert by_name["hot"] == pytest.approx(0.1, abs=0.01)
    rows = {row["value"]: row["total"] for row in query.table(store, selection)["rows"]}
    assert rows == {"": pytest.approx(3, abs=0.01), "/rare": pytest.approx(0.1, abs=0.01)}
    store.close()
