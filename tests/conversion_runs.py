"""Published networks, small, and the command that converts them."""

from __future__ import annotations

from pathlib import Path

import published_adm as published
import pytest
import torch
from torch import Tensor
from toys import seeded

from training import convert

GUIDED, IMPROVED = "guided-diffusion", "improved-diffusion"
SMALL = "--image_size 16 --channel_mult 1,2 --num_channels 32 --num_res_blocks 1 --attention_resolutions 8"
SHAPE = dict(width=32, mult=(1, 2), attention=(2,))
CLASSIFIER_FLAGS = f"{SMALL} --image_size 64 --classifier_width 32 --classifier_depth 1"
ENCODER = dict(size=64, width=32, mult=(1, 2, 3, 4), attention=(8,), head_channels=64, outputs=5)


def save(net: torch.nn.Module, path: Path) -> str:
    torch.save(net.state_dict(), path)
    return str(path)


def make(**shape: object) -> published.UNet:
    return published.UNet(**SHAPE | shape)


def converted(
    folder: Path, flags: str, net: published.UNet, family: str = GUIDED, classifier: published.Encoder | None = None
) -> Path:
    """The command line's folder for published networks."""
    out = folder / "out"
    arguments = [family, "--unet", save(net, folder / "unet.pt"), "--flags", flags, "--out", str(out)]
    if classifier is not None:
        arguments += ["--classifier", save(classifier, folder / "classifier.pt")]
    convert.main(arguments)
    return out


def refused(capsys: pytest.CaptureFixture, *arguments: str) -> str:
    """The one line that the command line ends with."""
    with pytest.raises(SystemExit) as stop:
        convert.main(list(arguments))
    message = str(stop.value.code)
    assert message.startswith("error: ") and "\n" not in message
    return message.removeprefix("error: ")


def assert_same(found: Tensor, expected: Tensor) -> None:
    """To 1e-5 of the output's scale, which is near 1."""
    assert found.shape == expected.shape and 0.1 < float(expected.std()) < 10
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * max(1.0, float(expected.std())))


def seen(net: published.UNet, channels: int, size: int) -> dict[str, Tensor]:
    """Images, times and, where the network takes them, labels."""
    inputs = {"x": torch.randn(2, channels, size, size, generator=seeded()), "t": torch.tensor([3, 712])}
    return inputs | ({"y": torch.tensor([4, 1])} if hasattr(net, "label_emb") else {})


class Harmful:
    """Ends the process that unpickles it."""

    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('run by unpickling')",)
