"""The row of images above a tab: held-out ones of the model's own set, or a person's pictures, or a single upload."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr

from workbench import engine, lists, uploads, workspace
from workbench.address import Asked
from workbench.errors import guarded
from workbench.page import DIMMED, PRIVATE, Page
from workbench.strip import empty_strip, strip, strip_view

HELD_OUT = "Held-out images"
NOISE = "Noise"


def choices(model: str) -> list[tuple[str, str]]:
    """(words, data) of every set that has images for a model: its own where it comes along, one's pictures, and noise."""
    own = engine.own_data(model)
    held_out = [(HELD_OUT, own)] if own else []
    own_pictures = [(entry.name, entry.data) for entry in workspace.pictures() if not entry.fault]
    return [*held_out, *own_pictures, (NOISE, engine.NOISE)]


def start(model: str, data: str | None = None) -> dict[str, Any]:
    """The picture of a model that is chosen first, from this set or from the model's own; see `Picker`."""
    if data is None:
        # noise is only looked at when somebody asks for it
        data = engine.own_data(model) or next((data for _, data in choices(model) if data != engine.NOISE), "")
    return {"model": model, "data": data, "sample": 0 if data else None, "path": None, "first": 0}


def there(picture: Mapping[str, Any]) -> bool:
    """Whether any picture is chosen."""
    return picture["path"] is not None or picture["sample"] is not None


def missing(model: str) -> str:
    """What to do where a model has no pictures to look at."""
    return (
        f"The images that {model} was trained on do not come along: add pictures of yours on Start, or upload one here, "
        "or paste it."
    )


def name_of(model: str, picture: Mapping[str, Any]) -> str:
    """What a chosen picture is called."""
    if picture["path"]:
        return "your image"
    names = engine.images(model, picture["data"], picture["first"], engine.SHOWN)[1]
    return f"{names[picture['sample'] - picture['first']]} (no. {picture['sample']})"


def source_of(picture: Mapping[str, Any]) -> dict[str, Any]:
    """A chosen picture as jobs take it.

    Raises:
        ValueError: none is chosen.
    """
    if not there(picture):
        raise ValueError("there is no picture to look at; add some on Start, or upload one here")
    if picture["path"]:
        return {"sample": None, "image": picture["path"]}
    return {"sample": picture["sample"], "data": picture["data"]}


@dataclass(frozen=True, slots=True)
class Picker:
    """The components of one row.

    The state `chosen` is {model, data, sample, path, first}: image number `sample` of the set `data`, or the upload at
    `path`, for a model; `first` is the first number in the row. Nothing is chosen where both are None.
    """

    chosen: gr.State
    view: gr.HTML
    data: gr.Dropdown

    @property
    def parts(self) -> list[Any]:
        """What `reset` has values for."""
        return [self.data, self.view, self.chosen]

    def shows(
        self,
        handler: Callable[..., Any],
        inputs: Sequence[Any],
        outputs: Sequence[Any],
        *,
        dim: Sequence[Any],
        on: Sequence[Any],
    ) -> None:
        """Calls the handler when another picture was chosen, and on these events; `dim` are dimmed until it is through.

        One after the other, so that what is asked last is seen last. The first two `inputs` are the model and this state:
        as long as the picture is one of the model before, nothing changes, for the new one's is on its way.
        """

        def settled(model: str, picture: Mapping[str, Any], *values: Any) -> Any:
            if picture["model"] != model:
                return dict.fromkeys(outputs, gr.skip())
            return handler(model, picture, *values)

        lists.on(
            [self.chosen.change, *on], settled, inputs, outputs, trigger_mode="always_last",
            show_progress_on=list(dim), **DIMMED,
        )  # fmt: skip


def reset(model: str, ask: Asked) -> tuple[gr.Dropdown, str, dict[str, Any]]:
    """Values of a picker's parts for the image of this model that an address asks for, by default the first."""
    options = choices(model)
    names = {_short(model, data): data for _, data in options}
    first = start(model)
    data = ask.one_of("data", first["data"], names)
    picture = start(model, data)
    if data:
        number = ask.whole("image", 0, 0, engine.image_count(model, data) - 1)
        picture |= {"sample": number, "first": number - number % engine.SHOWN}
    # another model or address is another choice, even where its picture is the same
    return _offered(model, picture), _strip(ask.tab, model, picture), {**picture, "asked": ask.n}


def _short(model: str, data: str) -> str:
    """What a set is called in an address: never the path of a folder."""
    return (
        data if data == engine.own_data(model) else next((name for name, known in choices(model) if known == data), "")
    )


def picker(tab: str, page: Page, model: str) -> Picker:
    """Builds the row inside a tab."""
    picture = start(model)
    chosen = gr.State(picture)
    with gr.Row(elem_classes="wb-pickrow"):
        with gr.Column(scale=8, min_width=260):
            view = strip_view(f"wb-{tab}-images", value=_strip(tab, model, picture))
        with gr.Column(scale=0, min_width=160, elem_classes="wb-sideways"):
            data = gr.Dropdown(
                [(HELD_OUT, picture["data"])], value=picture["data"], label="Images from", show_label=False,
                container=False, filterable=False, elem_id=f"wb-{tab}-data", min_width=130,
            )  # fmt: skip
            more = gr.Button("Other images", size="sm", elem_id=f"wb-{tab}-more")
            own = gr.UploadButton("Upload or paste", size="sm", file_types=["image"], elem_id=f"wb-{tab}-upload")
    note = gr.HTML(elem_id=f"wb-{tab}-hint", apply_default_css=False)

    @guarded
    def pick(picture: dict[str, Any], event: gr.EventData) -> dict[str, Any]:
        return {**picture, "sample": picture["first"] + int(event._data["index"]), "path": None}

    @guarded
    def turn(model: str, picture: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        if not picture["data"]:
            raise ValueError("there are no other images; add pictures on Start")
        first = picture["first"] + engine.SHOWN
        picture = {
            **picture,
            "first": 0 if first >= engine.image_count(model, picture["data"]) else first,
            "path": None,
        }
        picture["sample"] = picture["first"]
        return _strip(tab, model, picture), picture

    @guarded
    def take(model: str, picture: dict[str, Any], path: str, request: gr.Request) -> tuple[str, dict[str, Any]]:
        uploads.hold(request.session_hash, path)
        picture = {**picture, "path": engine.check_picture(path)}
        return _strip(tab, model, picture), picture

    @guarded
    def switch(model: str, before: dict[str, Any], data: str) -> tuple[str, dict[str, Any]]:
        picture = {**before, **start(model, data)}
        return _strip(tab, model, picture), picture

    @guarded
    def refreshed(model: str, picture: dict[str, Any]) -> tuple[Any, ...]:
        # a set that was removed, or the first one that was added
        if picture["data"] not in [data for _, data in choices(model)] and not picture["path"]:
            return reset(model, Asked(tab, model, None))
        # a file that was read once more holds other weights: what is looked at is asked anew
        now = workspace.version(model)
        anew = now and picture.get("version") != now
        return _offered(model, picture), gr.skip(), {**picture, "version": now} if anew else gr.skip()

    view.select(pick, chosen, chosen, trigger_mode="multiple", concurrency_limit=1, **PRIVATE)
    more.click(turn, [page.model, chosen], [view, chosen], **PRIVATE)
    own.upload(take, [page.model, chosen, own], [view, chosen], **PRIVATE)
    data.input(switch, [page.model, chosen, data], [view, chosen], **PRIVATE)
    page.brought.change(refreshed, [page.model, chosen], [data, view, chosen], **PRIVATE)
    chosen.change(hints, [page.model, chosen], note, trigger_mode="always_last", concurrency_limit=None, **PRIVATE)
    return Picker(chosen, view, data)


@guarded
def hints(model: str, picture: Mapping[str, Any]) -> Iterator[str]:
    """What there is to know of noise and of a picture of one's own: its size at once, how familiar it is when that is known."""
    if not there(picture) or (picture["data"] == engine.own_data(model) and not picture["path"]):
        yield ""
        return
    fact = scaled(model, picture)
    yield hint(fact)
    own = engine.own_data(model)
    if not own:
        return
    known = engine.familiar(model=model, **source_of(picture)).values
    if not known["far"]:
        yield hint(f"{fact} {model} was trained on {known['data']}.")
        return
    yield hint(
        f"{fact} It is far from the {known['data']} that {model} was trained on: strangeness "
        f"{known['strangeness']:.1f}, where 99 of 100 held-out images stay below {known['limit']:.1f}. Take what the "
        "model makes of it with care.",
        far=True,
    )


def scaled(model: str, picture: Mapping[str, Any]) -> str:
    """How much of a picture is left when a model sees it, and what was made of it."""
    file = engine.picture_file(model, picture["data"], picture["sample"], picture["path"])
    _, height, width = engine.model_row(model)["input_size"]
    words = f"{file.width}×{file.height} pixels"
    if picture["data"] == engine.NOISE and not picture["path"]:
        words = f"Gaussian noise of seed {picture['sample']}, {words}"
    if 2 * file.width < width or 2 * file.height < height:
        words += f", enlarged to {width}×{height}: too small for details"
    elif (file.height, file.width) != (height, width):
        words += f", seen at {width}×{height}"
    return f"{words}{', transparent parts on white' if file.transparent else ''}."


def hint(words: str, *, far: bool = False) -> str:
    """A small note under the pictures."""
    return f'<p class="wb-hint{" wb-far" if far else ""}" role="status">{html.escape(words)}</p>'


def _offered(model: str, picture: Mapping[str, Any]) -> gr.Dropdown:
    options = choices(model)
    if picture["data"] not in [data for _, data in options]:
        options = [("No pictures yet", ""), *options]
    return gr.Dropdown(choices=options, value=picture["data"], interactive=len(options) > 1)


def _strip(tab: str, model: str, picture: Mapping[str, Any]) -> str:
    data, first = picture["data"], picture["first"]
    if not data:
        return empty_strip("Your image is shown." if picture["path"] else missing(model))
    images, names = engine.images(model, data, first, engine.SHOWN)
    at = -1 if picture["path"] else picture["sample"] - first
    place = {"tab": tab, "first": first, "data": _short(model, data), "weights": engine.known_digest(model)[:8]}
    return strip(images, names, at, f"images {first} to {first + len(images) - 1}", f"{model} {data}", place)
