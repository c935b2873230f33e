"""The samplers by name: the diffusers scheduler each takes, and how a pipeline is made to use it."""

from typing import Any

SCHEDULERS = {
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "Heun": "HeunDiscreteScheduler",
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
}


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
    from pipelines.about import of_class

    components = dict(pipe.components)
    if sampler is not None:
        scheduler = getattr(diffusers, SCHEDULERS[sampler])
        config = pipe.scheduler.config
        components["scheduler"] = scheduler.from_config(config, **options(sampler, steps, config.num_train_timesteps))
    about = of_class(type(pipe).__name__)
    other = about.says.get("samplers", {}).get(sampler) if about else None
    cls = getattr(pipelines, other) if other else type(pipe)
    kept = {key: value for key, value in pipe.config.items() if not key.startswith("_") and key not in components}
    return cls(**components, **kept)
