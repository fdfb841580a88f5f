"""Ids of spans in an upload are left out: each would be a label set of its own in the store."""

from __future__ import annotations

import pytest

from conprof_core._engine import Row
from conprof_core._pprof import encode_profile
from conprof_core.agent.pprof import decode
from conprof_core.exporters import naming


@pytest.mark.parametrize("family", ["blackfire", "go", "pyroscope"])
def test_samples_of_all_requests_share_their_labels(family: str) -> None:
    names = getattr(naming, family)()
    rows = [
        Row(
            (("f", "f.py", 1, 1),),
            (("http.route", "/x"), ("tenant", "acme")),
            "",
            samples=1,
            cpu_ns=10,
            trace=(1, span),
        )
        for span in range(1, 100)
    ]
    encoded = encode_profile(
        rows, names.shapes[0], names, start_ns=1, end_ns=2, mapping_file="python"
    )
    assert encoded is not None
    samples = decode(encoded).samples
    assert len(samples) == 99, "premise: each request has a sample of its own on the wire"
    (labels,) = {sample.labels for sample in samples}
    assert {value for _, value in labels} == {"/x", "acme"}
