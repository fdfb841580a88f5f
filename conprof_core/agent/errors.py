"""What the agent refuses, and in which words; every leaf carries the HTTP status it becomes."""

from __future__ import annotations

from conprof_core.errors import ConprofError

__all__ = [
    "AgentError",
    "BadQueryError",
    "DirectoryInUseError",
    "UploadRefusedError",
    "StoreUnavailableError",
]


class AgentError(ConprofError):
    """Base of the agent's errors.

    Attributes:
        status: HTTP status of the answer.
    """

    status = 500


class UploadRefusedError(AgentError):
    """An upload is not a profile, or is larger than a bound; nothing of it was stored."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


class BadQueryError(AgentError):
    """A parameter of a query cannot be used."""

    status = 400


class StoreUnavailableError(AgentError):
    """The disk did not take the upload; the probe may try again."""

    status = 503


class DirectoryInUseError(AgentError):
    """Another agent owns the data directory.

    Attributes:
        owner: what the owner wrote about itself, for people.
    """

    def __init__(self, directory: str, owner: str) -> None:
        super().__init__(directory, owner)
        self.directory = directory
        self.owner = owner

    def __str__(self) -> str:
        return (
            f"{self.directory} is in use by another agent ({self.owner}); "
            "stop that one, or choose another directory with --data"
        )
