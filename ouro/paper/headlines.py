"""The few results that the front page shows: points of the ledger, with what decides them; real images first."""

from __future__ import annotations

from ouro.paper.ledger import artefact
from ouro.paper.markdown import Rows, markdown

HEADLINES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    (
        "fig2", "Do synthetic images calibrate better than noise?",
        (
            "synthetic images over noise, vim_micro_cifar10, MinMax w4a4o8",
            "synthetic images over noise, vim_micro_cifar10, OuroMamba-Quant w4a4o8",
        ),
    ),
    (
        "table5", "Do dynamic outliers save three bits?",
        ("dynamic outliers over a step per time step, vim_micro_cifar10, OuroMamba-Quant W4A3O8",),
    ),
    (
        "ouro-plus", "And at equal mean bits?",
        (
            "OuroMamba+ (ours) a point or more over dynamic per token, vim_micro_cifar10, lin, 3.25 bits",
            "OuroMamba+ (ours) a point or more over dynamic per token, vim_micro_cifar10, ssm, 3.25 bits",
        ),
    ),
    (
        "fig1", "Does the patched state find the object better?",
        (
            "maps of h_p find the object better than those of h, vim_nano",
            "maps of h_p find the object better than those of h, localvmamba_nano",
        ),
    ),
)  # fmt: skip
"""(entry of the ledger, what is asked of it, the claims of its points that are shown)."""


def headlines() -> str | None:
    """A row per point: what was asked, what was compared, what decides, and the verdict.

    Raises:
        KeyError: a claim that the ledger does not make any more.
    """
    rows: Rows = []
    for name, question, claims in HEADLINES:
        one = artefact(name)
        points = {point.claim: point for point in one.judge(one.results())}
        for number, claim in enumerate(claims):
            point = points[claim]
            asked = f"{question} ({one.title})" if number == 0 else ""
            rows.append((asked, claim, point.why, f"**{point.word}**"))
    return markdown(("question", "compared", "measured", "verdict"), rows, 4)
