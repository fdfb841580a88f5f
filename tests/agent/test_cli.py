"""conprof report, diff and the messages for people who lack an extra."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path

import pytest
from support import agent as make

from conprof_core.agent.standalone import page
from conprof_core.cli import main
from conprof_core.cli._tables import amount
from conprof_core.cli.agent import parse_size


def write(path: Path, cpu_ms: int = 70, seconds: int = 10) -> Path:
    duration = make.number(10, seconds * 1_000_000_000)
    raw = make.pprof(make.CPU, make.samples(cpu_ms=cpu_ms)) + duration
    path.write_bytes(gzip.compress(raw))
    return path


def test_report_prints_routes_and_functions(tmp_path: Path, capsys) -> None:
    assert main.main(["report", str(write(tmp_path / "a.pb.gz"))]) == 0
    text = capsys.readouterr().out
    assert "cpu: 100 ms in 10 s" in text
    assert "/cart/<int:id>" in text
    assert "70.0 %" in text
    assert "views.py:20" in text


def test_report_adds_up_a_directory(tmp_path: Path, capsys) -> None:
    for name in ("a", "b", "c"):
        write(tmp_path / f"{name}.pb.gz")
    (tmp_path / "other.txt").write_text("not a profile")
    assert main.main(["report", str(tmp_path), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["files"], answer["total"], answer["seconds"]) == (3, 300_000_000, 30)
    assert answer["functions"][0]["function"] == "hot"


def test_report_tells_what_blocked_an_event_loop(tmp_path: Path, capsys) -> None:
    driver = ("recv", "/usr/lib/python3.12/site-packages/driver/io.py", 7)
    types = (("loop_blocks", "count"), ("loop_blocked", "nanoseconds"))
    raw = make.pprof(
        types,
        [
            ([make.MAIN, make.HOT], {"http.route": "/"}, [1, 120_000_000]),
            ([make.MAIN, make.HOT, driver], {"http.route": "/cart"}, [2, 400_000_000]),
            ([make.MAIN, make.HOT, make.COLD], {"http.route": "/cart"}, [0, 50_000_000]),
        ],
    )
    path = tmp_path / "a.pb.gz"
    path.write_bytes(gzip.compress(raw))
    assert main.main(["report", str(path), "--type", "loop_blocked"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["blocked", "by", "http.route", "total", "blocks", "mean"]
    assert lines[3].split() == [
        *("hot", "/srv/shop/views.py:20", "/cart", "450", "ms", "78.9", "%", "2", "225", "ms")
    ]
    assert main.main(["report", str(path), "--type", "loop_blocked", "--json"]) == 0
    places = json.loads(capsys.readouterr().out)["places"]
    assert [(row["function"], row["value"], row["count"]) for row in places] == [
        ("hot", "/cart", 2),
        ("hot", "/", 1),
    ]
    alone = make.pprof((("loop_blocked", "nanoseconds"),), [([make.MAIN, make.HOT], {}, [5])])
    path.write_bytes(gzip.compress(alone))
    assert main.main(["report", str(path)]) == 0
    assert capsys.readouterr().out.splitlines()[2].split() == [
        "blocked",
        "by",
        "http.route",
        "total",
    ]


def test_diff_compares_per_second(tmp_path: Path, capsys) -> None:
    before, after = write(tmp_path / "a.pb.gz"), write(tmp_path / "b.pb.gz", 140, 20)
    assert main.main(["diff", str(before), str(after), "--json"]) == 0
    rows = {row["value"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["/cart/<int:id>"]["before"] == pytest.approx(7e6)
    assert rows["/cart/<int:id>"]["now"] == pytest.approx(7e6)
    assert rows["/"]["now"] == pytest.approx(1.5e6)
    assert main.main(["diff", str(before), str(after)]) == 0
    assert "-50.0 %" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"hello", b"\x1f\x8b"])
def test_what_is_no_profile_is_told_in_one_line(tmp_path: Path, capsys, content: bytes) -> None:
    path = tmp_path / "x.pb.gz"
    path.write_bytes(content)
    assert main.main(["report", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"conprof report: {path}: ")
    assert error.count("\n") == 1
    assert main.main(["report", str(tmp_path / "absent.pprof")]) == 2


def test_the_page_holds_hostile_names_as_data(tmp_path: Path) -> None:
    text = page({"title": "</script><script>alert(1)</script><!--", "functions": []})
    assert text.count("</script>") == 2
    assert "alert(1)</script" not in text
    assert "default-src 'none'" in text
    assert "import " not in text.partition("<script>")[2].partition("\n")[0]


@pytest.mark.parametrize("verb", ["agent", "demo"])
def test_a_missing_extra_is_named(verb: str) -> None:
    code = (
        "import sys, importlib.util as u; real = u.find_spec;"
        "u.find_spec = lambda n, *a: None if n == 'duckdb' else real(n, *a);"
        f"from conprof_core.cli.main import main; sys.exit(main(['{verb}']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "pip install 'conprof[agent]'" in done.stderr
    assert "duckdb" in done.stderr


def test_units_of_pprof_are_read_and_others_named() -> None:
    assert amount(1_500_000, "nanoseconds") == amount(1500, "microseconds") == "1.50 ms"
    assert amount(3 << 20, "bytes") == amount(3, "megabytes") == "3.00 MiB"
    assert amount(12, "furlongs") == "12.0 furlongs"
    assert amount(0, "") == "0"


def test_sizes() -> None:
    assert parse_size("500M") == 500 << 20
    assert parse_size("1.5GB") == int(1.5 * (1 << 30))
    for text in ("", "x", "10", "nan", "infG"):
        with pytest.raises(ValueError):
            parse_size(text)
