"""Training on latents: encoded once, kept, and what is saved draws images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL
from fresh_processes import run_elsewhere
from latent_folders import tiny_vae
from PIL import Image
from training_runs import alone, command, network_file, noise, noise_images, run_here

from pipelines import LatentDiffusionPipeline
from training import latents
from training.latents import latent_data


@pytest.fixture(scope="module", autouse=True)
def one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with alone(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def vae() -> AutoencoderKL:
    """Of a shift, too: 16 x 16 colour images to 8 x 8 x 4."""
    vae = tiny_vae()
    vae.register_to_config(shift_factor=0.25)
    return vae


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, vae: AutoencoderKL) -> Path:
    """An autoencoder's folder, colour images of two classes, and a network for 8 x 8."""
    root = tmp_path_factory.mktemp("latents")
    vae.save_pretrained(root / "autoencoder")
    for i in range(8):
        folder = root / "images" / ("bird", "cat")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(16, 16, 3, seed=i)).save(folder / f"{i}.png")
    network_file(root / "network.json", dropout=0.0)
    return root


def encoded(vae: AutoencoderKL, pixels: np.ndarray) -> np.ndarray:
    x = torch.from_numpy(np.ascontiguousarray(pixels)).float() / 127.5 - 1
    with torch.no_grad():
        return ((vae.encode(x).latent_dist.mean - 0.25) * 0.18215).numpy()


@pytest.fixture
def parts_of_4(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Parts of four images; the sizes of the parts that are encoded."""
    seen, encode = [], latents.encode
    monkeypatch.setattr(latents, "PART", 4)
    monkeypatch.setattr(latents, "encode", lambda vae, x, n: seen.append(len(x)) or encode(vae, x, n))
    return seen


def test_latents_are_those_of_images_and_of_mirrored_images(tmp_path: Path, vae: AutoencoderKL) -> None:
    data = noise_images(5, size=16, channels=3)
    found = latent_data(data, vae, mirrored=True, cache_dir=tmp_path)
    assert found.images.shape == (5, 4, 8, 8) and found.images.dtype == np.float16 and found.unit == 2
    np.testing.assert_allclose(found.images, encoded(vae, data.images), atol=2e-3)
    index, flipped = np.array([3, 0, 3]), torch.tensor([False, True, True])
    taken = found.take(index, flipped, torch.zeros((), dtype=torch.float64))
    assert taken.dtype == torch.float64
    mirrored = encoded(vae, data.images[..., ::-1])
    np.testing.assert_allclose(taken[0], encoded(vae, data.images)[3], atol=2e-3)
    np.testing.assert_allclose(taken[1:], mirrored[[0, 3]], atol=2e-3)
    assert np.abs(mirrored - encoded(vae, data.images)[..., ::-1]).max() > 0.05, "mirroring does not commute"
    assert np.array_equal(found.labels, data.labels) and found.class_names == data.class_names


def test_they_are_encoded_once_and_a_run_that_was_killed_goes_on(
    tmp_path: Path, vae: AutoencoderKL, parts_of_4: list[int]
) -> None:
    data = noise_images(10, size=16, channels=3)
    whole = latent_data(data, vae, cache_dir=tmp_path)
    assert parts_of_4 == [4, 4, 2]
    again = latent_data(data, vae, cache_dir=tmp_path)
    assert parts_of_4 == [4, 4, 2] and np.array_equal(whole.images, again.images)
    first, second, third = sorted(tmp_path.rglob("part-*.npy"))
    first.unlink()
    second.write_bytes(second.read_bytes()[:100])  # a disk that was full
    content = third.read_bytes()
    third.write_bytes(content[:200] + bytes(99) + content[299:])  # a page that never reached it
    assert np.array_equal(latent_data(data, vae, cache_dir=tmp_path).images, whole.images)
    assert parts_of_4 == [4, 4, 2, 4, 4, 2]
    latent_data(data, vae, mirrored=True, cache_dir=tmp_path)
    assert parts_of_4 == [4, 4, 2, 4, 4, 2, 4, 4, 2], "the images themselves were there"


def test_another_autoencoder_or_other_images_are_encoded_anew(
    tmp_path: Path, vae: AutoencoderKL, parts_of_4: list[int]
) -> None:
    data = noise_images(3, size=16, channels=3)
    one = latent_data(data, vae, cache_dir=tmp_path)
    other = tiny_vae()
    other.encoder.conv_in.bias.data += 0.5
    scaled = tiny_vae()
    scaled.register_to_config(shift_factor=0.25, scaling_factor=0.2)
    changed = replace(data, images=255 - data.images, fingerprint="changed")
    others = ((data, other), (data, scaled), (changed, vae))
    prints = {latent_data(*each, cache_dir=tmp_path).fingerprint for each in others}
    assert parts_of_4 == [3] * 4 and len(prints | {one.fingerprint, data.fingerprint}) == 5


def test_images_that_do_not_fit_are_refused(tmp_path: Path, vae: AutoencoderKL) -> None:
    with pytest.raises(ValueError, match=r"vae must take the images' 1 channel\(s\), it takes 3"):
        latent_data(noise_images(3, size=16), vae, cache_dir=tmp_path)
    with pytest.raises(ValueError, match=r"--resolution must be a multiple of 2 for this vae \(try 16\), got 15x15"):
        latent_data(noise_images(3, size=15, channels=3), vae, cache_dir=tmp_path)
    assert not list(tmp_path.iterdir())


DRAW = """
import sys
from diffusers import DiffusionPipeline

pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
print(pipe(num_inference_steps=2, output_type="np").images.shape)
"""
RUN = {"max_train_steps": 2, "checkpointing_steps": 1, "train_batch_size": 2}
KINDS = {
    "flow_matching": ({"class_conditional": True}, LatentDiffusionPipeline),
    "denoising": ({"class_conditional": True, "ddpm_num_steps": 5}, LatentDiffusionPipeline),
    "denoising-unconditional": ({"ddpm_num_steps": 5}, LatentDiffusionPipeline),
}


def arguments(place: Path, kind: str, **more: object) -> list[str]:
    """A run of two updates; `ddpm_num_steps` is the denoising objective's alone."""
    flags = KINDS[kind][0] | RUN | {"output_dir": place / kind, "train_data_dir": place / "images"}
    flags |= {"vae": place / "autoencoder", "model_config_name_or_path": place / "network.json"}
    names = {"ddpm_num_steps": None, "objective": kind.partition("-")[0]}
    return command("--recipe unconditional", **names | flags | more)


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_on_latents_saves_what_draws_images_anywhere(place: Path, kind: str, tmp_path: Path) -> None:
    run_here(arguments(place, kind, random_flip=True))
    pipe = KINDS[kind][1].from_pretrained(place / kind)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.sample_shape == (4, 8, 8) and pipe.facts.image_shape == (3, 16, 16)
    asked = {"class_labels": ["cat", "bird"]} if pipe.num_classes else {"batch_size": 2}
    images = pipe(**asked, num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 16, 16, 3)
    assert pipe(**asked, num_inference_steps=2, output_type="latent").images.shape == (2, 4, 8, 8)
    assert json.loads((place / kind / "training.json").read_text())["recipe"]["vae"] is not None
    with Image.open(place / kind / "samples.png") as grid:
        assert grid.mode == "RGB"
    assert "(1, 16, 16, 3)" in run_elsewhere(tmp_path, DRAW, str(place / kind))


def test_fine_tuning_goes_on_in_the_latents_of_the_model_s_own_autoencoder(place: Path) -> None:
    if not (place / "flow_matching").exists():
        run_here(arguments(place, "flow_matching"))
    start = {"pretrained_model_name_or_path": place / "flow_matching", "model_config_name_or_path": None}
    run_here(arguments(place, "flow_matching", output_dir=place / "tuned", vae=None, **start))
    tuned = LatentDiffusionPipeline.from_pretrained(place / "tuned")
    assert tuned.config.path == "linear" and tuned.facts.image_shape == (3, 16, 16)
    assert tuned.class_names == ["bird", "cat"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"augment": 0.5}, "augment must be 0 with latents"),
        ({"vae": "nowhere/here"}, "vae must be a folder or a Hub id, got 'nowhere/here'"),
        ({"resolution": 17}, r"--resolution must be a multiple of 2 for this vae \(try 16\), got 17x17"),
        ({"resolution": 18}, r"--resolution must be a multiple of 4 for this network \(try 16\), got 18x18"),
        ({"objective": "score_matching"}, "--vae"),
    ],
)
def test_what_does_not_go_with_latents_is_refused_by_name(
    place: Path, change: dict, message: str, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match=message):
        run_here(arguments(place, "flow_matching", output_dir=tmp_path / "run", **change))
    assert not (tmp_path / "run").exists()
