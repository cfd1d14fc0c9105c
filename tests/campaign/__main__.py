"""The command: `python -m tests.campaign --minutes 10 --seed 1`, and one trial again by --only KIND --trial N."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

# before numba and torch are imported: processes are forked after a first computation, which their threads would not survive
os.environ |= {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
os.environ |= {"HF_HUB_OFFLINE": "1", "GRADIO_ANALYTICS_ENABLED": "False", "MPLBACKEND": "agg"}
os.environ.setdefault("TRITON_INTERPRET", "1")

_RESULT = Path(__file__).resolve().parents[2] / "results" / "campaign.json"


def main() -> int:
    """Runs the campaign; 1 where something offended."""
    parser = argparse.ArgumentParser(prog="python -m tests.campaign", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], metavar="KIND", help="a kind or group; repeatable")
    parser.add_argument("--trial", action="append", type=int, metavar="N", help="this trial of each kind; repeatable")
    parser.add_argument("--trials", type=int, help="at most so many")
    parser.add_argument("--keep", type=Path, help="folder for the first input of each sort of offence")
    parser.add_argument("--out", type=Path, help="where the counts go; results/campaign.json for a whole campaign")
    given = parser.parse_args()

    import torch

    torch.set_num_threads(1)
    from tests.campaign import runner
    from tests.campaign.trials import KINDS  # noqa: F401, importing them registers them

    started = time.monotonic()
    say = lambda words: print(words, file=sys.stderr, flush=True)  # noqa: E731
    try:
        tally = runner.campaign(
            given.seed, 60 * given.minutes, given.only, given.keep, trials=given.trials, numbers=given.trial, say=say
        )
    except ValueError as error:
        parser.error(str(error))
    print(tally.table())
    out = given.out or (None if given.only or given.trial or given.trials else _RESULT)
    if out is not None:
        print(f"counts in {runner.written(out, tally, given.seed, (time.monotonic() - started) / 60)}")
    return 1 if tally.offences else 0


if __name__ == "__main__":
    sys.exit(main())
