"""Where a solver's timesteps lie, when that decides whether it draws at all."""


def heun_spacing(num_inference_steps: int, num_train_timesteps: int) -> dict[str, str | int]:
    """Options of diffusers' HeunDiscreteScheduler that begin and end a run half a step in.

    Heun averages the slopes at both ends of a step (Karras et al. 2022, algorithm 1). From t = T - 1 of a schedule that
    ends in pure noise, the first slope is taken where sigma is almost infinite, and the run blows up.
    """
    return {"timestep_spacing": "leading", "steps_offset": num_train_timesteps // num_inference_steps // 2}
