"""The settings of "Your image", one row each, of the kind of ui/fields.py."""

from dataclasses import MISSING

from ..fields import Field
from ..values import Choice, Number

TAB = "image"  # in links
NO_CLASS = "none"  # told to the network

ROWS = (
    Field("model", MISSING, Choice(few=4), "Model", info="whose noise schedule and network are looked at"),
    Field(
        "image",
        MISSING,
        Choice(few=3),
        "Image",
        info="one of Fashion-MNIST, or your own from the box below",
        doc="one of Fashion-MNIST, as 'Bag, test image' or 'Bag, training image'",
    ),
    Field(
        "t",
        400,
        Number(0, 9_999, step=1, whole=True),
        "t",
        info="how far the forward process has come: 0 = hardly any noise, the last = nothing else",
    ),
    Field(
        "back",
        100,
        Number(1, 10_000, step=1, whole=True),
        "One step back",
        info="by how many timesteps; of T in all, a run of n steps takes T/n at a time",
    ),
    Field(
        "eta",
        0.0,
        Number(0.0, 1.0, step=0.05),
        "Eta",
        info="fresh noise in that step: 0 = DDIM, 1 = as much as DDPM",
    ),
    Field("class_name", NO_CLASS, Choice(few=0), "Class", info="what the network is told that the image shows"),
    Field(
        "steps",
        50,
        Number(1, 10_000, step=1, reach=100, whole=True),
        "Steps of the inversion",
        info="up to noise, and as many back; the more, the nearer the return",
    ),
    Field("seed", 7, Number(0, 2**32 - 1, whole=True), "Seed", info="of the noise"),
)
FIELDS = {row.name: row for row in ROWS}
LABELS = {row.name: row.label for row in ROWS}
