"""Validity as code: google/pprof's ``CheckValid``, and what conprof promises beyond it.

Sources: google/pprof ``profile/profile.go`` (``CheckValid``) and ``profile/encode.go`` (the
decoder's own checks); parca ``pkg/normalizer/validate.go`` (ids exactly 1 to n, in table order).
"""

from __future__ import annotations

from pathlib import Path

from support.pprof_reader import Profile, parse

MAX_LOCATIONS = 600  # what the intake keeps of one sample


def check_bytes(data: bytes) -> Profile:
    """Read and check one profile; the usual entry point of a test."""
    profile = parse(data)
    problems = check_valid(profile) + check_conprof(profile)
    assert not problems, "\n".join(problems[:20])
    return profile


def check_directory(directory: Path) -> list[Profile]:
    """Read and check every profile below a directory, in the order of their names."""
    paths = [*directory.rglob("*.pb.gz"), *directory.rglob("*.pprof")]
    return [check_bytes(path.read_bytes()) for path in sorted(paths)]


def check_valid(profile: Profile) -> list[str]:
    """Return what google/pprof would refuse."""
    problems = []
    if not profile.strings or profile.strings[0] != "":
        problems.append("string_table[0] must be empty")
    if profile.samples and not profile.sample_types:
        problems.append("samples without a sample type")
    for index, sample in enumerate(profile.samples):
        if len(sample.values) != len(profile.sample_types):
            problems.append(
                f"sample {index}: {len(sample.values)} values for "
                f"{len(profile.sample_types)} sample types"
            )
    mappings = _ids(problems, "mapping", [mapping.id for mapping in profile.mappings])
    functions = _ids(problems, "function", [function.id for function in profile.functions])
    locations = _ids(problems, "location", [location.id for location in profile.locations])
    for location in profile.locations:
        if location.mapping_id and location.mapping_id not in mappings:
            problems.append(f"location {location.id}: no mapping {location.mapping_id}")
        problems += [
            f"location {location.id}: no function {line.function_id}"
            for line in location.lines
            if line.function_id not in functions
        ]
    for index, sample in enumerate(profile.samples):
        problems += [
            f"sample {index}: no location {location_id}"
            for location_id in sample.location_ids
            if location_id not in locations
        ]
    return problems


def check_conprof(profile: Profile) -> list[str]:
    """Return what breaks conprof's own rules for a profile it has written."""
    problems = []
    if not profile.sample_types:
        problems.append("no sample type")
    if len(set(profile.strings)) != len(profile.strings):
        problems.append("the string table repeats a string")
    if not profile.mappings:
        problems.append("no mapping: pprof would look for a binary")
    for mapping in profile.mappings:
        if not (mapping.has_functions and mapping.has_filenames and mapping.has_line_numbers):
            problems.append(f"mapping {mapping.id} does not say that it is symbolized")
        if not mapping.filename:
            problems.append(f"mapping {mapping.id} has no file name")
    for name, table in (
        ("mapping", [mapping.id for mapping in profile.mappings]),
        ("function", [function.id for function in profile.functions]),
        ("location", [location.id for location in profile.locations]),
    ):
        if table != list(range(1, len(table) + 1)):
            problems.append(f"{name} ids are not 1 to {len(table)} in table order")
    for function in profile.functions:
        if function.system_name:
            problems.append(f"function {function.name!r} has a system_name")
        if not function.name:
            problems.append(f"function {function.id} has no name")
        if function.filename and function.start_line <= 0:
            problems.append(f"function {function.name!r} has no start line")
    for location in profile.locations:
        if location.mapping_id == 0:
            problems.append(f"location {location.id} has no mapping")
        if location.address:
            problems.append(f"location {location.id} has an address")
        if len(location.lines) != 1:
            problems.append(f"location {location.id} has {len(location.lines)} lines")
    seen = set()
    for index, sample in enumerate(profile.samples):
        if not sample.location_ids:
            problems.append(f"sample {index} has no stack")
        if len(sample.location_ids) > MAX_LOCATIONS:
            problems.append(f"sample {index} has {len(sample.location_ids)} locations")
        if any(value < 0 for value in sample.values):
            problems.append(f"sample {index} has a negative value")
        keys = [label.key for label in sample.stored_labels]
        if len(set(keys)) != len(keys) or "" in keys:
            problems.append(f"sample {index} has a repeated or empty label key: {keys}")
        # A reader of google/pprof drops a number that is 0 and has no unit.
        if any(label.is_text == (label.number != 0) for label in sample.stored_labels):
            problems.append(f"sample {index} has a label that is neither a text nor a number")
        identity = (
            tuple(sample.location_ids),
            tuple(sorted(sample.labels.items())),
            tuple(sorted(sample.numbers.items())),
        )
        if identity in seen:
            problems.append(f"sample {index} repeats the stack and labels of an earlier one")
        seen.add(identity)
    if profile.time_nanos <= 0 or profile.duration_nanos <= 0:
        problems.append("time_nanos and duration_nanos must be set")
    if profile.period <= 0 or not profile.period_type.type:
        problems.append("period and period_type must be set")
    if any("\x00" in text for text in profile.strings):
        problems.append("a string holds NUL")
    return problems


def _ids(problems: list[str], name: str, ids: list[int]) -> set[int]:
    if 0 in ids:
        problems.append(f"a {name} has id 0")
    if len(set(ids)) != len(ids):
        problems.append(f"{name} ids are not unique")
    return set(ids)
