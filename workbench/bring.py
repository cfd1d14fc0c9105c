"""The part of Start where a person brings a model and pictures of their own."""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from typing import Any

import gradio as gr

from workbench import engine, own, pack, uploads, workspace
from workbench.acts import acting_view, button
from workbench.errors import guarded, line_of
from workbench.page import PRIVATE, Page, count, title
from workbench.runner import EXPECTED

_FAR = "a path can only be given by whoever sits at this machine; upload the file instead"
_TOLD = 3
"""Pictures that cannot be opened, each with its reason; of others the number."""


def model_card(entry: workspace.Model) -> str:
    """What was read from a model of one's own, and what can be done with it."""
    if entry.fault:
        inside = refused(entry.fault)
        acts = button("Remove", "remove", entry.alias)
    else:
        inside = reading(entry.read, entry.row)
        acts = button("Open", "open", entry.alias, strong=True) + button("Remove", "remove", entry.alias)
    head = f'<b>{html.escape(entry.alias)}</b><span class="wb-cardacts">{acts}</span>'
    return f'<article class="wb-brought"><header>{head}</header>{inside}</article>'


def reading(facts: Mapping[str, Any], row: Mapping[str, Any] | None = None) -> str:
    """Facts of a file of weights as a list, and how many of its tensors are used."""
    pairs = [("Family", facts["family"]), ("Goes by", facts["name"])]
    if facts["input_size"]:
        height, width = facts["input_size"][1:]
        pairs += [("Input", f"{width}×{height}"), ("Classes", str(facts["classes"]))]
    pairs.append(("Parameters", count(facts["parameters"])))
    if row:
        pairs += [("Layers", str(row["layers"])), ("Steps", str(row["steps"]))]
    listed = "".join(f"<div><dt>{name}</dt><dd>{html.escape(value)}</dd></div>" for name, value in pairs if value)
    return f'<dl class="wb-dl">{listed}</dl><p class="wb-note">{html.escape(tensors(facts))}</p>'


def tensors(facts: Mapping[str, Any]) -> str:
    """How many tensors of the model were matched, the first of the others, and where in the file they were."""
    parts = [f"{facts['matched']} tensors matched"]
    for what, words in (("missing", "missing or of another shape"), ("unmatched", "in the file without use")):
        if facts[what]:
            few = ", ".join(facts[f"first_{what}"]) + (" …" if facts[what] > len(facts[f"first_{what}"]) else "")
            parts.append(f"{facts[what]} {words}: {few}")
    if facts["matched"] and len(parts) == 1:
        parts = [f"All {facts['matched']} tensors matched"]
    place = f" Found under {facts['container']!r}." if facts["container"] else ""
    return f"{'; '.join(parts)}.{place} SHA-256 {facts['digest']} …"


def pictures_card(entry: workspace.Pictures) -> str:
    """A set of pictures: the first of them, how many, and of which classes."""
    acts = button("Remove", "remove", entry.name)
    head = f'<b>{html.escape(entry.name)}</b><span class="wb-cardacts">{acts}</span>'
    if entry.fault:
        inside = refused(entry.fault)
    else:
        shown = own.thumbnails(entry)
        images = "".join(
            f'<li><img alt="{html.escape(name, quote=True)}" src="{pack.png_url(image)}"></li>' for name, image in shown
        )
        inside = f'<ul class="wb-thumbs">{images}</ul><p class="wb-note">{html.escape(about(entry))}</p>'
    return f'<article class="wb-brought"><header>{head}</header>{inside}</article>'


def about(entry: workspace.Pictures) -> str:
    """How many pictures a set has, and whether anybody knows what they show."""
    number = f"{entry.count} picture{'s' * (entry.count != 1)}"
    place = "" if entry.kept else f" in {entry.path}"
    if not entry.classes:
        return f"{number}{place}, without labels: they calibrate; accuracy needs one folder per class."
    few = ", ".join(entry.classes[:4]) + (" …" if len(entry.classes) > 4 else "")
    return f"{number} of {len(entry.classes)} classes{place}: {few}"


def build(page: Page) -> dict[str, Any]:
    """Fills its part of the tab; returns what others need."""
    with gr.Row(elem_classes="wb-bring"):
        with gr.Column(min_width=300, elem_classes="wb-form"):
            title("Your model", "a checkpoint of a Vim, VMamba, LocalMamba or MambaVision")
            file = gr.File(
                label="Weights", file_types=list(workspace.SUFFIXES), height=136, elem_id="wb-start-model-file"
            )
            path = gr.Textbox(
                label="or where they lie on this machine", placeholder="/data/checkpoints/vim.pth",
                elem_id="wb-start-model-path", visible=False,
            )  # fmt: skip
            with gr.Accordion("Name and classes", open=False, elem_id="wb-start-model-more"):
                name = gr.Dropdown(
                    [("Read it from the file", "")], value="", label="Model", elem_id="wb-start-model-name",
                    info="family and size are in the file; a name decides where two look alike",
                )  # fmt: skip
                names = gr.File(
                    label="Class names: one a line, or JSON", file_types=[".txt", ".json"], height=96,
                    elem_id="wb-start-model-classes",
                )  # fmt: skip
            read = gr.Button(
                "Read it", size="md", elem_id="wb-start-model-read", elem_classes="wb-narrow", min_width=100
            )
            said = gr.HTML(elem_id="wb-start-model-said", apply_default_css=False)
            models = acting_view("wb-start-own")
        with gr.Column(min_width=300, elem_classes="wb-form"):
            title("Your pictures", "to look at, to calibrate on, and with one folder per class to measure on")
            files = gr.File(
                label="Pictures", file_count="multiple", file_types=["image"], height=136, elem_id="wb-start-files"
            )
            folder = gr.Textbox(
                label="or a folder on this machine", placeholder="/data/pictures", elem_id="wb-start-folder",
                visible=False,
            )  # fmt: skip
            add = gr.Button(
                "Add it",
                size="md",
                elem_id="wb-start-folder-add",
                elem_classes="wb-narrow",
                min_width=100,
                visible=False,
            )
            pictures = acting_view("wb-start-pictures")

    def shown() -> dict[Any, Any]:
        return {
            models: "".join(map(model_card, reversed(workspace.models()))),
            pictures: "".join(map(pictures_card, reversed(workspace.pictures()))),
        }

    @guarded
    def opened(request: gr.Request) -> dict[Any, Any]:
        here = local(request)
        known = [("Read it from the file", ""), *((name, name) for name in engine.registered())]
        return shown() | {
            name: gr.Dropdown(choices=known),
            **{part: gr.skip() if not here else type(part)(visible=True) for part in (path, folder, add)},
        }

    def taken(
        given: str, session: str | None, called: str, classes: str | None, brought: int
    ) -> Iterator[dict[Any, Any]]:
        """Reads a file: an upload of a session, or one that lies on this machine."""
        yield {said: '<p class="wb-note" role="status">Reading …</p>', read: gr.Button(interactive=False)}
        update: dict[Any, Any] = {read: gr.Button(interactive=True)}
        try:
            got = own.model(given, called or "", workspace.class_names(classes), uploaded=session is not None)
        except EXPECTED as error:
            yield update | {said: refused(line_of(error))}
            return
        if got.entry is None:
            # of a file that belongs to no model there is nothing to list
            facts = reading(got.facts) if got.facts["name"] else ""
            yield update | {said: facts + refused(got.refusal)}
            return
        if session is not None:
            uploads.forget(session, given, classes)
        cleared = {file: None, path: "", names: None, name: ""}
        yield update | cleared | shown() | {said: "", page.brought: brought + 1}

    @guarded
    def read_model(
        given: str | None, where: str, called: str, classes: str | None, brought: int, request: gr.Request
    ) -> Iterator[dict[Any, Any]]:
        # what is refused may be read once more, under another name
        uploads.hold(request.session_hash, given, classes)
        if not given and where.strip():
            if not local(request):
                raise ValueError(_FAR)
            yield from taken(where.strip(), None, called, classes, brought)
        elif given:
            yield from taken(given, request.session_hash, called, classes, brought)
        else:
            raise ValueError("there is nothing to read yet; drop a file with weights, or give its path")

    inputs = [file, path, name, names, page.brought]
    outputs = [said, read, file, path, name, names, models, pictures, page.brought]
    for event in (read.click, file.upload, path.submit):
        event(read_model, inputs, outputs, concurrency_limit=None, **PRIVATE)

    @guarded
    def take_files(paths: list[str] | None, brought: int, request: gr.Request) -> dict[Any, Any]:
        _, refusals = own.uploaded(paths or [])
        for line in refusals[:_TOLD]:
            gr.Warning(line, duration=12)
        if len(refusals) > _TOLD:
            gr.Warning(f"{len(refusals) - _TOLD} more cannot be opened.", duration=12)
        uploads.forget(request.session_hash, *(paths or []))
        return shown() | {files: None, page.brought: brought + 1}

    files.upload(take_files, [files, page.brought], [files, models, pictures, page.brought], **PRIVATE)

    @guarded
    def take_folder(where: str, brought: int, request: gr.Request) -> dict[Any, Any]:
        if not local(request):
            raise ValueError(_FAR)
        if not where.strip():
            raise ValueError("there is no folder to add yet; give its path")
        own.pictures(where.strip())
        return shown() | {folder: "", page.brought: brought + 1}

    for event in (add.click, folder.submit):
        event(take_folder, [folder, page.brought], [folder, models, pictures, page.brought], **PRIVATE)

    @guarded
    def drop_pictures(brought: int, event: gr.EventData) -> dict[Any, Any]:
        workspace.remove_pictures(str(event._data["name"]))
        return shown() | {page.brought: brought + 1}

    pictures.select(drop_pictures, page.brought, [models, pictures, page.brought], **PRIVATE)
    return {
        "load": (opened, [], [models, pictures, name, path, folder, add]),
        "models": models,
        "shown": shown,
        "views": [models, pictures],
    }


def local(request: gr.Request) -> bool:
    """Whether the page is shown on the machine that the app runs on."""
    host = request.client.host if request and request.client else None
    return workspace.is_local(host, dict(request.headers) if request else {})


def refused(line: str) -> str:
    """Why something is of no use."""
    return f'<p class="wb-refused" role="alert">{html.escape(line)}</p>'
