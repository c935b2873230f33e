"""ADMUNet2DModel: what it adds to a stock U-Net (that it is the published network: test_convert_networks.py)."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from diffusers import UNet2DModel

from pipelines import ADMUNet2DModel


def tiny_adm(**changes: object) -> ADMUNet2DModel:
    return ADMUNet2DModel(**dict(sample_size=8, block_out_channels=(32, 64), attention_head_dim=(8, 16)) | changes)


def test_heads_may_differ_from_level_to_level() -> None:
    net = tiny_adm(down_block_types=("AttnDownBlock2D",) * 2, up_block_types=("AttnUpBlock2D",) * 2)
    assert [a.heads for a in net.down_blocks[0].attentions] == [4, 4]
    assert net.down_blocks[1].attentions[0].heads == net.mid_block.attentions[0].heads == 4
    assert (net.up_blocks[0].attentions[0].scale, net.up_blocks[1].attentions[0].scale) == (0.25, 8**-0.5)
    again = ADMUNet2DModel.from_config(net.config)
    assert [a.heads for a in again.down_blocks[0].attentions] == [4, 4]
    assert json.loads(net.to_json_string())["attention_head_dim"] == [8, 16]


def test_a_stock_unet_fails_on_the_config_of_ours(tmp_path: Path) -> None:
    """It would otherwise run the same weights as another network."""
    tiny_adm(timestep_scale=0.25).save_pretrained(tmp_path)
    with pytest.raises(TypeError):
        UNet2DModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(attention_head_dim=8), r"attention_head_dim must be one per level and divide .* \(32, 64\), got 8"),
        (dict(attention_head_dim=(8,)), "attention_head_dim must be one per level"),
        (dict(attention_head_dim=(8, 48)), "attention_head_dim must be one per level"),
        (dict(up_attention_head_dim=(8, 0)), "up_attention_head_dim must be one per level"),
    ],
)
def test_heads_that_do_not_fit_are_refused(changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        tiny_adm(**changes)
