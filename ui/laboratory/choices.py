"""What the settings of the laboratory choose among, by name: the page is built from it, before torch is imported."""

PROCESSES = (
    "DDPM",
    "DDIM",
    "VP SDE",
    "sub-VP SDE",
    "VE SDE",
    "VP ODE",
    "sub-VP ODE",
    "VE ODE",
    "Langevin",
    "flow",
)
MOST_PARTICLES = 500
OFF, CLASSIFIER, FREE = "off", "classifier", "classifier-free"
GUIDES = (OFF, CLASSIFIER, FREE)
PAIRS = ("DDIM, probability-flow ODE", "DDPM, reverse SDE", "DDIM, linear flow", "NCSN, reverse SDE")
COMPARED = ("without noise", "with noise")  # samplers, by whether they add any
