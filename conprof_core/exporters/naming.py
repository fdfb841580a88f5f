"""Names on the wire, in one place: one ``Naming`` for each family of destinations.

The core speaks of columns (samples, CPU nanoseconds, live bytes, …) and its own label keys; what
these are called elsewhere, and which of them share one profile, is decided here and nowhere else.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from conprof_core._limits import HEAP_SAMPLE_BYTES

__all__ = [
    "COLUMNS",
    "Measured",
    "Naming",
    "OTLPResource",
    "Shape",
    "SpanLabels",
    "blackfire",
    "go",
    "otlp",
    "pull",
    "pull_shape",
    "pyroscope",
]

COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "cpu": ("samples", "cpu_ns"),
    "wall": (
        "wall_samples",
        "wall_ns",
        "gil_wait_ns",
        "lock_wait_ns",
        "loop_blocks",
        "loop_blocked_ns",
        "gc_pauses",
        "gc_pause_ns",
    ),
    "heap": ("alloc_objects", "alloc_bytes", "inuse_objects", "inuse_bytes"),
    "tasks": ("tasks",),
}
"""Profile type → the columns it fills. Together the columns of ``Row``."""


class Measured(NamedTuple):
    """What a session measures, as far as names and periods depend on it.

    Attributes:
        rate_hz: samples per second of CPU time.
        types: profile types, of the keys of ``COLUMNS``.
        heap_bytes: mean distance of two samples of allocated memory, in bytes.
    """

    rate_hz: int = 100
    types: tuple[str, ...] = ("cpu",)
    heap_bytes: int = HEAP_SAMPLE_BYTES


class Shape(NamedTuple):
    """One profile on the wire.

    Attributes:
        name: what it is called: an attachment, a file, a series.
        sample_types: (type, unit, column) in wire order.
        period_type: (type, unit).
        period: quantity between samples in the unit of ``period_type``.
        default_sample_type: type that a viewer shows first.
    """

    name: str
    sample_types: tuple[tuple[str, str, str], ...]
    period_type: tuple[str, str]
    period: int
    default_sample_type: str


class OTLPResource(NamedTuple):
    """What stands for the process in an OTLP request, besides the labels of the process.

    Attributes:
        tag_names: (tag of the process, attribute); tags with an empty attribute are left out, and
            those not named here, the user's labels, keep their names.
        attributes: (attribute, text), which win over the tags named above, and give way to labels.
    """

    tag_names: tuple[tuple[str, str], ...]
    attributes: tuple[tuple[str, str], ...] = ()


class SpanLabels(NamedTuple):
    """How the trace of a sample travels. It never becomes part of a label set.

    Attributes:
        form: ``hex``, ``decimal`` or ``number``: the span id as such a label, under each of
            ``keys``; ``link``: trace and span id as a link of OTLP; empty: not at all, and rows
            merge.
        keys: of the labels.
    """

    form: str = ""
    keys: tuple[str, ...] = ()


class Naming(NamedTuple):
    """How one family of destinations names what a window holds. Hashable, compared by value.

    Attributes:
        shapes: the profiles that a window becomes, in order.
        label_names: (label key of the core, key on the wire); other keys are unchanged, and those
            whose name is empty are left out.
        thread_label: key of the thread's name; ``None`` leaves threads out, and rows merge.
        max_label_sets: distinct label sets in a profile; further ones are merged under the label
            ``conprof.overflow``. 0 is no bound, as below.
        max_samples: samples in a profile; a window with more becomes several profiles.
        max_bytes: of a pprof, not compressed; what is larger becomes several, too.
        otlp: ``None`` when each shape is a pprof; else the window is OTLP requests.
        spans: how traces travel, where samples have any.
    """

    shapes: tuple[Shape, ...]
    label_names: tuple[tuple[str, str], ...] = ()
    thread_label: str | None = None
    max_label_sets: int = 0
    max_samples: int = 0
    max_bytes: int = 0
    otlp: OTLPResource | None = None
    spans: SpanLabels = SpanLabels()


_BLACKFIRE_TYPES: Final = (
    ("cpu-time", "nanoseconds", "cpu_ns"),
    ("cpu-samples", "count", "samples"),
    ("wall-time", "nanoseconds", "wall_ns"),
    ("wall-samples", "count", "wall_samples"),
    ("alloc-space", "bytes", "alloc_bytes"),
    ("alloc-samples", "count", "alloc_objects"),
    ("heap-space", "bytes", "inuse_bytes"),
    ("heap-live-samples", "count", "inuse_objects"),
)


# What ddtrace does not measure: for an agent that has said that it takes other types, too.
_LOCAL_TYPES: Final = (
    ("gil_wait", "nanoseconds", "gil_wait_ns"),
    ("loop_blocked", "nanoseconds", "loop_blocked_ns"),
    ("loop_blocks", "count", "loop_blocks"),
    ("gc_pause", "nanoseconds", "gc_pause_ns"),
    ("gc_pauses", "count", "gc_pauses"),
)


def blackfire(
    measured: Measured = Measured(),  # noqa: B008 - immutable
    *,
    is_local: bool = False,
) -> Naming:
    """Return what the Blackfire back end gets from Python today: the names of ddtrace's profiler.

    One profile with everything, and a period of 1 whatever the rate is (DataDog/dd-trace-py,
    ``profile.cpp``). Tasks, which ddtrace does not have, come as the goroutines of the Go probe;
    what else it does not have is for ``conprof agent`` only, which keeps any type.
    """
    wanted = {column for kind in measured.types for column in COLUMNS[kind]}
    known = _BLACKFIRE_TYPES + _LOCAL_TYPES if is_local else _BLACKFIRE_TYPES
    types = tuple(entry for entry in known if entry[2] in wanted)
    shapes: tuple[Shape, ...] = (
        (Shape("profile", types, types[0][:2], 1, types[0][0]),) if types else ()
    )
    if "tasks" in measured.types:
        shapes += (_GOROUTINES._replace(name="goroutines"),)
    spans = SpanLabels("number", _SPAN_KEYS)
    return Naming(shapes, (("http.route", "trace endpoint"),), "thread name", spans=spans)


_SPAN_KEYS: Final = ("span id", "local root span id")
"""The labels of Datadog's profilers; both say the root of the request in this process."""

_GOROUTINES: Final = Shape(
    "tasks", (("goroutine", "count", "tasks"),), ("goroutine", "count"), 1, "goroutine"
)

# Go's has ``contentions`` besides, which nobody counts here: no lock is wrapped.
_BLOCK: Final = Shape(
    "block", (("delay", "nanoseconds", "lock_wait_ns"),), ("contentions", "count"), 1, "delay"
)


def go(measured: Measured = Measured()) -> Naming:  # noqa: B008 - immutable
    """Return the names of Go's profiles, which every pprof tool knows: one for each type."""
    period_ns = 1_000_000_000 // measured.rate_hz
    known = {
        "cpu": Shape(
            "cpu",
            (("samples", "count", "samples"), ("cpu", "nanoseconds", "cpu_ns")),
            ("cpu", "nanoseconds"),
            period_ns,
            "cpu",
        ),
        "heap": Shape(
            "heap",
            (
                ("alloc_objects", "count", "alloc_objects"),
                ("alloc_space", "bytes", "alloc_bytes"),
                ("inuse_objects", "count", "inuse_objects"),
                ("inuse_space", "bytes", "inuse_bytes"),
            ),
            ("space", "bytes"),
            measured.heap_bytes,
            "inuse_space",
        ),
        "wall": Shape(
            "wall",
            (
                ("wall_samples", "count", "wall_samples"),
                ("wall", "nanoseconds", "wall_ns"),
                ("gil_wait", "nanoseconds", "gil_wait_ns"),
                ("lock_wait", "nanoseconds", "lock_wait_ns"),
                ("loop_blocks", "count", "loop_blocks"),
                ("loop_blocked", "nanoseconds", "loop_blocked_ns"),
                ("gc_pauses", "count", "gc_pauses"),
                ("gc_pause", "nanoseconds", "gc_pause_ns"),
            ),
            ("wall", "nanoseconds"),
            period_ns,
            "wall",
        ),
        "tasks": _GOROUTINES,
    }
    shapes = tuple(known[kind] for kind in measured.types)
    # As dd-trace-go's labels of a goroutine.
    return Naming(shapes, thread_label="thread", spans=SpanLabels("decimal", _SPAN_KEYS))


def pull(measured: Measured = Measured()) -> Naming:  # noqa: B008 - immutable
    """Return the names for those who fetch profiles: Go's.

    Each label set becomes a series of its own in Parca and Pyroscope: threads and ids of spans are
    left out, and the rest is bounded.
    """
    return go(measured)._replace(thread_label=None, max_label_sets=500, spans=SpanLabels())


def pull_shape(name: str, measured: Measured = Measured()) -> Shape:  # noqa: B008 - immutable
    """Return the one profile that Go calls ``name``. It must be measured."""
    if name == "goroutine":
        return _GOROUTINES
    if name == "block":
        return _BLOCK
    kind = {"profile": "cpu", "allocs": "heap"}.get(name, name)
    (shape,) = (shape for shape in go(measured).shapes if shape.name == kind)
    return shape._replace(default_sample_type="alloc_space") if name == "allocs" else shape


_PYROSCOPE_NAMES: Final = {"cpu": "process_cpu", "heap": "memory", "tasks": "goroutine"}


def pyroscope(measured: Measured = Measured()) -> Naming:  # noqa: B008 - immutable
    """Return the names of Pyroscope's own SDKs, where a profile is called as its series.

    Each label set becomes a series of its own there, so threads and the class of the status, which
    multiply series without telling much, are left out, and the rest is bounded. Dots in labels want
    quotes in a query, so known ones have none. A server takes 16 000 samples and 4 MiB in one
    profile (grafana/pyroscope, ``pkg/validation``), but its rate limit has room for 2 MiB only and
    asks for patience for ever with what is larger (``pkg/distributor``, ``rateLimit``).
    """
    shapes = tuple(
        shape._replace(name=_PYROSCOPE_NAMES.get(shape.name, shape.name))
        for shape in go(measured).shapes
    )
    labels = (
        ("http.route", "http_route"),
        ("http.request.method", "http_request_method"),
        ("http.response.status_class", ""),
        ("conprof.overflow", "conprof_overflow"),
    )
    # The one label that makes no series. Servers before 2026 know no ``trace_id``.
    spans = SpanLabels("hex", ("span_id",))
    return Naming(
        shapes, labels, max_label_sets=500, max_samples=8_000, max_bytes=1_500_000, spans=spans
    )


# Tags of a process that its attributes repeat, or that would make a series of each process or
# window where every text attribute of a resource is a label (Pyroscope, Parca).
_OTLP_TAGS: Final = (
    ("host", "host.name"),
    ("runtime_version", "process.runtime.version"),
    ("service", ""),
    ("application_name", ""),
    ("language", ""),
    ("runtime", ""),
    ("runtime_os", ""),
    ("runtime_arch", ""),
    ("runtime-id", ""),
    ("process_id", ""),
    ("probe_version", ""),
    ("engine", ""),
    ("profile_seq", ""),
)


def otlp(
    measured: Measured = Measured(),  # noqa: B008 - immutable
    attributes: tuple[tuple[str, str], ...] = (),
) -> Naming:
    """Return the names for OTLP: the types of Go, and label keys as the conventions have them.

    Scopes are called as Pyroscope's series, which is how Parca names profiles. Every set of
    attributes is a series in both, so sets are bounded as for Pyroscope.
    """
    names = pyroscope(measured)
    return Naming(
        names.shapes,
        (("http.response.status_class", ""),),
        max_label_sets=names.max_label_sets,
        max_samples=names.max_samples,
        otlp=OTLPResource(_OTLP_TAGS, attributes),
        spans=SpanLabels("link"),
    )
