"""An image, and a map of each scan of a layer beside it, on one color scale.

Takes the report of `ouro.jobs.directions`.
"""

from __future__ import annotations

from matplotlib.figure import Figure

from ouro.types import Report


def paper(report: Report) -> Figure:
    """Matplotlib: the image, then |h_t| of each scan at the patch that step t reads."""
    names = report.values["scans"]
    maps = [report.arrays[f"norm/{name}"].numpy() for name in names]
    figure = Figure(figsize=(1.9 * (1 + len(names)) + 0.6, 2.4), layout="constrained")
    axes = figure.subplots(1, 1 + len(names))
    axes[0].imshow(report.arrays["image"].permute(1, 2, 0).numpy(), interpolation="nearest")
    axes[0].set_title("input", fontsize=9)
    ends = min(float(values.min()) for values in maps), max(float(values.max()) for values in maps)
    for panel, name, values in zip(axes[1:], names, maps, strict=True):
        shown = panel.imshow(values, vmin=ends[0], vmax=ends[1], interpolation="nearest")
        panel.set_title(name, fontsize=9)
    for panel in axes:
        panel.set_axis_off()
    bar = figure.colorbar(shown, ax=axes[-1], shrink=0.8)
    bar.set_label("$|h_t|$", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    figure.suptitle(f"{report.values['model']}, layer {report.values['layer']}, {report.values['source']}", fontsize=9)
    return figure


def alt(report: Report) -> str:
    """Where the state of each scan is largest, in a sentence."""
    said = []
    for name in report.values["scans"]:
        values = report.arrays[f"norm/{name}"]
        row, column = divmod(int(values.argmax()), values.shape[1])
        said.append(
            f"{name}: from {float(values.min()):.3g} to {float(values.max()):.3g}, largest at row {row}, column {column}"
        )
    return f"Norm of the hidden state of {report.values['model']}, layer {report.values['layer']}. {'; '.join(said)}."
