"""The settings of a run, one row each. All else in ui/ loops over the rows.

A new setting is one row at the end of `ROWS`. With it the setting has a control on the page, is checked before any
work, reaches the pipeline's `stream`, and is written down: under its name in links, in the browser, in the text of PNG
files and in /generate, and as the pipeline's argument in the Python that the page shows.

A model's pipeline may have a word in each of them, by `about["page"]` in its class:

    {"sampler": {"choices": ("euler", "heun"), "value": "heun", "info": "heun costs two evaluations per step"},
     "shift": {"range": (1.0, 10.0), "value": 3.0},
     "guidance_scale": {"visible": False}}
"""

from dataclasses import KW_ONLY, MISSING, dataclass
from typing import Any

from .adapters import NONE
from .catalogue import ANY_CLASS, ModelInfo
from .samplers import FLOW_SCHEDULERS, SCHEDULERS
from .values import Choice, Number, Text

NOISE = "noise"  # what a run begins with unless it is given an image


@dataclass(frozen=True)
class Field:
    """One setting: what it may be, how it is asked for, and which argument of the pipeline it sets.

    Attributes:
        name: in links, PNG files, the browser and /generate; users have saved it, so it never changes
        default: unless the model's pipeline has another
        values: what is allowed, as a slider, a box, buttons or a list
        label, info: beside the control
        doc: for /generate, where `info` does not do
        argument: of the pipeline's `__call__`; a model whose pipeline does not accept it does not have the setting.
            Settings that share an argument make it a tuple, in the order of the rows; None for what is no argument
        only_with: another setting, then its values with which this one counts: ("sampler", "DDIM")
        not_with: another setting, then its values with which this one does not: ("adapter", "none")
        at_most: another setting that this one may not exceed
        after: another setting, below which it stands on the page; else it stands in the order of the rows
        advanced: stands in the part of the page that opens with a click
        beside_image: stands beside the image that a run begins with
        derived: follows from what else is given: it is written down, but has no control to see and sets no argument
        row: settings of the page with the same word here stand side by side
        min_width: of the control, in pixels, before its row wraps
        elem_id: of the control, for CSS and tests
    """

    name: str
    default: Any
    values: Number | Choice | Text
    label: str
    _: KW_ONLY
    info: str | None = None
    doc: str = ""
    argument: str | None = None
    only_with: tuple[str, ...] = ()
    not_with: tuple[str, ...] = ()
    at_most: str | None = None
    after: str | None = None
    advanced: bool = False
    beside_image: bool = False
    derived: bool = False
    row: str = ""
    min_width: int = 160
    elem_id: str | None = None

    def default_of(self, info: ModelInfo) -> Any:
        """What the model draws with unless told otherwise."""
        own = info.own(self.name)
        return self.values.nearest(own, own.get("value", self.default))

    def is_of(self, info: ModelInfo, accepted: frozenset[str]) -> bool:
        """Whether a model has this setting, given the arguments that its pipeline accepts."""
        return self.values.is_of_model(info.own(self.name), self.argument is None or self.argument in accepted)

    def look(self, info: ModelInfo, value: Any) -> dict[str, Any]:
        """What the control shows for a model, but for whether it is seen."""
        own = info.own(self.name)
        return self.values.look(own, value) | {"info": own.get("info", self.info)}


# In the order of the parameters of /generate, which callers may rely on: new rows go to the end.
ROWS = (
    Field(
        "model",
        MISSING,  # the first of the page
        Choice(few=4),
        "Model",
        doc="name of the model",
    ),
    Field(
        "class_name",
        ANY_CLASS,
        Choice(),
        "Class",
        info=f"what the images show, {ANY_CLASS} = all kinds; once some are drawn, a click draws them again as that",
        doc=f'what to draw, a class name of the model, or "{ANY_CLASS}" for a random class per image',
        elem_id="class",
    ),
    Field(
        "steps",
        8,
        Number(1, 1000, step=1, reach=100, whole=True),
        "Steps",
        info="in how many steps noise becomes an image; more take longer",
        doc="sampling steps",
        argument="num_inference_steps",
        row="size",
        min_width=170,  # on a phone one below the other
    ),
    Field(
        "guidance_scale",
        2.0,
        Number(0.0, 30.0, step=0.1, reach=8.0),
        "Guidance scale",
        info="how closely images follow the class: 0 = not at all, 1 = as learned, higher = more, with less variety",
        doc="1 is the class alone, 0 is no class at all, higher follows the class more closely; for a model that a "
        "classifier guides, 0 is off",
        argument="guidance_scale",
    ),
    Field(
        "seed",
        7,
        Number(0, 2**32 - 1, whole=True),
        "Seed",
        info="the number that the noise follows from: same seed, same image",
        doc="of the first image; image i is drawn from seed + i alone",
        row="seed",
        min_width=120,
    ),
    Field(
        "count",
        16,
        Number(1, 16, step=1, whole=True),
        "Images",
        info="how many are drawn, each from noise of its own",
        doc="how many images",
        row="size",
        min_width=170,  # on a phone one below the other
    ),
    Field(
        "sampler",
        "UniPC",
        Choice(),
        "Sampler",
        info="the rule that each step follows from noise to image; they differ in how many steps they need",
        doc=f"{', '.join(SCHEDULERS)}, for a flow {', '.join(FLOW_SCHEDULERS)}, or one of the model's own",
        argument="sampler",  # of a pipeline with samplers of its own; the others get a scheduler
        advanced=True,
    ),
    Field(
        "eta",
        0.0,
        Number(0.0, 1.0, step=0.05),
        "Eta",
        info="how much fresh noise each step of DDIM adds: 0 = none, 1 = as much as DDPM",
        argument="eta",
        only_with=("sampler", "DDIM"),
        advanced=True,
    ),
    Field(
        "guidance_low",
        0.2,
        Number(0.0, 1.0, step=0.01),
        "Guide from",
        info="guidance ends once less noise than this share is left; 0 = a clean image",
        doc="guide above this share of the noise process",
        argument="guidance_interval",
        at_most="guidance_high",
        advanced=True,
        row="interval",
    ),
    Field(
        "guidance_high",
        0.8,
        Number(0.0, 1.0, step=0.01),
        "Guide up to",
        info="guidance begins once less noise than this share is left; 1 = pure noise",
        doc="guide below this share of the noise process",
        argument="guidance_interval",
        advanced=True,
        row="interval",
    ),
    Field(
        "guidance_rescale",
        0.0,
        Number(0.0, 1.0, step=0.05),
        "Guidance rescale",
        info="takes back the glaring contrast of high guidance scales: 0 = off, 1 = all of it",
        argument="guidance_rescale",
        advanced=True,
    ),
    Field(
        "shift",
        1.0,
        Number(0.1, 20.0, step=0.1, reach=5.0),
        "Shift",
        info="above 1 takes more of the steps near pure noise, where the outlines are decided",
        argument="shift",
        advanced=True,
    ),
    Field(
        "sde",
        "vp",
        Choice(),
        "Process",
        info="how images were turned into noise in training, which drawing reverses: an equation that has chance in it",
        argument="sde",
        advanced=True,
    ),
    Field(
        "corrector_steps",
        0,
        Number(0, 10, step=1, whole=True),
        "Corrector steps",
        info="extra steps at each noise level, which undo errors of the step before (Langevin)",
        argument="corrector_steps",
        only_with=("sampler", "reverse_diffusion", "euler_maruyama", "annealed_langevin"),
        advanced=True,
        row="corrector",
    ),
    Field(
        "snr",
        0.16,
        Number(0.01, 1.0, step=0.01),
        "Corrector SNR",
        info="signal-to-noise ratio: how large the corrector's steps are",
        argument="snr",
        only_with=("sampler", "reverse_diffusion", "euler_maruyama"),
        advanced=True,
        row="corrector",
    ),
    Field(
        "rtol",
        1e-3,
        Number(1e-6, 0.1),
        "Relative tolerance",
        info="how large the error of a step may be; smaller takes more evaluations of the network",
        argument="rtol",
        only_with=("sampler", "ode_adaptive"),
        advanced=True,
    ),
    Field(
        "prompt",
        "",
        Text(placeholder="a red apple"),
        "Prompt",
        info="what the images should show, in words",
        doc="what to draw, for a model that is told text",
        argument="prompt",
        after="class_name",
        elem_id="prompt",
    ),
    Field(
        "negative_prompt",
        "",
        Text(),
        "Negative prompt",
        info="what the images should not look like; guidance leads away from it",
        argument="negative_prompt",
        advanced=True,
    ),
    Field(
        "start",
        NOISE,
        Choice((NOISE, "image", "mask")),
        "Start",
        doc="what the run begins with; it follows from image and mask_image, which settings do not contain and which "
        "have to be given again where they say image or mask",
        argument="mask_image",  # an `image` alone may be one to enlarge
        beside_image=True,
        derived=True,
    ),
    Field(
        "strength",
        0.8,
        Number(0.01, 1.0, step=0.01),
        "Strength",
        info="share of the steps that are taken: the less, the more of the image stays",
        argument="strength",
        only_with=("start", "image", "mask"),
        beside_image=True,
    ),
    Field(
        "jump_length",
        3,
        Number(1, 1000, step=1, reach=50, whole=True),
        "Jump length",
        info="how many steps back each jump goes, so that what was painted over is drawn anew to fit its surroundings",
        doc="with a mask, for a model over pixels: how many steps each jump back towards the noise goes (RePaint)",
        argument="jump_length",
        only_with=("start", "mask"),
        advanced=True,
        row="jumps",
    ),
    Field(
        "jump_n_sample",
        5,
        Number(1, 20, step=1, whole=True),
        "Resamplings",
        info="how often each stretch of that many steps is drawn: more fit better and take longer, 1 = never jump back",
        doc="with a mask, for a model over pixels: how often each stretch of jump_length steps is run; 1 is once",
        argument="jump_n_sample",
        only_with=("start", "mask"),
        advanced=True,
        row="jumps",
    ),
    Field(
        "conditioning_augmentation",
        0.0,
        Number(0.0, 0.999, step=0.05),
        "Conditioning augmentation",
        info="how much noise is put on the small image before it is enlarged: more hides its faults, and its detail",
        doc="noise on the small image before it is enlarged, for a model that draws in stages",
        argument="conditioning_augmentation",
        after="guidance_scale",
    ),
    Field(
        "adapter",
        NONE,
        Choice(),
        "Adapter",
        info="a style that was trained beside the model (LoRA); none = the model as it is",
        doc='an adapter (LoRA) of the model by name, or "none"',
        after="prompt",
        elem_id="adapter",
    ),
    Field(
        "adapter_strength",
        1.0,
        Number(0.0, 2.0, step=0.05, reach=1.5),
        "Strength of the adapter",
        info="how much of it: 0 = the model as it is, 1 = as it was trained",
        not_with=("adapter", NONE),
        after="adapter",
    ),
)
FIELDS = {row.name: row for row in ROWS}
LABELS = {row.name: row.label for row in ROWS}  # what the page calls them
