"""Every scheduler of diffusers: it draws what an exact network should give, or is refused by its name.

`python tests/test_all_schedulers.py` prints the table.
"""

from __future__ import annotations

import inspect
from functools import cache

import diffusers
import pytest
import torch
from conftest import ROOT  # noqa: F401  (puts the project on the path of the command)
from diffusers import ConfigMixin, DDIMScheduler, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn
from toys import calls_seen, ddim, ddpm, guided, latent, quiet, seeded, steered

from pipelines import DDIMPipeline, NoiseSchedule
from pipelines.solvers import sample_to_begin_with, scheduler_steps

MEAN, STD, STEPS = 0.3, 0.25, 50
NAMES = sorted(name for name in dir(diffusers) if name.endswith("Scheduler") and name != "SchedulerMixin")
REQUIRED = {  # arguments without a default
    "AmusedScheduler": {"mask_token_id": 1},
    "RFD4ProteinaScheduler": {"schedule_mode": "log", "noise_mode": "tan", "tsr_k": 1.0, "tsr_sigma": 1.0},
    "VQDiffusionScheduler": {"num_vec_classes": 4},
}
_DRAW = (
    "DDIM DDPM DDIMParallel DDPMParallel DEISMultistep DPMSolverMultistep DPMSolverSinglestep EulerDiscrete "
    "EulerAncestralDiscrete HeunDiscrete KDPM2Discrete KDPM2AncestralDiscrete LCM LMSDiscrete PNDM SASolver TCD "
    "UniPCMultistep"
)
DRAW = {f"{name}Scheduler" for name in _DRAW.split()}
NOT_X0 = {
    "EulerAncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "PNDMScheduler",
}


class ExactUNet(ModelMixin, ConfigMixin):
    """The exact network for pixels that are independent draws of N(MEAN, STD^2)."""

    @register_to_config
    def __init__(
        self, kind: str = "epsilon", sample_size: int = 16, in_channels: int = 1, out_channels: int = 1
    ) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self.abar = exact_process().alphas_cumprod

    def forward(self, sample: Tensor, timestep: Tensor) -> UNet2DOutput:
        low = int(timestep.flatten()[0])
        log_snr = torch.lerp(*torch.logit(self.abar[[low, min(low + 1, 999)]]), timestep.flatten()[0].double() - low)
        a, b, x = log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt(), sample.double()
        x0 = MEAN + a * STD**2 / (a * a * STD**2 + b * b) * (x - a * MEAN)
        eps = (x - a * x0) / b
        output = {"epsilon": eps, "sample": x0, "v_prediction": a * eps - b * x0}[self.config.kind]
        return UNet2DOutput(sample=output.to(sample.dtype))


def stated(kind: str) -> DDIMScheduler:
    """What the shipped models say of their process."""
    return DDIMScheduler(
        beta_schedule="squaredcos_cap_v2", prediction_type=kind, timestep_spacing="trailing", clip_sample=False
    )


@cache
def exact_process() -> NoiseSchedule:
    return NoiseSchedule.from_scheduler(stated("epsilon"))


def row(name: str, kind: str, steps: int = STEPS) -> str:
    """What comes of swapping in the scheduler of that name, as README.md does."""
    pipe = quiet(DDIMPipeline(ExactUNet(kind), stated(kind)))
    try:
        pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **REQUIRED.get(name, {}))
    except (ImportError, ValueError) as error:
        return f"not made: {' '.join(str(error).split())}"
    try:
        x = pipe(8, num_inference_steps=steps, generator=seeded(), output_type="latent").images
    except ValueError as error:
        return f"refused: {error}"
    return f"draws: mean {float(x.mean()):.3f}, std {float(x.std()):.3f}"


def std_of_jumps() -> float:
    """LCM jumps to the predicted x_0 and adds new noise: right for a distilled network, narrow for any other."""
    scheduler, of_x_t, of_x0 = diffusers.LCMScheduler.from_config(stated("epsilon").config), 1.0, 0.0
    scheduler.set_timesteps(STEPS)
    for index, t in enumerate(scheduler.timesteps.tolist()):
        abar = float(exact_process().alphas_cumprod[t])
        of_x_t = abar * of_x0 + 1 - abar if index else of_x_t
        of_x0 = of_x_t * abar * (STD**2 / (abar * STD**2 + 1 - abar)) ** 2
    return of_x0**0.5


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DRAW])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_what_cannot_draw_is_refused_by_its_name(name: str, kind: str) -> None:
    found = row(name, kind)
    assert found.startswith(("refused: scheduler must be one of DDPMScheduler, DDIMScheduler, ", "not made: ")), found
    assert found.endswith(f", got {name}") or found.startswith("not made: ") and name in found, found


@pytest.mark.parametrize("name", sorted(DRAW))
def test_what_draws_draws_the_data_of_an_exact_network(name: str) -> None:
    found = row(name, "epsilon")
    mean, std = (float(part.split()[-1]) for part in found.removeprefix("draws: ").split(", "))
    expected = std_of_jumps() if name == "LCMScheduler" else STD
    assert abs(mean - MEAN) < 0.02 and 0.85 * expected < std < 1.05 * expected, found
    other = row(name, "sample", steps=4)
    assert other.startswith("refused: scheduler must be one of " if name in NOT_X0 else "draws: "), other


def test_lms_from_an_image_keeps_the_spread_of_the_data() -> None:
    """It begins at first order: of the slopes before it knows none."""
    image = (MEAN + STD * torch.randn(8, 1, 16, 16, generator=seeded(2))) / 2 + 0.5
    pipe = quiet(DDIMPipeline(ExactUNet("epsilon"), stated("epsilon")))
    pipe.scheduler = diffusers.LMSDiscreteScheduler.from_config(pipe.scheduler.config)
    for strength in (0.3, 0.5, 0.8):
        told = {"image": image.clamp(0, 1), "strength": strength, "num_inference_steps": 10, "generator": seeded()}
        x = pipe(8, output_type="latent", **told).images
        assert abs(float(x.mean()) - MEAN) < 0.02 and 0.9 * STD < float(x.std()) < 1.05 * STD, (strength, x.std())


@pytest.mark.parametrize("name", ["UniPCMultistep", "DPMSolverMultistep", "LCM", "DDIMParallel"])
def test_an_image_on_the_cpu_goes_to_where_the_noise_is(name: str) -> None:
    scheduler = getattr(diffusers, f"{name}Scheduler")()
    x_T = torch.zeros(2, 1, 8, 8, device="meta")
    assert sample_to_begin_with(scheduler, 10, x_T, torch.zeros(1, 1, 8, 8), 5).device.type == "meta"


VARIANCES = [name for name in sorted(DRAW) if "variance_type" in inspect.signature(getattr(diffusers, name)).parameters]


@pytest.mark.parametrize("name", VARIANCES)
def test_a_learned_variance_is_cut_off_once(name: str) -> None:
    """A network with twice the channels, whose config says so, draws what its mean alone draws."""
    x_T, drawn = torch.randn(1, 4, 4, 4, generator=seeded()), []
    for kind, times in (("fixed_small", 1), ("learned_range", 2)):
        config = stated("epsilon").config | REQUIRED.get(name, {})
        scheduler = getattr(diffusers, name).from_config(config, variance_type=kind)
        steps = scheduler_steps(
            lambda x, t, times=times: torch.cat([0.3 * x] * times, 1), x_T, scheduler, 4, exact_process(), [seeded(1)]
        )
        drawn.append([step.prev_sample for step in steps][-1])
    assert torch.equal(*drawn) and drawn[0].isfinite().all()


@pytest.mark.parametrize("make", [ddim, ddpm, guided, steered, latent])
@pytest.mark.parametrize("name", ["FlowMatchEulerDiscreteScheduler", "EDMEulerScheduler", "DDIMInverseScheduler"])
def test_every_pipeline_refuses_before_any_work(make: object, name: str) -> None:
    pipe = make()
    for scheduler in (getattr(diffusers, name)(), getattr(diffusers, name).from_config(pipe.scheduler.config)):
        pipe.scheduler = scheduler
        with calls_seen(pipe) as seen, pytest.raises(ValueError, match=f"^scheduler must be one of .*, got {name}$"):
            pipe(num_inference_steps=2)
        assert seen == []


@pytest.mark.parametrize(
    ("name", "steps", "changes", "told"),
    [
        ("PNDMScheduler", 3, {}, "^num_inference_steps must be at least 4 with PNDMScheduler, got 3$"),
        ("LCMScheduler", 51, {}, "^num_inference_steps must be a number that LCMScheduler takes, got 51: "),
        ("UniPCMultistepScheduler", 4, {"use_flow_sigmas": True}, "^use_flow_sigmas must be False .* with UniPC"),
        ("UniPCMultistepScheduler", 4, {"prediction_type": "flow_prediction"}, "^prediction_type must be one of "),
    ],
)
def test_what_a_scheduler_does_not_take_is_told_before_any_work(
    name: str, steps: int, changes: dict, told: str
) -> None:
    pipe = ddim(prediction_type="epsilon")
    pipe.scheduler = getattr(diffusers, name).from_config(pipe.scheduler.config, **changes)
    with pytest.raises(ValueError, match=told):
        pipe.stream(num_inference_steps=steps)


class OwnEuler(diffusers.EulerDiscreteScheduler):
    """Of one that draws."""


class OwnFlow(FlowMatchEulerDiscreteScheduler):
    """Of one that does not."""


def test_a_subclass_is_judged_by_its_parent() -> None:
    pipe = ddim()
    pipe.scheduler = OwnEuler.from_config(pipe.scheduler.config)
    assert pipe(num_inference_steps=2).nfe == 2
    pipe.scheduler = OwnFlow()
    with pytest.raises(ValueError, match="got OwnFlow$"):
        pipe(num_inference_steps=2)


if __name__ == "__main__":
    diffusers.utils.logging.set_verbosity_error()
    print(f"An exact network of N({MEAN}, {STD}^2) over a cosine schedule, {STEPS} steps, trailing:")
    for each in NAMES:
        found = row(each, "epsilon")
        print(f"{each:36s} {found.partition(':')[0] if found.startswith('refused') else found[:120]}")
