"""Options: precedence, the table of variables, what is said about values that cannot be used."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import conprof_core
from conprof_core import Config, ConfigError, ProfileType
from conprof_core._agent_socket import default_agent_socket
from conprof_core._config import load
from conprof_core._options import OPTIONS

# option, usable text, what Config holds, unusable text
CASES: list[tuple[str, str, Any, str | None]] = [
    ("application_name", "shop", "shop", None),
    ("cpu_duration", "7", 7.0, "-1"),
    ("period", "60", 60.0, "soon"),
    ("cpu_profile_rate", "250", 250, "0"),
    ("profile_types", "CPU, heap", (ProfileType.CPU, ProfileType.HEAP), "cpu,lock"),
    ("heap_sample_bytes", "65536", 65536, "1023"),
    ("heap_old_windows", "8", 8, "-1"),
    ("heap_tracemalloc", "on", True, "perhaps"),
    ("loop_blocked_threshold", "0.25", 0.25, "0.01"),
    ("labels", "tier=web, region = eu", {"tier": "web", "region": "eu"}, "tier"),
    ("agent_socket", "tcp://agent:8307/", "tcp://agent:8307", "agent.sock"),
    ("server_id", "id", "id", None),
    ("server_token", "token", "token", None),
    ("upload_timeout", "2.5", 2.5, "nan"),
    ("export_to", "file:///tmp/x,blackfire:", ("file:///tmp/x", "blackfire:"), "ftp://host/"),
    ("pull", "yes", True, "perhaps"),
    ("pull_token", "a-long-enough-token", "a-long-enough-token", None),
    ("spool_dir", "/var/spool/conprof", "/var/spool/conprof", None),
    ("spool_bytes", "1048576", 1048576, "12"),
    ("carry_labels", "no", False, "perhaps"),
    ("trace_ids", "OTel", "otel", "jaeger"),
    ("engine", "portable", "portable", "turbo"),
    ("disabled", "yes", True, "perhaps"),
    ("enabled", "no", False, "perhaps"),
    ("control_file", "/etc/shop/conprof.json", "/etc/shop/conprof.json", None),
    ("control_signal", "usr2", "SIGUSR2", "SIGKILL"),
    ("log_file", "/tmp/x.log", "/tmp/x.log", None),
    ("log_level", "4", 4, "5"),
]
VARIABLES = {option.name: option.variables for option in OPTIONS}


def test_every_option_is_a_field_with_a_variable_and_a_case() -> None:
    names = [option.name for option in OPTIONS]
    assert names == list(Config.__annotations__)
    assert names == [case[0] for case in CASES]
    assert all(option.variables and option.help for option in OPTIONS)


def test_every_option_is_documented() -> None:
    page = Path(__file__).parents[2].joinpath("docs", "configuration.md").read_text("utf-8")
    for option in OPTIONS:
        assert f"`{option.name}`" in page, option.name
        for variable in option.variables:
            assert f"`{variable}`" in page, variable


def test_defaults() -> None:
    config = load({}, {}).config
    assert config == Config()
    assert (config.cpu_profile_rate, config.period, config.cpu_duration) == (100, 45, 45)
    assert (config.upload_timeout, config.log_file, config.log_level) == (10, "stderr", 1)
    assert config.profile_types == (conprof_core.CPU,)
    assert config.agent_socket == default_agent_socket()


@pytest.mark.parametrize(("option", "text", "value", "_bad"), CASES)
def test_environment_beats_default_and_argument_beats_environment(
    option: str, text: str, value: Any, _bad: str | None
) -> None:
    for variable in VARIABLES[option]:
        loaded = load({}, {variable: text})
        assert getattr(loaded.config, option) == value
        assert loaded.sources[option] == variable
        assert not loaded.problems
    explicit = load({option: value}, dict.fromkeys(VARIABLES[option], "nonsense"))
    assert getattr(explicit.config, option) == value
    assert explicit.sources[option] == "argument"
    assert not explicit.problems, "a variable that an argument overrides is not even looked at"


@pytest.mark.parametrize(("option", "_text", "_value", "bad"), [c for c in CASES if c[3]])
def test_a_bad_variable_is_reported_and_the_default_kept(
    option: str, _text: str, _value: Any, bad: str
) -> None:
    loaded = load({}, {VARIABLES[option][0]: bad})
    assert getattr(loaded.config, option) == getattr(Config(), option)
    assert loaded.sources[option] == "default"
    (problem,) = loaded.problems
    assert VARIABLES[option][0] in problem
    assert bad in problem


@pytest.mark.parametrize(("option", "_text", "_value", "bad"), [c for c in CASES if c[3]])
def test_a_bad_argument_raises_and_names_option_value_and_what_is_allowed(
    option: str, _text: str, _value: Any, bad: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        conprof_core.start(**{option: bad})
    assert caught.value.option == option
    assert caught.value.value == bad
    assert option in str(caught.value)
    assert caught.value.allowed in str(caught.value)


@pytest.mark.parametrize(
    ("option", "bad"),
    [
        ("cpu_profile_rate", 1001),
        ("cpu_profile_rate", 99.5),
        ("cpu_profile_rate", True),
        ("period", math.inf),
        ("period", object()),
        ("upload_timeout", 0),
        ("profile_types", []),
        ("profile_types", [1]),
        ("labels", ["a"]),
        ("labels", {1: "x"}),
        ("agent_socket", "unix://"),
        ("agent_socket", "tcp://host"),
        ("agent_socket", "tcp://host:port"),
        ("agent_socket", "http://host:99999"),
        ("agent_socket", "http://a b:1"),
        ("agent_socket", 8307),
        ("export_to", "/tmp"),
        ("export_to", "file://other.host/dir"),
        ("export_to", "file://"),
        ("export_to", [b"file:///x"]),
        ("application_name", 5),
    ],
)
def test_more_bad_arguments(option: str, bad: object) -> None:
    with pytest.raises(ConfigError) as caught:
        Config(**{option: bad})  # type: ignore[arg-type]
    assert caught.value.option == option


def test_unknown_option_lists_the_options() -> None:
    with pytest.raises(ConfigError, match="options are application_name, cpu_duration"):
        conprof_core.start(cpu_rate=100)


def test_a_type_is_refused_by_naming_what_is_available() -> None:
    with pytest.raises(ConfigError, match="available are: cpu, heap, wall"):
        Config(profile_types=("cpu", "lock"))  # type: ignore[arg-type]


def test_first_usable_variable_wins() -> None:
    names = ("BLACKFIRE_CONPROF_APP_NAME", "PLATFORM_APPLICATION_NAME")
    assert load({}, {names[1]: "b"}).config.application_name == "b"
    assert load({}, {names[0]: "a", names[1]: "b"}).config.application_name == "a"
    assert load({}, {names[0]: " ", names[1]: "b"}).config.application_name == "b"


@pytest.mark.parametrize(
    ("given", "held"),
    [
        ("unix:///var/run/x.sock", "unix:///var/run/x.sock"),
        ("TCP://[::1]:80", "tcp://[::1]:80"),
        ("https://agent.example", "https://agent.example"),
        ("http://agent.example:8080/base/", "http://agent.example:8080/base"),
    ],
)
def test_agent_socket_forms(given: str, held: str) -> None:
    assert Config(agent_socket=given).agent_socket == held


def test_cpu_duration_never_exceeds_the_period() -> None:
    assert Config(period=10).cpu_duration == 10
    assert load({"period": 60}, {}).config.cpu_duration == 60
    assert load({"period": 60, "cpu_duration": 5}, {}).config.cpu_duration == 5


def test_config_is_immutable_and_hides_secrets() -> None:
    given = {"a": "1"}
    config = Config(server_id="me", server_token="secret", labels=given)
    given["a"] = "2"
    assert config.labels == {"a": "1"}
    with pytest.raises(AttributeError):
        config.period = 1  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.labels["b"] = "2"  # type: ignore[index]
    assert "secret" not in repr(config)
    with pytest.raises(ConfigError) as caught:
        Config(server_token=b"secret")  # type: ignore[arg-type]
    assert "secret" not in str(caught.value)


def test_equal_configurations_and_their_differences() -> None:
    assert Config(labels={"a": "1"}) == Config(labels={"a": "1"})
    assert hash(Config(labels={"a": "1"})) == hash(Config(labels={"a": "1"}))
    assert Config(period=5).differing(Config(period=6)) == ("cpu_duration", "period")


def test_from_env_reads_the_given_environment() -> None:
    assert Config.from_env({"BLACKFIRE_CONPROF_PERIOD": "9"}, upload_timeout=3).period == 9


def test_the_distance_of_heap_samples_is_automatic_unless_it_was_set() -> None:
    automatic = Config.from_env({"CONPROF_HEAP_SAMPLE_BYTES": "0"})
    assert (automatic.heap_sample_bytes, automatic.measured.heap_bytes) == (0, 512 * 1024)
    assert automatic == Config.from_env({})
    assert Config(heap_sample_bytes=4096).measured.heap_bytes == 4096
    with pytest.raises(ConfigError, match="automatic"):
        Config(heap_sample_bytes=1)
