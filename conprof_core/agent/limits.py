"""Every bound of the agent, with its reason. What exceeds one is refused or counted."""

from __future__ import annotations

from typing import Final

# One request. libdatadog caps a compressed profile at 16 MiB; the event and metadata come on top.
MAX_BODY: Final = 20 << 20
MAX_PARTS: Final = 32
MAX_PART_HEADERS: Final = 4096
MAX_EVENT: Final = 1 << 20
# Expansion of what arrived: a 16 MiB gzip stream can hold 16 GiB.
MAX_PROFILE: Final = 64 << 20
MAX_PROFILES_IN_UPLOAD: Final = 16
# Bodies held in memory at once, all connections together; above it a probe is told to come back.
MAX_BYTES_IN_FLIGHT: Final = 256 << 20
BODY_TIMEOUT_S: Final = 30.0

# One profile.
MAX_SAMPLE_TYPES: Final = 64
MAX_SAMPLES: Final = 500_000
MAX_FRAMES_IN_STACK: Final = 2_048
# All stacks of one profile together, in frames: what the decoder can be made to do.
MAX_FRAMES_IN_PROFILE: Final = 4_000_000
MAX_TABLE: Final = 1_000_000
MAX_LABELS_IN_SAMPLE: Final = 32
MAX_NAME: Final = 512
MAX_LABEL_KEY: Final = 100
MAX_LABEL_VALUE: Final = 200
MAX_TAGS: Final = 100
MAX_ENDPOINTS: Final = 2_000
# Sums are shown by JavaScript, whose integers are exact up to here.
MAX_SUM: Final = (1 << 53) - 1

# Clocks. A window from further in the future is a broken clock; a longer one is not a window.
MAX_FUTURE_S: Final = 3_600
MAX_WINDOW_S: Final = 86_400

# One store file. At a bound the day goes on in another file, so that no table grows for ever.
MAX_NODES_IN_SEGMENT: Final = 2_000_000
MAX_LABEL_SETS_IN_SEGMENT: Final = 20_000
MAX_SERIES_IN_SEGMENT: Final = 20_000
MAX_TYPES_IN_SEGMENT: Final = 128
SEGMENTS_WITHIN_SIZE: Final = 4
DIGESTS_REMEMBERED: Final = 4_096

# One commit takes what has gathered, up to this many uploads or a little more.
UPLOADS_IN_COMMIT: Final = 128
# Uploads not answered yet, and those in the journal that the store has not taken.
UPLOADS_WAITING: Final = 512
UPLOADS_PENDING: Final = 1_024

# One answer.
MAX_NODES_IN_ANSWER: Final = 100_000
MAX_ROWS_IN_ANSWER: Final = 10_000
MAX_BUCKETS: Final = 2_000
