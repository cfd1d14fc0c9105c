"""A campaign against this project that anyone can repeat: `python -m tests.campaign --minutes 10 --seed 1`.

Every kind of trial damages something (a file, a folder, an option, the machine) and says what has to hold all the same: a
refusal is one line, what is accepted is sane, nothing in a file runs, no process dies or hangs, no file is half written, no
finished part of a job is lost.
"""
