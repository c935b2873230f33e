"""The samplers that replace a pipeline's scheduler: the diffusers class of each, and a pipeline that uses it.

A network that predicts the velocity of a flow takes other schedulers, some of them by the same names.
"""

from typing import Any

SCHEDULERS = {
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "UniPC": "UniPCMultistepScheduler",
    "Heun": "HeunDiscreteScheduler",
    "DDIM": "DDIMScheduler",
    "DDPM": "DDPMScheduler",
}
FLOW_SCHEDULERS = {
    "UniPC": "UniPCMultistepScheduler",
    "DPM-Solver++": "DPMSolverMultistepScheduler",
    "Heun": "FlowMatchHeunDiscreteScheduler",
    "Euler": "FlowMatchEulerDiscreteScheduler",
}


def scheduler_of(sampler: str, flow: bool) -> str:
    """The diffusers class of a sampler, for a flow or for diffusion."""
    return (FLOW_SCHEDULERS if flow else SCHEDULERS)[sampler]


def scheduler_config(sampler: str, steps: int, num_train_timesteps: int, flow: bool) -> dict[str, Any]:
    """Config of the scheduler for `steps` steps that start at pure noise, t = T - 1, where it can.

    Our pipelines start Heun half a step later by themselves, but a folder may contain older code.
    """
    if flow:
        multistep = sampler in ("UniPC", "DPM-Solver++")
        return {"use_flow_sigmas": True, "prediction_type": "flow_prediction"} if multistep else {}
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
        config, flow = pipe.scheduler.config, bool(pipe.config.get("path"))
        scheduler = getattr(diffusers, scheduler_of(sampler, flow))
        more = scheduler_config(sampler, steps, config.num_train_timesteps, flow)
        components["scheduler"] = scheduler.from_config(config, **more)
    about = of_class(type(pipe).__name__)
    other = about.says.get("samplers", {}).get(sampler) if about else None
    cls = getattr(pipelines, other) if other else type(pipe)
    kept = {key: value for key, value in pipe.config.items() if not key.startswith("_") and key not in components}
    return cls(**components, **kept)
