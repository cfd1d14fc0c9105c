"""As many exponentials as a GPU can make, with nothing else to do: what bounds a scan."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exponential_loop(x, y, ROUNDS: tl.constexpr, BLOCK: tl.constexpr):
    """y = 2^-(2^-( .. x)), ROUNDS deep; the lanes of a block are independent of one another."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + place)
    for _ in range(0, ROUNDS):
        value = tl.exp2(-value)
    tl.store(y + place, value)
