"""The samplers by name: the diffusers scheduler each takes, and how a pipeline is made to use it."""

from typing import Any

SCHEDULERS = {
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "Heun": "HeunDiscreteScheduler",
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
}
# Without guidance each of these two runs its own step in a class of its own.
OWN_CLASSES = {"DDIM": "DDIMPipeline", "DDPM": "DDPMPipeline"}


def class_for(pipeline: str, sampler: str) -> str:
    """The pipeline class that runs `sampler` on a model whose folder names `pipeline`."""
    return OWN_CLASSES.get(sampler, pipeline) if pipeline in OWN_CLASSES.values() else pipeline


def options(sampler: str, steps: int, num_train_timesteps: int) -> dict[str, str | int]:
    """How the scheduler of a run of `steps` spaces them: from pure noise, t = T - 1, where it can.

    Our pipelines begin Heun half a step in by themselves, but a folder may carry older code.
    """
    if sampler != "Heun":
        return {"timestep_spacing": "trailing"}
    from pipelines.solvers import half_step_spacing

    return half_step_spacing(steps, num_train_timesteps)


def with_sampler(pipe: Any, sampler: str | None, steps: int = 1) -> Any:
    """A pipeline of one's own over the networks of `pipe`, which are shared, for runs of `steps`; None keeps the
    scheduler."""
    import diffusers

    import pipelines

    components = dict(pipe.components)
    if sampler is not None:
        scheduler = getattr(diffusers, SCHEDULERS[sampler])
        config = pipe.scheduler.config
        components["scheduler"] = scheduler.from_config(config, **options(sampler, steps, config.num_train_timesteps))
    name = type(pipe).__name__
    wanted = name if sampler is None else class_for(name, sampler)
    cls = type(pipe) if wanted == name else getattr(pipelines, wanted)
    kept = {key: value for key, value in pipe.config.items() if not key.startswith("_") and key not in components}
    return cls(**components, **kept)
