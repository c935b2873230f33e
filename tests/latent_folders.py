"""Models of latents: a folder like facebook/DiT-XL-2-256, and a U-Net, over one tiny autoencoder.

The folder has the published layout (an older class name, learned variance, 1000 classes) and tiny random weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel
from diffusers import UNet2DModel as UNet
from safetensors.torch import save_file
from torch import Tensor
from toys import quiet, seeded, tiny_unet

from pipelines import LatentDiffusionPipeline
from training.files import write_json

NULL = 1000
W = 4.0
NAMES = {str(i): f"thing {i}, Res {i}" for i in range(1000)} | {"134": "crane", "517": "crane", "639": "maillot, suit"}
NAMES["638"] = "maillot"


def tiny_vae() -> AutoencoderKL:
    torch.manual_seed(1)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(16, 16), latent_channels=4, norm_num_groups=4, sample_size=16, scaling_factor=0.18215,
    ).eval()  # fmt: skip


def latent_unet(num_classes: int | None = None, out_channels: int = 4) -> UNet:
    return tiny_unet(num_classes, in_channels=4, out_channels=out_channels)


def save_dit(folder: Path) -> Path:
    """A folder like the published one, but with 2 layers of 2 heads of 8 channels over 8 x 8 latents."""
    config = {
        "_class_name": "Transformer2DModel", "_diffusers_version": "0.12.0.dev0", "activation_fn": "gelu-approximate",
        "attention_bias": True, "attention_head_dim": 8, "cross_attention_dim": None, "dropout": 0.0, "in_channels": 4,
        "norm_elementwise_affine": False, "norm_num_groups": 32, "norm_type": "ada_norm_zero",
        "num_attention_heads": 2, "num_embeds_ada_norm": 1000, "num_layers": 2, "num_vector_embeds": None,
        "only_cross_attention": False, "out_channels": 8, "patch_size": 2, "sample_size": 8,
        "upcast_attention": False, "use_linear_projection": False,
    }  # fmt: skip
    scheduler = {
        "_class_name": "DDIMScheduler", "_diffusers_version": "0.12.0.dev0", "beta_end": 0.02,
        "beta_schedule": "linear", "beta_start": 0.0001, "clip_sample": False, "num_train_timesteps": 1000,
        "prediction_type": "epsilon", "set_alpha_to_one": True, "steps_offset": 0, "trained_betas": None,
    }  # fmt: skip
    index = {
        "_class_name": "DiTPipeline", "_diffusers_version": "0.12.0.dev0", "id2label": NAMES,
        "scheduler": ["diffusers", "DDIMScheduler"], "transformer": ["diffusers", "Transformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }  # fmt: skip
    write_json(folder / "model_index.json", index)
    write_json(folder / "transformer" / "config.json", config)
    write_json(folder / "scheduler" / "scheduler_config.json", scheduler)
    tiny_vae().save_pretrained(folder / "vae")
    torch.manual_seed(0)
    shape = {key: value for key, value in config.items() if not key.startswith("_")}
    for unknown in ("cross_attention_dim", "num_vector_embeds", "only_cross_attention", "use_linear_projection"):
        shape.pop(unknown)
    save_file(
        DiTTransformer2DModel(**shape).state_dict(), folder / "transformer" / "diffusion_pytorch_model.safetensors"
    )
    return folder


def load_dit(folder: Path) -> LatentDiffusionPipeline:
    return quiet(LatentDiffusionPipeline.from_pretrained(folder))


def over_unet(num_classes: int | None = None, **config: object) -> LatentDiffusionPipeline:
    names = None if num_classes is None else {str(i): f"thing {i}" for i in range(num_classes)}
    scheduler = DDIMScheduler(**{"clip_sample": False} | config)
    unet = latent_unet(None if num_classes is None else num_classes + 1)
    return quiet(LatentDiffusionPipeline(tiny_vae(), scheduler, unet=unet, id2label=names))


def drawn(pipe: LatentDiffusionPipeline, labels: list[int], steps: int = 10, **options: object) -> Tensor:
    generators = [seeded(i) for i in range(len(labels))]
    options = {"output_type": "latent", "guidance_scale": W} | options
    return pipe(labels, num_inference_steps=steps, generator=generators, **options).images
