"""The peers that we compare with: what a user of diffusers runs today.

`StockTrainer` has the structure and the defaults of diffusers' script
examples/unconditional_image_generation/train_unconditional.py: accelerate without mixed precision, a DataLoader that
decodes and transforms images during training, uniform timesteps, eps-prediction on the linear schedule, AdamW,
gradient clipping, and averaged weights as in the commands of its README (`--use_ema`). Trackers, progress bar,
checkpoints and sample grids are left out, which makes it faster.
"""

import copy
from collections.abc import Iterator

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from datasets import load_dataset
from diffusers import DDIMPipeline, DDIMScheduler, DDPMScheduler, UNet2DModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image
from torch import Tensor
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

# ------------------------------------------------------------------------------------------------------------ sampling


@torch.no_grad()
def guided_ddim(
    unet: UNet2DModel,
    scheduler: DDIMScheduler,
    labels: Tensor,
    null_label: int,
    num_inference_steps: int,
    guidance_scale: float,
    generator: torch.Generator,
) -> list[Image.Image]:
    """Sample with classifier-free guidance and the stock scheduler, for labels (N,): diffusers has no pipeline for it.

    It follows `DDIMPipeline.__call__` line by line, but calls the network twice per step and combines the outputs.
    """
    size = unet.config.sample_size
    height, width = (size, size) if isinstance(size, int) else size
    shape = (len(labels), unet.config.in_channels, height, width)
    image = randn_tensor(shape, generator=generator, device=unet.device, dtype=unet.dtype)
    labels, null_labels = labels.to(unet.device), torch.full_like(labels, null_label, device=unet.device)
    scheduler.set_timesteps(num_inference_steps)
    for t in scheduler.timesteps:
        cond = unet(image, t, class_labels=labels).sample
        uncond = unet(image, t, class_labels=null_labels).sample
        output = uncond + guidance_scale * (cond - uncond)
        image = scheduler.step(output, t, image).prev_sample
    image = (image / 2 + 0.5).clamp(0, 1)
    return DDIMPipeline.numpy_to_pil(image.cpu().permute(0, 2, 3, 1).numpy())


def without_classes(unet: UNet2DModel, null_label: int | None) -> UNet2DModel:
    """A copy without labels, for the stock pipelines: the embedding of "no class" is added to the time embedding."""
    unet = copy.deepcopy(unet)
    if unet.class_embedding is not None:
        unet.time_embedding.linear_2.bias.data += unet.class_embedding.weight.data[null_label]
        unet.class_embedding = None
        unet.register_to_config(num_class_embeds=None)
    return unet


# ------------------------------------------------------------------------------------------------------------ training


def reset_accelerate() -> None:
    """Let the next Accelerator use another mixed precision.

    accelerate allows only one per process; its own tests reset it with this call. Models that are prepared already are
    not affected.
    """
    AcceleratorState._reset_state()


class Transform:
    """Resize, RandomCrop, ToTensor and Normalize([0.5], [0.5]) as in torchvision, which is not a requirement here."""

    def __init__(self, resolution: int, channels: int) -> None:
        self.resolution, self.mode = resolution, {1: "L", 3: "RGB"}[channels]

    def __call__(self, image: Image.Image) -> Tensor:
        """An image of any size -> float32 (C, resolution, resolution) in [-1, 1]."""
        image, size = image.convert(self.mode), self.resolution
        short = min(image.size)
        if short != size:
            width, height = (int(size * side / short) for side in image.size)
            image = image.resize((width, height), Image.Resampling.BILINEAR)
        if image.size != (size, size):
            left, top = (int(torch.randint(side - size + 1, ())) for side in image.size)
            image = image.crop((left, top, left + size, top + size))
        pixels = torch.from_numpy(np.array(image)).view(size, size, -1).permute(2, 0, 1).contiguous()
        return pixels.to(torch.float32).div(255).sub(0.5).div(0.5)

    def columns(self, examples: dict[str, list]) -> dict[str, list[Tensor]]:
        """The transform for `datasets.Dataset.set_transform`, from a batch of columns to a batch of columns."""
        return {"input": [self(image) for image in examples["image"]]}


class StockTrainer:
    """The loop of the script, one update at a time. `network` takes no labels."""

    def __init__(
        self, network: UNet2DModel, dataset_name: str, resolution: int, batch_size: int, num_epochs: int = 100
    ) -> None:
        reset_accelerate()
        self.accelerator = Accelerator(mixed_precision="no")
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
        dataset = load_dataset(dataset_name, split="train")
        dataset.set_transform(Transform(resolution, network.config.in_channels).columns)
        loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=0)
        lr_scheduler = get_scheduler(
            "cosine", optimizer=optimizer, num_warmup_steps=500, num_training_steps=len(loader) * num_epochs
        )
        self.averaged = copy.deepcopy(network).eval()
        prepared = self.accelerator.prepare(network, optimizer, loader, lr_scheduler)
        self.network, self.optimizer, self.loader, self.lr_scheduler = prepared
        self.ema = EMAModel(
            self.network.parameters(),
            decay=0.9999,
            use_ema_warmup=True,
            inv_gamma=1.0,
            power=0.75,
            model_cls=UNet2DModel,
            model_config=network.config,
        )
        self.batches, self.images = self._epochs(), 0

    def _epochs(self) -> Iterator[dict[str, Tensor]]:
        while True:
            self.network.train()
            yield from self.loader

    def update(self) -> float:
        """Run the body of the script's loop once; returns the loss."""
        accelerator, clean = self.accelerator, next(self.batches)["input"]
        noise = torch.randn(clean.shape, dtype=torch.float32, device=clean.device)
        timesteps = torch.randint(
            0, self.scheduler.config.num_train_timesteps, (len(clean),), device=clean.device
        ).long()
        noisy = self.scheduler.add_noise(clean, noise, timesteps)
        with accelerator.accumulate(self.network):
            output = self.network(noisy, timesteps).sample
            loss = mse_loss(output.float(), noise.float())
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.lr_scheduler.step()
            self.optimizer.zero_grad()
        if accelerator.sync_gradients:
            self.ema.step(self.network.parameters())
        self.images += len(clean)
        accelerator.log({"loss": loss.detach().item(), "lr": self.lr_scheduler.get_last_lr()[0]})
        return loss.detach().item()

    def pipeline(self) -> DDIMPipeline:
        """The stock DDIM pipeline with the averaged weights."""
        self.ema.copy_to(self.averaged.parameters())
        pipe = DDIMPipeline(unet=self.averaged, scheduler=DDIMScheduler.from_config(self.scheduler.config))
        return pipe.to(self.accelerator.device)
