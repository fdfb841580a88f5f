"""Work that is no request: one line for task queues, built on ``labels()`` alone.

Knows no queue: ``labelled_task`` fits any task class that is called and has a ``name``, such as
Celery's.
"""

from __future__ import annotations

import logging
import os
from typing import Any, TypeVar

from conprof_core._labels import labels
from conprof_core._profiler import start
from conprof_core.errors import ConprofError

__all__ = ["labelled_task"]

_T = TypeVar("_T")


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
                try:
                    start(**options)
                except ConprofError as error:
                    logging.getLogger("conprof.jobs").warning("%s", error)
            with labels(task=str(self.name)):
                return super().__call__(*args, **kwargs)

    return LabelledTask
