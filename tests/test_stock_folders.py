"""Folders in the layout of published stock models, with tiny random weights, run in pipelines of ours.

The layouts are those of google/ddpm-cifar10-32 and google/ddpm-celebahq-256: all files at the root, weights under the
names that attention had then. (That of facebook/DiT-XL-2-256: latent_folders.py.)
"""

from __future__ import annotations

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import UNet2DModel as UNet
from fresh_processes import contents, fresh
from huggingface_hub import _CACHED_NO_EXIST
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import save_file
from toys import quiet, seeded, two
from training_runs import command, image_folder, run_here

from pipelines import DDIMPipeline, DDPMPipeline
from training.evaluation.sampling import draw_batch, open_model
from training.files import write_json
from training.networks.open import pretrained_size
from ui.catalogue import describe

OLD_NAMES = {".to_q.": ".query.", ".to_k.": ".key.", ".to_v.": ".value.", ".to_out.0.": ".proj_attn."}


# --- google/ddpm-*: all files at the root ---

CIFAR = {"levels": 4, "attention": 1, "size": 32, "variance": "fixed_large"}
CELEBA = {"levels": 6, "attention": 4, "size": 32, "variance": "fixed_small"}


def root_folder(folder: Path, levels: int, attention: int, size: int, variance: str, steps: int = 1000) -> Path:
    """A folder like the published ones, but narrow, 32 channels per level where they have 128 to 512, and small."""
    down = ["AttnDownBlock2D" if level == attention else "DownBlock2D" for level in range(levels)]
    up = ["AttnUpBlock2D" if level == attention else "UpBlock2D" for level in reversed(range(levels))]
    config = {
        "_class_name": "UNet2DModel", "_diffusers_version": "0.0.4", "act_fn": "silu", "attention_head_dim": None,
        "block_out_channels": [32] * levels, "center_input_sample": False, "down_block_types": down,
        "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1, "in_channels": 3, "layers_per_block": 2,
        "mid_block_scale_factor": 1, "norm_eps": 1e-06, "norm_num_groups": 32, "out_channels": 3, "sample_size": size,
        "time_embedding_type": "positional", "up_block_types": up,
    }  # fmt: skip
    scheduler = {
        "_class_name": "DDPMScheduler", "_diffusers_version": "0.1.1", "beta_end": 0.02, "beta_schedule": "linear",
        "beta_start": 0.0001, "clip_sample": True, "num_train_timesteps": steps, "trained_betas": None,
        "variance_type": variance,
    }  # fmt: skip
    index = {
        "_class_name": "DDPMPipeline", "_diffusers_version": "0.1.1", "scheduler": ["diffusers", "DDPMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }  # fmt: skip
    for name, value in (("config", config), ("scheduler_config", scheduler), ("model_index", index)):
        write_json(folder / f"{name}.json", value)
    torch.manual_seed(0)
    weights = UNet.from_config(config).state_dict()
    for new, old in OLD_NAMES.items():
        weights = {key.replace(new, old): value for key, value in weights.items()}
    save_file(weights, folder / "diffusion_pytorch_model.safetensors")
    return folder


@pytest.fixture(scope="module")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return root_folder(tmp_path_factory.mktemp("cifar"), **CIFAR)


@pytest.fixture(scope="module")
def celeba(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return root_folder(tmp_path_factory.mktemp("celeba"), **CELEBA)


@pytest.mark.parametrize("layout", ["cifar", "celeba"])
def test_a_root_folder_draws_what_the_stock_ddpm_pipeline_draws(layout: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(layout)
    ours = quiet(DDPMPipeline.from_pretrained(folder))
    stock = quiet(diffusers.DDPMPipeline.from_pretrained(folder))
    options = {"batch_size": 2, "num_inference_steps": 10, "output_type": "np"}
    images, expected = (pipe(generator=two(), **options).images for pipe in (ours, stock))
    np.testing.assert_allclose(images, expected, rtol=0, atol=2e-4)
    assert float(expected.std()) > 0.1 and float(abs(expected[0] - expected[1]).mean()) > 0.1


@pytest.mark.parametrize(("layout", "eta"), [("cifar", 0.0), ("cifar", 0.5), ("celeba", 0.0)])
def test_a_root_folder_draws_what_the_stock_ddim_pipeline_draws(
    layout: str, eta: float, request: pytest.FixtureRequest
) -> None:
    """eps has to agree with the clipped x_0, as in the paper's code, which the stock pipeline does when asked."""
    folder = request.getfixturevalue(layout)
    ours = quiet(DDIMPipeline.from_pretrained(folder))
    stock = quiet(diffusers.DDIMPipeline.from_pretrained(folder))
    options = {"batch_size": 2, "num_inference_steps": 10, "output_type": "np", "eta": eta}
    images = ours(generator=two(), **options).images
    expected = stock(generator=two(), use_clipped_model_output=True, **options).images
    np.testing.assert_allclose(images, expected, rtol=0, atol=2e-4)


def test_attention_gets_the_weights_of_its_old_names(cifar: Path) -> None:
    torch.manual_seed(0)
    expected = UNet.from_config(json.loads((cifar / "config.json").read_text())).state_dict()
    loaded = DDPMPipeline.from_pretrained(cifar).unet.state_dict()
    assert any(".to_out.0." in key for key in expected) and loaded.keys() == expected.keys()
    assert all(torch.equal(value, expected[key]) for key, value in loaded.items())


def test_a_root_folder_saved_again_has_our_layout_and_draws_the_same_elsewhere(cifar: Path, tmp_path: Path) -> None:
    jobs, expected = [], []
    for cls in (DDPMPipeline, DDIMPipeline):
        pipe = quiet(cls.from_pretrained(cifar))
        pipe.save_pretrained(tmp_path / cls.__name__)
        names = set(contents(tmp_path / cls.__name__))
        assert {"unet/config.json", "scheduler/scheduler_config.json", "model_index.json"} <= names
        assert "config.json" not in names and any(name.startswith("base_") for name in names)
        jobs.append({"folder": tmp_path / cls.__name__})
        expected.append(pipe(generator=seeded(), batch_size=2, num_inference_steps=3, output_type="np").images)
    for got, wanted in zip(fresh(tmp_path / "elsewhere", jobs), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5)


@pytest.mark.usefixtures("alone")
def test_a_root_folder_can_be_fine_tuned_to_other_images(tmp_path: Path) -> None:
    start, end = root_folder(tmp_path / "start", **CIFAR, steps=5), tmp_path / "run"
    assert pretrained_size(str(start)) == (3, 32)
    flags = {"pretrained_model_name_or_path": start, "output_dir": end, "max_train_steps": 2, "lr_warmup_steps": 0}
    flags |= {"train_data_dir": image_folder(tmp_path / "images", size=40), "checkpointing_steps": 9}
    run_here(command("--recipe finetune --class_conditional False --train_batch_size 2", **flags))
    tuned, first = DDPMPipeline.from_pretrained(end), DDPMPipeline.from_pretrained(start)
    assert tuned.sample_shape == (3, 32, 32) and tuned.scheduler.config.beta_schedule == "linear"
    before, after = first.unet.state_dict(), tuned.unet.state_dict()
    assert before.keys() == after.keys()
    moved = [float((after[key] - value).abs().max()) for key, value in before.items()]
    assert 0 < max(moved) < 1e-2  # trained, from the weights that were there


def test_without_a_network_a_file_that_was_not_fetched_is_not_taken_to_be_missing(
    cifar: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: dict[str, object] = {}

    def download(repo_id: str, file: str) -> str:
        if not (cifar / file).is_file():
            raise LocalEntryNotFoundError("cannot find the requested files in the disk cache")
        return str(cifar / file)

    monkeypatch.setattr("training.networks.open.hf_hub_download", download)
    monkeypatch.setattr("training.networks.open.try_to_load_from_cache", lambda repo_id, file: known.get(file))
    with pytest.raises(ValueError, match="must be a folder or a Hub id, got 'google/ddpm-cifar10-32': cannot find"):
        pretrained_size("google/ddpm-cifar10-32")
    known["unet/config.json"] = _CACHED_NO_EXIST  # the Hub has said so before
    assert pretrained_size("google/ddpm-cifar10-32") == (3, 32)


def test_a_root_folder_on_the_hub_tells_its_size(cifar: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(repo_id: str, file: str) -> str:
        if not (cifar / file).is_file():
            raise EntryNotFoundError(f"{repo_id} has no {file}")
        return str(cifar / file)

    monkeypatch.setattr("training.networks.open.hf_hub_download", download)
    assert pretrained_size("google/ddpm-cifar10-32") == (3, 32)


def test_evaluate_and_the_page_open_a_root_folder(cifar: Path) -> None:
    model = open_model(str(cifar), torch.float32, device=torch.device("cpu"))
    batch = draw_batch(model, range(2), seed=0, num_inference_steps=2)
    assert model.shape == (3, 32, 32) and batch.pixels.shape == (2, 3, 32, 32) and batch.evaluations == 4
    info = describe("cifar", cifar)
    assert info.pipeline == "DDPMPipeline" and info.shape == (32, 32, 3) and info.class_names == ()
