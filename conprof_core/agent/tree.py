"""Values at stacks → a flame tree of functions: merged, pruned, summed by function, compared.

Knows no database: the store's trie and plain decoded profiles both go in. Nodes are parallel lists,
a parent always before its children, node 0 the root.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from conprof_core.agent.classify import classify
from conprof_core.agent.pprof import Frame
from conprof_core.agent.tables import Tables

__all__ = ["FlameTree"]


def _short(value: float) -> float:
    """Return an average to a thousandth; a whole number as it is."""
    return value if isinstance(value, int) else round(value, 3)


class FlameTree:
    """Grows by ``add_*``; column 0 is the selection, column 1 what it is compared with.

    Nodes are functions (name and file), not lines: calls from two lines of a caller are one node,
    which shows its hottest line.
    """

    def __init__(self) -> None:
        self.functions: list[tuple[str, str]] = [("total", "")]
        self.parent: list[int] = [0]
        self.function: list[int] = [0]
        # Whole numbers, but for averages of states.
        self.selfs: tuple[list[float], list[float]] = ([0], [0])
        self.totals: tuple[list[float], list[float]] = ([0], [0])
        self._function_ids: dict[tuple[str, str], int] = {}
        self._children: dict[tuple[int, int], int] = {}
        self._line_weights: dict[tuple[int, int], float] = {}

    def __len__(self) -> int:
        return len(self.parent)

    def _function_id(self, name: str, file: str) -> int:
        key = (name, file)
        found = self._function_ids.get(key)
        if found is None:
            found = self._function_ids[key] = len(self.functions)
            self.functions.append(key)
        return found

    def _child(self, parent: int, function: int) -> int:
        key = (parent, function)
        found = self._children.get(key)
        if found is None:
            found = self._children[key] = len(self.parent)
            self.parent.append(parent)
            self.function.append(function)
            for column in (*self.selfs, *self.totals):
                column.append(0)
        return found

    def add_stack(self, frames: Iterable[Frame], value: float, column: int = 0) -> None:
        """Add a stack given root first."""
        totals = self.totals[column]
        node = 0
        totals[0] += value
        for name, file, line in frames:
            node = self._child(node, self._function_id(name, file))
            totals[node] += value
            key = (node, line)
            self._line_weights[key] = self._line_weights.get(key, 0) + value
        self.selfs[column][node] += value

    def add_nodes(self, tables: Tables, values: Mapping[int, float], column: int = 0) -> None:
        """Add values at nodes of a store file's trie, in one backward and one forward pass."""
        parents, functions, lines = tables.node_parent, tables.node_function, tables.node_line
        sums = dict(values)
        pending = list(values)
        while pending:
            above = {parents[node] for node in pending}
            pending = [node for node in above if node not in sums]
            for node in pending:
                sums[node] = 0
        order = sorted(sums)
        for node in reversed(order):
            if node:
                sums[parents[node]] += sums[node]
        own_ids = {
            number: self._function_id(*tables.functions[number])
            for number in {functions[node] for node in order if node}
        }
        selfs, totals, weights = self.selfs[column], self.totals[column], self._line_weights
        child = self._child
        place = {0: 0}
        for node in order:
            total = sums[node]
            if node:
                spot = place[node] = child(place[parents[node]], own_ids[functions[node]])
                key = (spot, lines[node])
                weights[key] = weights.get(key, 0) + total
            else:
                spot = 0
            totals[spot] += total
            own = values.get(node)
            if own:
                selfs[spot] += own

    def _hottest_lines(self) -> list[int]:
        best = [0] * len(self)
        weight: list[float] = [-1] * len(self)
        for (node, line), value in self._line_weights.items():
            if value > weight[node]:
                weight[node], best[node] = value, line
        return best

    def kept(self, max_nodes: int) -> tuple[list[int], int]:
        """Return the nodes to show, largest first in claim, and how many are left out.

        The kept set is closed upwards: a parent is at least as large as its child.
        """
        count = len(self)
        size = [max(a, b) for a, b in zip(*self.totals, strict=True)]
        if count <= max_nodes:
            return [node for node in range(count) if size[node] or not node], 0
        # Of equal ones the lower number first, which a parent has: many are one sample each.
        kept = sorted(sorted(range(count), key=lambda node: -size[node])[:max_nodes])
        return kept, count - len(kept)

    def to_json(self, max_nodes: int, *, compared: bool = False) -> dict[str, Any]:
        """Return the tree as parallel arrays; see docs/agent-api.md."""
        kept, hidden = self.kept(max_nodes)
        place = {node: number for number, node in enumerate(kept)}
        used: dict[int, int] = {}
        functions: list[list[str]] = []
        for node in kept:
            function = self.function[node]
            if function not in used:
                used[function] = len(functions)
                name, file = self.functions[function]
                functions.append([name, file, *classify(name, file)])
        lines = self._hottest_lines()
        nodes = {
            "parent": [place[self.parent[node]] if node else -1 for node in kept],
            "function": [used[self.function[node]] for node in kept],
            "line": [lines[node] for node in kept],
            "self": [_short(self.selfs[0][node]) for node in kept],
            "total": [_short(self.totals[0][node]) for node in kept],
        }
        if compared:
            nodes["base_self"] = [_short(self.selfs[1][node]) for node in kept]
            nodes["base_total"] = [_short(self.totals[1][node]) for node in kept]
        answer: dict[str, Any] = {
            "total": _short(self.totals[0][0]),
            "hidden_nodes": hidden,
            "functions": functions,
            "nodes": nodes,
        }
        if compared:
            answer["base_total"] = _short(self.totals[1][0])
        return answer

    def top(self) -> list[dict[str, Any]]:
        """Return self and total of every function; recursion counts once in a total."""
        count = len(self.functions)
        columns: list[tuple[list[float], list[float]]] = [
            ([0] * count, [0] * count) for _ in self.selfs
        ]
        children: list[list[int]] = [[] for _ in self.parent]
        for node in range(1, len(self)):
            children[self.parent[node]].append(node)
        on_path = [0] * count
        stack = list(children[0])
        while stack:
            node = stack.pop()
            if node < 0:
                on_path[self.function[~node]] -= 1
                continue
            function = self.function[node]
            for column, (own, total) in enumerate(columns):
                own[function] += self.selfs[column][node]
                if not on_path[function]:
                    total[function] += self.totals[column][node]
            on_path[function] += 1
            stack.append(~node)
            stack.extend(children[node])
        hottest = self._function_lines()
        rows: list[dict[str, Any]] = []
        for number in range(1, count):
            name, file = self.functions[number]
            module, kind = classify(name, file)
            rows.append(
                {
                    "function": name,
                    "file": file,
                    "line": hottest.get(number, 0),
                    "module": module,
                    "kind": kind,
                    "self": _short(columns[0][0][number]),
                    "total": _short(columns[0][1][number]),
                    "base_self": _short(columns[1][0][number]),
                    "base_total": _short(columns[1][1][number]),
                }
            )
        rows.sort(key=lambda row: (-row["self"], -row["total"], row["function"]))
        return rows

    def _function_lines(self) -> dict[int, int]:
        sums: dict[tuple[int, int], float] = {}
        for (node, line), value in self._line_weights.items():
            key = (self.function[node], line)
            sums[key] = sums.get(key, 0) + value
        best: dict[int, tuple[float, int]] = {}
        for (function, line), value in sums.items():
            if value > best.get(function, (-1, 0))[0]:
                best[function] = (value, line)
        return {function: line for function, (_, line) in best.items()}
