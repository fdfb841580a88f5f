"""`make cruel`: a program in hostile environments, with each engine and without the profiler.

A *cell* (cells.py) is a program (programs/) in an environment made of *steps* (steps.py), and runs
three times: without the profiler, which says what is right, with the native engine and with the
portable one. A process enters its environment (enter.py), proves that it stands in it, runs the
program and reports (report.py); the runner bounds and ends it (runner.py); the judge compares
(judge.py).
"""

from __future__ import annotations
