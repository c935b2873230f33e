"""The controls of the Generate tab, one a field of `Settings`, and how they follow the chosen model."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from . import defaults
from .models import Catalogue, ModelInfo
from .settings import FIELDS, Settings

NEW_SEED, KEEP_SEED = "new", "keep"
FEW = 16  # choices up to this number are laid out as chips, more go into a list
GUIDANCE_HELP = "1 = the class alone, 0 = no class at all, higher follows the class more closely"


@dataclass
class Controls:
    """`fields` by name of the setting; the rest belongs to the page alone."""

    fields: dict[str, gr.components.Component]
    seed_mode: gr.Radio
    preview: gr.Radio
    image: gr.File

    def inputs(self) -> list[gr.components.Component]:
        """In the order of `FIELDS`, then the seed mode and the preview."""
        return [*(self.fields[name] for name in FIELDS), self.seed_mode, self.preview]


def build(catalogue: Catalogue) -> Controls:
    """Lay out the controls inside the current block."""
    start = Settings(catalogue.names[0])
    info = catalogue[start.model]
    look = looks(info, start)
    choose_class = gr.Radio if max(len(catalogue[name].class_names) for name in catalogue.names) < FEW else gr.Dropdown
    choose_model = gr.Radio if len(catalogue.names) <= 4 else gr.Dropdown
    made: dict[str, Any] = {}
    made["model"] = choose_model(catalogue.names, value=start.model, label="Model")
    made["class_name"] = choose_class(label="Class", elem_id="class", **look["class_name"])
    with gr.Row():
        made["steps"] = gr.Slider(1, step=1, label="Steps", min_width=140, buttons=[], **look["steps"])
        made["count"] = gr.Slider(
            1, defaults.MAX_COUNT, step=1, label="Images", min_width=140, buttons=[], **look["count"]
        )
    made["guidance_scale"] = gr.Slider(
        0,
        step=0.1,
        label="Guidance scale",
        buttons=[],
        **look["guidance_scale"],
    )
    with gr.Row():
        made["seed"] = gr.Number(start.seed, label="Seed", min_width=120)
        seed_mode = gr.Radio([NEW_SEED, KEEP_SEED], value=NEW_SEED, label="Next seed", min_width=160)
    with gr.Accordion("Advanced", open=False, elem_id="advanced"):
        made["sampler"] = gr.Radio(label="Sampler", **look["sampler"])
        made["eta"] = gr.Slider(
            0, 1, step=0.05, label="Eta", info="share of DDPM's noise in DDIM; 0 adds none", buttons=[], **look["eta"]
        )
        with gr.Row():
            made["guidance_low"] = gr.Slider(
                0, 1, step=0.01, label="Guide from", info="0 = clean", buttons=[], **look["guidance_low"]
            )
            made["guidance_high"] = gr.Slider(
                0, 1, step=0.01, label="Guide up to", info="1 = pure noise", buttons=[], **look["guidance_high"]
            )
        made["guidance_rescale"] = gr.Slider(
            0,
            1,
            step=0.05,
            label="Guidance rescale",
            info="tames contrast at high scales",
            buttons=[],
            **look["guidance_rescale"],
        )
        preview = gr.Radio(list(defaults.PREVIEWS), value=defaults.PREVIEWS[0], label="Preview")
        image = gr.File(label="Settings from an image", file_types=[".png"], height=150)
    return Controls({name: made[name] for name in FIELDS}, seed_mode, preview, image)


def looks(info: ModelInfo, settings: Settings) -> dict[str, dict[str, Any]]:
    """Choices, value and visibility of each control for a model, by field."""
    shown = {name: {"value": value} for name, value in settings.as_dict().items()}
    shown["class_name"] |= {"choices": [defaults.ANY_CLASS, *info.class_names], "visible": bool(info.class_names)}
    shown["sampler"] |= {"choices": list(info.samplers) or [settings.sampler], "visible": bool(info.samplers)}
    shown["eta"]["visible"] = bool(info.samplers) and settings.sampler == "DDIM"
    shown["guidance_scale"]["info"] = info.page.get("guidance_scale", {}).get("info", GUIDANCE_HELP)
    for name, reach in (("steps", defaults.SLIDER_STEPS), ("guidance_scale", defaults.SLIDER_GUIDANCE)):
        shown[name]["maximum"] = max(reach, shown[name]["value"])  # Gradio refuses a value beyond the handle's reach
    for name, argument in _GUIDANCE.items():
        shown[name]["visible"] = argument in info.accepts
    return shown


_GUIDANCE = {
    "guidance_scale": "guidance_scale",
    "guidance_low": "guidance_interval",
    "guidance_high": "guidance_interval",
    "guidance_rescale": "guidance_rescale",
}


def updates(catalogue: Catalogue, settings: Settings) -> list[dict[str, Any]]:
    """What makes the controls show `settings`, in the order of `FIELDS`."""
    shown = looks(catalogue[settings.model], settings)
    return [gr.update(**shown[name]) for name in FIELDS]
