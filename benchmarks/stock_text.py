"""The peer of text-to-image training: the loop of diffusers' train_text_to_image.py.

`StockTextTrainer` has the structure and the defaults of examples/text_to_image/train_text_to_image.py: images are
decoded, transformed and encoded by the autoencoder in every update, captions are tokenized to the encoder's full length
and encoded in every update, AdamW with weight decay 0.01, gradient clipping, and averaged weights (`--use_ema`), in
float32, which is what a CPU gets there. Trackers, progress bar, checkpoints and validation are left out.
"""

import random
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from datasets import load_dataset
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader

from benchmarks.stock import Transform, reset_accelerate


class StockTextTrainer:
    """The loop of the script, one update at a time, for a network that is told the mean of the caption's tokens."""

    def __init__(
        self,
        network: UNet2DConditionModel,
        vae: AutoencoderKL,
        text_encoder: nn.Module,
        tokenizer: Any,
        dataset_name: str,
        caption_column: str,
        resolution: int,
        batch_size: int,
    ) -> None:
        reset_accelerate()
        self.accelerator = Accelerator(mixed_precision="no")
        self.vae = vae.float().requires_grad_(False)
        self.text_encoder = text_encoder.float().requires_grad_(False)
        self.tokenizer, self.caption_column = tokenizer, caption_column
        self.transform = Transform(resolution, vae.config.in_channels)
        self.scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="scaled_linear")
        optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.999), weight_decay=1e-2, eps=1e-8)
        dataset = load_dataset(dataset_name, split="train").with_transform(self.columns)
        loader = DataLoader(dataset, batch_size=batch_size, shuffle=True, num_workers=0)
        lr_scheduler = get_scheduler("constant", optimizer=optimizer)
        prepared = self.accelerator.prepare(network.train(), optimizer, loader, lr_scheduler)
        self.network, self.optimizer, self.loader, self.lr_scheduler = prepared
        self.ema = EMAModel(network.parameters(), model_cls=type(network), model_config=network.config)
        self.batches = self._epochs()

    def columns(self, examples: dict[str, list]) -> dict[str, list[Tensor]]:
        """From a batch of columns to pixels (C, H, W) in [-1, 1], mirrored at random, and token numbers."""
        pixels = [self.transform(image) for image in examples["image"]]
        pixels = [image.flip(2) if random.random() < 0.5 else image for image in pixels]
        captions = examples[self.caption_column]
        captions = [caption if isinstance(caption, str) else random.choice(caption) for caption in captions]
        length = self.tokenizer.model_max_length
        ids = self.tokenizer(captions, max_length=length, padding="max_length", truncation=True, return_tensors="pt")
        return {"pixel_values": pixels, "input_ids": list(ids.input_ids), "attention_mask": list(ids.attention_mask)}

    def _epochs(self) -> Iterator[dict[str, Tensor]]:
        while True:
            yield from self.loader

    def update(self) -> float:
        """Run the body of the script's loop once; returns the loss."""
        accelerator, batch = self.accelerator, next(self.batches)
        with accelerator.accumulate(self.network):
            latents = self.vae.encode(batch["pixel_values"]).latent_dist.sample() * self.vae.config.scaling_factor
            noise = torch.randn_like(latents)
            timesteps = torch.randint(0, 1000, (len(latents),), device=latents.device).long()
            noisy = self.scheduler.add_noise(latents, noise, timesteps)
            mask = batch["attention_mask"]
            tokens = self.text_encoder(batch["input_ids"], attention_mask=mask, return_dict=False)[0]
            pooled = (tokens * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
            output = self.network(noisy, timesteps, tokens, class_labels=pooled, return_dict=False)[0]
            loss = mse_loss(output.float(), noise.float(), reduction="mean")
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                accelerator.clip_grad_norm_(self.network.parameters(), 1.0)
            self.optimizer.step()
            self.lr_scheduler.step()
            self.optimizer.zero_grad()
        if accelerator.sync_gradients:
            self.ema.step(self.network.parameters())
        return loss.detach().item()
