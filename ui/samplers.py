"""The samplers that replace a pipeline's scheduler: the diffusers class of each, and a pipeline that uses it."""

from typing import Any

SCHEDULERS = {
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "Heun": "HeunDiscreteScheduler",
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
}


def spacing(sampler: str, steps: int, num_train_timesteps: int) -> dict[str, str | int]:
    """Config of the scheduler that spaces `steps` steps, starting at pure noise, t = T - 1, where it can.

    Our pipelines start Heun half a step later by themselves, but a folder may contain older code.
    """
    if sampler != "Heun":
        return {"timestep_spacing": "trailing"}
    from pipelines.solvers import half_step_spacing

    return half_step_spacing(steps, num_train_timesteps)


def with_sampler(pipe: Any, sampler: str | None, steps: int = 1) -> Any:
    """A new pipeline for a run of `steps` that shares the networks of `pipe`; None keeps the scheduler."""
    import diffusers

    import pipelines
    from pipelines.about import of_class

    components = dict(pipe.components)
    if sampler is not None:
        scheduler = getattr(diffusers, SCHEDULERS[sampler])
        config = pipe.scheduler.config
        components["scheduler"] = scheduler.from_config(config, **spacing(sampler, steps, config.num_train_timesteps))
    about = of_class(type(pipe).__name__)
    other = about.says.get("samplers", {}).get(sampler) if about else None
    cls = getattr(pipelines, other) if other else type(pipe)
    kept = {key: value for key, value in pipe.config.items() if not key.startswith("_") and key not in components}
    return cls(**components, **kept)
