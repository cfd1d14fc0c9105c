"""How the workbench looks: one accent, warm neutrals, the system's own fonts, light and dark."""

from __future__ import annotations

import json
from pathlib import Path

import gradio as gr

from workbench import recipes

_ASSETS = Path(__file__).resolve().parent / "assets"

_GOLD = gr.themes.Color(
    "#fdf8ec",
    "#faeecd",
    "#f5dc9b",
    "#f0c766",
    "#ebb440",
    "#d9982a",
    "#b4770f",
    "#8c5a08",
    "#6e460b",
    "#5b3a0d",
    "#33200a",
)
_WARM = gr.themes.Color(
    "#faf9f7",
    "#f3f1ed",
    "#e7e4de",
    "#d3cfc7",
    "#a5a097",
    "#75706a",
    "#57524c",
    "#403c37",
    "#2a2723",
    "#1d1b18",
    "#131210",
)
_SANS = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "sans-serif"]
_MONO = ["ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace"]

THEME = gr.themes.Base(
    primary_hue=_GOLD,
    secondary_hue=_WARM,
    neutral_hue=_WARM,
    radius_size=gr.themes.sizes.radius_md,
    spacing_size=gr.themes.sizes.spacing_md,
    text_size=gr.themes.sizes.text_md,
    font=_SANS,
    font_mono=_MONO,
).set(
    body_background_fill="*neutral_50",
    body_background_fill_dark="*neutral_950",
    body_text_color="*neutral_900",
    body_text_color_dark="#eeebe5",
    body_text_color_subdued="#6b665f",
    body_text_color_subdued_dark="#a8a299",
    background_fill_primary="#ffffff",
    background_fill_primary_dark="*neutral_900",
    background_fill_secondary="*neutral_50",
    background_fill_secondary_dark="*neutral_950",
    border_color_primary="*neutral_200",
    border_color_primary_dark="#34302b",
    border_color_accent="*primary_500",
    color_accent="#8c5a08",
    color_accent_soft="*primary_50",
    color_accent_soft_dark="#33270f",
    link_text_color="#7a4e05",
    link_text_color_dark="#ebb440",
    block_background_fill="#ffffff",
    block_background_fill_dark="*neutral_900",
    block_border_width="1px",
    block_border_color="*neutral_200",
    block_border_color_dark="#34302b",
    block_shadow="none",
    block_shadow_dark="none",
    block_label_background_fill="transparent",
    block_label_background_fill_dark="transparent",
    block_label_border_width="0px",
    block_label_text_color="#57524c",
    block_label_text_color_dark="#bdb7ae",
    block_title_text_color="#57524c",
    block_title_text_color_dark="#bdb7ae",
    block_title_text_weight="550",
    block_title_text_size="*text_sm",
    block_info_text_color="#6b665f",
    block_info_text_color_dark="#a8a299",
    block_info_text_size="*text_xs",
    block_label_text_weight="550",
    input_background_fill="#ffffff",
    input_background_fill_dark="#262320",
    input_border_color="*neutral_300",
    input_border_color_dark="#443f39",
    input_border_width="1px",
    input_border_color_focus="#8c5a08",
    input_border_color_focus_dark="#ebb440",
    button_primary_background_fill="#8c5a08",
    button_primary_background_fill_hover="#724906",
    button_primary_text_color="#ffffff",
    button_primary_background_fill_dark="#ebb440",
    button_primary_background_fill_hover_dark="#f5c869",
    button_primary_text_color_dark="#1d1b18",
    button_primary_border_color="transparent",
    button_secondary_background_fill="#ffffff",
    button_secondary_background_fill_hover="*neutral_100",
    button_secondary_background_fill_dark="#262320",
    button_secondary_background_fill_hover_dark="#34302b",
    button_border_width="1px",
    button_border_width_dark="1px",
    button_secondary_border_color="*neutral_300",
    button_secondary_border_color_dark="#443f39",
    button_secondary_text_color="*neutral_900",
    button_secondary_text_color_dark="#eeebe5",
    button_large_text_weight="550",
    button_medium_text_weight="550",
    button_large_text_size="*text_md",
    button_large_padding="9px 18px",
    button_medium_padding="8px 16px",
    button_small_padding="6px 12px",
    checkbox_label_padding="6px 10px",
    checkbox_label_gap="6px",
    checkbox_label_background_fill="transparent",
    checkbox_label_background_fill_dark="transparent",
    checkbox_border_color="*neutral_400",
    checkbox_border_width="1px",
    slider_color="#8c5a08",
    slider_color_dark="#ebb440",
    checkbox_background_color_selected="#8c5a08",
    checkbox_background_color_selected_dark="#ebb440",
    checkbox_border_color_selected="#8c5a08",
    checkbox_border_color_selected_dark="#ebb440",
    checkbox_label_background_fill_selected="*primary_50",
    checkbox_label_background_fill_selected_dark="#33270f",
    checkbox_label_border_color_selected="#8c5a08",
    checkbox_label_border_color_selected_dark="#ebb440",
    checkbox_label_text_color_selected="#5b3a0d",
    checkbox_label_text_color_selected_dark="#f5dc9b",
    table_even_background_fill="#ffffff",
    table_even_background_fill_dark="*neutral_900",
    table_odd_background_fill="*neutral_50",
    table_odd_background_fill_dark="#211f1c",
    table_border_color="*neutral_200",
    table_border_color_dark="#34302b",
)

CSS = (_ASSETS / "wb.css").read_text("utf-8")
_PARTS = (
    "base",
    "plot",
    "board",
    "channel",
    "drift",
    "stepmap",
    "answers",
    "strip",
    "acts",
    "grid",
    "jobs",
    "limits",
    "tour",
    "page",
    "address",
    "save",
)
"""Scripts of the page, the one that the others rest on first."""
SCRIPT = "\n".join((_ASSETS / "js" / f"{name}.js").read_text("utf-8") for name in _PARTS)
_SHARED = {"commands": recipes.COMMANDS, "python": recipes.PYTHON, "data": recipes.DATA}
_GIVEN = "\n".join(
    # what stands in a script must not close it
    f"wb.{name} = {json.dumps(value)};".replace("</", r"<\/")
    for name, value in (("css", CSS), ("recipes", _SHARED))
)
"""What the scripts are given: a view that is saved takes its looks along."""
_OUTER = (_ASSETS / "page.css").read_text("utf-8")
HEAD = f"<style>\n{_OUTER}\n</style>\n<script>\n{SCRIPT}\n{_GIVEN}\n</script>"
ICON = str(_ASSETS / "icon.svg")

LOGO = (_ASSETS / "icon.svg").read_text("utf-8")
"""The mark as inline SVG."""
