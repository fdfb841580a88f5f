"""What those who scrape refuse, as checks: Parca's rules and Grafana Alloy's.

Sources: parca ``pkg/scrape`` and ``pkg/normalizer``; alloy ``component/pyroscope/scrape``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from support.check_valid import check_valid
from support.pprof_reader import Profile, parse

_METRIC = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


@dataclass(frozen=True)
class Response:
    """What a server answered; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body of an answer for people."""
        return self.body.decode()


def check_scrape(response: Response, *, is_delta: bool) -> Profile:
    """Read a profile as both scrapers would; the usual entry point of a test.

    Args:
        response: the answer.
        is_delta: whether it was asked for with ``seconds``, as scrapers do for what they configure
            as a delta.
    """
    problems = _alloy(response) + _parca(response)
    assert not problems, "\n".join([*problems, repr(response.body[:200])])
    profile = parse(response.body)
    problems = check_valid(profile) + _normalized(profile, is_delta=is_delta)
    assert not problems, "\n".join(problems[:20])
    return profile


def _alloy(response: Response) -> list[str]:
    problems = []
    if not 200 <= response.status < 300:
        problems.append(f"status {response.status}")
    if not response.headers.get("content-type", "").startswith("application/octet-stream"):
        problems.append(f"content type {response.headers.get('content-type')}")
    if len(response.body) <= 2:
        problems.append("an empty body")
    elif response.body[:2] != b"\x1f\x8b" and response.body[0] & 7 > 5:
        problems.append("neither gzip nor protobuf")
    if response.body.lstrip()[:1] in (b"<", b"{"):
        problems.append("this looks like a page or JSON")
    return problems


def _parca(response: Response) -> list[str]:
    return [] if response.status == 200 and response.body else [f"status {response.status}"]


def _normalized(profile: Profile, *, is_delta: bool) -> list[str]:
    problems = []
    for name, table in (
        ("mapping", profile.mappings),
        ("location", profile.locations),
        ("function", profile.functions),
    ):
        ids = [entry.id for entry in table]
        if ids != list(range(1, len(ids) + 1)):
            problems.append(f"{name} ids are not 1 to {len(ids)} in table order")
    for kind in (*profile.sample_types, profile.period_type):
        for part in (kind.type, kind.unit):
            if _METRIC.fullmatch(part) is None:
                problems.append(f"{part!r} does not parse as a part of a metric's name")
    if bool(profile.duration_nanos) != is_delta:
        problems.append(f"a duration of {profile.duration_nanos} ns")
    for sample in profile.samples:
        problems += [f"no key: {label}" for label in sample.stored_labels if not label.key]
    return problems
