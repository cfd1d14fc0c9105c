"""The page as a whole, whose events may answer in several steps."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import gradio as gr


class Blocks(gr.Blocks):
    """Sends every value of a step whole.

    Gradio sends what has changed since the step before, and the browser edits that step's values in place. A page that is
    busy, or that has not heard yet that its event was taken, still has to draw them: what a step showed and the next one
    leaves alone was then lost, such as the images of a set that is made at once.
    """

    def handle_streaming_diffs(
        self, block_fn: Any, data: list, session_hash: str | None, run: str | None, final: bool, simple_format: bool = False
    ) -> list:  # fmt: skip
        # the first and the last step are sent whole as they are
        between = run in self.pending_diff_streams.get(session_hash, {}) and not final and not simple_format
        before = list(self.pending_diff_streams[session_hash][run]) if between else []
        data = super().handle_streaming_diffs(block_fn, data, session_hash, run, final, simple_format=True)
        if not between:
            return data
        return [[] if old == new else [["replace", [], new]] for old, new in zip_longest(before, data)]
