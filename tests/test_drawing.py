"""Evaluation draws from any pipeline, and says so when it cannot."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT
from diffusers import DDPMPipeline, DDPMScheduler
from toys import tiny_unet

from training.evaluation.batches import draw
from training.evaluation.sampling import draw_batch, open_model


def test_a_stock_pipeline_is_drawn_from_and_its_network_calls_are_counted(tmp_path: Path) -> None:
    DDPMPipeline(tiny_unet(), DDPMScheduler()).save_pretrained(tmp_path / "stock")
    model = open_model(str(tmp_path / "stock"), torch.float32)
    model.use_scheduler("DDIM")
    assert (model.name, model.scheduler, model.shape, model.num_classes) == ("stock", "DDIM", (1, 8, 8), None)
    drawn = draw(model, 5, batch_size=3, seed=0, name="images", num_inference_steps=2)
    assert drawn.pixels.shape == (5, 1, 8, 8) and drawn.nfe == 2.0
    assert not np.array_equal(drawn.pixels[0], drawn.pixels[1])


def test_heun_draws_without_blowing_up() -> None:
    """From t = T - 1 of a cosine schedule its images are black and white."""
    model = open_model(str(ROOT / "model_cards/fashion-cfg"), torch.float32)
    model.use_scheduler("Heun", 8)
    pixels = draw_batch(model, range(4), seed=0, num_inference_steps=8).pixels
    assert ((pixels > 25) & (pixels < 230)).mean() > 0.15


def test_a_model_that_draws_nan_is_an_error(tmp_path: Path) -> None:
    unet = tiny_unet()
    torch.nn.init.constant_(unet.conv_out.bias, float("nan"))
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path / "broken")
    model = open_model(str(tmp_path / "broken"), torch.float32)
    with pytest.raises(ValueError, match="broken drew values that are not finite"):
        draw(model, 2, batch_size=2, seed=0, name="images", num_inference_steps=1)
