"""Fine-tuning: the network of a pipeline is made to fit other classes, sizes and channels, and what changes is said."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers import DDPMPipeline as StockPipeline
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DModel
from fresh_processes import launch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from toys import guided, patched_unet, quiet, tiny_unet
from training_runs import command, image_folder, noise, noise_images, run_here

from pipelines import ClassifierFreeGuidancePipeline, DDPMPipeline
from training.networks.adapt import fit_network
from training.networks.open import load_pipeline, pretrained_size

NAMES = ("Cat", "Dog", "Fish")  # those of toys.guided, in this order


pytestmark = pytest.mark.usefixtures("alone")


def inputs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 1, 8, 8, generator=generator), torch.tensor([0, 10, 500, 999])


# --- through the command line ---


def colour_images(root: Path) -> Path:
    """30 colour images of several sizes, of a class that the model knows and of one that it does not."""
    for i in range(30):
        folder = root / ("Bird", "Dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        height, width = ((20, 24), (31, 17), (28, 28))[i % 3]
        Image.fromarray(noise(height, width, 3, seed=i)).save(folder / f"{i:02d}.png")
    return root


def test_own_images_in_two_folders_become_a_folder_that_draws_both(tmp_path: Path) -> None:
    start, end = tmp_path / "start", tmp_path / "run"
    pipe = guided(patched_unet(4), num_train_timesteps=5)
    pipe.register_to_config(guidance_interval=[0.2, 0.8])
    pipe.save_pretrained(start)
    flags = {"train_data_dir": colour_images(tmp_path / "mine"), "pretrained_model_name_or_path": start}
    flags |= {"output_dir": end, "max_train_steps": 2, "validation_steps": 2, "checkpointing_steps": 2}
    program = ["-m", "training.train", *command("--recipe finetune", **flags)]
    done = launch(ROOT, program, HF_HOME=str(tmp_path / "hf"))
    said = done.stderr
    assert done.returncode == 0, said
    cores = len(os.sched_getaffinity(0))  # though accelerate launch leaves a process one thread
    assert json.loads((end / "training.json").read_text())["device"].startswith(f"cpu, {cores} thread")
    assert "30 images, 1 channel(s), 28x28" in said and "30 colour images were converted to grey" in said
    assert "class embeddings: 4 before, 3 now (2 classes and 'no class'); 1 classes known by name keep theirs" in said
    assert (end / "samples" / "step-000002.png").is_file()
    for folder in (end, end / "checkpoint-2" / "pipeline"):
        pipe = quiet(DiffusionPipeline.from_pretrained(folder, trust_remote_code=True))
        assert pipe.config.guidance_interval == [0.2, 0.8]
        assert pipe.class_names == ["Bird", "Dog"] and pipe.unet.config.num_class_embeds == 3
        images = pipe(class_labels=["Bird", "Dog"], num_inference_steps=2).images
        assert [(image.mode, image.size) for image in images] == [("L", (28, 28))] * 2
        assert images[0].tobytes() != images[1].tobytes()
    before = load_file(start / "unet" / "diffusion_pytorch_model.safetensors")
    after = load_file(end / "unet" / "diffusion_pytorch_model.safetensors")
    changed = [
        key for key in before if before[key].shape == after[key].shape and not torch.equal(before[key], after[key])
    ]
    assert len(changed) > len(before) / 2  # it was trained, from the weights that were there:
    # two steps of Adam, the second at half the rate of 2e-4
    assert all(float((before[key] - after[key]).abs().max()) < 1e-3 for key in changed)


def test_a_stock_pipeline_can_be_fine_tuned_unconditional_and_then_with_classes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    unet, linear = tiny_unet(), DDPMScheduler(num_train_timesteps=4, beta_schedule="linear")
    StockPipeline(unet, linear).save_pretrained(tmp_path / "stock")
    folder = image_folder(tmp_path / "images")
    flags = {"train_data_dir": folder, "max_train_steps": 1, "checkpointing_steps": 9}
    flags |= {"prediction_type": "sample", "pretrained_model_name_or_path": tmp_path / "stock"}
    with caplog.at_level(logging.INFO):
        run_here(command("--recipe finetune --class_conditional False", output_dir=tmp_path / "plain", **flags))
    assert "prediction_type (epsilon) are those of the pipeline" in caplog.text
    pipe = quiet(DDPMPipeline.from_pretrained(tmp_path / "plain"))
    assert pipe.scheduler.config.prediction_type == "epsilon" and pipe.scheduler.config.beta_schedule == "linear"
    assert len(pipe(batch_size=2, num_inference_steps=2).images) == 2
    flags |= {"pretrained_model_name_or_path": tmp_path / "plain", "resolution": 12}
    run_here(command("--recipe finetune", output_dir=tmp_path / "classes", **flags))
    pipe = quiet(ClassifierFreeGuidancePipeline.from_pretrained(tmp_path / "classes"))
    assert pipe.class_names == ["bird", "cat"] and pipe.unet.config.num_class_embeds == 3
    assert pipe("cat", num_inference_steps=2).images[0].size == (12, 12)


def test_what_cannot_be_fine_tuned_is_named(tmp_path: Path) -> None:
    folder = image_folder(tmp_path / "images")
    empty, foreign = tmp_path / "empty", tmp_path / "foreign"
    empty.mkdir()
    foreign.mkdir()
    (foreign / "unet").mkdir()
    (foreign / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    (foreign / "unet" / "config.json").write_text('{"sample_size": 8, "in_channels": 1}')
    for path, expected in ((empty, "hold model_index.json"), (foreign, "got a StableDiffusionPipeline")):
        flags = {"train_data_dir": folder, "pretrained_model_name_or_path": path, "output_dir": tmp_path / "run"}
        with pytest.raises(SystemExit, match=f"pretrained_model_name_or_path must .*{expected}"):
            run_here(command("--recipe finetune", **flags))
    assert not (tmp_path / "run").exists()


# --- what becomes of the network ---


def test_a_class_keeps_its_embedding_by_name_and_a_new_one_takes_over_one_that_is_gone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipe = guided(tiny_unet(4))
    old = pipe.unet.class_embedding.weight.detach().clone()
    x, t = inputs()
    labels = torch.tensor([2, 0, 3, 3])
    expected = pipe.unet(x, t, labels).sample
    network = fit_network(pipe, noise_images(6), ("Fish", "Bird", "Cat", "Cow"))
    new = network.class_embedding.weight.detach()
    assert torch.equal(new, torch.stack([old[2], old[1], old[0], old[3], old[3]]))  # Bird's was Dog's; Cow's is new
    assert network.config.num_class_embeds == 5
    assert "4 before, 5 now (4 classes and 'no class'); 2 classes known by name keep theirs, 1 take over" in caplog.text
    assert torch.equal(network(x, t, torch.tensor([0, 2, 4, 3])).sample, expected)
    assert network.class_embedding.weight.requires_grad


def test_the_same_classes_change_nothing_and_nothing_is_said(caplog: pytest.LogCaptureFixture) -> None:
    pipe = guided(tiny_unet(4))
    before = {key: value.clone() for key, value in pipe.unet.state_dict().items()}
    after = fit_network(pipe, noise_images(6), NAMES).state_dict()
    assert before.keys() == after.keys() and all(torch.equal(value, after[key]) for key, value in before.items())
    assert caplog.text == ""


def test_an_unconditional_network_from_a_conditional_one_is_the_one_without_a_class(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pipe = guided(tiny_unet(4))
    x, t = inputs()
    expected, other = (pipe.unet(x, t, torch.full((4,), label)).sample for label in (3, 0))
    network = fit_network(pipe, noise_images(6), None)
    assert network.class_embedding is None and network.config.num_class_embeds is None
    torch.testing.assert_close(network(x, t).sample, expected, rtol=0, atol=1e-5)
    assert (expected - other).abs().max().item() > 1e-3
    assert "4 class embeddings become one" in caplog.text


def test_an_unconditional_network_that_gets_classes_draws_as_before_with_each() -> None:
    unet = tiny_unet()
    x, t = inputs()
    expected = unet(x, t).sample
    network = fit_network(DDPMPipeline(unet, DDPMScheduler()), noise_images(6), ("bird", "cat"))
    for label in range(3):
        assert torch.equal(network(x, t, torch.full((4,), label)).sample, expected)


def test_the_result_is_saved_and_loaded_with_its_new_shape(tmp_path: Path) -> None:
    pipe = guided(patched_unet(4))
    network = fit_network(pipe, noise_images(6, size=12), ("Bird", "Dog"))
    ClassifierFreeGuidancePipeline(network, pipe.scheduler, {"0": "Bird", "1": "Dog"}).save_pretrained(tmp_path / "new")
    loaded = load_pipeline(str(tmp_path / "new"))
    assert loaded.sample_shape == (1, 12, 12) and pretrained_size(str(tmp_path / "new")) == (1, 12)
    assert torch.equal(loaded.unet.class_embedding.weight, network.class_embedding.weight)


def test_another_size_is_said_and_one_that_cannot_be_halved_is_refused(caplog: pytest.LogCaptureFixture) -> None:
    network = fit_network(guided(tiny_unet(4)), noise_images(4, size=12), NAMES)
    assert network.config.sample_size == 12 and "sample_size changes from 8 to 12" in caplog.text
    assert network(torch.zeros(1, 1, 12, 12), 0, torch.tensor([0])).sample.shape == (1, 1, 12, 12)
    with pytest.raises(ValueError, match=r"--resolution must be a multiple of 4 .*try 16.*got 14x14"):
        fit_network(guided(patched_unet(4)), noise_images(4, size=14), NAMES)


def test_a_stock_network_of_three_channels_tells_its_size(tmp_path: Path) -> None:
    unet = UNet2DModel(
        sample_size=(16, 24), in_channels=3, out_channels=3, block_out_channels=(8, 8), norm_num_groups=4,
        down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2, layers_per_block=1,
        attention_head_dim=4,
    )  # fmt: skip
    StockPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "wide")
    assert pretrained_size(str(tmp_path / "wide")) == (3, 16)
    assert np.isfinite(load_pipeline(str(tmp_path / "wide")).unet.conv_in.weight.detach().numpy()).all()
