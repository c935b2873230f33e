"""CompVis' latent diffusion models, converted: the published U-Net and autoencoder, the published steps."""

from __future__ import annotations

import copy
import pickle
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conversion_runs import Harmful, refused
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline, UNet2DModel, VQModel
from published_adm import UNet
from published_ldm import Autoencoder
from torch import Tensor
from toys import quiet, seeded

from pipelines import ADMUNet2DModel, LatentDiffusionPipeline, NoiseSchedule
from training import convert

UNET = {
    "image_size": 32,  # as in many a config, not that of the latents
    "in_channels": 3,
    "out_channels": 3,
    "model_channels": 32,
    "attention_resolutions": [1, 2],
    "num_res_blocks": 1,
    "channel_mult": [1, 2],
    "num_head_channels": 16,
}
SHAPE = dict(width=32, mult=(1, 2), attention=(1, 2), head_channels=16, scale_shift=False)
AUTOENCODER = {
    "double_z": False,
    "z_channels": 3,
    "resolution": 16,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 32,
    "ch_mult": [1, 2],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "dropout": 0.0,
}
KINDS = {  # as the published celeba256 (VQ), and lsun_churches256 (KL, a fixed number of heads)
    "vq": ({}, {}, {"n_embed": 11}, UNet2DModel, VQModel),
    "kl": (
        {"num_heads": 4, "num_head_channels": -1, "use_scale_shift_norm": True, "resblock_updown": True},
        dict(num_heads=4, head_channels=-1, scale_shift=True, resblock_updown=True),
        {},
        ADMUNet2DModel,
        AutoencoderKL,
    ),
}


def config_of(kind: str, **params: object) -> dict:
    unet, _, autoencoder, _, _ = KINDS[kind]
    first_stage = {"embed_dim": 3, "ddconfig": copy.deepcopy(AUTOENCODER)} | autoencoder
    shown = {
        "linear_start": 0.0015,
        "linear_end": 0.0195,
        "timesteps": 1000,
        "image_size": 8,
        "cond_stage_config": "__is_unconditional__",
    }
    targets = {"vq": "ldm.models.autoencoder.VQModelInterface", "kl": "ldm.models.autoencoder.AutoencoderKL"}
    shown["unet_config"] = {
        "target": "ldm.modules.diffusionmodules.openaimodel.UNetModel",
        "params": copy.deepcopy(UNET) | unet,
    }
    shown["first_stage_config"] = {"target": targets[kind], "params": first_stage}
    return {"model": {"params": shown | params}}


def networks(kind: str) -> tuple[UNet, Autoencoder]:
    codes = KINDS[kind][2].get("n_embed")
    return UNet(**SHAPE | KINDS[kind][1]), Autoencoder(32, (1, 2), 1, 3, codes)


def checkpoint_of(unet: UNet, autoencoder: Autoencoder, averaged: bool = True, scale: float | None = None) -> dict:
    """What a published .ckpt holds."""
    state = {f"first_stage_model.{name}": value for name, value in autoencoder.state_dict().items()}
    state |= {"betas": torch.zeros(1000), "alphas_cumprod": torch.zeros(1000), "posterior_variance": torch.zeros(1000)}
    raw = unet.state_dict()
    state |= {f"model.diffusion_model.{name}": value + averaged * 0.1 for name, value in raw.items()}
    if averaged:
        state |= {"model_ema.diffusion_model" + name.replace(".", ""): value for name, value in raw.items()}
        state |= {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(5)}
    if scale is not None:
        state["scale_factor"] = torch.tensor(scale)
    return {"epoch": 3, "global_step": 5, "state_dict": state}


def write(folder: Path, checkpoint: object, config: object) -> list[str]:
    torch.save(checkpoint, folder / "model.ckpt")
    (folder / "config.yaml").write_text(config if isinstance(config, str) else yaml.safe_dump(config))
    paths = ["--unet", str(folder / "model.ckpt"), "--config", str(folder / "config.yaml")]
    return ["latent-diffusion", *paths, "--out", str(folder / "out")]


@pytest.mark.parametrize("averaged", [True, False])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_the_networks_are_the_published_ones(kind: str, averaged: bool, tmp_path: Path) -> None:
    (unet, autoencoder), (*_, unet_class, vae_class) = networks(kind), KINDS[kind]
    convert.main(write(tmp_path, checkpoint_of(unet, autoencoder, averaged, scale=0.5), config_of(kind)))
    pipe = LatentDiffusionPipeline.from_pretrained(tmp_path / "out")
    assert (type(pipe.unet), type(pipe.vae)) == (unet_class, vae_class)
    z, t, x = (torch.randn(2, 3, n, n, generator=seeded(n)) for n in (8, 1, 16))
    t = torch.tensor([0, 712])
    torch.testing.assert_close(pipe.unet(z, t).sample, unet(z, t), rtol=0, atol=1e-5)
    encoded = pipe.vae.encode(x)
    moments = encoded.latents if kind == "vq" else encoded.latent_dist.parameters
    torch.testing.assert_close(moments, autoencoder.encode(x), rtol=0, atol=1e-5)
    torch.testing.assert_close(pipe.decode(z), autoencoder.decode(z / 0.5), rtol=0, atol=1e-5)
    assert float(autoencoder.decode(z).std()) > 0.1


def test_the_process_and_its_steps_are_the_published_ones(tmp_path: Path) -> None:
    convert.main(write(tmp_path, checkpoint_of(*networks("kl")), config_of("kl", scale_factor=0.25)))
    pipe = LatentDiffusionPipeline.from_pretrained(tmp_path / "out")
    schedule, config = NoiseSchedule.from_scheduler(pipe.scheduler), pipe.scheduler.config
    betas = np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2
    np.testing.assert_allclose(schedule.betas.numpy(), betas, rtol=1e-9)
    steps = schedule.spaced_timesteps(50, config.timestep_spacing, config.steps_offset)
    assert steps[::-1] == list(range(1, 1000, 20)) and not config.clip_sample
    assert pipe.vae.config.scaling_factor == 0.25


def published_ddim(unet: UNet, z: Tensor, steps: int, eta: float, noise: Callable[[], Tensor]) -> Tensor:
    """ldm/models/diffusion/ddim.py: the last step ends at abar_0 of all 1000, where the process begins."""
    abar = np.cumprod(1 - np.linspace(0.0015**0.5, 0.0195**0.5, 1000) ** 2)
    times = np.arange(0, 1000, 1000 // steps) + 1
    before = np.array([abar[0], *abar[times[:-1]]])
    for t, now, after in zip(times[::-1], abar[times][::-1], before[::-1], strict=True):
        sigma = eta * np.sqrt((1 - after) / (1 - now) * (1 - now / after))
        eps = unet(z, torch.full((len(z),), int(t)))
        z0 = (z - np.sqrt(1 - now) * eps) / np.sqrt(now)
        z = np.sqrt(after) * z0 + np.sqrt(1 - after - sigma**2) * eps
        z = z + sigma * noise() if eta else z
    return z


@pytest.mark.parametrize("eta", [0.0, 0.8])
@torch.no_grad()
def test_a_run_ends_where_the_published_sampler_and_the_stock_one_end(eta: float, tmp_path: Path) -> None:
    unet, autoencoder = networks("kl")
    unet.out[2].weight.data *= 0.1  # latents stay of a size at which the last step shows
    convert.main(write(tmp_path, checkpoint_of(unet, autoencoder), config_of("kl")))
    pipe = quiet(LatentDiffusionPipeline.from_pretrained(tmp_path / "out"))
    z = torch.randn(1, 3, 8, 8, generator=seeded(1))
    ours = pipe(num_inference_steps=5, eta=eta, latents=z, generator=seeded(), output_type="latent").images
    generator = seeded()
    expected = published_ddim(unet, z, 5, eta, lambda: torch.randn(z.shape, generator=generator))
    torch.testing.assert_close(ours, expected.to(ours), rtol=1e-4, atol=1e-4)
    stock, generator, now = DDIMScheduler.from_pretrained(tmp_path / "out" / "scheduler"), seeded(), z
    stock.set_timesteps(5)
    for t in stock.timesteps:
        now = stock.step(unet(now, t[None]), t, now, eta=eta, generator=generator).prev_sample
    torch.testing.assert_close(ours, now, rtol=1e-4, atol=1e-4)


def test_yaml_reads_some_numbers_as_words(tmp_path: Path) -> None:
    config = config_of("kl", linear_start="WORD", timesteps=500)
    arguments = write(tmp_path, checkpoint_of(*networks("kl")), yaml.safe_dump(config).replace("WORD", "1e-4"))
    assert yaml.safe_load((tmp_path / "config.yaml").read_text())["model"]["params"]["linear_start"] == "1e-4"
    convert.main(arguments)
    scheduler = LatentDiffusionPipeline.from_pretrained(tmp_path / "out").scheduler
    assert scheduler.config.beta_start == 1e-4 and len(scheduler.betas) == 500


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_is_drawn(kind: str, tmp_path: Path) -> None:
    convert.main(write(tmp_path, checkpoint_of(*networks(kind)), config_of(kind)))
    pipe = quiet(DiffusionPipeline.from_pretrained(tmp_path / "out", trust_remote_code=True))
    image = pipe(num_inference_steps=2, generator=seeded(), output_type="pt").images
    assert image.shape == (1, 3, 16, 16) and float(image.std()) > 0.01


class Callback:
    """What a training framework leaves in a checkpoint: it must not be made."""

    def __init__(self) -> None:
        self.best = 0.5

    def __setstate__(self, state: object) -> None:
        raise SystemExit("run by unpickling")


class AttributeDict(dict):
    """As that of Lightning's hyperparameters."""


@torch.no_grad()
def test_what_else_a_checkpoint_holds_is_not_run(tmp_path: Path) -> None:
    unet, autoencoder = networks("kl")
    extra = {"callbacks": {Callback: {"made": Callback()}}, "hyper_parameters": Harmful()}
    lists = defaultdict(list, {"a": [1], "b": [2]})
    extra["optimizer_states"] = [AttributeDict(rate=1.0, one=AttributeDict(a=1)), lists, {"best": np.float64(0.5)}]
    convert.main(write(tmp_path, checkpoint_of(unet, autoencoder) | extra, config_of("kl")))
    pipe = LatentDiffusionPipeline.from_pretrained(tmp_path / "out")
    z, t = torch.randn(2, 3, 8, 8, generator=seeded()), torch.tensor([0, 712])
    torch.testing.assert_close(pipe.unet(z, t).sample, unet(z, t), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.write_bytes(b"PK\x03\x04junk"), "a zip file that is damaged or was cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:-99]), "a zip file that is damaged or was cut short"),
        (lambda path: np.savez(open(path, "wb"), a=np.zeros(3)), "a zip file, but not one that torch has written"),
        (lambda path: path.write_bytes(pickle.dumps(Harmful())), "Unsupported global: GLOBAL builtins.exec was not"),
    ],
)
def test_a_file_that_is_none_of_torch_is_one_line(
    change: Callable, said: str, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    arguments = write(tmp_path, {}, config_of("kl"))
    change(tmp_path / "model.ckpt")
    assert refused(capsys, *arguments).startswith(f"{tmp_path / 'model.ckpt'} is not a file of weights: {said}")


def test_a_prefix_of_all_weights_is_left_out_and_nan_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    checkpoint = checkpoint_of(*networks("kl"))
    state = {f"module.{name}": value for name, value in checkpoint["state_dict"].items()}
    convert.main(write(tmp_path, {"state_dict": state}, config_of("kl")))
    assert "the weights under 'module.' are taken" in capsys.readouterr().out
    name = "first_stage_model.decoder.conv_out.bias"
    checkpoint["state_dict"][name] = checkpoint["state_dict"][name] * float("nan")
    (tmp_path / "again").mkdir()
    assert "NaN or infinite (decoder.conv_out.bias)" in refused(
        capsys, *write(tmp_path / "again", checkpoint, config_of("kl"))
    )


def broken(change: object, kind: str = "kl") -> tuple[dict, dict]:
    checkpoint, config = checkpoint_of(*networks(kind)), config_of(kind)
    params = config["model"]["params"]
    change(checkpoint["state_dict"], params, params["unet_config"]["params"], params["first_stage_config"]["params"])
    return checkpoint, config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, p, u, a: p.update(cond_stage_config={"target": "Bert"}), "cond_stage_config must be __is_uncond"),
        (lambda s, p, u, a: p.update(parameterization="x0"), "--config: parameterization must be eps, got x0"),
        (lambda s, p, u, a: u.update(use_spatial_transformer=True), "use_spatial_transformer must be False, got True"),
        (lambda s, p, u, a: u.update(num_head_channels=24), "--config: num_head_channels must divide the channels"),
        (lambda s, p, u, a: u.update(model_channels=64), "--config describes another U-Net: "),
        (lambda s, p, u, a: a["ddconfig"].update(attn_resolutions=[16]), "attn_resolutions must be [], got [16]"),
        (lambda s, p, u, a: a["ddconfig"].update(ch=64), "--config describes another autoencoder: "),
        (lambda s, p, u, a: a.update(embed_dim=4), "--config: embed_dim must be 3 (z_channels), got 4"),
        (lambda s, p, u, a: s.update(stray=torch.zeros(2)), "1 not used (stray)"),
        (lambda s, p, u, a: s.pop("model_ema.diffusion_modelout2bias"), "1 missing (out.2.bias)"),
        (
            lambda s, p, u, a: s.update({"first_stage_model.stray": torch.zeros(2)}),
            "1 of the autoencoder's 125 weights are not used",
        ),
        (lambda s, p, u, a: u.pop("num_res_blocks"), "config.yaml: KeyError 'num_res_blocks'"),
        (lambda s, p, u, a: s.update({5: torch.zeros(2)}), "must hold named tensors under 'state_dict'"),
        (lambda s, p, u, a: s.update(scale_factor=torch.ones(2)), "scale_factor must be one number, got shape (2,)"),
        (lambda s, p, u, a: p.update(timesteps=0), "--config: timesteps must be a whole number above 0, got 0"),
        (lambda s, p, u, a: p.update(timesteps=2.5), "--config: timesteps must be a whole number above 0, got 2.5"),
        (lambda s, p, u, a: p.update(linear_end="high"), "--config: linear_end must be a finite number above 0"),
        (lambda s, p, u, a: p.update(linear_end=2), "config.yaml: ValueError betas must lie in (0, 1]"),
        (lambda s, p, u, a: u.update(channel_mult=[]), "--config: channel_mult must be a list of whole numbers, one p"),
        (lambda s, p, u, a: a["ddconfig"].update(ch_mult=[]), "--config: ch_mult must be a list of whole numbers, one"),
        (lambda s, p, u, a: a["ddconfig"].update(ch=48), "--config: ch must give every level a multiple of 32 channe"),
        (lambda s, p, u, a: u.update(model_channels=40), "--config: model_channels must give every level a multiple o"),
        (lambda s, p, u, a: u.update(attention_resolutions=1), "config.yaml: TypeError argument of type 'int' is not"),
        (lambda s, p, u, a: u.update(dims=3), "--config: dims must be 2, got 3: images have two"),
        (lambda s, p, u, a: p.update(given_betas=[0.1]), "--config: given_betas must be None, got [0.1]: the schedul"),
        (lambda s, p, u, a: p.update(beta_schedule="cosine"), "--config: beta_schedule must be linear, got cosine: "),
        (lambda s, p, u, a: a["ddconfig"].update(tanh_out=True), "--config: tanh_out must be False, got True: diffus"),
        (lambda s, p, u, a: a["ddconfig"].update(attn_type="linear"), "attn_type must be vanilla, got linear: diffus"),
        (lambda s, p, u, a: a["ddconfig"].update(use_linear_attn=True), "--config: use_linear_attn must be False, go"),
        (lambda s, p, u, a: a["ddconfig"].update(resamp_with_conv=False), "resamp_with_conv must be True, got False"),
        (
            lambda s, p, u, a: p["unet_config"].update(
                target="ldm.modules.diffusionmodules.openaimodel.EncoderUNetModel"
            ),
            "--config: unet_config.target must be openaimodel.UNetModel, got ldm.modules.",
        ),
        (
            lambda s, p, u, a: p["first_stage_config"].update(target="ldm.models.autoencoder.IdentityFirstStage"),
            "--config: first_stage_config.target must be autoencoder.AutoencoderKL or autoencoder.VQModelInterface, ",
        ),
        (lambda s, p, u, a: p.pop("unet_config"), "is no config of a latent diffusion model: KeyError 'unet_config'"),
    ],
)
def test_what_cannot_be_converted_is_refused(change: object, message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as stop:
        convert.main(write(tmp_path, *broken(change)))
    assert message in str(stop.value.code) and "\n" not in str(stop.value.code)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["config.yaml", "model.ckpt"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["latent-diffusion", "--unet", "x", "--out", "y"], "latent-diffusion takes --unet, --config and --out"),
        (["guided-diffusion", "--unet", "x", "--config", "z", "--out", "y"], "--config is of latent-diffusion"),
        (["latent-diffusion", "--unet", "x", "--config", "none.yaml", "--out", "y"], "no such file: none.yaml"),
    ],
)
def test_each_family_has_its_arguments(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=f"^error: {message}"):
        convert.main(arguments)
