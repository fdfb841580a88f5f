"""``conprof agent``: the local agent in the foreground, until it is told to end."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from conprof_core.cli._extra import need_agent_extra

if TYPE_CHECKING:
    from conprof_core.agent.server import Options

__all__ = ["add_parser", "run"]

_EPILOG = """\
Point any probe of the Blackfire Agent's protocol at it:
  conprof     agent_socket="tcp://127.0.0.1:8307", or BLACKFIRE_AGENT_SOCKET in the environment
  blackfire   BLACKFIRE_AGENT_SOCKET=tcp://127.0.0.1:8307
  ddtrace     DD_TRACE_AGENT_URL=http://127.0.0.1:8307
and open the address in a browser. With --token, probes send it as the server token.
"""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the parser of this verb."""
    parser = subparsers.add_parser(
        "agent",
        help="run a local agent with a viewer",
        description="Take profiles from probes on this machine, store them, show them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--listen",
        metavar="HOST:PORT",
        default="127.0.0.1:8307",
        help="address to listen on (default %(default)s); port 0 takes a free one",
    )
    parser.add_argument("--unix", metavar="PATH", help="listen on a unix socket as well")
    parser.add_argument("--data", metavar="DIR", help="where profiles are kept")
    parser.add_argument(
        "--token",
        default=os.environ.get("CONPROF_AGENT_TOKEN"),
        help="secret that everyone must send; needed to listen beyond this machine "
        "(or CONPROF_AGENT_TOKEN, which other users cannot see in the process list)",
    )
    parser.add_argument(
        "--keep-days", metavar="N", type=int, default=30, help="days kept (default %(default)s)"
    )
    parser.add_argument(
        "--max-size",
        metavar="SIZE",
        default="10G",
        help="size above which the oldest go, as 500M or 10G (default %(default)s)",
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="log more")


def run(args: argparse.Namespace) -> int:
    """Serve until interrupted; 0 after a clean end, 2 when it cannot start."""
    if not need_agent_extra("agent"):
        return 2
    from conprof_core.agent.errors import AgentError
    from conprof_core.agent.server import serve

    logging.basicConfig(
        level=logging.INFO if args.verbose else logging.WARNING,
        format="conprof agent: %(levelname)s %(message)s",
    )
    try:
        options = _options(args)
        running = serve(options)
    except (AgentError, ValueError) as error:
        print(f"conprof agent: {error}", file=sys.stderr)
        return 2
    print(f"conprof agent: viewer and intake at {running.url}", flush=True)
    if options.unix is not None:
        print(f"               unix socket {options.unix}", flush=True)
    print(f"               data in {options.data}", flush=True)
    running.run()
    return 0


def _options(args: argparse.Namespace) -> Options:
    from conprof_core.agent.server import Options, data_directory

    host, colon, port = args.listen.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"--listen {args.listen!r} is not HOST:PORT")
    if args.keep_days < 1:
        raise ValueError("--keep-days is at least 1")
    return Options(
        data=Path(args.data) if args.data else data_directory(),
        listen=(host or "127.0.0.1", int(port)),
        unix=Path(args.unix) if args.unix else None,
        token=args.token or None,
        keep_days=args.keep_days,
        max_bytes=parse_size(args.max_size),
    )


def parse_size(text: str) -> int:
    """Return bytes: a number with an optional K, M, G or T.

    Raises:
        ValueError: not such a number, or less than 64 MB.
    """
    units = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
    body = text.strip().upper().removesuffix("B")
    factor = units.get(body[-1:], 1)
    number = body[:-1] if factor > 1 else body
    try:
        size = int(float(number) * factor)
    except (ValueError, OverflowError):
        raise ValueError(f"--max-size {text!r} is not a size such as 500M or 10G") from None
    if size < 64 << 20:
        raise ValueError("--max-size is at least 64M")
    return size
