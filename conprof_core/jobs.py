"""Work that is no request: one line for task queues, built on ``labels()`` alone.

``labelled_task`` fits any task class that is called and has a ``name``, such as Celery's. No queue
is imported; what Celery alone needs is done where Celery is loaded.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any, TypeVar

from conprof_core._labels import labels
from conprof_core._limits import EXIT_FLUSH_S
from conprof_core._profiler import flush, start
from conprof_core.errors import ConprofError

__all__ = ["labelled_task"]

_T = TypeVar("_T")


def _start(options: dict[str, Any]) -> None:
    try:
        start(**options)
    except ConprofError as error:
        # A task is under way: whatever is wrong, it must not notice.
        logging.getLogger("conprof.jobs").warning("%s", error)
        return
    signals: Any = sys.modules.get("celery.signals")
    if signals is not None:
        # The children of Celery's prefork pool leave through os._exit, which skips atexit.
        signals.worker_process_shutdown.connect(_send_last_window, weak=False)


def _send_last_window(**_: Any) -> None:
    flush(EXIT_FLUSH_S)


def labelled_task(base: type[_T], **options: Any) -> type[_T]:
    """Return a subclass of ``base`` whose calls are labelled ``task=<name>`` and profiled.

    ``Celery("shop", task_cls=labelled_task(Task))``. The profiler starts with the first task of a
    process, with ``options``: in each worker of a pool, not in the process that supervises it.

    Args:
        base: a task class with ``__call__`` and ``name``.
        options: those of ``conprof_core.start()``.
    """
    started_in: list[int] = []

    class LabelledTask(base):  # type: ignore[valid-type, misc]
        abstract = True  # for Celery: a base, and no task

        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            if os.getpid() not in started_in:
                started_in[:] = [os.getpid()]
                _start(options)
            with labels(task=str(self.name)):
                return super().__call__(*args, **kwargs)

    return LabelledTask
