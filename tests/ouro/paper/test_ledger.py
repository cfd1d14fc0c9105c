"""The ledger says of every figure and table what stored results decide, and nothing that they do not."""

from __future__ import annotations

import json
import re

import pytest
import torch
from typer.testing import CliRunner

from ouro.cli import app
from ouro.evaluate.paired import packed
from ouro.paper import ledger, verdict
from ouro.paper.headlines import HEADLINES, headlines
from ouro.paper.ledger import ARTEFACTS, OURS, artefact, filled
from ouro.paper.markdown import RESULTS, ROOT
from ouro.paper.verdict import (
    NOT_MEASURED,
    NOT_RESOLVED,
    NOT_SEEN,
    NOTHING_TO_DECIDE,
    OPPOSITE,
    SEEN,
    WORDS,
    Point,
    by_counts,
    by_interval,
    by_means,
    by_share,
    overall,
)  # fmt: skip

runner = CliRunner()


def test_every_figure_and_table_has_an_entry():
    names = [one.name for one in ARTEFACTS]
    assert len(set(names)) == len(names)
    assert {re.sub(r"[a-d]$", "", name) for name in names if name.startswith("fig")} == {
        f"fig{k}" for k in range(1, 10)
    }
    assert {name for name in names if name.startswith("table")} == {f"table{k}" for k in range(1, 7)}
    for one in ARTEFACTS:
        # where a claim is known from stands beside it
        assert "not public" in one.shows or "[" in one.shows or one.paper == OURS, one.name
        assert not one.notebook or (ROOT / "notebooks" / f"{one.notebook}.ipynb").is_file(), one.name
        assert all(list(RESULTS.glob(pattern)) for pattern in one.files), one.name
        assert bool(one.commands) == bool(one.quick) == bool(one.files), one.name


@pytest.mark.parametrize("one", ARTEFACTS, ids=lambda one: one.name)
def test_nothing_is_said_without_a_result(one):
    points = list(one.judge({}))
    assert points and {point.word for point in points} <= {NOT_MEASURED, NOTHING_TO_DECIDE}
    assert overall(points) in (NOT_MEASURED, NOTHING_TO_DECIDE)


def test_verdicts_are_what_the_stored_results_say():
    rows = {row["name"]: row for row in ledger.ledger()}
    for row in rows.values():
        assert row["verdict"] in (*WORDS, NOTHING_TO_DECIDE) and row["points"], row["name"]
        assert all(point["word"] in (*WORDS, NOTHING_TO_DECIDE) for point in row["points"])
    # by hand, from the file: synthetic images over noise at W4A4
    studies = json.loads((RESULTS / "ablations_vim_nano.json").read_text())["studies"]
    claim = next(
        claim
        for study in studies if study["title"] == "What is calibrated on"
        for claim in study["claims"]
        if (claim["better"], claim["worse"], claim["measure"]) == ("ouro", "noise", "ouro w4a4o8")
    )  # fmt: skip
    low, high = claim["ci95"]
    point = next(point for point in rows["fig2"]["points"] if point["claim"].startswith("ouro over noise, vim_nano"))
    assert point["word"] == (SEEN if low > 0 else OPPOSITE if high < 0 else NOT_RESOLVED)
    assert point["why"] == f"{100 * claim['difference']:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f})"


def test_intervals_counts_shares_and_means_decide():
    assert by_interval("a", 0.02, 0.01, 0.03) == Point(
        "a", SEEN, "+2.0 points (+1.0 to +3.0)", interval=(2.0, 1.0, 3.0, 0.0)
    )
    assert by_interval("a", -0.02, -0.03, -0.01).word == OPPOSITE and by_interval("a", 0, -1, 1).word == NOT_RESOLVED
    # 9 of 10: two tails of 11 in 1024 each
    point = by_counts("b", 9, 1, "of 20")
    assert point.word == SEEN and "p = 0.021" in point.why
    assert by_counts("b", 1, 9, "").word == OPPOSITE and by_counts("b", 6, 4, "").word == NOT_RESOLVED
    assert by_counts("b", 0, 0, "").word == NOT_RESOLVED
    assert by_share("c", 0.2, 128, 1 / 12).word == SEEN and by_share("c", 0.1, 128, 1 / 12).word == NOT_SEEN
    assert by_share("c", 0.01, 1000, 1 / 12).word == OPPOSITE
    # equal spreads and three seeds each: four degrees of freedom, t = 2.776
    point = by_means("d", (0.9, 0.01, 3), (0.8, 0.01, 3))
    half = 2.776 * (2 * 0.01**2 / 3) ** 0.5
    assert point.word == SEEN and point.why == f"+10.0 points ({10 - 100 * half:+.1f} to {10 + 100 * half:+.1f})"
    assert by_means("d", (0.9, 0.0, 1), (0.8, 0.0, 1)).word == NOT_RESOLVED
    assert by_means("d", (0.9, 0.0, 3), (0.8, 0.0, 3)).word == SEEN


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ((SEEN, SEEN), SEEN), ((SEEN, NOT_RESOLVED), NOT_RESOLVED), ((SEEN, NOT_SEEN, NOT_RESOLVED), NOT_SEEN),
        ((SEEN, OPPOSITE, NOT_SEEN), OPPOSITE), ((SEEN, NOT_MEASURED), SEEN), ((NOT_MEASURED,), NOT_MEASURED),
        ((NOTHING_TO_DECIDE,), NOTHING_TO_DECIDE), ((NOTHING_TO_DECIDE, SEEN), SEEN),
    ],
)  # fmt: skip
def test_one_word_for_all_hides_nothing(words, wanted):
    assert overall([Point("x", word) for word in words]) == wanted


def test_points_on_real_images_decide():
    drawn, real = Point("x", OPPOSITE, model="vim_nano"), Point("x", SEEN, model=verdict.MAIN)
    assert overall([drawn, real]) == SEEN and overall([drawn]) == OPPOSITE
    assert overall([drawn, Point("x", NOT_RESOLVED, model=verdict.MAIN), real]) == NOT_RESOLVED


def test_table_2_pairs_ours_on_synthetic_images_with_prior_methods_on_real_ones():
    def cells(method: str, calib: str, *outcomes: list[bool], bits: str = "w4a4o8") -> list[dict[str, object]]:
        shared = {"method": method, "bits": bits, "calib": calib}
        return [{**shared, "n": len(one), "right": packed(torch.tensor(one))} for one in outcomes]

    ours, theirs = [True] * 60 + [False] * 4, [True] * 32 + [False] * 32
    content = [
        *cells("ouro", "synthetic", ours, ours), *cells("ptq4vm", "real", theirs, theirs),
        # other widths, sets and numbers of seeds are no pairs
        *cells("qmamba", "real", ours), *cells("qmamba", "noise", ours, ours), *cells("qmamba", "real", ours, bits="w8a8"),
    ]  # fmt: skip
    (point,) = artefact("table2").judge({"quantization_x.json": {"model": "x", "cells": content}})
    # 28 of 64 images, in both seeds alike: the images' variance alone
    gap = 28 / 64
    half = 1.998 * (gap * (1 - gap) / 63) ** 0.5
    assert point.claim == "W4A4 on synthetic images over PTQ4VM on real ones, x" and point.word == SEEN
    assert point.why == f"{100 * gap:+.1f} points ({100 * (gap - half):+.1f} to {100 * (gap + half):+.1f})"


def test_the_pages_have_the_ledger():
    assert ledger.table() in (RESULTS / "README.md").read_text("utf-8")
    assert (RESULTS / "PAPER.md").read_text("utf-8") == ledger.page(), "run ouro paper render"


def test_headlines_are_points_of_the_ledger():
    made = headlines()
    rows = {row["name"]: row for row in ledger.ledger()}
    for name, question, claims in HEADLINES:
        assert question in made
        for claim in claims:
            (point,) = (point for point in rows[name]["points"] if point["claim"] == claim)
            assert f"| {claim} | {point['why']} | **{point['word']}** |" in made


def test_the_command_lists_it():
    result = runner.invoke(app, ["paper", "list", "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout) == {"artefacts": ledger.ledger()}
    shown = runner.invoke(app, ["paper", "list"]).stdout
    assert all(one.name in shown for one in ARTEFACTS) and "not measured: w4a4o8 is faster than fp16" in shown


@pytest.fixture
def ran(monkeypatch):
    """The commands that `ouro paper run` runs, which are only noted down, and what they end as."""
    words = []

    class Done:
        returncode = 0

    monkeypatch.setattr("ouro.cli.paper.subprocess.run", lambda command, **_: words.append(command[2:]) or Done())
    return words, Done


def test_runs_are_the_commands_once_each(ran, tmp_path):
    words, done = ran
    out = str(tmp_path / "r")
    result = runner.invoke(app, ["paper", "run", "fig9a", "fig9b", "fig5", "--model", "vim_nano", "--out", out])
    assert result.exit_code == 0, result.output
    # both figures are read off one study
    assert [command[:4] for command in words] == [
        ["ouro", "bench", "ablations", "vim_nano"], ["ouro", "generate", "vim_nano", "--num"],
    ]  # fmt: skip
    assert words[0][-2:] == ["--out", f"{out}/ablations_vim_nano.json"]
    assert words[1][-2:] == ["--report", f"{out}/generate_vim_nano.json"]
    done.returncode = 1
    result = runner.invoke(app, ["paper", "run", "fig5", "--out", out])
    assert result.exit_code == 1 and "FAILED: ouro generate vim_micro_cifar10 --num 128" in result.stdout


def test_what_is_ones_own_goes_to_every_command_that_takes_it(ran, tmp_path):
    words, _ = ran
    own = ["--model", "vim_tiny_patch16_224", "--weights", "v.pth", "--data", "folder:PICTURES", "--device", "cuda"]
    own += ["--engine", "tcp://host:8786", "--workers", "4", "--out", str(tmp_path)]
    result = runner.invoke(app, ["paper", "run", "fig2", "fig1", "kscaled-state", *own])
    assert result.exit_code == 0, result.output
    by_name = {tuple(command[1:3]): command for command in words}
    for name in (("bench", "quantization"), ("bench", "ranges"), ("bench", "ablations"), ("bench", "state")):
        line = " ".join(by_name[name])
        assert f"{name[1]} vim_tiny_patch16_224" in line and "--weights v.pth" in line and "--device cuda" in line
        assert "--data folder:PICTURES" in line
    assert "real=real:64:folder:PICTURES" in by_name["bench", "quantization"]
    assert by_name["bench", "ablations"][-2:] == ["--device", "cuda"] and "--engine" in by_name["bench", "ablations"]
    # its models are embedded: it takes pictures and a device, and it is said that it takes no weights
    assert "--weights" not in by_name["bench", "attention"] and "this one takes no --weights" in result.stderr


def test_quick_ones_leave_the_results_alone(ran, tmp_path, monkeypatch):
    words, _ = ran
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["paper", "run", "--all", "--quick", "--json"])
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert [row["command"].split() for row in report["commands"]] == words and len(words) == 15
    for command in words:
        (place,) = [word for word in command if word.startswith("results/")]
        assert place.startswith("results/quick/")


def test_every_command_is_one_that_there_is(tmp_path):
    for one in ARTEFACTS:
        for command in (*one.commands, *one.quick):
            _, *words = filled(command, "vim_nano", str(tmp_path)).split()
            options = [word for word in words if word.startswith("--")]
            place = words[: 2 if words[0] == "bench" else 1]
            shown = runner.invoke(app, [*place, "--help"], env={"COLUMNS": "200"})
            assert shown.exit_code == 0 and all(option in shown.stdout for option in options), command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "name figures or tables, or --all; `ouro paper list` has the names"),
        (["run", "fig1", "--all"], "name figures or tables, or --all"),
        (["run", "fig10"], "unknown figure or table 'fig10'; known: fig1, fig2"),
        (["run", "fig6"], "nothing measures fig6 yet; see `ouro paper list`"),
    ],
)
def test_wrong_use_is_one_line(arguments, message):
    result = runner.invoke(app, ["paper", *arguments])
    assert result.exit_code == 2 and message in " ".join(result.stderr.split())


def test_an_unknown_entry_names_the_known():
    with pytest.raises(ValueError, match="unknown figure or table 'fig0'; known: fig1"):
        artefact("fig0")
