"""Every bound on the memory and the time that the profiler may take, in one place.

The C extension has its own constants where it cannot read these; each of those names its twin here.
"""

from __future__ import annotations

from typing import Final

MAX_QUEUED_WINDOWS: Final = 16
"""Encoded windows kept per exporter while its destination is away: 12 minutes at 45 s."""

MAX_QUEUED_BYTES: Final = 16 << 20
"""Bytes of encoded windows kept per exporter; the older windows give way first."""

MAX_STACKS: Final = 16_384
"""Distinct (stack, label set, thread) rows in one window; what is beyond goes to ``[lost]``."""

MAX_STACK_DEPTH: Final = 256
"""Frames kept of one stack: ``LEAF_FRAMES`` nearest the leaf, ``ROOT_FRAMES`` nearest the root."""

LEAF_FRAMES: Final = 192
ROOT_FRAMES: Final = MAX_STACK_DEPTH - LEAF_FRAMES

MAX_LABEL_SETS: Final = 4_096
"""Distinct label sets alive at once; what is beyond shares the overflow set."""

MAX_TRACES: Final = 8_192
"""Requests of one window whose samples carry the ids of a trace; those beyond merge without."""

MAX_LABELS: Final = 32
"""Labels in one set; further ones are left out."""

MAX_LABEL_VALUE: Final = 200
"""Characters of a label or tag value; longer ones end in an ellipsis."""

MAX_NAME: Final = 1_000
"""Characters of a function or file name in a profile."""

MAX_RESPONSE_BYTES: Final = 4_096
"""Bytes of an answer that an exporter reads."""

WALL_RATE_HZ: Final = 20
"""Looks a second at what threads wait for; half as many while none of them moves. A thread that
does not move costs one clock read."""

MAX_TASKS_READ: Final = 10_000
"""asyncio tasks, and greenlets, read one by one in a snapshot; of more, a part stands for all."""

CONTROL_POLL_S: Final = 5.0
"""Seconds between two looks at the control file, where there is one."""

MAX_CONTROL_BYTES: Final = 65_536
"""Bytes of a control file; a longer one is not followed."""

EXIT_FLUSH_S: Final = 2.0
"""Longest delay of interpreter exit, and of SIGTERM, for the last window."""

MAX_READERS: Final = 16
"""Reads of ``/debug/pprof/…?seconds=N`` at once; each holds at most a window of its own."""

MAX_READ_S: Final = 120.0
"""Longest such read."""

MAX_PIECES: Final = 8
"""Windows cut within a period that are kept apart; then they are added up."""

MAX_TOTAL_LABEL_SETS: Final = 256
"""Label sets in the sums of all allocations so far, which stay for as long as the process."""

MIN_RATE_HZ: Final = 1
MAX_RATE_HZ: Final = 1_000

HEAP_SAMPLE_BYTES: Final = 512 * 1024
"""Allocated bytes between two samples, on average, where nothing else was asked for: as in Go."""

HEAP_RATE_HZ: Final = 200
"""Samples of allocated memory per second. Where more would come, their distance grows, unless one
was asked for."""

MIN_HEAP_SAMPLE_BYTES: Final = 1_024
MAX_HEAP_SAMPLE_BYTES: Final = 1 << 30
MAX_HEAP_OLD_WINDOWS: Final = 100_000

MIN_SPOOL_BYTES: Final = 1 << 16
MAX_SPOOL_BYTES: Final = 1 << 40

TRACED_FRAMES: Final = 16
"""Frames that ``tracemalloc`` keeps of an allocation, where it stands in for the heap profile."""

MIN_TOKEN: Final = 16
"""Characters of a token that opens ``/debug/pprof/`` to other machines."""
