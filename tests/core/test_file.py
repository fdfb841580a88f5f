"""The file exporter: complete files under safe names, and its own kind of outage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from conprof_core import ConfigError
from conprof_core.exporters import Destination, EncodedProfile, EncodedWindow, Verdict, create
from conprof_core.exporters.file import directory_of, file_name
from conprof_core.exporters.naming import Measured


def profile(service: str = "shop", sequence: int = 0) -> EncodedWindow:
    return EncodedWindow(
        (EncodedProfile("cpu", b"data"),), 0, 1, sequence, service, {}, {}, process_id=42
    )


def test_writes_one_complete_file_a_window(tmp_path: Path) -> None:
    directory = tmp_path / "not yet" / "there"
    exporter = create(Destination(directory.as_uri(), Measured(), ""))
    for number in range(2):
        assert exporter.export(profile(sequence=number), 1).verdict is Verdict.DELIVERED
    assert sorted(os.listdir(directory)) == ["shop-42-000000.pb.gz", "shop-42-000001.pb.gz"]
    assert (directory / "shop-42-000000.pb.gz").read_bytes() == b"data"
    exporter.shutdown()


def test_a_reused_pid_overwrites_nothing(tmp_path: Path) -> None:
    exporter = create(Destination(tmp_path.as_uri(), Measured(), ""))
    for _ in range(3):
        exporter.export(profile(), 1)
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.parametrize(
    ("service", "name"),
    [
        ("shop", "shop-1-000002.pb.gz"),
        ("../../etc/passwd", "etc_passwd-1-000002.pb.gz"),
        ("a b\x00c\n/d", "a_b_c_d-1-000002.pb.gz"),
        ("", "python-1-000002.pb.gz"),
        ("...", "python-1-000002.pb.gz"),
        ("ключ", "python-1-000002.pb.gz"),
        ("x" * 500, "x" * 80 + "-1-000002.pb.gz"),
        (".hidden", "hidden-1-000002.pb.gz"),
    ],
)
def test_names_are_safe_whatever_the_service_is_called(service: str, name: str) -> None:
    assert file_name(service, 1, 2) == name


@pytest.mark.parametrize(
    ("url", "directory"),
    [
        ("file:///var/x", "/var/x"),
        ("file://localhost/var/x", "/var/x"),
        ("file:/var/x", "/var/x"),
        ("file:///a%20b", "/a b"),
        ("file:profiles", os.path.abspath("profiles")),
    ],
)
def test_directories(url: str, directory: str) -> None:
    assert directory_of(url) == directory


@pytest.mark.parametrize("url", ["file:", "file://", "file://host/x", "file:///a%00b"])
def test_urls_that_name_no_directory(url: str) -> None:
    with pytest.raises(ConfigError, match="file:///directory"):
        directory_of(url)


def test_a_directory_that_cannot_be_written_is_an_outage(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    exporter = create(Destination((tmp_path / "file" / "x").as_uri(), Measured(), ""))
    outcome = exporter.export(profile(), 1)
    assert outcome.verdict is Verdict.RETRY
    assert "Not a directory" in outcome.detail


def test_no_part_of_a_file_is_left_when_writing_fails(tmp_path: Path) -> None:
    exporter = create(Destination(tmp_path.as_uri(), Measured(), ""))
    (tmp_path / "shop-42-000000.pb.gz.d").mkdir()
    broken = EncodedWindow((EncodedProfile("cpu", "text"),), 0, 1, 0, "shop", {}, {}, process_id=42)  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        exporter.export(broken, 1)
    assert os.listdir(tmp_path) == ["shop-42-000000.pb.gz.d"]
