"""The settings of the laboratory, one row each. Links, /laboratory and the page loop over the rows.

They are rows of ui/fields.py's kind, but no model has a word in them, and none becomes an argument of a pipeline.
"""

from ..fields import Field
from ..values import Choice, Number, Text
from .choices import CLASSIFIER, COMPARED, FREE, GUIDES, MOST_PARTICLES, OFF, PAIRS, PROCESSES
from .distributions import CLASSES, DISTRIBUTIONS, LONGEST
from .views import VIEWS

SDES = ("VP SDE", "sub-VP SDE", "VE SDE")

# In the order of the parameters of /laboratory, which callers may rely on: new rows go to the end.
ROWS = (
    Field("view", next(iter(VIEWS)), Choice(tuple(VIEWS)), "View", doc="what is shown"),
    Field(
        "distribution",
        next(iter(DISTRIBUTIONS)),
        Choice(tuple(DISTRIBUTIONS), few=3),
        "Distribution",
        info="what data are drawn from: on a line (1-D) or in a plane (2-D); Gaussians can be dragged",
        doc="what data are drawn from",
    ),
    Field(
        "components",
        "",
        Text(longest=LONGEST, placeholder="as the distribution has them"),
        "Components",
        info="[x, std, weight, class] each, in a plane [x, y, std, weight, class]",
        doc="of a distribution of Gaussians, as a JSON list of [x, std, weight, class] or [x, y, std, weight, class]; "
        "empty: its own",
        advanced=True,
    ),
    Field(
        "process",
        "DDPM",
        Choice(PROCESSES, few=3),
        "Process",
        info="the sampler that turns noise into data, as the pipelines run it",
        doc="the sampler",
    ),
    Field(
        "steps",
        50,
        Number(1, 250, step=1, reach=100, whole=True),
        "Steps",
        info="in how many steps noise becomes data",
        doc="sampling steps; of Langevin dynamics, those of all noise levels together",
    ),
    Field(
        "eta",
        0.0,
        Number(0.0, 1.0, step=0.05),
        "Eta",
        info="how much fresh noise each step of DDIM adds: 0 = none, 1 = as much as DDPM",
        only_with=("process", "DDIM"),
    ),
    Field(
        "variance",
        "fixed_small",
        Choice(("fixed_small", "fixed_large")),
        "Variance",
        info="of the noise that each step of DDPM adds: the lower or the upper bound",
        only_with=("process", "DDPM"),
        advanced=True,
    ),
    Field(
        "predictor",
        "reverse_diffusion",
        Choice(("reverse_diffusion", "euler_maruyama")),
        "Predictor",
        info="the step of the reverse equation: the process's own, reversed, or Euler's",
        only_with=("process", *SDES),
        advanced=True,
    ),
    Field(
        "corrector_steps",
        0,
        Number(0, 5, step=1, whole=True),
        "Corrector steps",
        info="extra Langevin steps at each noise level, which undo errors of the step before",
        only_with=("process", *SDES),
    ),
    Field(
        "snr",
        0.16,
        Number(0.01, 1.0, step=0.01),
        "Corrector SNR",
        info="signal-to-noise ratio: how large the corrector's steps are",
        only_with=("process", *SDES),
    ),
    Field(
        "step_size",
        0.5,
        Number(0.01, 2.0, step=0.01),
        "Step size",
        info="of Langevin dynamics, as a share of the variance of the noise at each level",
        only_with=("process", "Langevin"),
    ),
    Field(
        "solver",
        "euler",
        Choice(("euler", "midpoint", "heun")),
        "Solver",
        info="of the flow's equation; midpoint and heun evaluate the velocity twice per step",
        only_with=("process", "flow"),
    ),
    Field(
        "guidance",
        OFF,
        Choice(GUIDES),
        "Guidance",
        info="towards a class: by the exact classifier of noisy data, or by the exact denoiser with and without it",
    ),
    Field(
        "guidance_scale",
        2.0,
        Number(0.0, 20.0, step=0.1, reach=8.0),
        "Guidance scale",
        info="0 = not at all, 1 = as the class is, higher = more",
        only_with=("guidance", CLASSIFIER, FREE),
        row="guidance",
    ),
    Field(
        "class_number",
        0,
        Number(0, CLASSES - 1, step=1, whole=True),
        "Class",
        info="that is guided to, by its number",
        only_with=("guidance", CLASSIFIER, FREE),
        row="guidance",
    ),
    Field(
        "particles",
        200,
        Number(1, MOST_PARTICLES, step=1, whole=True),
        "Particles",
        info="how many are drawn",
        row="particles",
        min_width=140,
    ),
    Field(
        "seed",
        7,
        Number(0, 2**32 - 1, whole=True),
        "Seed",
        info="the number that the noise follows from",
        row="particles",
        min_width=120,
    ),
    Field(
        "time",
        0.3,
        Number(0.02, 1.0, step=0.01),
        "Time t",
        info="of x_t: 0 = data, 1 = noise",
        only_with=("view", "reverse conditional"),
        row="conditional",
        min_width=200,
    ),
    Field(
        "x_t",
        0.0,
        Number(-3.0, 3.0, step=0.05),
        "x_t",
        info="where the step back begins",
        only_with=("view", "reverse conditional"),
        row="conditional",
        min_width=200,
    ),
    Field(
        "pair",
        PAIRS[0],
        Choice(PAIRS, few=3),
        "Overlay",
        info="a sampler of discrete steps, and the equation that it follows",
        only_with=("view", "overlay"),
    ),
    Field(
        "compared",
        COMPARED[0],
        Choice(COMPARED),
        "Samplers",
        info="that take the same noise to the same point, or that add noise on their way",
        only_with=("view", "distance"),
    ),
    Field(
        "step",
        25,
        Number(1, 250, step=1, reach=100, whole=True),
        "Step shown",
        info="whose equation and lines stand below; the last where there are fewer",
        doc="step whose equation and source lines are shown",
        only_with=("view", "density"),
        row="one step",
        min_width=200,  # on a phone one below the other
    ),
    Field(
        "particle",
        1,
        Number(1, MOST_PARTICLES, step=1, whole=True),
        "Particle shown",
        info="whose numbers stand in them, and whose path is drawn wide",
        doc="particle whose numbers are shown",
        only_with=("view", "density"),
        row="one step",
        min_width=200,  # on a phone one below the other
    ),
)
FIELDS = {row.name: row for row in ROWS}
LABELS = {row.name: row.label for row in ROWS}
