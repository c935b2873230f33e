"""PSNR and SSIM, the command that measures an autoencoder, and its card."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from autoencoders import colours, tiny
from diffusers import DDPMScheduler
from image_files import parquet_folder
from PIL import Image
from torchmetrics.functional.image import structural_similarity_index_measure
from toys import tiny_unet
from training_runs import image_folder, noise

from pipelines import AutoencoderPipeline, DDPMPipeline
from training.card import render
from training.data import load_images
from training.evaluate import main as evaluate
from training.evaluation.reconstruction import main
from training.files import read_json_object, write_json
from training.metrics.features import FeatureClassifier
from training.metrics.frechet import frechet_distance, statistics
from training.metrics.reconstruction import psnr, reconstruct, ssim
from training.sharing.uploads import uploads


def pair(size: int = 16) -> tuple[np.ndarray, np.ndarray]:
    images = noise(3, 3, size, size)
    other = images.astype(int) + noise(3, 3, size, size, seed=1) % 40
    return other.clip(0, 255).astype(np.uint8), images


def test_psnr_is_that_of_its_definition() -> None:
    made, images = pair()
    for i in range(3):
        error = np.mean((made[i].astype(float) - images[i]) ** 2)
        assert psnr(made, images)[i] == pytest.approx(20 * np.log10(255) - 10 * np.log10(error), rel=1e-12)
    assert psnr(images, images)[0] == pytest.approx(58.92, abs=0.01), "8 bits hold no more"


@pytest.mark.parametrize("size", [11, 16, 24])
def test_ssim_is_that_of_its_definition_and_of_torchmetrics(size: int) -> None:
    made, images = pair(size)
    at = np.arange(11) - 5
    window = np.exp(-(at[:, None] ** 2 + at**2) / (2 * 1.5**2))
    window /= window.sum()
    for i in range(3):
        values = []
        for channel in range(3):
            for y in range(size - 10):
                for x in range(size - 10):
                    a, b = (p[i, channel, y : y + 11, x : x + 11].astype(float) for p in (made, images))
                    m_a, m_b = (window * a).sum(), (window * b).sum()
                    v_a, v_b = (window * (a - m_a) ** 2).sum(), (window * (b - m_b) ** 2).sum()
                    both = (window * (a - m_a) * (b - m_b)).sum()
                    top = (2 * m_a * m_b + 2.55**2) * (2 * both + 7.65**2)
                    values.append(top / ((m_a**2 + m_b**2 + 2.55**2) * (v_a + v_b + 7.65**2)))
        assert ssim(made, images)[i] == pytest.approx(np.mean(values), abs=1e-9)
    theirs = structural_similarity_index_measure(
        *(torch.from_numpy(p).double() for p in (made, images)), data_range=255.0, reduction="none"
    )  # whose windows reach over the edge, into a mirror
    mirrored = (np.pad(p, [(0, 0), (0, 0), (5, 5), (5, 5)], mode="reflect") for p in (made, images))
    np.testing.assert_allclose(ssim(*mirrored), theirs.numpy(), atol=1e-6)
    np.testing.assert_allclose(ssim(images, images), 1.0)
    with pytest.raises(ValueError, match="at least 11 pixels for SSIM, got 10"):
        ssim(made[..., :10], images[..., :10])


def test_reconstructions_do_not_depend_on_the_batch_and_must_be_finite() -> None:
    vae, pixels = tiny(), colours(5).images
    whole = reconstruct(vae, pixels, 5)
    assert whole.shape == pixels.shape and np.abs(reconstruct(vae, pixels, 2).astype(int) - whole).max() <= 1
    vae.residual[2].bias.data[0] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        reconstruct(vae, pixels)


@pytest.fixture
def place(tmp_path: Path, own_caches: None, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A tiny autoencoder, coloured images, and a network for their features, in the working directory."""
    monkeypatch.chdir(tmp_path)
    pixels = colours(40).images.transpose(0, 2, 3, 1)
    parquet_folder(tmp_path / "images", {"train": pixels[:25], "test": pixels[25:]}, ())
    torch.manual_seed(0)
    shape = {"in_channels": 3, "num_classes": 2, "sample_size": 16, "class_names": ("a", "b")}
    FeatureClassifier(**shape, block_out_channels=(8, 8), layers_per_block=(1, 1)).save_pretrained("features")
    AutoencoderPipeline(tiny()).save_pretrained("model")
    return tmp_path


COMMAND = "model --dataset_name images --features features".split()


def test_the_command_writes_numbers_once_with_their_floor_and_an_image(
    place: Path, capsys: pytest.CaptureFixture
) -> None:
    main(COMMAND)
    content = read_json_object(place / "model/metrics.json")
    ((key, row),) = content["reconstruction"].items()
    assert key.startswith("model num_samples=15 resolution=16 ") and content["results"] == {}
    test, train = (colours(40).images[part] for part in (slice(25, None), slice(25)))
    made = reconstruct(tiny(), test)
    assert row["measured"]["psnr"] == pytest.approx(psnr(made, test).mean(), abs=0.02)
    assert row["measured"]["ssim"] == pytest.approx(ssim(made, test).mean(), abs=1e-3)
    network = FeatureClassifier.from_pretrained("features").eval()
    with torch.no_grad():
        found = [network.features(torch.from_numpy(p).float() / 127.5 - 1).numpy() for p in (made, test)]
    ours, theirs = map(statistics, found)
    distance = frechet_distance(ours.mean, ours.covariance, theirs.mean, theirs.covariance)
    assert row["measured"]["frechet_distance"] == pytest.approx(distance, rel=0.05)
    assert row["floor"]["num_samples"] == 15 < len(train) and row["floor"]["frechet_distance"] > 0
    assert row["measured"]["seconds_to_decode_4"] > 0
    assert Image.open(place / "model/reconstructions.png").width == 8 * 64 + 7 * 2
    assert "reconstructions.png" in uploads(place / "model")
    before = (place / "model/metrics.json").read_bytes()
    capsys.readouterr()
    main(COMMAND)
    assert "holds these numbers already" in capsys.readouterr().out
    assert (place / "model/metrics.json").read_bytes() == before


def test_images_that_a_run_held_back_are_measured_on(place: Path, capsys: pytest.CaptureFixture) -> None:
    """Of a folder of one's own, which has no split for it; at the size and in the colours of the autoencoder."""
    mine = image_folder(place / "mine", 30, size=20)
    loaded = load_images(train_data_dir=mine, resolution=16, channels=3, validation_share=0.2).loaded
    record = {"recipe": {"train_data_dir": "mine", "validation_share": 0.2}, "dataset_loaded": loaded}
    write_json(place / "model/training.json", record)
    main(["model", "--dataset_name", "mine", "--features", "features"])
    assert "held 6 images back in training: it is measured on these" in capsys.readouterr().out
    (row,) = read_json_object(place / "model/metrics.json")["reconstruction"].values()
    assert row["settings"]["num_samples"] == 6 and row["real"]["test"]["split"] == "held back, 0.2"
    main(["model", "--dataset_name", "mine", "--features", "features", "--max_samples", "3"])
    rows = read_json_object(place / "model/metrics.json")["reconstruction"].values()
    assert [row["settings"]["num_samples"] for row in rows] == [6, 3]
    card = render(place / "model")
    assert "| reconstructed held-back images | 6 |" in card and "is to the held-back images themselves" in card
    main(["model", "--dataset_name", "mine", "--features", "features", "--test_split", "train", "--max_samples", "4"])
    assert "| reconstructed training images | 4 |" in render(place / "model")


def test_other_weights_are_measured_anew_and_drop_the_old_numbers(place: Path, capsys: pytest.CaptureFixture) -> None:
    main(COMMAND)
    AutoencoderPipeline(tiny(seed=1)).save_pretrained("model")
    main([*COMMAND, "--dtype", "bfloat16"])
    assert "dropped from" in capsys.readouterr().out
    (row,) = read_json_object(place / "model/metrics.json")["reconstruction"].values()
    assert row["settings"]["dtype"] == "bfloat16"


def test_the_card_shows_them(place: Path) -> None:
    assert "`python -m training.metrics.reconstruction` does it" in render(place / "model")
    main(COMMAND)
    card = render(place / "model")
    (row,) = read_json_object(place / "model/metrics.json")["reconstruction"].values()
    measured = row["measured"]
    numbers = f"{measured['psnr']:.2f} | {measured['ssim']:.3f} | {measured['frechet_distance']:.3f}"
    assert f"| reconstructed test images | 15 | {numbers} | {measured['seconds_to_decode_4']:.3f} |" in card
    assert f"| training images | 15 |  |  | {row['floor']['frechet_distance']:.3f} |  |" in card
    assert "pipeline_tag: image-to-image" in card and "## Reconstruct with it" in card
    assert "![Real images, each beside its reconstruction](reconstructions.png)" in card
    assert "unconditional" not in card and "Draw" not in card


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (["--batch_sise", "3"], "unknown flag --batch_sise; did you mean --batch_size"),
        (["--batch_size", "0"], "batch_size must be at least 1, got 0"),
        (["--dtype", "float16"], "dtype must be one of"),
        (["--resolution", "18"], r"resolution must be a multiple of 4 for this autoencoder \(try 16\), got 18x18"),
        (["--max_samples", "1"], "max_samples must be at least 2, got 1"),
        (["--dataset_name", "nowhere/at/all"], "nowhere/at/all"),
    ],
)
def test_the_command_names_what_is_wrong(extra: list[str], message: str, place: Path) -> None:
    with pytest.raises(SystemExit, match=f"^error: .*{message}"):
        main([*COMMAND, *extra])
    assert not (place / "model/metrics.json").exists()


def test_each_of_the_two_commands_names_the_other_kind_of_model(place: Path) -> None:
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained("pixels")
    with pytest.raises(SystemExit, match="^error: model must be a pipeline with an AutoencoderKL as vae, 'pixels' has"):
        main(["pixels", *COMMAND[1:]])
    with pytest.raises(SystemExit, match="has vae, which python -m training.metrics.reconstruction measures"):
        evaluate(COMMAND)
