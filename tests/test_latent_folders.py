"""Folders of models of latents: the page, evaluation and other processes open them, and training refuses them."""

from __future__ import annotations

from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from fresh_processes import contents, fresh
from latent_folders import NAMES, W, latent_unet, load_dit, over_unet, tiny_vae
from toys import quiet, seeded, two
from training_runs import command, image_folder, noise_images, run_here

from pipelines import LatentDiffusionPipeline
from training.evaluation.checks import check_bits
from training.evaluation.options import Options
from training.evaluation.sampling import draw_batch, open_model
from training.networks.open import load_pipeline
from ui.catalogue import describe
from ui.device import Placement
from ui.loading import load

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
        assert contents(tmp_path / name) == contents(tmp_path / f"{name} again"), name
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


@pytest.mark.usefixtures("alone")
def test_a_model_of_latents_is_not_fine_tuned_as_if_it_were_of_pixels(dit: Path, tmp_path: Path) -> None:
    over_unet(3).save_pretrained(tmp_path / "latents")
    flags = {"train_data_dir": image_folder(tmp_path / "images"), "output_dir": tmp_path / "run"}
    wrong = {"hold unet/config.json": {"pretrained_model_name_or_path": dit}}
    of_latents = {"pretrained_model_name_or_path": tmp_path / "latents"}
    wrong["denoise pixels"] = of_latents | {"objective": "score_matching"}
    for expected, more in wrong.items():
        with pytest.raises(SystemExit, match=f"pretrained_model_name_or_path must {expected}"):
            run_here(command("--recipe finetune", **flags | {"ddpm_num_steps": None} | more))
    run_here(command("--recipe finetune", **flags | of_latents))  # on latents of the images, at the model's size
    tuned = LatentDiffusionPipeline.from_pretrained(tmp_path / "run")
    assert tuned.facts.image_shape == (3, 16, 16) and tuned.class_names == ["bird", "cat"]


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
