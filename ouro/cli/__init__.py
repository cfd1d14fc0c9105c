"""The command line: every command draws a job's progress on stderr and prints its result on stdout.

A command names its options and builds a spec; `tail` runs the job, writes, prints and ends it; `draw` makes the tables.
Exit codes: 0 done, 1 failure, 2 wrong use or bad input (one line that says what was given, what is allowed and what to
do). With --json stdout holds one JSON object and nothing else; its keys are listed in each command's help.
"""

from ouro.cli.main import app, main

__all__ = ["app", "main"]
