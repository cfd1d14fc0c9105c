"""Answers side by side: the right panels, the right pixels, what is missed, and where the cursor of a denoiser stands."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from ouro.figures import tasks
from ouro.figures.palette import of_classes
from ouro.figures.words import MOST, words
from ouro.types import IGNORED, Report, RunInfo

RUN = RunInfo("cpu", {}, "", 0, 0.0)
BESIDE = {"method": "minmax", "bits": "w4a4", "scope": "lin", "calib": "real:4"}


def report(task: str, classes: list[str], arrays: dict[str, Any], **changes: Any) -> Report:
    values = {
        "model": "toy", "task": task, "beside": BESIDE if "rounded" in arrays else None, "data": "toys", "sample": 3,
        "image": None, "classes": classes, "truth": None, "answers": {"float": {"label": "a"}, "quantized": None},
        "agreement": None, "divergence": None,
    }  # fmt: skip
    image = torch.arange(3 * 8 * 8).view(3, 8, 8).to(torch.uint8)
    return Report("answers", values | changes, RUN, {"image": image} | arrays)


def classified() -> Report:
    rows = torch.tensor([[2, 0.8], [0, 0.15], [1, 0.05]])
    said = {"float": {"predicted": "half_disk", "confidence": 0.8}, "quantized": {"predicted": "a", "confidence": 0.5}}
    arrays = {"exact": rows, "rounded": rows.flip(0), "truth": torch.tensor(2)}
    return report(
        "classification", ["a", "b", "half_disk"], arrays, truth={"label": "half_disk"}, answers=said, agreement=0.0
    )


def segmented() -> Report:
    truth = torch.zeros(8, 8, dtype=torch.int64)
    truth[2:5, 2:5], truth[0, 0] = 1, IGNORED
    exact, rounded = truth.clamp(max=2), truth.clamp(max=2).clone()
    rounded[4, 4] = 2
    said = {"float": {"classes": {"background": 0.9}}, "quantized": {"classes": {"background": 0.9}}}
    arrays = {"truth": truth, "exact": exact, "rounded": rounded}
    return report("segmentation", ["background", "disk", "ring"], arrays, answers=said, agreement=63 / 64)


def detected() -> Report:
    truth = torch.tensor([[1.0, 1, 4, 4, 0, 0], [4, 4, 7, 7, 1, 0], [0, 0, 8, 8, 1, 1]])
    found = torch.tensor([[1.0, 1, 4, 5, 0, 0.9], [4, 4, 7, 7, 0, 0.4]])
    said = {"float": {"objects": [{"class": "a", "score": 0.9, "box": [1, 1, 4, 5]}]}, "quantized": {"objects": []}}
    arrays = {"truth": truth, "exact": found, "rounded": torch.zeros(0, 6)}
    return report("detection", ["a", "b"], arrays, answers=said, truth={"objects": [{"class": "a", "box": []}]})


def made() -> Report:
    strip = torch.arange(4).view(4, 1, 1, 1).expand(-1, 3, 5, 5).to(torch.uint8) * 50
    arrays = {
        "exact": strip, "rounded": strip, "exact_strip": strip, "rounded_strip": strip, "times": torch.linspace(0, 1, 4),
        "truth": torch.tensor(1),
    }  # fmt: skip
    said = {"float": {"recognized": 0.75}, "quantized": {"recognized": None}}
    return report("diffusion", ["a", "b"], arrays, answers=said, divergence=0.03)


REPORTS = [classified, segmented, detected, made]


@pytest.mark.parametrize("make", REPORTS)
def test_both_figures_have_the_same_panels(make, tmp_path) -> None:
    drawn, printed = tasks.screen(make()), tasks.paper(make())
    titles = [note.text for note in drawn.layout.annotations if not note.bgcolor]
    assert titles == [axes.get_title() or axes.get_title(loc="left") for axes in printed.axes]
    assert "minmax w4a4" in titles and "toys 3" in drawn.layout.title.text
    printed.savefig(tmp_path / "answers.png")
    assert (tmp_path / "answers.png").stat().st_size > 5_000


@pytest.mark.parametrize("make", REPORTS)
def test_without_a_quantized_model_there_is_a_panel_less(make) -> None:
    full = make()
    arrays = {key: x for key, x in full.arrays.items() if not key.startswith("rounded")}
    alone = Report("answers", dict(full.values) | {"beside": None}, RUN, arrays)
    assert len(tasks.paper(alone).axes) < len(tasks.paper(full).axes)
    assert "minmax" not in str(tasks.screen(alone).layout.annotations)


def test_classes_are_colors_and_the_ground_is_seen_through() -> None:
    image, truth, exact, _, differs = (np.asarray(trace.z) for trace in tasks.screen(segmented()).data[:5])
    disk = tuple(int(of_classes(["background", "disk"])[1][k : k + 2], 16) for k in (1, 3, 5))
    np.testing.assert_array_equal(truth[3, 3], np.rint(0.35 * image[3, 3] + 0.65 * np.array(disk)))
    np.testing.assert_array_equal(truth[0, 0], image[0, 0], err_msg="nobody knows this pixel")
    assert np.abs(exact[7, 7].astype(int) - image[7, 7]).max() < np.abs(exact[3, 3].astype(int) - image[3, 3]).max()
    ring = tuple(int(of_classes(["background", "disk", "ring"])[2][k : k + 2], 16) for k in (1, 3, 5))
    assert tuple(differs[4, 4]) == ring and len(set(differs[3, 3].tolist())) == 1, "only what changed has a color"


def test_the_pointer_reads_classes() -> None:
    traces = tasks.screen(segmented()).data
    assert traces[1].customdata[3][3] == "disk" and traces[1].customdata[0][0] == "unknown"
    assert [trace.name for trace in traces[5:]] == ["background", "disk", "ring"]


def test_what_no_box_of_its_class_overlaps_is_missed() -> None:
    rows = detected().arrays
    found, nothing = rows["exact"].numpy(), np.zeros((0, 6))
    # the third stands for a group, which counts neither way
    assert tasks.missed(rows["truth"].numpy(), found).tolist() == [False, True, False]
    assert tasks.missed(rows["truth"].numpy(), nothing).tolist() == [True, True, False]
    lines = [trace for trace in tasks.screen(detected()).data if trace.type == "scatter" and trace.mode == "lines"]
    assert [line.text for line in lines if line.line.dash == "dash"] == ["missed: b", "missed: a", "missed: b"]


def test_the_cursor_stands_where_it_is_asked_to() -> None:
    figure = tasks.screen(made(), step=1)
    first, second = figure.layout.shapes
    # five pixels and a white one for each step
    assert (first.x0, first.x1) == (second.x0, second.x1) == (5.5, 10.5) and figure.layout.sliders[0].active == 1
    moved = figure.layout.sliders[0].steps[3].args[0]
    assert moved["shapes[1].x0"] == 17.5 and figure.layout.sliders[0].steps[3].label == "1.00"
    assert tasks.screen(made()).layout.sliders[0].active == 3
    with pytest.raises(ValueError, match="^step is 4, the report has 0 to 3$"):
        tasks.paper(made(), step=4)


def test_words_and_rows() -> None:
    assert tasks.alt(classified()) == (
        "toy, classification, toys 3. Truth: half disk; float: half disk (80 %); quantized: a (50 %). Both agree to 0.0 %."
    )
    assert tasks.alt(made()).endswith("quantized: pictures. Pictures differ by 3.0 % of the range of a pixel.")
    assert tasks.table(detected())[1] == [["truth", "a"], ["float", "a 0.90"], ["quantized", "no object"]]
    assert words({"objects": [{"class": "a", "score": 0.5}] * (MOST + 2)}).endswith("a 0.50, 2 more")
    assert words({"predicted": 3, "confidence": 1.0}) == "class 3 (100 %)" and words({"label": "a_b"}) == "a b"


def test_an_unknown_task_is_refused() -> None:
    for draw in (tasks.screen, tasks.paper):
        with pytest.raises(
            ValueError, match="^answers of captions have no figure; known: classification, segmentation, "
        ):
            draw(report("captions", [], {}))


def test_colors_of_many_classes_differ() -> None:
    colors = of_classes(["background", *map(str, range(40))])
    assert len(colors) == 41 and len(set(colors)) == 41 and all(len(color) == 7 for color in colors)
    assert (
        of_classes([], 3) == of_classes(["a", "b", "c"]) and of_classes(["background", "a"])[1] == of_classes(["a"])[0]
    )
