"""Translates `--timestep_respacing`: the `timestep_spacing` and number of steps that visit the published timesteps.

`space_timesteps` in the published `respace.py` takes a count, "ddim" followed by a count, or a list of counts, one for
each equal section of the process. A count is diffusers' "linspace". (They can differ at timesteps half way between two
integers, which we round to even; of 1000 steps, only odd counts from 21 on have any.) "ddimN" is "leading" if N divides
the length of the process; otherwise its stride is a different one.
"""

from __future__ import annotations

from training.conversion.flags import Flags


def spacing_for(flags: Flags) -> str:
    """The diffusers settings that take the same steps, as text for the user.

    Raises:
        ValueError: not a valid spacing, or more steps than the process has.
    """
    text, total = flags.timestep_respacing, flags.diffusion_steps
    if "," in text:
        return "no timestep_spacing has sections of their own"
    ddim = text.startswith("ddim")
    number = text.removeprefix("ddim")
    if not number.isdecimal() or not 1 <= int(number) <= total:
        raise ValueError(
            f"--flags: timestep_respacing must be a number of steps, 1 to {total}, ddim and a number, or numbers"
            f" separated by commas, got {text!r}"
        )
    count, kind = int(number), "DDIMScheduler" if flags.use_ddim else "DDPMScheduler"
    if ddim and (total % count or count == 1):
        return f"no timestep_spacing has these {count} steps of {total}"
    return f"a {kind} with timestep_spacing='{'leading' if ddim else 'linspace'}', {count} steps"
