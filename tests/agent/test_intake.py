"""What is an upload, in every probe's shape, and what is refused, with a reason."""

from __future__ import annotations

import gzip
import json
import time

import pytest
from support import agent as make

from conprof_core.agent import intake, limits
from conprof_core.agent.errors import UploadRefusedError

zstd = pytest.importorskip("backports.zstd")
NOW = time.time()


def parse(body: bytes) -> intake.Upload:
    return intake.parse(make.CONTENT_TYPE, body, NOW)


def values(upload: intake.Upload) -> dict[str, int]:
    found: dict[str, int] = {}
    for kinds, rows in upload.profiles:
        for column, kind in enumerate(kinds):
            found[kind.name] = sum(row[2][column] for row in rows)
    return found


def test_reads_our_own_upload() -> None:
    upload = parse(make.upload(NOW))
    assert upload.service == "shop"
    assert dict(upload.tags)["host"] == "web-1"
    assert "profile_seq" not in dict(upload.tags)
    assert values(upload) == {"cpu": 100_000_000, "cpu_samples": 10}
    assert upload.end_ns - upload.start_ns == pytest.approx(10e9, abs=2)
    (kinds, rows) = upload.profiles[0]
    assert kinds[0].original == "cpu-time"
    frames, labels, _ = next(row for row in rows if row[2][1] == 7)
    assert frames == (make.MAIN, make.HOT)
    assert dict(labels) == {"http.route": "/cart/<int:id>", "thread": "worker"}


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress, bytes], ids=["gzip", "zstd", "raw"])
@pytest.mark.parametrize("event_first", [True, False])
def test_takes_any_compression_and_any_order(pack, event_first) -> None:
    parts = [
        make.part("event", make.event(NOW), "event.json"),
        make.part("profile.pprof", pack(make.pprof(make.CPU, make.samples())), "profile.pprof"),
        make.part("code-provenance.json", zstd.compress(b'{"v1":[]}'), "code-provenance.json"),
    ]
    upload = parse(make.multipart(*(parts if event_first else reversed(parts))))
    assert values(upload)["cpu"] == 100_000_000


def test_takes_the_shape_of_the_go_probe() -> None:
    """CPU, heap and metrics as separate zstd parts, event last, tags repeated."""
    cpu = make.pprof(
        [("samples", "count"), ("cpu", "nanoseconds")],
        [([("main.main", "main.go", 3)], {}, [2, 20])],
    )
    heap = make.pprof(
        [
            ("alloc_objects", "count"),
            ("alloc_space", "bytes"),
            ("inuse_objects", "count"),
            ("inuse_space", "bytes"),
        ],
        [([("main.main", "main.go", 4)], {}, [1, 2, 3, 4])],
    )
    mutex = make.pprof([("contentions", "count"), ("delay", "nanoseconds")], [])
    event = json.loads(make.event(NOW)) | {
        "family": "go",
        "end": time.strftime("%Y-%m-%dT%H:%M:%S+00:00", time.gmtime(NOW)),
        "tags_profiler": "service:binary,application_name:shop-go,runtime:go,runtime:go2",
    }
    upload = parse(
        make.multipart(
            make.part("cpu.pprof", zstd.compress(cpu), "cpu.pprof"),
            make.part("delta-heap.pprof", zstd.compress(heap), "delta-heap.pprof"),
            make.part("delta-mutex.pprof", mutex, "delta-mutex.pprof"),
            make.part("metrics.json", zstd.compress(b"[]"), "metrics.json"),
            make.part("event", json.dumps(event).encode(), "event.json"),
        )
    )
    assert upload.service == "shop-go"
    assert dict(upload.tags)["runtime"] == "go2"
    assert values(upload) == {
        "cpu_samples": 2,
        "cpu": 20,
        "alloc_objects": 1,
        "alloc_space": 2,
        "heap_objects": 3,
        "heap_space": 4,
        "mutex_contentions": 0,
        "mutex_delay": 0,
    }


def test_takes_the_older_form_fields() -> None:
    upload = parse(
        make.multipart(
            make.part("version", b"3"),
            make.part("family", b"python"),
            make.part("tags[]", b"service:old"),
            make.part("start", make.rfc3339(NOW - 60).encode()),
            make.part("end", make.rfc3339(NOW).encode()),
            make.part("data[auto.pprof]", make.pprof(make.CPU, make.samples()), "auto.pprof"),
        )
    )
    assert upload.service == "old"
    assert values(upload)["cpu"] == 100_000_000


def test_what_a_window_lost_is_no_label_of_the_process() -> None:
    tags = "service:shop,conprof_lost_truncated:12,conprof_lost_odd:-1,conprof_lost_x:,host:web-1"
    internal = {"sample_count": 3, "lost.truncated": 99}
    upload = parse(make.upload(NOW, tags_profiler=tags, internal=internal))
    assert dict(upload.tags) == {"service": "shop", "host": "web-1", "language": "python"}
    assert upload.counters == {"sample_count": 3, "lost.truncated": 12}


@pytest.mark.parametrize(
    ("wire", "unit", "own"),
    [
        ("lock-acquire-wait", "nanoseconds", "lock_wait"),
        ("lock_wait", "nanoseconds", "lock_wait"),
        ("loop_blocked", "nanoseconds", "loop_blocked"),
        ("gc-pause", "nanoseconds", "gc_pause"),
        ("Some Other/Type", "furlongs", "some_other_type"),
        ("\u202e<b>", "", "b"),
        ("…", "", "other"),
    ],
)
def test_a_type_nobody_foresaw_is_kept_under_a_plain_name(wire: str, unit: str, own: str) -> None:
    body = make.pprof(((wire, unit),), [([make.MAIN], {}, [7])])
    upload = parse(
        make.multipart(
            make.part("event", make.event(NOW), "event.json"),
            make.part("profile.pprof", body, "profile.pprof"),
        )
    )
    ((kind,), _) = upload.profiles[0]
    assert (kind.name, kind.unit, kind.instant) == (own, unit, False)
    assert values(upload) == {own: 7}


def test_equal_stacks_are_added_and_ids_of_spans_are_dropped() -> None:
    stack = [make.MAIN, make.HOT]
    content = [(stack, {"span id": str(n), "task name": f"Task-{n}"}, [1, 1]) for n in range(50)]
    (_, rows) = parse(make.upload(NOW, content=content)).profiles[0]
    assert rows == [((make.MAIN, make.HOT), (), (50, 50))]


def test_names_lose_control_and_direction_characters_but_not_markup() -> None:
    name = "<img src=x onerror=alert(1)>\x1b[2J\u202egnp"
    content = [([(name, "/a\nb.py", 1)], {"trace endpoint": "/\x07x"}, [1, 1])]
    (_, rows) = parse(make.upload(NOW, content=content)).profiles[0]
    frames, labels, _ = rows[0]
    assert frames[0][0] == "<img src=x onerror=alert(1)>\ufffd[2J\ufffdgnp"
    assert frames[0][1] == "/a\ufffdb.py"
    assert labels == (("http.route", "/\ufffdx"),)


RAW = make.pprof(make.CPU, make.samples())


def with_profile(content: bytes) -> bytes:
    return make.multipart(
        make.part("event", make.event(NOW), "event.json"),
        make.part("profile.pprof", content, "profile.pprof"),
    )


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "boundary"),
        (b"--wrong\r\n", "boundary"),
        (make.upload(NOW)[:-30], "ends inside a part"),
        (make.multipart(make.part("event", make.event(NOW), "event.json")), "no profile"),
        (make.multipart(make.part("p.pprof", RAW, "p.pprof")), "no event"),
        (make.upload(NOW, start="yesterday"), "RFC 3339"),
        (make.upload(NOW + 86400), "future"),
        (make.upload(NOW, seconds=200_000), "longer than a day"),
        (make.upload(NOW, tags_profiler=7), "tags_profiler"),
        (with_profile(b""), "no sample type"),
        (with_profile(b"not a profile at all"), "pprof"),
        (with_profile(RAW[:-3]), "pprof"),
        (with_profile(gzip.compress(RAW)[:-9]), "gzip"),
        (with_profile(zstd.compress(RAW)[:-4]), "zstd"),
        (with_profile(b"\x1f\x8b" + b"\xff" * 40), "gzip"),
        (with_profile(b"\x04\x22\x4d\x18" + b"\x00" * 40), "lz4"),
        (with_profile(make.pprof(make.CPU, [([make.MAIN], {}, [1])])), "1 values for 2 types"),
        (with_profile(make.pprof(make.CPU, [([make.MAIN], {}, [-1, 1])])), "negative"),
        (with_profile(make.pprof(make.CPU, [([make.MAIN], {}, [1 << 60, 1])])), "2^53"),
        (with_profile(RAW + make.message(2, make.message(1, b"\x63"))), "values"),
        (with_profile(RAW + make.message(4, make.number(1, 1))), "taken"),
        (with_profile(make.message(6, b"x") + RAW), "first string"),
        (with_profile(RAW + make.message(1, make.number(1, 99))), "string index"),
    ],
)
def test_refuses_what_is_no_upload(body: bytes, reason: str) -> None:
    with pytest.raises(UploadRefusedError, match=reason.replace("^", r"\^")) as refusal:
        parse(body)
    assert 400 <= refusal.value.status < 500


@pytest.mark.parametrize("pack", [gzip.compress, zstd.compress])
def test_a_bomb_costs_its_bound_and_no_more(pack) -> None:
    bomb = pack(b"\0" * (limits.MAX_PROFILE + 1))
    assert len(bomb) < 1 << 20
    with pytest.raises(UploadRefusedError, match="decompressed") as refusal:
        parse(with_profile(bomb))
    assert refusal.value.status == 413
