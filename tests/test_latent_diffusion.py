"""LatentDiffusionPipeline: DiT in a folder like facebook/DiT-XL-2-256, and U-Nets over the same latents.

The folder has the published layout (an older class name, learned variance, 1000 classes) and tiny random weights.
"""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, DiTTransformer2DModel, DPMSolverMultistepScheduler
from diffusers import UNet2DModel as UNet
from safetensors.torch import save_file
from test_saving import content, fresh
from test_stock_folders import training, two, write_json  # noqa: F401
from torch import Tensor
from toys import quiet, seeded, tiny_unet
from training_runs import command, image_folder, noise_images, run_here

from pipelines import LatentDiffusionPipeline
from pipelines.base import StepwisePipeline
from training.evaluation.checks import check_bits
from training.evaluation.options import Options
from training.evaluation.sampling import draw_batch, open_model
from training.networks.open import load_pipeline
from ui.catalogue import describe, load
from ui.device import Placement

NULL = 1000
W = 4.0
NAMES = {str(i): f"thing {i}, Res {i}" for i in range(1000)} | {"134": "crane", "517": "crane", "639": "maillot, suit"}
NAMES["638"] = "maillot"


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 16), latent_channels=4, norm_num_groups=4, sample_size=16, scaling_factor=0.18215,
    ).eval()  # fmt: skip


def latent_unet(num_classes: int | None = None, out_channels: int = 4) -> UNet:
    return tiny_unet(num_classes, in_channels=4, out_channels=out_channels)


@pytest.fixture(scope="module")
def dit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder like the published one, but with 2 layers of 2 heads of 8 channels over 8 x 8 latents."""
    folder = tmp_path_factory.mktemp("dit")
    config = {
        "_class_name": "Transformer2DModel", "_diffusers_version": "0.12.0.dev0", "activation_fn": "gelu-approximate",
        "attention_bias": True, "attention_head_dim": 8, "cross_attention_dim": None, "dropout": 0.0, "in_channels": 4,
        "norm_elementwise_affine": False, "norm_num_groups": 32, "norm_type": "ada_norm_zero",
        "num_attention_heads": 2, "num_embeds_ada_norm": 1000, "num_layers": 2, "num_vector_embeds": None,
        "only_cross_attention": False, "out_channels": 8, "patch_size": 2, "sample_size": 8,
        "upcast_attention": False, "use_linear_projection": False,
    }  # fmt: skip
    scheduler = {
        "_class_name": "DDIMScheduler", "_diffusers_version": "0.12.0.dev0", "beta_end": 0.02,
        "beta_schedule": "linear", "beta_start": 0.0001, "clip_sample": False, "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "set_alpha_to_one": True, "steps_offset": 0, "trained_betas": None,
    }  # fmt: skip
    index = {
        "_class_name": "DiTPipeline", "_diffusers_version": "0.12.0.dev0", "id2label": NAMES,
        "scheduler": ["diffusers", "DDIMScheduler"], "transformer": ["diffusers", "Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }  # fmt: skip
    write_json(folder / "model_index.json", index)
    write_json(folder / "transformer" / "config.json", config)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    tiny_vae().save_pretrained(folder / "vae")
    torch.manual_seed(0)
    shape = {key: value for key, value in config.items() if not key.startswith("_")}
    for unknown in ("cross_attention_dim", "num_vector_embeds", "only_cross_attention", "use_linear_projection"):
        shape.pop(unknown)
    save_file(
        DiTTransformer2DModel(**shape).state_dict(), folder / "transformer" / "diffusion_pytorch_model.safetensors"
    )
    return folder


def load_dit(folder: Path) -> LatentDiffusionPipeline:
    return quiet(LatentDiffusionPipeline.from_pretrained(folder))


def over_unet(num_classes: int | None = None, **config: object) -> LatentDiffusionPipeline:
    names = None if num_classes is None else {str(i): f"thing {i}" for i in range(num_classes)}
    scheduler = DDIMScheduler(**{"clip_sample": False} | config)
    unet = latent_unet(None if num_classes is None else num_classes + 1)
    return quiet(LatentDiffusionPipeline(tiny_vae(), scheduler, unet=unet, id2label=names))


def assert_steps(
    pipe: LatentDiffusionPipeline, stock: object, labels: list[int], null: int, steps: int, eta: float = 0.0,
    learned: bool = False, clipped: bool | None = None,
) -> None:  # fmt: skip
    """Every step of ours is the stock scheduler's from the same z_t, guidance written out, with the variance channels
    of the labelled half where they are `learned`. Each step starts from new unit noise: the outputs of an untrained
    network would carry the latents off to sizes at which noise does not show."""
    ours, theirs = ([seeded(i) for i in range(len(labels))] for _ in range(2))
    z = torch.cat([torch.randn(1, 4, 8, 8, generator=generator) for generator in theirs])
    network = pipe.unet or pipe.transformer
    options = {} if clipped is None else {"eta": eta, "use_clipped_model_output": clipped}
    stock.set_timesteps(steps)
    stream = pipe.stream(labels, None, steps, guidance_scale=W, eta=eta, generator=ours)
    for step, t in zip(stream, stock.timesteps, strict=True):
        times = t.expand(len(labels))
        with torch.no_grad():
            labelled = network(z, times, class_labels=torch.tensor(labels)).sample
            free = network(z, times, class_labels=torch.full((len(labels),), null)).sample[:, :4]
        guided = free + W * (labelled[:, :4] - free)
        output = torch.cat([guided, labelled[:, 4:]], dim=1) if learned else guided
        expected = stock.step(output, t, z, generator=theirs, **options).prev_sample
        assert torch.equal(step.x_t, z) and step.timestep == int(t)
        torch.testing.assert_close(step.prev_sample, expected, rtol=2e-4, atol=2e-4)
        z = step.prev_sample = torch.randn(len(labels), 4, 8, 8, generator=seeded(100 + step.index))


def drawn(pipe: LatentDiffusionPipeline, labels: list[int], steps: int = 10, **options: object) -> Tensor:
    generators = [seeded(i) for i in range(len(labels))]
    options = {"output_type": "latent", "guidance_scale": W} | options
    return pipe(labels, num_inference_steps=steps, generator=generators, **options).images


@pytest.mark.parametrize("scale", [1.0, W])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_a_dit_folder_draws_what_the_stock_pipeline_draws(scale: float, spacing: str, dit: Path) -> None:
    ours, stock = load_dit(dit), quiet(diffusers.DiTPipeline.from_pretrained(dit))
    for pipe in (ours, stock):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, timestep_spacing=spacing)
    options = {"num_inference_steps": 10, "guidance_scale": scale, "output_type": "np"}
    images, expected = (pipe([7, 999], generator=two(), **options).images for pipe in (ours, stock))
    assert images.shape == (2, 16, 16, 3) and float(expected.std()) > 0.05
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-5)


def test_a_dit_folder_is_driven_by_other_schedulers_as_the_stock_pipeline_does(dit: Path) -> None:
    ours, stock = load_dit(dit), quiet(diffusers.DiTPipeline.from_pretrained(dit))
    for pipe in (ours, stock):
        pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    options = {"num_inference_steps": 6, "guidance_scale": W, "output_type": "np"}
    images, expected = (pipe([7, 999], generator=two(), **options).images for pipe in (ours, stock))
    np.testing.assert_allclose(images, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("steps", [10, 100])
def test_ancestral_steps_use_the_variance_that_dit_has_learned(steps: int, dit: Path) -> None:
    pipe = load_dit(dit)
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, variance_type="learned_range")
    stock = DDPMScheduler.from_config(pipe.scheduler.config)
    assert_steps(pipe, stock, [7, 999], NULL, steps, learned=True)


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("clip", [{}, {"clip_sample": True, "clip_sample_range": 1.5}])
def test_ddim_steps_are_the_stock_steps(eta: float, clip: dict, dit: Path) -> None:
    for pipe, null in ((over_unet(3), 3), (load_dit(dit), NULL)):
        pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, **clip)
        stock = DDIMScheduler.from_config(pipe.scheduler.config)
        assert_steps(pipe, stock, [0, 2], null, 10, eta, clipped=bool(clip))


@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large"])
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_ancestral_steps_over_a_unet_are_the_stock_steps(variance: str, kind: str) -> None:
    pipe = over_unet(3, prediction_type=kind)
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config, variance_type=variance)
    assert_steps(pipe, DDPMScheduler.from_config(pipe.scheduler.config), [0, 2], 3, 20)


def test_without_classes_the_unet_is_called_as_it_is() -> None:
    pipe, stock = over_unet(), DDIMScheduler(clip_sample=False)
    z = torch.randn(2, 4, 8, 8, generator=seeded())
    output = pipe(batch_size=2, num_inference_steps=5, latents=z, output_type="latent")
    stock.set_timesteps(5)
    for t in stock.timesteps:
        with torch.no_grad():
            z = stock.step(pipe.unet(z, t).sample, t, z).prev_sample
    torch.testing.assert_close(output.images, z, rtol=1e-4, atol=1e-4)
    assert output.nfe == 5
    with pytest.raises(ValueError, match="^class_labels must be None"):
        pipe.stream(class_labels=0)


# --- what the page knows of it ---


def test_the_page_describes_and_loads_a_dit_folder(dit: Path) -> None:
    info = describe("dit", dit)
    assert (info.pipeline, info.carries_code, info.shape) == ("LatentDiffusionPipeline", False, (16, 16, 3))
    assert info.class_names == tuple(NAMES[str(i)] for i in range(1000)) and len(info.labels) == 1000
    pipe = quiet(load(info, Placement("cpu", "float32", False)))
    assert isinstance(pipe, LatentDiffusionPipeline)
    assert pipe.resolve_labels(list(info.labels), None)[0].tolist() == list(range(1000))  # names, where they are unique
    assert pipe(info.labels[134], num_inference_steps=1, output_type="np").images.shape == (1, *info.shape)


def test_the_page_describes_saved_models_of_latents(dit: Path, tmp_path: Path) -> None:
    load_dit(dit).save_pretrained(tmp_path / "dit")
    nameless = LatentDiffusionPipeline(tiny_vae(), DDIMScheduler(), unet=latent_unet(4))
    for name, pipe in (("nameless", nameless), ("named", over_unet(3)), ("plain", over_unet())):
        pipe.save_pretrained(tmp_path / name)
    found = {name: describe(name, tmp_path / name) for name in ("dit", "nameless", "named", "plain")}
    assert {info.shape for info in found.values()} == {(16, 16, 3)}
    assert {info.pipeline for info in found.values()} == {"LatentDiffusionPipeline"}
    assert found["dit"].labels == describe("dit", dit).labels
    assert found["nameless"].labels == (0, 1, 2)  # and 3 means "no class"
    assert found["named"].labels == ("thing 0", "thing 1", "thing 2") and found["plain"].labels == ()


def test_a_dit_folder_is_opened_by_the_class_that_runs_it(dit: Path) -> None:
    assert type(load_pipeline(str(dit))) is LatentDiffusionPipeline


# --- guidance and labels ---


def first_eps(pipe: LatentDiffusionPipeline, labels: list[int] | None, scale: float) -> Tensor:
    z = torch.randn(2, 4, 8, 8, generator=seeded())
    return next(pipe.stream(labels, 2, 10, guidance_scale=scale, latents=z)).eps


def test_guidance_is_a_shift_away_from_the_unguided(dit: Path) -> None:
    pipe = load_dit(dit)
    free, labelled, guided = (first_eps(pipe, [7, 999], scale) for scale in (0.0, 1.0, 3.0))
    assert float((labelled - free).abs().max()) > 0.01
    torch.testing.assert_close(guided - free, 3 * (labelled - free), rtol=1e-4, atol=1e-5)
    z = torch.randn(2, 4, 8, 8, generator=seeded())
    with torch.no_grad():
        null = pipe.transformer(z, torch.full((2,), 900), class_labels=torch.full((2,), NULL)).sample[:, :4]
    torch.testing.assert_close(free, null, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(first_eps(pipe, None, 3.0), null, rtol=1e-4, atol=1e-5)


def test_evaluations_are_counted_an_image_and_guidance_takes_two(dit: Path) -> None:
    pipe = load_dit(dit)
    for scale, nfe in ((W, 6), (1.0, 3), (0.0, 3)):
        assert pipe([7, 8, 9], num_inference_steps=3, guidance_scale=scale, output_type="latent").nfe == nfe
    assert pipe(batch_size=3, num_inference_steps=3, guidance_scale=W, output_type="latent").nfe == 3  # no class


def test_labels_are_indices_names_or_synonyms(dit: Path) -> None:
    pipe = load_dit(dit)
    assert pipe.num_classes == 1000 and pipe.null_label == NULL
    for label, index in ((5, 5), ("thing 5, Res 5", 5), ("thing 5", 5), ("res 5", 5), (" RES 5 ", 5), ("maillot", 638)):
        assert pipe.resolve_labels(label, 2)[0].tolist() == [index] * 2, label
    assert pipe.resolve_labels(None, 2)[0].tolist() == [NULL] * 2


WRONG = [
    ("class_labels must be 0 to 999 or one of thing 57, .*got 'thing 57x'", {"class_labels": "thing 57x"}),
    ("class_labels must be 0 to 999 .*got 1000", {"class_labels": 1000}),
    ("class_labels must be 0 to 999 .*got -1", {"class_labels": -1}),
    (r"class_labels must name one class, got 'crane', .*\[134, 517\]", {"class_labels": "crane"}),
    ("class_labels must have one entry per image", {"class_labels": [1, 2], "batch_size": 3}),
    ("guidance_scale must", {"guidance_scale": -1.0}),
    ("guidance_scale must", {"guidance_scale": float("nan")}),
    ("num_inference_steps must", {"num_inference_steps": 0}),
    ("num_inference_steps must", {"num_inference_steps": 1001}),
    ("eta must", {"eta": -0.1}),
    (r"latents must be .*\(1, 4, 8, 8\)", {"latents": torch.zeros(1, 3, 16, 16)}),
    ("generator must", {"generator": [seeded()] * 2, "batch_size": 2}),
    ("output_type must", {"output_type": "jpg"}),
]


@pytest.mark.parametrize(("message", "arguments"), WRONG)
def test_a_wrong_argument_is_named_before_any_work(message: str, arguments: dict, dit: Path) -> None:
    pipe, calls = load_dit(dit), []
    pipe.transformer.register_forward_hook(lambda *_: calls.append(1))
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        pipe(**{"class_labels": 1, "num_inference_steps": 2} | arguments)
    assert not calls and len(str(caught.value)) < 200  # not all of 1000 names


def test_eta_belongs_to_ddim(dit: Path) -> None:
    pipe = load_dit(dit)
    for kind in (DDPMScheduler, DPMSolverMultistepScheduler):
        pipe.scheduler = kind.from_config(pipe.scheduler.config)
        with pytest.raises(ValueError, match=f"^eta must be 0 with {kind.__name__}"):
            pipe.stream(1, eta=0.5)


# --- the autoencoder ---


def test_latents_are_decoded_once_at_the_end_and_for_whoever_asks(dit: Path) -> None:
    pipe, seen = load_dit(dit), []
    pipe.vae.decoder.register_forward_hook(lambda module, args, output: seen.append(len(args[0])))
    latents = drawn(pipe, [1, 2], steps=3)
    assert seen == [] and latents.shape == (2, 4, 8, 8)
    images = drawn(pipe, [1, 2], steps=3, output_type="pt")
    assert sum(seen) == 2
    with torch.no_grad():
        expected = (pipe.vae.decode(latents / 0.18215).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(images, expected, rtol=0, atol=1e-5)
    step = next(pipe.stream([1, 2], num_inference_steps=3))
    assert [image.size for image in pipe.to_images(step.pred_original_sample)] == [(16, 16)] * 2


def test_a_callback_sees_and_may_replace_latents(dit: Path) -> None:
    pipe, seen = load_dit(dit), []
    zeros = torch.zeros(2, 4, 8, 8)

    def note(called: StepwisePipeline, index: int, timestep: float, tensors: dict) -> dict:
        seen.append((index, timestep, tensors["pred_original_sample"].shape))
        called._interrupt = index == 1
        return {"latents": zeros} if index == 1 else {}

    inputs = ["latents", "pred_original_sample"]
    options = {"callback_on_step_end": note, "callback_on_step_end_tensor_inputs": inputs}
    assert torch.equal(drawn(pipe, [1, 2], steps=5, **options), zeros)
    assert seen == [(0, 800.0, zeros.shape), (1, 600.0, zeros.shape)]


def test_bfloat16_weights_step_in_float32(dit: Path) -> None:
    exact, half = load_dit(dit), load_dit(dit).to(torch.bfloat16)
    images = [drawn(pipe, [1, 2], steps=3, output_type="pt") for pipe in (exact, half)]
    assert images[1].dtype == torch.float32
    assert 0 < float((images[0] - images[1]).abs().mean()) < 0.02


def test_parts_that_do_not_fit_are_named() -> None:
    vae, scheduler, unet = tiny_vae(), DDIMScheduler(), latent_unet(4)
    with pytest.raises(ValueError, match="^unet or transformer must be given, one of them, got neither"):
        LatentDiffusionPipeline(vae, scheduler)
    with pytest.raises(ValueError, match="^vae must have the network's 1 latent channels, got 4"):
        LatentDiffusionPipeline(vae, scheduler, unet=tiny_unet())
    with pytest.raises(ValueError, match="^id2label must name 3 classes, got 4"):
        LatentDiffusionPipeline(vae, scheduler, unet=unet, id2label={str(i): str(i) for i in range(4)})


# --- one seed, one image ---


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("kind", [DDIMScheduler, DDPMScheduler])
def test_an_image_does_not_depend_on_the_batch(threads: int, kind: type, dit: Path) -> None:
    pipe, before = load_dit(dit), torch.get_num_threads()
    pipe.scheduler = kind.from_config(pipe.scheduler.config)
    torch.set_num_threads(threads)
    try:
        images = {n: drawn(pipe, list(range(n)), steps=3, output_type="pt") for n in (1, 3, 5, 8)}
        single = pipe(0, num_inference_steps=3, guidance_scale=W, generator=seeded(0), output_type="pt").images
    finally:
        torch.set_num_threads(before)
    assert torch.equal(single, images[8][:1])
    for n, batch in images.items():
        assert torch.equal(batch, images[8][:n]), n
    assert len({image.numpy().tobytes() for image in images[8]}) == 8


# --- saved again ---


def test_saved_with_its_code_a_model_draws_the_same_elsewhere(dit: Path, tmp_path: Path) -> None:
    made = {"dit": load_dit(dit), "unet": over_unet(3), "plain": over_unet()}
    made["ancestral"] = load_dit(dit)
    made["ancestral"].scheduler = DDPMScheduler.from_config(made["dit"].scheduler.config, variance_type="learned_range")
    options = {"dit": {"class_labels": "Res 7"}, "unet": {"class_labels": "thing 1"}, "plain": {}}
    options["ancestral"] = {"class_labels": [7, 8]}
    jobs = []
    for name, pipe in made.items():
        pipe.save_pretrained(tmp_path / name)
        jobs.append({"folder": tmp_path / name, "options": options[name], "save": str(tmp_path / f"{name} again")})
    images = fresh(tmp_path / "elsewhere", jobs)
    for (name, pipe), got in zip(made.items(), images, strict=True):
        settings = {"batch_size": 2, "num_inference_steps": 3, "output_type": "np"} | options[name]
        expected = pipe(generator=seeded(), **settings).images
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-5, err_msg=name)
        assert content(tmp_path / name) == content(tmp_path / f"{name} again"), name
    again = load_dit(tmp_path / "dit again")
    assert again.unet is None and again.class_names[7] == "thing 7, Res 7"


def test_without_code_the_stock_pipeline_opens_a_dit_and_no_other(dit: Path, tmp_path: Path) -> None:
    pipe = load_dit(dit)
    pipe.save_pretrained(tmp_path / "dit", carry_code=False)
    assert not list((tmp_path / "dit").rglob("*.py"))
    stock = quiet(diffusers.DiffusionPipeline.from_pretrained(tmp_path / "dit"))
    assert type(stock) is diffusers.DiTPipeline and stock.labels["Res 7"] == 7
    options = {"num_inference_steps": 5, "output_type": "np"}
    both = [p([7, 8], generator=two(), **options).images for p in (pipe, stock)]
    np.testing.assert_allclose(*both, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="^carry_code=False: .*LatentDiffusionPipeline"):
        over_unet(3).save_pretrained(tmp_path / "unet", carry_code=False)
    for kind in (DDPMScheduler, DPMSolverMultistepScheduler):
        pipe.scheduler = kind.from_config(pipe.scheduler.config, variance_type="learned_range")
        with pytest.raises(ValueError, match=f"^carry_code=False: .* drops the variance .* {kind.__name__} .*'learned"):
            pipe.save_pretrained(tmp_path / "learned", carry_code=False)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)  # which has no use for it
    pipe.save_pretrained(tmp_path / "dit", carry_code=False)
    assert not (tmp_path / "learned").exists()


@pytest.mark.usefixtures("training")
def test_a_model_of_latents_is_not_fine_tuned_as_if_it_were_of_pixels(dit: Path, tmp_path: Path) -> None:
    over_unet(3).save_pretrained(tmp_path / "latents")
    folder = image_folder(tmp_path / "images")
    for path, expected in ((dit, "hold unet/config.json"), (tmp_path / "latents", "denoise pixels")):
        flags = {"train_data_dir": folder, "pretrained_model_name_or_path": path, "output_dir": tmp_path / "run"}
        with pytest.raises(SystemExit, match=f"pretrained_model_name_or_path must {expected}"):
            run_here(command("--recipe finetune", **flags))


# ------------------------------------------------------------------------------------------------------------ measured


@pytest.mark.parametrize("guidance_scale, nfe", [(1.0, 2), (W, 4)])
@pytest.mark.parametrize("kind, classes", [("unet", 3), ("dit", 1000), ("stock", 1000), ("unconditional", None)])
def test_evaluate_draws_whole_images(
    kind: str, classes: int | None, guidance_scale: float, nfe: int, dit: Path, tmp_path: Path
) -> None:
    if kind == "stock":
        folder = dit
    else:
        folder = tmp_path / kind
        (load_dit(dit) if kind == "dit" else over_unet(classes)).save_pretrained(folder)
    model = open_model(str(folder), torch.float32, torch.device("cpu"))
    assert (model.shape, model.num_classes) == ((3, 16, 16), classes)
    settings = {"num_inference_steps": 2, "guidance_scale": guidance_scale}
    batch = draw_batch(model, range(3), seed=0, **settings)
    assert batch.pixels.shape == (3, 3, 16, 16) and batch.pixels.std() > 0
    assert batch.evaluations == 3 * (2 if classes is None else nfe)


def test_bits_of_pixels_are_refused_for_latents(tmp_path: Path) -> None:
    over_unet(3).save_pretrained(tmp_path / "latent")
    model = open_model(str(tmp_path / "latent"), torch.float32)
    with pytest.raises(ValueError, match="bits_per_dim must be 0: latent diffuses latents"):
        check_bits(model, Options("noise", bits_per_dim=2, bits_per_dim_steps=10), noise_images(size=16, channels=3))
