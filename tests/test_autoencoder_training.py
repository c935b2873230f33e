"""The objective autoencoder: its loss, what it learns, what a run leaves behind, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from autoencoders import STOCK, colours, config_file, linear, tiny, trainer
from conftest import ROOT
from diffusers import AutoencoderKL, DDIMScheduler, DiffusionPipeline
from fresh_processes import contents, run_elsewhere
from hub_runs import push
from hub_server import HubServer, Repository
from latent_folders import latent_unet, over_unet, tiny_vae
from PIL import Image
from safetensors.torch import load_file
from toys import seeded, tiny_unet
from training_runs import assert_same, command, forget_accelerate, image_folder, noise, noise_images, run_here

from pipelines import AutoencoderPipeline, DDPMPipeline, LatentDiffusionPipeline
from training.metrics.latents import latent_statistics
from training.objectives import find_objective
from training.objectives.autoencoder import (
    HALVED,
    MIRRORED,
    UPSIDE_DOWN,
    Autoencoding,
    changed,
    kl_divergence,
    reconstruction_loss,
)
from training.randomness import BatchRandom
from training.recipes import RECIPES
from training.sharing.uploads import uploads
from training.train import parse

pytestmark = pytest.mark.usefixtures("alone")
WEIGHTS = "vae/diffusion_pytorch_model.safetensors"


def rng(count: int = 4, total: int = 4, start: int = 0) -> BatchRandom:
    return BatchRandom(0, 0, start, count, total)


# --- the loss ---


def test_the_reconstruction_loss_is_the_sum_of_its_five_terms() -> None:
    x, y = (torch.rand(2, 3, 8, 12, generator=seeded(seed), dtype=torch.float64) for seed in (0, 1))
    found = reconstruction_loss(y, x).numpy()
    for i in range(2):
        a, b = x[i].numpy(), y[i].numpy()
        expected = np.abs(b - a).mean()
        expected += np.abs((b[:, :, 1:] - b[:, :, :-1]) - (a[:, :, 1:] - a[:, :, :-1])).mean()
        expected += np.abs((b[:, 1:] - b[:, :-1]) - (a[:, 1:] - a[:, :-1])).mean()
        for side in (2, 4):
            shape = (3, 8 // side, side, 12 // side, side)
            expected += np.abs(b.reshape(shape).mean((2, 4)) - a.reshape(shape).mean((2, 4))).mean()
        assert found[i] == pytest.approx(expected, rel=1e-12)


def test_the_kl_divergence_is_that_of_torch() -> None:
    mean, log_variance = (torch.randn(3, 2, 4, 4, generator=seeded(seed), dtype=torch.float64) for seed in (0, 1))
    q = torch.distributions.Normal(mean, (log_variance / 2).exp())
    expected = torch.distributions.kl_divergence(q, torch.distributions.Normal(0.0, 1.0)).flatten(1).mean(1)
    torch.testing.assert_close(kl_divergence(mean, log_variance), expected, rtol=0, atol=1e-12)


def test_the_loss_of_a_batch_is_that_of_decoded_samples_of_the_posterior(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", double=True, kl_weight=0.25)
    vae, (batch, random) = run.network.vae.eval(), run.batch(0)
    x = batch["images"]
    posterior = vae.encode(x).latent_dist
    z = posterior.mean + posterior.std * random.normal("posterior", (4, 4, 4)).double()
    error = reconstruction_loss(vae.decode(z).sample, x).mean()
    expected = error + 0.25 * kl_divergence(posterior.mean, posterior.logvar).mean()
    assert run.objective.loss(batch, random).item() == pytest.approx(expected.item(), abs=1e-12)


def start_of(place: Path, **config: object) -> dict[str, object]:
    """Flags of a run that goes on from a tiny autoencoder."""
    AutoencoderPipeline(tiny(seed=7, **config)).save_pretrained(place / "start")
    return {"model_config_name_or_path": None, "pretrained_model_name_or_path": str(place / "start")}


def test_latent_noise_has_a_level_for_each_image_in_deviations_of_the_latents(tmp_path: Path) -> None:
    start = start_of(tmp_path, scaling_factor=0.25)  # latents of standard deviation 4
    run = trainer(tmp_path / "run", double=True, freeze_encoder=True, latent_noise=0.5, kl_weight=0.0, **start)
    vae, (batch, random) = run.network.vae.eval(), run.batch(0)
    x = batch["images"]
    posterior = vae.encode(x).latent_dist
    z = posterior.mean + posterior.std * random.normal("posterior", (4, 4, 4)).double()
    z += 0.5 * 4 * random.normal("level of latent noise", (1, 1, 1)).abs() * random.normal("latent noise", (4, 4, 4))
    expected = reconstruction_loss(vae.decode(z).sample, x).mean().item()
    assert run.objective.loss(batch, random).item() == pytest.approx(expected, abs=1e-6)


def test_latents_and_images_are_changed_alike() -> None:
    x = torch.arange(4.0 * 16).reshape(4, 1, 4, 4)
    whole, halved = changed(x, torch.tensor([MIRRORED, HALVED, 0, UPSIDE_DOWN]))
    expected = np.stack([x[0].numpy()[:, :, ::-1], x[2].numpy(), x[3].numpy()[:, ::-1]])
    np.testing.assert_array_equal(whole.numpy(), expected)
    np.testing.assert_array_equal(halved.numpy()[0, 0], x[1, 0].numpy().reshape(2, 2, 2, 2).mean((1, 3)))
    (only,) = changed(x, torch.tensor([HALVED] * 4))
    assert only.shape == (4, 1, 2, 2)
    assert changed(x, None)[0] is x


def test_an_equivariant_autoencoder_has_no_loss_and_another_has() -> None:
    batch = {"images": torch.from_numpy(noise(64, 1, 8, 8)).double() / 127.5 - 1}
    offset = torch.rand(1, 1, 8, 8, generator=seeded(), dtype=torch.float64)
    for share in (0.0, 0.5, 1.0):
        options = {"equivariance": share, "kl_weight": 0.0}
        assert linear(**options).loss(batch, rng(64, 64)).item() == pytest.approx(0.0, abs=1e-12)
        other = linear(offset, **options).loss(batch, rng(64, 64)).item()
        assert other == pytest.approx(0.0, abs=1e-12) if share == 0 else other > 0.02


def test_a_share_of_the_latents_is_changed_in_three_ways_alike_on_any_number_of_processes() -> None:
    task = linear(equivariance=0.6)
    found = task.changes(rng(4000, 4000))
    shares = found.bincount().double() / 4000
    np.testing.assert_allclose(shares.numpy(), [0.4, 0.2, 0.2, 0.2], atol=0.03)
    assert torch.equal(task.changes(rng(40, 4000, start=80)), found[80:120])
    assert linear().changes(rng()) is None


@pytest.mark.parametrize(("size", "halved"), [(16, True), (12, False)])
def test_latents_of_odd_sides_are_not_halved(size: int, halved: bool, tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", colours(size=size), equivariance=1.0)
    assert (HALVED in run.objective.changes(rng(200, 200))) is halved
    assert np.isfinite(run.update())


# --- learning ---


def test_the_gradient_reaches_every_parameter(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", equivariance=0.5, lr_warmup_steps=0)
    run.update()  # the residual starts at zero: its first layer learns from the second update on
    run.gradients()
    still = [name for name, p in run.network.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert still == []


def test_behind_a_frozen_encoder_the_decoder_alone_learns_and_latents_stay_what_they_were(place: Path) -> None:
    start = start_of(place, scaling_factor=0.4, shift_factor=0.1)
    flags = {"freeze_encoder": True, "latent_noise": 0.2, "checkpointing_steps": 3}
    run_here(arguments(place, "run", **flags, **start))
    before, after = (AutoencoderPipeline.from_pretrained(place / name).vae for name in ("start", "run"))
    assert_same(dict(before.encoder.state_dict()), dict(after.encoder.state_dict()))
    still = [name for name, p in before.decoder.named_parameters() if torch.equal(p, after.decoder.get_parameter(name))]
    assert still == []
    assert (after.config.scaling_factor, after.config.shift_factor) == (0.4, 0.1)
    assert np.shape(after.config.latent_rgb_factors) == (3, 4)
    resumed = {"resume_from_checkpoint": place / "run/checkpoint-3"}
    run_here(arguments(place, "resumed", **flags, **start, **resumed))
    assert_same(load_file(place / "run" / WEIGHTS), load_file(place / "resumed" / WEIGHTS))


def test_a_decoder_that_has_seen_noise_is_the_better_one_for_noisy_latents(tmp_path: Path) -> None:
    flags = {"learning_rate": 1e-2, "lr_scheduler": "constant", "max_train_steps": 200, "ema_decay": 0.9}
    run = trainer(tmp_path / "first", colours(4), **flags)
    for _ in range(100):
        run.update()
    run.pipeline().save_pretrained(tmp_path / "start")
    flags |= {"model_config_name_or_path": None, "pretrained_model_name_or_path": str(tmp_path / "start")}
    errors = []
    for level in (0.0, 0.5):
        forget_accelerate()
        run = trainer(tmp_path / "run", colours(4), freeze_encoder=True, latent_noise=level, **flags)
        for _ in range(100):
            run.update()
        pipe = run.pipeline()
        x = torch.from_numpy(colours(4).images) / 255
        z = pipe.encode(x)
        drawn = pipe.decode(z + 0.5 * torch.randn(z.shape, generator=seeded()))
        errors.append(float((drawn - (2 * x - 1)).abs().mean()))
    assert errors[1] < 0.9 * errors[0], errors


def test_a_few_dozen_updates_learn_four_images(tmp_path: Path) -> None:
    flags = {"learning_rate": 1e-2, "lr_scheduler": "constant", "max_train_steps": 100, "ema_decay": 0.9}
    run = trainer(tmp_path / "run", colours(4), **flags)
    before, _ = run.objective.diagnostics(run.network)
    losses = [run.update() for _ in range(60)]
    assert np.mean(losses[-5:]) < 0.5 * np.mean(losses[:3]), losses
    pipe = run.pipeline()
    after, _ = run.objective.diagnostics(run.averaged)
    assert after["psnr"] > before["psnr"] + 3
    grid = run.objective.samples(pipe, 0)
    tile = np.asarray(grid)[: 16 * 4, : 16 * 4][::4, ::4]
    np.testing.assert_array_equal(
        tile, run.objective.shown[0].transpose(1, 2, 0), "an original, then its reconstruction"
    )


def test_the_weights_at_the_start_follow_from_the_seed_alone(tmp_path: Path) -> None:
    states = []
    for seed in (0, 0, 1):
        forget_accelerate()
        torch.manual_seed(len(states))
        states.append(dict(trainer(tmp_path / "run", seed=seed).network.state_dict()))
    assert_same(states[0], states[1])
    assert not torch.equal(states[0]["vae.encoder.conv_in.weight"], states[2]["vae.encoder.conv_in.weight"])


def test_without_a_config_it_is_our_own_in_the_channels_of_the_data(tmp_path: Path) -> None:
    run = trainer(tmp_path / "run", noise_images(size=16), model_config_name_or_path=None, latent_channels=8)
    config = run.network.vae.config
    assert (config.patch_size, list(config.block_out_channels), config.latent_channels) == (4, [128, 128], 8)
    assert (config.in_channels, config.out_channels, config.sample_size) == (1, 1, 16)


# --- what is measured before it is saved ---


def test_scale_shift_and_the_map_to_colours_are_those_of_numpy() -> None:
    vae, pixels = tiny().double(), colours(60).images
    x = torch.from_numpy(pixels).double() / 127.5 - 1
    with torch.no_grad():
        z = vae.encode(x).latent_dist.mean.numpy()
    found = latent_statistics(vae, pixels)
    assert found.mean == pytest.approx(z.mean(), abs=1e-9) and found.std == pytest.approx(z.std(), rel=1e-9)
    rows = z.transpose(0, 2, 3, 1).reshape(-1, 4)
    small = x.numpy().reshape(60, 3, 4, 4, 4, 4).mean((3, 5)).transpose(0, 2, 3, 1).reshape(-1, 3)
    solution = np.linalg.lstsq(np.c_[rows, np.ones(len(rows))], small, rcond=None)[0]
    np.testing.assert_allclose(np.array(found.factors), solution[:4].T, atol=1e-5)
    np.testing.assert_allclose(np.array(found.bias), solution[4], atol=1e-5)


# --- what a run leaves behind ---


def arguments(root: Path, name: str, **flags: object) -> list[str]:
    flags = {"output_dir": root / name, "train_data_dir": root / "images", "ddpm_num_steps": None} | flags
    return command("--recipe emoji-autoencoder --mixed_precision no", **flags)


def colour_folder(root: Path, count: int = 6, size: int = 16) -> Path:
    (root / "images").mkdir(parents=True)
    for i, pixels in enumerate(colours(count, size).images):
        Image.fromarray(pixels.transpose(1, 2, 0)).save(root / "images" / f"{i}.png")
    return root


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return colour_folder(tmp_path / "root")


LOADER = """
import sys, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
assert pipe(x).images[1].size == (16, 16) and "pipelines" not in sys.modules
print(pipe.vae.config.latent_rgb_bias[0])
"""


def test_a_run_ends_in_a_folder_that_loads_with_scale_shift_and_map(place: Path, tmp_path: Path) -> None:
    config = config_file(place / "vae.json")
    run_here(arguments(place, "run", model_config_name_or_path=config, checkpointing_steps=3, validation_steps=3))
    run = place / "run"
    assert sorted(path.name for path in (run / "samples").iterdir()) == ["step-000003.png", "step-000006.png"]
    assert Image.open(run / "samples.png").size == (8 * 64 + 7 * 2, 2 * 64 + 2)
    pipe = AutoencoderPipeline.from_pretrained(run)
    latents = pipe.encode(torch.from_numpy(colours(6).images) / 255)
    assert (float(latents.mean()), float(latents.std())) == pytest.approx((0.0, 1.0), abs=1e-2)
    config = pipe.vae.config
    assert np.shape(config.latent_rgb_factors) == (3, 4) and np.shape(config.latent_rgb_bias) == (3,)
    assert float(run_elsewhere(tmp_path / "there", LOADER, str(run))) == config.latent_rgb_bias[0]
    early, late = (json.loads((run / f"checkpoint-{n}/pipeline/vae/config.json").read_text()) for n in (3, 6))
    assert early["scaling_factor"] != late["scaling_factor"] == config.scaling_factor
    names = set(uploads(run))
    assert {"model_index.json", "samples.png", "training.json", "vae/config.json", WEIGHTS} <= names
    assert any(name.startswith("vae/patched_autoencoder_") for name in names)


def test_a_killed_run_resumes_bit_for_bit(place: Path) -> None:
    flags = {"model_config_name_or_path": config_file(place / "vae.json"), "equivariance": 0.5}
    run_here(arguments(place, "whole", checkpointing_steps=3, **flags))
    run_here(arguments(place, "resumed", resume_from_checkpoint=place / "whole/checkpoint-3", **flags))
    assert_same(load_file(place / "whole" / WEIGHTS), load_file(place / "resumed" / WEIGHTS))
    assert (place / "whole/vae/config.json").read_text() == (place / "resumed/vae/config.json").read_text()


def test_a_stock_config_makes_a_stock_autoencoder(place: Path) -> None:
    (place / "stock.json").write_text(json.dumps(STOCK))
    run_here(arguments(place, "run", model_config_name_or_path=place / "stock.json", latent_channels=2))
    stock = AutoencoderKL.from_pretrained(place / "run" / "vae")
    x = torch.rand(1, 3, 16, 16, generator=seeded())
    with torch.no_grad():
        made = (stock(x * 2 - 1).sample / 2 + 0.5).clamp(0, 1)
    pipe = DiffusionPipeline.from_pretrained(place / "run", trust_remote_code=True)
    torch.testing.assert_close(pipe(x, output_type="pt").images, made, rtol=0, atol=1e-5)
    assert stock.config.latent_channels == 2 and np.shape(stock.config["latent_rgb_factors"]) == (3, 2)
    stock.save_pretrained(place / "again")
    again = AutoencoderKL.from_pretrained(place / "again").config
    for name in ("latent_rgb_factors", "latent_rgb_bias", "scaling_factor", "shift_factor"):
        assert again[name] == stock.config[name]


# --- where it starts from ---


def test_training_goes_on_from_the_vae_of_a_pipeline_or_from_one_alone(tmp_path: Path) -> None:
    pipe = LatentDiffusionPipeline(tiny(seed=7), DDIMScheduler(), unet=latent_unet())
    pipe.save_pretrained(tmp_path / "latent")
    AutoencoderPipeline(tiny(seed=7)).save_pretrained(tmp_path / "pipeline")
    for start in ("latent", "pipeline", "pipeline/vae"):
        forget_accelerate()
        flags = {"model_config_name_or_path": None, "pretrained_model_name_or_path": str(tmp_path / start)}
        run = trainer(tmp_path / "run", **flags)
        state = {name.removeprefix("vae."): value for name, value in run.network.state_dict().items()}
        assert_same(dict(tiny(seed=7).state_dict()), state)
        assert np.isfinite(run.update())


OPEN = """
import sys, torch
from training.networks.autoencoder import open_autoencoder
for name in sys.argv[1:]:
    print(float(sum(p.double().sum() for p in open_autoencoder(name).parameters())))
"""
STRANGER = """
import torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained("me/autoencoder", trust_remote_code=True)
print(float(sum(p.double().sum() for p in pipe.vae.parameters())), pipe(torch.zeros(1, 3, 16, 16)).images[0].size[0])
"""


def test_it_goes_to_the_hub_and_training_goes_on_from_there(hub: HubServer, tmp_path: Path) -> None:
    AutoencoderPipeline(tiny(seed=7)).save_pretrained(tmp_path / "saved")
    done = push(hub, tmp_path / "saved", "me/autoencoder")
    assert done.returncode == 0, done.stderr
    hub.repositories["model", "me/alone"] = Repository()
    hub.repositories["model", "me/alone"].commit(contents(tmp_path / "saved" / "vae"))
    total = float(sum(p.detach().double().sum() for p in tiny(seed=7).parameters()))
    environment = hub.environment(tmp_path / "home")
    with_us = environment | {"PYTHONPATH": str(ROOT)}
    said = run_elsewhere(tmp_path / "one", OPEN, "me/autoencoder", "me/alone", environment=with_us).split()
    assert list(map(float, said)) == pytest.approx([total, total], rel=1e-9)
    said = run_elsewhere(tmp_path / "two", STRANGER, environment=environment).split()
    assert list(map(float, said)) == pytest.approx([total, 16], rel=1e-9)


def test_a_pretrained_one_takes_images_of_its_channels_and_its_size(tmp_path: Path) -> None:
    place = tmp_path / "root"
    over_unet().save_pretrained(place / "start")  # a stock autoencoder of 16 x 16 colours
    image_folder(place / "images", size=24)  # grey
    run_here(arguments(place, "run", pretrained_model_name_or_path=place / "start"))
    vae = AutoencoderKL.from_pretrained(place / "run" / "vae")
    assert (vae.config.sample_size, vae.config.in_channels) == (16, 3)
    assert not torch.equal(vae.decoder.conv_in.weight, tiny_vae().decoder.conv_in.weight)
    recipe, options = parse(arguments(place, "larger", pretrained_model_name_or_path=place / "start", resolution=24))
    assert Autoencoding.build(recipe, options, colours(size=24)).network.vae.config.sample_size == 24


def test_grey_and_transparent_images_become_what_a_config_states(tmp_path: Path) -> None:
    place = tmp_path / "root"
    image_folder(place / "images", names=(), size=16)
    Image.new("RGBA", (16, 16), (255, 0, 0, 0)).save(place / "images" / "clear.png")
    for channels, expected in ((3, 3), (1, 1)):
        states = {"in_channels": channels, "out_channels": channels}
        config = config_file(place / "vae.json", **states)
        run_here(
            arguments(place, "run", model_config_name_or_path=config, max_train_steps=1, overwrite_output_dir=True)
        )
        assert json.loads((place / "run/vae/config.json").read_text())["in_channels"] == expected


# --- what is refused ---


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"_class_name": "VQModel"}, "must name an AutoencoderKL or a PatchedAutoencoderKL, got 'VQModel'"),
        ({"in_channels": 4, "out_channels": 4}, "with 1 .grey. or 3 .colour. channels, as many out as in, got 4"),
        ({"in_channels": 3, "out_channels": 1}, "as many out as in, got 1 and 3"),
        ({"heads": 4}, "must hold arguments of PatchedAutoencoderKL, got heads"),
    ],
)
def test_a_config_that_is_no_autoencoders_is_refused(config: dict, message: str, place: Path) -> None:
    given = config_file(place / "vae.json", **config)
    with pytest.raises(SystemExit, match=f"^error: model_config_name_or_path .*{message}"):
        run_here(arguments(place, "run", model_config_name_or_path=given))
    assert not (place / "run").exists()


def test_a_folder_without_an_autoencoder_is_refused(place: Path) -> None:
    DDPMPipeline(tiny_unet(), DDIMScheduler()).save_pretrained(place / "pixels")
    tiny_unet().save_pretrained(place / "unet")
    for start, message in (
        ("pixels", "must hold vae/config.json"),
        ("unet", "must name an AutoencoderKL or a PatchedAutoencoderKL, got 'UNet2DModel'"),
    ):
        with pytest.raises(SystemExit, match=f"^error: pretrained_model_name_or_path {message}"):
            run_here(arguments(place, "run", pretrained_model_name_or_path=place / start))


@pytest.mark.parametrize(("size", "works"), [(19, 20), (9, 8), (3, 4)])
def test_a_size_that_the_factor_does_not_divide_names_one_that_works(size: int, works: int, place: Path) -> None:
    flags = {"model_config_name_or_path": config_file(place / "vae.json"), "max_train_steps": 1}
    message = "at least 4, got 3" if size == 3 else rf"a multiple of 4 .* \(try {works}\), got {size}x{size}"
    with pytest.raises(SystemExit, match=f"^error: --resolution must be {message}"):
        run_here(arguments(place, "run", resolution=size, **flags))
    run_here(arguments(place, "run", resolution=works, **flags))


def test_flags_that_cannot_work_are_named(place: Path) -> None:
    AutoencoderPipeline(tiny()).save_pretrained(place / "start")
    other = {"pretrained_model_name_or_path": place / "start", "latent_channels": 8}
    with pytest.raises(SystemExit, match="latent_channels must be left out, or 4 as in .*, got 8"):
        run_here(arguments(place, "run", **other))
    for flags, message in (
        ("--equivariance 1.5", r"equivariance must be in \[0, 1\], got 1.5"),
        ("--kl_weight -1", "kl_weight must be in"),
        ("--latent_channels 0", "latent_channels must be at least 1, got 0"),
        ("--latent_noise 0.2", "latent_noise must be 0 without --freeze_encoder, got 0.2"),
        ("--latent_noise -1 --freeze_encoder", r"latent_noise must be in \[0, 10\], got -1"),
        ("--freeze_encoder", "freeze_encoder must be False without --pretrained_model_name_or_path, got True"),
        ("--equivariance 0.5 --torch_compile True", "torch_compile must be False with --equivariance above 0"),
    ):
        with pytest.raises(ValueError, match=message):
            parse(["--recipe=emoji-autoencoder", *flags.split()])


def test_the_recipe_is_the_one_that_was_measured(bfloat16_cpu: None) -> None:
    recipe, options = parse(["--recipe", "emoji-autoencoder"])
    assert (
        find_objective(recipe.objective) is Autoencoding and recipe.max_train_steps * recipe.train_batch_size == 40_000
    )
    assert (recipe.learning_rate, recipe.adam_beta1, recipe.adam_beta2) == (1e-3, 0.9, 0.99)
    assert (recipe.lr_scheduler, recipe.ema_decay, recipe.mixed_precision) == ("cosine", 0.999, "bf16")
    assert recipe.channels_last and recipe.random_flip and not recipe.torch_compile
    assert options == Autoencoding.Options() and options.kl_weight == 1e-4
    assert RECIPES["emoji-autoencoder"]["dataset_name"] == "data/emoji"
