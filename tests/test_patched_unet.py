"""The U-Net: its timestep embedding is the published one, and its patches are those of pixel-unshuffle."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import patched_unet, seeded, tiny_unet

from pipelines import PatchedUNet2DConditionModel, PatchedUNet2DModel


@pytest.mark.parametrize("make", [patched_unet, tiny_unet])
def test_time_enters_as_sines_and_cosines(make: object) -> None:
    """Ho et al. 2020, after Vaswani et al. 2017: frequencies 10000^(-i / half); here the cosines come first."""
    net, seen = make(), []
    net.time_embedding.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    t = torch.tensor([0, 7, 999])
    with torch.no_grad():
        output = net(torch.zeros(3, 1, net.config.sample_size, net.config.sample_size), t).sample
    half = seen[0].shape[1] // 2
    angles = t.numpy()[:, None] * 10000.0 ** (-np.arange(half) / half)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=1)
    np.testing.assert_allclose(seen[0].numpy(), expected, rtol=0, atol=1e-4)
    assert float((output[1] - output[2]).abs().max()) > 1e-3, "the output depends on t"


def test_patches_are_folded_into_channels() -> None:
    net, seen = patched_unet(3), []
    net.conv_in.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    net.conv_out.register_forward_hook(lambda module, args, output: seen.append(output))
    x = torch.randn(2, 1, 28, 28, generator=seeded())
    with torch.no_grad():
        output = net(x, 10, torch.tensor([0, 2])).sample
    inner, outer = seen
    assert inner.shape == outer.shape == (2, 4, 14, 14)
    for dy in range(2):
        for dx in range(2):
            assert torch.equal(inner[:, 2 * dy + dx], x[:, 0, dy::2, dx::2])
            assert torch.equal(output[:, 0, dy::2, dx::2], outer[:, 2 * dy + dx])


def test_the_config_speaks_of_pixels() -> None:
    net = patched_unet()
    assert (net.config.sample_size, net.config.in_channels, net.config.out_channels) == (28, 1, 1)
    again = PatchedUNet2DModel.from_config(net.config)
    assert [p.shape for p in again.parameters()] == [p.shape for p in net.parameters()]


@pytest.mark.parametrize(
    ("changes", "named"), [({"sample_size": 30}, "sample_size"), ({"patch_size": 0}, "patch_size")]
)
def test_sizes_that_do_not_fit_are_named(changes: dict, named: str) -> None:
    with pytest.raises(ValueError, match=f"^{named} must"):
        PatchedUNet2DModel(**{"sample_size": 28, "in_channels": 1, "out_channels": 1} | changes)


@pytest.mark.parametrize("where", ["down", "middle", "up"])
def test_heads_wider_than_a_level_that_attends_are_refused(where: str) -> None:
    """diffusers would give that level no heads at all, and divide by their number at the first call."""
    attends = {"down_block_types": ("AttnDownBlock2D", "DownBlock2D")} if where == "down" else {}
    attends |= {"up_block_types": ("UpBlock2D", "AttnUpBlock2D")} if where == "up" else {}
    widths = (64, 32) if where == "middle" else (32, 64)
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2} | attends
    with pytest.raises(ValueError, match="^attention_head_dim must be 1 to 32, .* got 64$"):
        PatchedUNet2DModel(sample_size=28, block_out_channels=widths, **blocks)
    PatchedUNet2DModel(sample_size=28, block_out_channels=widths, attention_head_dim=32, **blocks)


def test_levels_that_do_not_attend_may_be_narrower_than_a_head() -> None:
    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2, "add_attention": False}
    unet = PatchedUNet2DModel(None, 1, 1, block_out_channels=(32, 32), **blocks)
    assert unet(torch.zeros(1, 1, 8, 8), 0).sample.shape == (1, 1, 8, 8)


def test_so_are_those_of_a_network_that_is_told_prompts() -> None:
    for heads in (64, (64, 16)):
        with pytest.raises(ValueError, match="^attention_head_dim must be 1 to 32, .* got "):
            PatchedUNet2DConditionModel(block_out_channels=(32, 32), attention_head_dim=heads)


def test_the_small_image_is_handed_to_the_output_by_a_matrix_of_the_time() -> None:
    shape = {"sample_size": 8, "in_channels": 4, "out_channels": 2, "block_out_channels": (32, 32)}
    shape |= {"attention_head_dim": 32, "norm_num_groups": 8, "projection_class_embeddings_input_dim": 4}
    net = PatchedUNet2DConditionModel(**shape, low_resolution_skip=True).eval()
    plain = PatchedUNet2DConditionModel(**shape).eval()
    plain.load_state_dict({name: value for name, value in net.state_dict().items() if not name.startswith("skip")})
    x, t = torch.randn(2, 4, 8, 8, generator=seeded()), torch.tensor([5, 900])
    told = {"encoder_hidden_states": None, "class_labels": torch.ones(2, 4)}
    with torch.no_grad():
        assert torch.equal(net(x, t, **told).sample, plain(x, t, **told).sample), "at first it is 0"
        net.skip[1].weight.normal_(generator=seeded())
        net.skip[1].bias.copy_(torch.tensor([0.5, -2.0, 1.0, 0.0]))
        added = net(x, t, **told).sample - plain(x, t, **told).sample
        time = net.time_embedding(net.time_proj(t).float())
        w = torch.nn.functional.silu(time) @ net.skip[1].weight.T + net.skip[1].bias
    expected = torch.einsum("noi,nihw->nohw", w.unflatten(1, (2, 2)), x[:, 2:])
    torch.testing.assert_close(added, expected, rtol=1e-4, atol=1e-4)
    assert float((w[0] - w[1]).abs().max()) > 0.1, "it depends on the time"
