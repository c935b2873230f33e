"""The samplers by name: the diffusers scheduler each takes, and how a pipeline is made to use it."""

from typing import Any

SCHEDULERS = {
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "Heun": "HeunDiscreteScheduler",
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
}
OPTIONS = {"timestep_spacing": "trailing"}  # start from pure noise, t = T - 1, at any number of steps
# Without guidance each of these two runs its own step in a class of its own.
OWN_CLASSES = {"DDIM": "DDIMPipeline", "DDPM": "DDPMPipeline"}


def class_for(pipeline: str, sampler: str) -> str:
    """The pipeline class that runs `sampler` on a model whose folder names `pipeline`."""
    return OWN_CLASSES.get(sampler, pipeline) if pipeline in OWN_CLASSES.values() else pipeline


def with_sampler(pipe: Any, sampler: str | None) -> Any:
    """A pipeline of one's own over the networks of `pipe`, which are shared; None keeps the scheduler."""
    import diffusers

    import pipelines

    components = dict(pipe.components)
    if sampler is not None:
        scheduler = getattr(diffusers, SCHEDULERS[sampler])
        components["scheduler"] = scheduler.from_config(pipe.scheduler.config, **OPTIONS)
    name = type(pipe).__name__
    wanted = name if sampler is None else class_for(name, sampler)
    cls = type(pipe) if wanted == name else getattr(pipelines, wanted)
    options = {key: value for key, value in pipe.config.items() if not key.startswith("_") and key not in components}
    return cls(**components, **options)
