"""The patched autoencoder, the pipeline around it, and the image-to-latent factor that its config states."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from autoencoders import TINY, tiny
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, DiffusionPipeline, VQModel
from fresh_processes import run_elsewhere
from latent_folders import latent_unet, tiny_vae
from PIL import Image
from toys import quiet, seeded
from training_runs import noise

from pipelines import AutoencoderPipeline, LatentDiffusionPipeline, PatchedAutoencoderKL
from pipelines.about import draws_in_steps, of_class, pipeline_names
from pipelines.facts import Facts, spatial_factor
from training.model_index import read_index
from training.networks.open import load_pipeline
from ui.catalogue import describe


def images(count: int = 3, channels: int = 3, size: int = 16) -> torch.Tensor:
    return torch.rand(count, channels, size, size, generator=seeded())


def test_the_default_is_the_recipe_that_was_measured() -> None:
    vae = PatchedAutoencoderKL()
    assert sum(p.numel() for p in vae.parameters()) == pytest.approx(3.4e6, rel=0.01)
    assert vae.encoder.conv_in.in_channels == vae.decoder.conv_out.out_channels == 48
    assert (vae.quant_conv, vae.post_quant_conv) == (None, None) and not any("attn" in n for n in vae.state_dict())
    assert vae.residual[0].out_channels == 16


def test_images_become_latents_by_the_factor_and_images_again() -> None:
    vae = tiny(latent_channels=5)
    z = vae.encode(images()).latent_dist.mean
    assert z.shape == (3, 5, 4, 4) and vae.decode(z).sample.shape == (3, 3, 16, 16)
    assert vae.spatial_compression_ratio == spatial_factor(vae.config) == 4
    assert vae(images()[:, :, :8, :12]).sample.shape == (3, 3, 8, 12)


def test_the_two_halves_see_patches() -> None:
    vae, seen = tiny(), []
    vae.encoder.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    vae.decoder.register_forward_hook(lambda module, args, output: seen.append(output))
    nn_in = images(1)
    y = vae(nn_in).sample
    inner, outer = seen
    plain = torch.empty_like(y)
    for channel in range(3):
        for dy in range(2):
            for dx in range(2):
                assert torch.equal(inner[:, 4 * channel + 2 * dy + dx], nn_in[:, channel, dy::2, dx::2])
                plain[:, channel, dy::2, dx::2] = outer[:, 4 * channel + 2 * dy + dx]
    torch.testing.assert_close(y, plain + vae.residual(plain))


def test_the_residual_starts_without_effect() -> None:
    vae = PatchedAutoencoderKL(sample_size=16, **TINY)
    assert torch.equal(vae.residual(images()), torch.zeros(3, 3, 16, 16))
    assert float(tiny().residual(images()).detach().abs().max()) > 1e-3


def test_the_config_speaks_of_pixels_and_makes_the_same_again() -> None:
    vae = tiny(size=(16, 24), in_channels=1, out_channels=1)
    config = vae.config
    assert (tuple(config.sample_size), config.in_channels, config.out_channels) == ((16, 24), 1, 1)
    again = PatchedAutoencoderKL.from_config(config)
    assert [p.shape for p in again.parameters()] == [p.shape for p in vae.parameters()]


def test_tiles_cover_images_that_are_larger_than_a_tile() -> None:
    vae = tiny()
    vae.enable_tiling()
    assert vae(images(1, size=40)).sample.shape == (1, 3, 40, 40)


@pytest.mark.parametrize(
    ("changes", "named"), [({"sample_size": 18}, "sample_size"), ({"patch_size": 0}, "patch_size")]
)
def test_sizes_that_do_not_fit_are_named(changes: dict, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} must"):
        PatchedAutoencoderKL(**{"sample_size": 16} | TINY | changes)


# --- the factor ---


def test_stock_classes_have_the_factor_that_they_show() -> None:
    three = {"block_out_channels": (8, 8, 8), "norm_num_groups": 4}
    down, up = ("DownEncoderBlock2D",) * 3, ("UpDecoderBlock2D",) * 3
    x = images(1, size=32)
    for kind in (AutoencoderKL, VQModel):
        vae = kind(down_block_types=down, up_block_types=up, **three)
        encoded = vae.encode(x)
        z = encoded.latent_dist.mean if kind is AutoencoderKL else encoded.latents
        assert 32 // z.shape[-1] == spatial_factor(vae.config) == 4
    small = AutoencoderTiny(
        encoder_block_out_channels=(8,) * 3, decoder_block_out_channels=(8,) * 3,
        num_encoder_blocks=(1,) * 3, num_decoder_blocks=(1,) * 3,
    )  # fmt: skip
    assert 32 // small.encode(x).latents.shape[-1] == spatial_factor(small.config) == 4


def test_the_size_of_images_follows_from_the_configs_patches_included(tmp_path: Path) -> None:
    network = {"sample_size": 8, "in_channels": 4}
    assert Facts(network, tiny().config).image_shape == (3, 32, 32)
    assert Facts(network, tiny_vae().config).image_shape == (3, 16, 16)
    LatentDiffusionPipeline(tiny(), DDIMScheduler(), unet=latent_unet()).save_pretrained(tmp_path / "model")
    assert read_index(tmp_path / "model").facts(tmp_path / "model").image_shape == (3, 32, 32)
    assert describe("model", tmp_path / "model").shape == (32, 32, 3)


# --- in a pipeline of latents ---


def test_latent_diffusion_decodes_with_scale_and_shift() -> None:
    vae = tiny(scaling_factor=0.5, shift_factor=0.25)
    pipe = quiet(LatentDiffusionPipeline(vae, DDIMScheduler(clip_sample=False), unet=latent_unet()))
    z = torch.randn(2, 4, 8, 8, generator=seeded())
    with torch.no_grad():
        torch.testing.assert_close(pipe.decode(z), vae.decode(z / 0.5 + 0.25).sample, rtol=0, atol=1e-5)
    drawn = pipe(batch_size=2, num_inference_steps=2, generator=seeded(), output_type="np").images
    assert drawn.shape == (2, 32, 32, 3) and np.isfinite(drawn).all()


# --- alone ---


def test_the_pipeline_reconstructs_with_the_mean_and_its_latents_have_scale_and_shift() -> None:
    vae, x = tiny(scaling_factor=0.5, shift_factor=0.25), images()
    pipe = AutoencoderPipeline(vae)
    with torch.no_grad():
        mean = vae.encode(x * 2 - 1).latent_dist.mean
        expected = (vae.decode(mean).sample / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(pipe(x, output_type="latent").images, (mean - 0.25) * 0.5, rtol=0, atol=1e-5)
    torch.testing.assert_close(pipe(x, output_type="pt").images, expected, rtol=0, atol=1e-5)
    there_and_back = (pipe.decode(pipe.encode(x)) / 2 + 0.5).clamp(0, 1)
    torch.testing.assert_close(there_and_back, expected, rtol=0, atol=1e-5)
    alone = pipe(x[1:2], output_type="pt", return_dict=False)[0]
    assert torch.equal(alone[0], pipe(x, output_type="pt").images[1])


def test_all_ways_to_give_images_give_the_same(tmp_path: Path) -> None:
    pipe, pixels = AutoencoderPipeline(tiny()), noise(2, 16, 16, 3)
    opened = [Image.fromarray(one) for one in pixels]
    opened[0].save(tmp_path / "one.png")
    array = pixels.astype(np.float32) / 255
    expected = pipe(array, output_type="np").images
    path = tmp_path / "one.png"
    for given in (opened, [str(path), opened[1]], [path, opened[1]], torch.from_numpy(array).permute(0, 3, 1, 2)):
        np.testing.assert_array_equal(pipe(given, output_type="np").images, expected)
    (made,) = pipe(opened[0]).images
    assert (made.size, made.mode) == ((16, 16), "RGB")


def test_other_colours_become_those_that_it_takes() -> None:
    grey, colour = Image.fromarray(noise(16, 16)), Image.fromarray(noise(16, 16, 3))
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0))
    pipe = AutoencoderPipeline(tiny())
    same = pipe([grey, grey.convert("RGB"), clear, Image.new("RGB", (16, 16), "white")], output_type="np").images
    np.testing.assert_array_equal(same[0], same[1])
    np.testing.assert_array_equal(same[2], same[3])
    one = AutoencoderPipeline(tiny(in_channels=1, out_channels=1))
    assert [image.mode for image in one([grey, colour]).images] == ["L", "L"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (torch.zeros(1, 3, 18, 16), r"images must have sides that are multiples of 4, got .* 18, 16"),
        (torch.full((1, 3, 16, 16), -0.5), r"images must have values in \[0, 1\], got -0.5 to -0.5"),
        (torch.zeros(1, 1, 16, 16), r"images must have 3 channel\(s\)"),
        (torch.zeros(3, 16, 16), r"images must have 3 channel\(s\)"),
        ([Image.new("RGB", (16, 16)), Image.new("RGB", (8, 8))], "images must be of one size, got"),
        ([], "images must be PIL images, paths, an array or a tensor"),
        (7, "images must be PIL images, paths, an array or a tensor, got 7"),
    ],
)
def test_images_that_it_cannot_take_are_named(given: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AutoencoderPipeline(tiny())(given)
    with pytest.raises(ValueError, match="output_type must be one of pil"):
        AutoencoderPipeline(tiny())(images(), output_type="jpeg")


LOADER = """
import sys, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
x = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
torch.save(pipe(x, output_type="pt").images, sys.argv[2])
pipe.save_pretrained("again")
assert "pipelines" not in sys.modules
"""


def test_a_folder_carries_its_code_and_loads_in_a_fresh_process(tmp_path: Path) -> None:
    pipe = AutoencoderPipeline(tiny(latent_rgb_bias=[0.5, 0.25, 0.125], shift_factor=0.1))
    pipe.save_pretrained(tmp_path / "saved")
    run_elsewhere(tmp_path / "there", LOADER, str(tmp_path / "saved"), "made.pt")
    expected = pipe(torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)), output_type="pt").images
    assert torch.equal(torch.load(tmp_path / "there" / "made.pt"), expected)
    for folder in (tmp_path / "saved", tmp_path / "there" / "again"):
        again = load_pipeline(str(folder))
        assert type(again) is AutoencoderPipeline and type(again.vae) is PatchedAutoencoderKL
        assert (again.vae.config.latent_rgb_bias, again.vae.config.shift_factor) == ([0.5, 0.25, 0.125], 0.1)


def test_a_stock_autoencoder_is_carried_as_it_is(tmp_path: Path) -> None:
    AutoencoderPipeline(tiny_vae()).save_pretrained(tmp_path)
    assert not list((tmp_path / "vae").glob("*.py"))
    assert type(DiffusionPipeline.from_pretrained(tmp_path, trust_remote_code=True).vae) is AutoencoderKL


def test_the_page_leaves_it_out(tmp_path: Path) -> None:
    AutoencoderPipeline(tiny()).save_pretrained(tmp_path)
    assert "AutoencoderPipeline" not in pipeline_names() and not of_class("AutoencoderPipeline").has_steps
    assert not draws_in_steps(tmp_path)
    with pytest.raises(ValueError, match="AutoencoderPipeline has no method 'stream'"):
        describe("one", tmp_path)


def test_a_patched_autoencoder_has_to_be_told_a_size() -> None:
    with pytest.raises(ValueError, match="^sample_size must be an integer or"):
        PatchedAutoencoderKL(sample_size=None)
