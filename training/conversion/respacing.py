"""`--timestep_respacing` in our terms: which `timestep_spacing` and how many steps visit the published timesteps.

`space_timesteps` of the published `respace.py` takes a count, "ddim" and a count, or a list of counts, one for each
equal section of the process. A count is our "linspace" (but for timesteps that lie half way between two, which it adds
up and we round to even: of 1000 steps, only odd counts from 21 on have any), and "ddimN" our "leading" where N divides
the length of the process: else its stride is another.
"""

from __future__ import annotations

from training.conversion.flags import Flags


def spacing_for(flags: Flags) -> str:
    """What to set for the same steps, in words.

    Raises:
        ValueError: no such spacing, or more steps than the process has.
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
