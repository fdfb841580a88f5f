"""Where the Blackfire Agent listens: the default, and the forms that the option may have."""

from __future__ import annotations

import os
import sys
from typing import Final

from conprof_core.errors import ConfigError

__all__ = ["agent_socket", "default_agent_socket"]

_FORMS: Final = (
    "allowed are unix:///path/agent.sock, tcp://host:port, http://host:port, https://host:port"
)
_SCHEMES: Final = frozenset({"unix", "tcp", "http", "https"})


def default_agent_socket() -> str:
    """Return where the Blackfire Agent listens on this operating system by default."""
    if sys.platform == "win32":
        return "tcp://127.0.0.1:8307"
    if sys.platform == "darwin":
        prefix = "/opt/homebrew" if os.uname().machine == "arm64" else "/usr/local"
        return f"unix://{prefix}/var/run/blackfire-agent.sock"
    return "unix:///var/run/blackfire/agent.sock"


def agent_socket(option: str, value: object) -> str:
    """Return a value of the option as ``Config`` holds it.

    Raises:
        ConfigError: it cannot be used.
    """
    text = value.strip() if isinstance(value, str) else ""
    scheme, separator, address = text.partition("://")
    address = address.rstrip("/")
    if not separator or scheme.lower() not in _SCHEMES or not address:
        raise ConfigError(option, value, _FORMS)
    if any(character.isspace() or not character.isprintable() for character in address):
        raise ConfigError(option, value, _FORMS)
    if scheme.lower() != "unix":
        _check_port(option, value, address)
    return f"{scheme.lower()}://{address}"


def _check_port(option: str, value: object, address: str) -> None:
    host, colon, port = address.split("/", 1)[0].rpartition(":")
    if colon and not port.endswith("]"):
        if not (port.isdecimal() and 0 < int(port) < 65536 and host):
            raise ConfigError(option, value, _FORMS)
    elif value is not None and str(value).startswith("tcp:"):
        raise ConfigError(option, value, _FORMS)
