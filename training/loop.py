"""The training loop: accelerate, averaged weights, checkpoints and logging. It knows nothing about diffusion.

One update takes the next examples in the order of the run, in `gradient_accumulation_steps` micro-steps on all
processes. The randomness of an example depends only on (seed, update, its index in the update): how the examples are
split into processes and micro-steps changes nothing.
"""

import copy
import json
import logging
import math
import shutil
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from diffusers import DiffusionPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn
from tqdm.auto import tqdm

from training.checkpoints import LATEST, checkpoint_steps, find_checkpoint, new_checkpoint
from training.data import ImageData
from training.files import write_json, write_whole
from training.networks.guide import add_guide
from training.objectives.base import Batch, Objective
from training.randomness import BatchRandom, DataOrder, seed_of
from training.recipes import Recipe
from training.run_record import device_name, origin
from training.sample_grid import image_path, keep_images

logger = logging.getLogger(__name__)
GUIDE = "guide"  # folder of the pipeline that `guide_step` keeps


class Trainer:
    """One training run. `train()` does all of it; `batch()`, `gradients()` and `update()` are its parts."""

    def __init__(self, recipe: Recipe, data: ImageData, objective: Objective) -> None:
        self.recipe, self.data, self.objective = recipe, data, objective
        self.output_dir = Path(recipe.output_dir)
        trackers = None if recipe.report_to == "none" else recipe.report_to
        self.accelerator = Accelerator(
            mixed_precision=recipe.mixed_precision,
            log_with=trackers,
            project_dir=str(self.output_dir),
            # given this way, neither is overruled by accelerate's environment variables
            gradient_accumulation_plugin=GradientAccumulationPlugin(recipe.gradient_accumulation_steps),
            dynamo_backend="no",
        )
        if recipe.mixed_precision == "fp16" and self.accelerator.device.type == "cpu":  # accelerate would ignore it
            raise ValueError("mixed_precision must be no or bf16 on a CPU, got 'fp16'")
        self.settings = recipe.settings(objective.options)
        self.origin = origin(recipe, self.settings, data)
        self.step, self.seconds_before = 0, 0.0
        self._resumed = (0, 0)  # updates, and images seen, when this process began
        self.order = DataOrder(recipe.seed, len(data.images))
        self._prepare(objective.network)
        self._prepare_frozen()

    def _prepare(self, network: nn.Module) -> None:
        recipe = self.recipe
        network = network.to(self.accelerator.device)
        if recipe.channels_last:
            network = network.to(memory_format=torch.channels_last)
        decays = [decay for decay in (recipe.ema_decay, recipe.second_ema_decay) if decay is not None]
        most = (1 + recipe.max_train_steps) / (10 + recipe.max_train_steps)  # EMAModel's own limit at the end
        if len(decays) == 2 and min(decays) >= most:
            told = "ema_decay and second_ema_decay keep the same average: after %d updates a decay is at most %.4f"
            logger.warning(told, recipe.max_train_steps, most)
        self.decays = decays
        self.averages = [EMAModel(network.parameters(), decay=decay, foreach=True) for decay in decays]
        self.averaged = copy.deepcopy(network).eval().requires_grad_(False)  # takes an average to draw or save
        self.optimizer = torch.optim.AdamW(
            network.parameters(),
            lr=recipe.learning_rate,
            betas=(recipe.adam_beta1, recipe.adam_beta2),
            weight_decay=recipe.adam_weight_decay,
            eps=recipe.adam_epsilon,
            fused=True,
        )
        # not prepared, because this loop steps it once per update: accelerate would step it once per process
        self.lr_scheduler = get_scheduler(
            recipe.lr_scheduler,
            self.optimizer,
            num_warmup_steps=recipe.lr_warmup_steps,
            num_training_steps=recipe.max_train_steps,
        )
        if recipe.torch_compile:
            network.forward = torch.compile(network.forward, dynamic=False)
        self.network = network
        self.objective.network, self.optimizer = self.accelerator.prepare(network.train(), self.optimizer)
        self.history = self.objective.history
        remembered = [] if self.history is None else [self.history]
        self.accelerator.register_for_checkpointing(self.lr_scheduler, *self.averages, *remembered)

    def _prepare_frozen(self) -> None:
        frozen = self.objective.frozen.values()
        for module in frozen:
            module.to(self.accelerator.device).eval().requires_grad_(False)
        if not frozen or self.accelerator.mixed_precision != "bf16":
            return
        saved = {id(part) for part in self.objective.pipeline(self.averaged).components.values()}
        for module in frozen:
            if id(module) not in saved:
                module.to(torch.bfloat16)

    # --------------------------------------------------------------------------------------------------- one update

    def batch(self, micro_step: int) -> tuple[Batch, BatchRandom]:
        """This process's examples in a micro-step of the next update, and their random numbers."""
        count, total = self.recipe.train_batch_size, self.images_per_update
        start = (micro_step * self.accelerator.num_processes + self.accelerator.process_index) * count
        rng = BatchRandom(self.recipe.seed, self.step, start, count, total)
        index = self.order.indices(self.images_seen + start, count).numpy()
        flipped = rng.uniform("flip") < 0.5 if self.recipe.random_flip else None
        images = self.data.take(index, flipped, next(self.network.parameters()))
        batch: Batch = {"images": images}
        if self.data.labels is not None:
            batch["labels"] = torch.from_numpy(self.data.labels[index]).to(self.accelerator.device)
        if self.data.captions is not None:
            batch["captions"] = self.data.captions_of(index, rng.uniform("caption"))
        return batch, rng

    def encoded(self, batch: Batch) -> Batch:
        """The batch encoded for the loss, with its floating point tensors in the dtype of the weights."""
        with torch.no_grad(), self.accelerator.autocast():
            batch = self.objective.encode(batch)
        dtype = next(self.network.parameters()).dtype
        floats = {k: v.to(dtype) for k, v in batch.items() if isinstance(v, Tensor) and v.is_floating_point()}
        return batch | floats

    def gradients(self) -> Tensor:
        """Accumulate the gradients of one update, averaged over processes; returns the mean loss of this process."""
        losses = []
        for micro_step in range(self.recipe.gradient_accumulation_steps):
            batch, rng = self.batch(micro_step)
            # dropout in the network uses the global generators, so that its masks do depend on how a batch is split
            torch.manual_seed(seed_of(self.recipe.seed, self.step, micro_step, self.accelerator.process_index))
            batch = self.encoded(batch)
            with self.accelerator.accumulate(self.objective.network):
                loss = self.objective.loss(batch, rng)
                self.accelerator.backward(loss)
            losses.append(loss.detach())
        return torch.stack(losses).mean()

    def update(self) -> float:
        """Update the weights and their average; returns the loss, averaged over processes.

        Raises:
            FloatingPointError: the loss is not finite. The last checkpoint is not touched.
        """
        loss = float(self.accelerator.gather(self.gradients()).mean())
        if not math.isfinite(loss):
            raise FloatingPointError(f"the loss is {loss} at step {self.step}; try a lower --learning_rate")
        if self.history is not None:
            self.history.update(self._of_all_processes(self.history.take()))
        if self.recipe.max_grad_norm > 0:
            self.accelerator.clip_grad_norm_(self.network.parameters(), self.recipe.max_grad_norm)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad()
        for average in self.averages:
            average.step(self.network.parameters())
        self.step += 1
        return loss

    def _of_all_processes(self, rows: Tensor) -> Tensor:
        """The rows (M, ...) of all processes, in the order of the examples, which does not depend on the split."""
        count = self.accelerator.num_processes
        if count == 1:
            return rows
        rows = self.accelerator.gather(rows.to(self.accelerator.device))
        return rows.unflatten(0, (count, self.recipe.gradient_accumulation_steps, -1)).transpose(0, 1).flatten(0, 2)

    # ------------------------------------------------------------------------------------------------------ the run

    @property
    def images_per_update(self) -> int:
        """Number of examples in one update, over all processes."""
        recipe = self.recipe
        return recipe.train_batch_size * recipe.gradient_accumulation_steps * self.accelerator.num_processes

    @property
    def images_seen(self) -> int:
        """Number of examples so far, repeated ones included; before a resume, updates may have had other sizes."""
        step, images = self._resumed
        return images + (self.step - step) * self.images_per_update

    def train(self) -> Path:
        """Train up to `max_train_steps`, from the recipe's checkpoint if any; returns the folder of the pipeline."""
        self._resume()
        self.accelerator.init_trackers("stepwise", config={k: v for k, v in self.settings.items() if v is not None})
        first, self._started = self.step, time.monotonic()
        bar = tqdm(
            total=self.recipe.max_train_steps,
            initial=first,
            desc=self.recipe.recipe,
            disable=not self.accelerator.is_local_main_process,
        )
        while self.step < self.recipe.max_train_steps:
            loss = self.update()
            rate = (self.step - first) * self.images_per_update / (time.monotonic() - self._started)
            values = {"loss": loss, "lr": self.lr_scheduler.get_last_lr()[0], "images_per_second": rate}
            bar.set_postfix(loss=f"{loss:.4f}", images_s=f"{rate:.0f}", refresh=False)
            bar.update()
            self.accelerator.log(values, step=self.step)
            self._log_and_save()
        bar.close()
        self._finish()
        return self.output_dir

    def _log_and_save(self) -> None:
        last = self.step == self.recipe.max_train_steps
        if self.step % self.recipe.validation_steps == 0 or last:
            self._log_samples()
        if self.step == self.recipe.guide_step and self.accelerator.is_main_process:
            self.pipeline_to_save().save_pretrained(self.output_dir / GUIDE)
        if self.step % self.recipe.checkpointing_steps == 0 or last:
            self._save_checkpoint()

    def pipeline(self, which: int = 0) -> DiffusionPipeline:
        """The objective's pipeline over the averaged weights; 1 for those of `second_ema_decay`."""
        self.averages[which].copy_to(self.averaged.parameters())
        return self.objective.pipeline(self.averaged)

    def pipeline_to_save(self, which: int = 0) -> DiffusionPipeline:
        """The same, with what the objective measures before it is saved."""
        self.averages[which].copy_to(self.averaged.parameters())
        return self.objective.pipeline_to_save(self.averaged)

    def _log_samples(self) -> None:
        """Log samples of the averaged weights, and the diagnostics of the objective."""
        if not self.accelerator.is_main_process:
            return
        with self.accelerator.autocast():
            grid = self.objective.samples(self.pipeline(), self.recipe.seed)
            values, images = self.objective.diagnostics(self.averaged)
        if values:
            self.accelerator.log(values, step=self.step)
        trackers = self.accelerator.trackers
        keep_images({"samples": grid} | images, self.output_dir / "samples", self.step, trackers)

    def _save_checkpoint(self) -> None:
        limit = self.recipe.checkpoints_total_limit
        with new_checkpoint(self.accelerator, self.output_dir, self.step, limit) as folder:
            self.accelerator.save_state(str(folder / "state"))
            if self.accelerator.is_main_process:
                self.pipeline_to_save().save_pretrained(folder / "pipeline")
                write_json(folder / "training.json", self._record())
                write_whole(self.output_dir / LATEST, f"checkpoint-{self.step}\n".encode())

    def _resume(self) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        wanted = self.recipe.resume_from_checkpoint
        checkpoint = find_checkpoint(self.output_dir, wanted) if wanted else None
        if checkpoint is None:
            if checkpoint_steps(self.output_dir):
                logger.warning("%s holds checkpoints of an earlier run; this one starts from scratch", self.output_dir)
            return
        self.accelerator.load_state(str(checkpoint / "state"))
        for average in self.averages:
            average.to(self.accelerator.device)  # accelerate loads registered objects to the CPU
        self.accelerator.step = 0  # a new update begins, even if gradient_accumulation_steps has changed
        record = json.loads((checkpoint / "training.json").read_text())
        self.step, self.seconds_before = record["steps"], record["seconds"]
        self._resumed = (self.step, record["images"])
        self._use_own_settings()
        if record["dataset_fingerprint"] != self.data.fingerprint:
            logger.warning("%s was trained on other data", checkpoint)
        self.accelerator.print(f"Resuming from {checkpoint} at step {self.step}")

    def _use_own_settings(self) -> None:
        """Replace the settings that a checkpoint restores with those of this run, which may be others."""
        recipe, scheduler = self.recipe, self.lr_scheduler
        scheduler.base_lrs = [recipe.learning_rate]
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate * scheduler.lr_lambdas[0](scheduler.last_epoch)
            group["initial_lr"], group["eps"] = recipe.learning_rate, recipe.adam_epsilon
            group["betas"], group["weight_decay"] = (recipe.adam_beta1, recipe.adam_beta2), recipe.adam_weight_decay
        for average, decay in zip(self.averages, self.decays, strict=True):
            average.decay = decay

    def _record(self) -> dict[str, Any]:
        seconds = self.seconds_before + time.monotonic() - self._started
        return {
            "steps": self.step,
            "images": self.images_seen,
            "seconds": round(seconds, 1),
            "processes": self.accelerator.num_processes,
            "device": device_name(self.accelerator.device),
            **self.origin,
        }

    def _finish(self) -> None:
        if self.accelerator.is_main_process:
            for which, average in enumerate(self.averages):
                folder = self.output_dir if which == 0 else self.output_dir / f"ema-{average.decay}"
                pipeline = self.pipeline_to_save(which)
                if self.recipe.guide_step is not None:
                    add_guide(pipeline, self.output_dir / GUIDE)
                pipeline.save_pretrained(folder)
                write_json(folder / "training.json", self._record())
            last = image_path(self.output_dir / "samples", self.step)
            if last.is_file():
                shutil.copyfile(last, self.output_dir / "samples.png")  # shown on the card
        self.accelerator.end_training()
