"""The profiles of ``conprof run``, printed by the real pprof tool: what a user sees is right."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

import pytest
from support.check_valid import check_directory
from support.pprof_reader import Profile
from support.pprof_tool import get_tool, run_tool
from support.process import run_command

from conprof_core._engine import choose

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "example_apps" / "md5_loop.py"


@pytest.fixture(scope="module")
def tool() -> str:
    """The path of google/pprof."""
    return get_tool()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The profiles of one run of the example."""
    directory = tmp_path_factory.mktemp("profiles")
    conprof = [sys.executable, "-m", "conprof_core.cli.main", "run", "--app-name", "md5-loop"]
    program = ["--export-to", directory.as_uri(), "--", sys.executable, str(EXAMPLE)]
    finished = run_command([*conprof, *program])
    assert finished.stdout.count("round") == 15
    assert finished.stderr == ""
    return directory


@pytest.fixture(scope="module")
def profile(directory: Path) -> Profile:
    """The one profile of the run, which is shorter than a window."""
    (profile,) = check_directory(directory)
    assert profile.total("samples") > 20, "premise: the example was sampled"
    return profile


def pprof(tool: str, directory: Path, *arguments: str) -> str:
    """Run the tool on the profiles; it must say nothing on stderr but which files it reads."""
    files = sorted(str(path) for path in directory.glob("*.pb.gz"))
    finished = run_tool(tool, directory, *arguments, *files)
    noise = [line for line in finished.stderr.splitlines() if "Main binary" in line]
    assert noise == []
    return finished.stdout


def percentages(top: str) -> dict[str, float]:
    """Return function → flat percent from the table of ``-top``."""
    row = re.compile(r"^\s*\S+\s+([\d.]+)%\s+[\d.]+%\s+\S+\s+[\d.]+%\s+(.+?)\s*$", re.MULTILINE)
    return {name: float(percent) for percent, name in row.findall(top)}


def test_top_names_the_functions_by_their_cpu_time(
    tool: str, directory: Path, profile: Profile
) -> None:
    top = pprof(tool, directory, "-top", "-nodecount=50", "-nodefraction=0")
    assert re.search(r"^File: python", top, re.MULTILINE)
    assert re.search(r"^Type: cpu", top, re.MULTILINE)
    assert re.search(r"^Time: 2\d\d\d-", top, re.MULTILINE)
    shown = percentages(top)
    total = profile.total("cpu")
    flat = profile.by_leaf("cpu")
    ours = shown.keys() & {"md5_loop", "checksum", "main"}
    assert ours
    for name in ours:
        assert shown[name] == pytest.approx(100 * flat.get(name, 0) / total, abs=0.2)
    # The portable engine sees a thread where it gives the GIL away, such as at main's print().
    if choose(os.environ.get("CONPROF_ENGINE"))[0].name == "native":
        assert max(shown, key=lambda name: shown[name]) == "md5_loop"
        assert "checksum" in ours


def test_sample_counts_can_be_asked_for(tool: str, directory: Path, profile: Profile) -> None:
    top = pprof(tool, directory, "-top", "-sample_index=samples")
    assert f"of {profile.total('samples')} total" in top


def test_tags_show_the_labels(tool: str, directory: Path, profile: Profile) -> None:
    tags = pprof(tool, directory, "-tags")
    assert re.search(r"^\s*job: Total", tags, re.MULTILINE)
    for tenant in ("odd", "even"):
        assert re.search(rf"\): {tenant}$", tags, re.MULTILINE)
    shares = profile.by_label("tenant", "cpu")
    # Eight odd rounds of 15.
    assert shares["odd"] / (shares["odd"] + shares["even"]) == pytest.approx(8 / 15, abs=0.12)


def test_a_label_selects(tool: str, directory: Path) -> None:
    everything = percentages(pprof(tool, directory, "-top", "-tagfocus=job=md5"))
    nothing = percentages(pprof(tool, directory, "-top", "-tagfocus=job=other"))
    assert "md5_loop" in everything
    assert nothing == {}


def test_traces_lead_from_the_leaf_to_the_module(tool: str, directory: Path) -> None:
    traces = pprof(tool, directory, "-traces")
    assert re.search(r"md5_loop\n\s+main\n\s+<module>\n", traces)


def test_source_lines_are_found(tool: str, directory: Path) -> None:
    listing = pprof(tool, directory, "-list=md5_loop", f"-source_path={ROOT}")
    hashing = [line for line in listing.splitlines() if "hashlib.md5(digest).digest()" in line]
    assert len(hashing) == 1
    assert re.match(r"\s+\d", hashing[0]), f"no time on the line that takes it: {hashing[0]}"


def test_two_profiles_can_be_subtracted(tool: str, directory: Path) -> None:
    (path,) = directory.glob("*.pb.gz")
    difference = pprof(tool, directory, "-top", f"-diff_base={path}")
    assert "md5_loop" not in percentages(difference)
