"""The package's log, and the guard that keeps internal errors away from the application.

Lines go through the standard ``logging`` under ``conprof``. A program that has configured logging
sees them there; one that has not gets them on stderr, or in ``BLACKFIRE_LOG_FILE``. ``logging`` is
imported with the first line that is really written.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from logging import Handler
    from types import TracebackType

__all__ = [
    "DEBUG",
    "ERROR",
    "INFO",
    "WARNING",
    "configure",
    "each",
    "guard",
    "log",
    "raise_internal_errors",
    "swallow",
]

ERROR: Final = 1
WARNING: Final = 2
INFO: Final = 3
DEBUG: Final = 4

_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s [pid %(process)d]: %(message)s"

raise_internal_errors = False
"""Test hook: let what ``guard`` would swallow through."""

_level = ERROR
_handler: Handler | None = None
_handler_path = "stderr"
_level_set_here: int | None = None


def configure(level: int, path: str) -> str | None:
    """Set level (1 to 4) and file; returns what is wrong with the file, if anything.

    A level that the application itself has set on the logger ``conprof`` is left alone.
    """
    global _level, _handler, _handler_path, _level_set_here
    _level = level
    if path == "stderr" and _handler is None and "logging" not in sys.modules:
        return None
    import logging

    logger = logging.getLogger("conprof")
    if logger.level in (logging.NOTSET, _level_set_here):
        _level_set_here = _to_logging(level)
        logger.setLevel(_level_set_here)
    if path == _handler_path:
        return None
    problem = None
    handler: Handler | None = None
    if path != "stderr":
        try:
            handler = logging.FileHandler(path, encoding="utf-8")
        except OSError as error:
            problem = str(error)
            path = "stderr"
        else:
            handler.setFormatter(logging.Formatter(_FORMAT))
            logger.addHandler(handler)
    if _handler is not None:
        logger.removeHandler(_handler)
        _handler.close()
    # With a file of its own the log goes there and nowhere else, as with the Go profiler.
    logger.propagate = handler is None
    _handler, _handler_path = handler, path
    return problem


def _to_logging(level: int) -> int:
    return {ERROR: 40, WARNING: 30, INFO: 20, DEBUG: 10}[level]


def log(level: int, name: str, message: str, *args: object, exc_info: bool = False) -> None:
    """Write one line as ``conprof.<name>``. Never raises."""
    if level > _level and "logging" not in sys.modules:
        return
    try:
        import logging

        number = _to_logging(level)
        package = logging.getLogger("conprof")
        if package.level == logging.NOTSET:
            configure(_level, _handler_path)
        logger = logging.getLogger(f"conprof.{name}")
        if not logger.isEnabledFor(number):
            return
        if logger.hasHandlers():
            logger.log(number, message, *args, exc_info=exc_info)
        elif sys.stderr is not None:
            info = sys.exc_info() if exc_info else None
            record = logger.makeRecord(logger.name, number, "", 0, message, args, info)
            sys.stderr.write(logging.Formatter(_FORMAT).format(record) + "\n")
    except Exception:
        if raise_internal_errors:
            raise


internal_errors: dict[str, int] = {}
"""Place → how many internal errors the guard swallowed there."""

last_internal_error = ""


class guard:  # noqa: N801 - reads as a verb at the call site
    """Swallow and count an internal error: ``with guard("tick"): ...``.

    The first at each place is logged with its traceback. ``KeyboardInterrupt`` and
    ``SystemExit`` pass, since they belong to the application.
    """

    __slots__ = ("_place",)

    def __init__(self, place: str) -> None:
        self._place = place

    def __enter__(self) -> None:
        return None

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        tb: TracebackType | None,
    ) -> bool:
        if exc is None or not isinstance(exc, Exception):
            return False
        swallow(self._place, exc)
        return True


def swallow(place: str, error: Exception) -> None:
    """Count an internal error and log the first at this place.

    For ``except Exception`` on paths that a ``with`` statement would make slower.
    """
    global last_internal_error
    seen = internal_errors.get(place, 0)
    internal_errors[place] = seen + 1
    try:
        last_internal_error = f"{place}: {type(error).__name__}: {error}"
    except Exception:
        last_internal_error = f"{place}: {type(error).__name__}"
    if raise_internal_errors:
        raise error
    if not seen:
        try:
            raise error
        except Exception:
            log(ERROR, place, "internal error, profiling goes on", exc_info=True)


def counts() -> dict[str, object]:
    """Return what ``stats()`` says of internal errors."""
    return {
        "internal_errors": dict(internal_errors),
        "last_internal_error": last_internal_error,
    }


def each(place: str, *steps: Callable[[], object] | None) -> None:
    """Do all steps that are not ``None``, each under a guard of its own.

    One that fails is tried once more: what is given back here would stay for the rest of the
    process, and what failed may have been a lack of memory.
    """
    for step in steps:
        if step is not None:
            for _ in range(2):
                with guard(place):
                    step()
                    break


def forget_internal_errors() -> None:
    """Start counting anew, in a forked child."""
    global last_internal_error
    internal_errors.clear()
    last_internal_error = ""
