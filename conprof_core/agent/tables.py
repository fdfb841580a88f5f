"""The interned tables of one store file, in memory: functions, stack nodes, label sets, processes.

A stack is a node of a tree whose edges are frames, so equal prefixes are stored once and a merge is
one backward pass. Ids are dense, start at 0 (nodes: 0 is the root) and a parent's is always below
its children's. Append-only: a reader on another thread sees a consistent, possibly shorter, table.
"""

from __future__ import annotations

from array import array

from conprof_core.agent import limits
from conprof_core.agent.intake import Labels
from conprof_core.agent.names import ProfileType
from conprof_core.agent.pprof import Frame

__all__ = ["OVERFLOW", "Tables"]

OVERFLOW: Labels = (("conprof.overflow", "labels"),)
_OVERFLOW_FRAME: Frame = ("[too many stacks]", "", 0)


class Tables:
    """Only the writer thread calls the ``*_id`` methods; anyone may read the lists."""

    def __init__(self) -> None:
        self.types: list[ProfileType] = []
        self.functions: list[tuple[str, str]] = []
        self.node_parent = array("i", [0])
        self.node_function = array("i", [-1])
        self.node_line = array("i", [0])
        self.label_sets: list[Labels] = []
        self.series: list[tuple[str, Labels]] = []
        self._type_ids: dict[str, int] = {}
        self._function_ids: dict[tuple[str, str], int] = {}
        self._node_ids: dict[tuple[int, int], int] = {}
        self._label_ids: dict[Labels, int] = {}
        self._series_ids: dict[tuple[str, Labels], int] = {}
        self._is_indexed = False

    def index(self) -> None:
        """Build the lookup tables; needed before the first write, and only for it."""
        if self._is_indexed:
            return
        self._type_ids = {kind.name: number for number, kind in enumerate(self.types)}
        self._function_ids = {key: number for number, key in enumerate(self.functions)}
        self._label_ids = {key: number for number, key in enumerate(self.label_sets)}
        self._series_ids = {key: number for number, key in enumerate(self.series)}
        nodes = zip(self.node_parent, self.node_function, self.node_line, strict=True)
        self._node_ids = {
            (parent, function << 32 | line): number
            for number, (parent, function, line) in enumerate(nodes)
            if number
        }
        self._is_indexed = True

    @property
    def is_indexed(self) -> bool:
        """Whether the lookup tables of writing are there, most of the memory."""
        return self._is_indexed

    @property
    def is_full(self) -> bool:
        """The day must go on in another file."""
        return (
            len(self.node_parent) >= limits.MAX_NODES_IN_SEGMENT
            or len(self.series) >= limits.MAX_SERIES_IN_SEGMENT
            or len(self.types) >= limits.MAX_TYPES_IN_SEGMENT
        )

    def without_stacks(self) -> Tables:
        """Return the tables that label queries need; functions and nodes are most of the memory."""
        light = Tables()
        light.types, light.label_sets, light.series = self.types, self.label_sets, self.series
        return light

    def sizes(self) -> tuple[int, int, int, int, int]:
        """Return where the tables end: what is appended later is new."""
        return (
            len(self.types),
            len(self.functions),
            len(self.node_parent),
            len(self.label_sets),
            len(self.series),
        )

    def type_id(self, kind: ProfileType) -> int:
        found = self._type_ids.get(kind.name)
        if found is None:
            found = self._type_ids[kind.name] = len(self.types)
            self.types.append(kind)
        return found

    def series_id(self, service: str, tags: Labels) -> int:
        key = (service, tags)
        found = self._series_ids.get(key)
        if found is None:
            found = self._series_ids[key] = len(self.series)
            self.series.append(key)
        return found

    def labels_id(self, labels: Labels) -> int:
        found = self._label_ids.get(labels)
        if found is None:
            if len(self.label_sets) >= limits.MAX_LABEL_SETS_IN_SEGMENT and labels != OVERFLOW:
                return self.labels_id(OVERFLOW)
            found = self._label_ids[labels] = len(self.label_sets)
            self.label_sets.append(labels)
        return found

    def node_id(self, frames: tuple[Frame, ...], seen: dict[int, int]) -> int:
        """Return the node of a stack given root first.

        ``seen`` is scratch for one upload: frames are shared objects there, so their identity finds
        them faster than their content.
        """
        node = 0
        node_ids = self._node_ids
        for frame in frames:
            packed = seen.get(id(frame))
            if packed is None:
                packed = seen[id(frame)] = self._function_id(frame) << 32 | frame[2]
            key = (node, packed)
            child = node_ids.get(key)
            if child is None:
                if len(self.node_parent) >= 2 * limits.MAX_NODES_IN_SEGMENT:
                    return self.node_id((_OVERFLOW_FRAME,), {}) if node else 0
                child = node_ids[key] = len(self.node_parent)
                self.node_parent.append(node)
                self.node_function.append(packed >> 32)
                self.node_line.append(frame[2])
            node = child
        return node

    def _function_id(self, frame: Frame) -> int:
        key = frame[:2]
        found = self._function_ids.get(key)
        if found is None:
            found = self._function_ids[key] = len(self.functions)
            self.functions.append(key)
        return found
