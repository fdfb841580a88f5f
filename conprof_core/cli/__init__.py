"""The ``conprof`` command: one module per verb.

A verb ``foo`` is the module ``conprof_core/cli/foo.py``, imported only when it is asked for, with

    def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None
        Add exactly one parser, ``subparsers.add_parser("foo", help=..., description=...)``.
    def run(args: argparse.Namespace) -> int
        Do it; the value is the exit status. A message for people goes to stderr, results to stdout.
        ``KeyboardInterrupt`` and ``BrokenPipeError`` may escape: ``main`` handles both.

The verbs and their one-line helps stand in ``main.VERBS``, so ``conprof --help`` imports none.
"""
