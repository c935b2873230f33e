"""The controls of a run, one per row of fields.py and a few of the page's own, and how they follow the chosen model."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import gradio as gr
from gradio.components import Component

from .catalogue import Catalogue, ModelInfo
from .fields import FIELDS, ROWS, Field
from .layout import NOTHING, laid_out
from .run import VIEWS
from .settings import Settings
from .start_image import StartImage
from .suggestions import Suggestions

NEW_SEED, KEEP_SEED = "new", "keep"
SEEDS = 2**31  # of which a new one is
# run in the browser, at once, so that a Draw that follows meets it
THROW = f"() => [Math.floor(Math.random() * {SEEDS}), '{KEEP_SEED}']"
KEEP = f"() => '{KEEP_SEED}'"
# once images are shown, another class is drawn at once, of the same noise
KEEP_SHOWN = f"(mode) => document.querySelector('#gallery') ? '{KEEP_SEED}' : mode"
REDRAW = "() => { if (document.querySelector('#gallery')) pressWhenReady(); }"
PREVIEWED = (
    "x_t = the image as it is at step t, with the noise that is left; x₀ = the finished image, as the network "
    "predicts it from there"
)
QUIET: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
OWN = ("seed_mode", "preview")  # remembered by the browser under these names, but no settings of a run


@dataclass
class Controls:
    """`fields` by the name of the setting, and what a run may begin with; the rest concerns the page alone."""

    fields: dict[str, Component]
    start: StartImage
    seed_mode: gr.Radio
    preview: gr.Radio
    image: gr.File
    advanced: gr.Accordion
    suggestions: Suggestions

    def settings(self) -> list[Component]:
        """In the order of the rows."""
        return [self.fields[name] for name in FIELDS]

    def inputs(self) -> list[Component]:
        """The settings, then `OWN`."""
        return [*self.settings(), self.seed_mode, self.preview]

    def opened_for(self, wrong: Iterable[str]) -> dict[Component, Any]:
        """What opens the closed parts of the page in which one of these settings stands."""
        rows = [FIELDS[name] for name in wrong]
        parts = {
            self.advanced: any(row.advanced for row in rows),
            self.start.box: any(row.beside_image for row in rows),
        }
        return {part: gr.update(open=True) for part, asked in parts.items() if asked}


def build(catalogue: Catalogue) -> Controls:
    """Lay out the controls inside the current block."""
    seed = SeedMode()
    suggestions = Suggestions(catalogue)
    last = {"seed": seed, "prompt": suggestions}
    leading = [row for row in ROWS if not (row.advanced or row.beside_image)]
    fields = _lay_out(catalogue, leading, last)
    seed.dice.render()
    start = StartImage(catalogue)
    with start.box:
        fields |= _lay_out(catalogue, [row for row in ROWS if row.beside_image])
        start.remove.render()
    with gr.Accordion("Advanced", open=False, elem_id="advanced") as advanced:
        fields |= _lay_out(catalogue, [row for row in ROWS if row.advanced])
        preview = gr.Radio(list(VIEWS), value=VIEWS[0], label="Preview", info=PREVIEWED)
        image = gr.File(label="Settings from an image: one that this page drew", file_types=[".png"], height=150)
    start.connect(fields)
    seed.connect(fields["seed"], fields["class_name"])
    return Controls(fields, start, seed.mode, preview, image, advanced, suggestions)


class SeedMode:
    """Beside the seed: whether Draw takes it or a new one, and a dice. Who types one means it."""

    def __init__(self) -> None:
        self.mode = gr.Radio(
            [NEW_SEED, KEEP_SEED],
            value=NEW_SEED,
            label="Next seed",
            info="of a Draw: another one, or the one in the box",
            min_width=160,
            render=False,
        )
        self.dice = gr.Button("⚄ New seed", size="sm", render=False, elem_id="dice")

    def render(self) -> None:
        """Put the first into the current row."""
        self.mode.render()

    def connect(self, seed: Component, class_name: Component) -> None:
        """A seed that was typed or thrown is kept, and so is that of images which are drawn again as another class."""
        seed.input(None, None, self.mode, js=KEEP, **QUIET)
        self.dice.click(None, None, [seed, self.mode], js=THROW, **QUIET)
        class_name.input(None, self.mode, self.mode, js=KEEP_SHOWN, **QUIET).then(None, js=REDRAW, **QUIET)


def _lay_out(catalogue: Catalogue, rows: list[Field], last: Mapping[str, Any] = NOTHING) -> dict[str, Component]:
    start = Settings.checked({}, catalogue)
    shown = looks(catalogue[start.model], start)
    return laid_out(_on_the_page(rows), lambda row: _control(catalogue, row, shown[row.name]), last)


def _on_the_page(rows: list[Field]) -> list[Field]:
    """Each row that stands `after` another one follows it; the rest keep their order."""
    followers = {row.after: row for row in rows if row.after}
    return [each for row in rows if not row.after for each in _with_followers(row, followers)]


def _with_followers(row: Field | None, followers: dict[str, Field]) -> Iterator[Field]:
    while row is not None:
        yield row
        row = followers.get(row.name)


def _control(catalogue: Catalogue, row: Field, look: dict[str, Any]) -> Component:
    look = look | {"label": row.label, "min_width": row.min_width, "elem_id": row.elem_id}
    return row.values.control(look, [catalogue[name].own(row.name) for name in catalogue.names])


def looks(info: ModelInfo, settings: Settings) -> dict[str, dict[str, Any]]:
    """Value, reach or choices, help and visibility of each control for a model, by setting."""
    values = settings.as_dict()
    return {row.name: row.look(info, values[row.name]) | {"visible": settings.shows(row.name, info)} for row in ROWS}


def updates(catalogue: Catalogue, settings: Settings) -> list[dict[str, Any]]:
    """What makes the controls show `settings`, in the order of the rows."""
    return [gr.update(**look) for look in looks(catalogue[settings.model], settings).values()]


def followers() -> dict[str, list[str]]:
    """By setting: those that are shown or hidden as its value changes."""
    found: dict[str, list[str]] = {}
    for row in ROWS:
        if row.only_with or row.not_with:
            found.setdefault((row.only_with or row.not_with)[0], []).append(row.name)
    return found
