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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from diffusers import DiffusionPipeline
from diffusers.optimization import get_scheduler
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from training.checkpoints import LATEST, checkpoint_steps, intact_checkpoint, new_checkpoint
from training.data import ImageData
from training.files import write_json, write_whole
from training.networks.guide import GUIDE, add_guide, bring_guide
from training.networks.lora import NAME, is_adapted, save_trained, trained_part
from training.objectives.base import Batch, Objective
from training.progress import Progress, size_of
from training.randomness import BatchRandom, DataOrder, seed_of
from training.recipes import Recipe
from training.run_record import device_name, origin
from training.run_state import RunState, check_finite
from training.sample_grid import image_path, keep_images
from training.signals import Interrupted, Noted, noted

logger = logging.getLogger(__name__)
BEFORE = "before.png"  # what an adapter's base draws of samples.png


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
        self.checkpoint: Path | None = None  # the last that was read or written
        self._resumed = (0, 0)  # updates, and images seen, when this process began
        self.order = DataOrder(recipe.seed, len(data.images))
        self._prepare(objective.network)
        self._prepare_frozen()

    def _prepare(self, network: nn.Module) -> None:
        recipe = self.recipe
        start = recipe.pretrained_model_name_or_path
        check_finite(network, "the new network" if start is None else f"pretrained_model_name_or_path {start!r}")
        network = network.to(self.accelerator.device)
        if recipe.channels_last:
            network = network.to(memory_format=torch.channels_last)
        decays = [decay for decay in (recipe.ema_decay, recipe.second_ema_decay) if decay is not None]
        most = (1 + recipe.max_train_steps) / (10 + recipe.max_train_steps)  # EMAModel's own limit at the end
        if len(decays) == 2 and min(decays) >= most:
            told = "ema_decay and second_ema_decay keep the same average: after %d updates a decay is at most %.4f"
            logger.warning(told, recipe.max_train_steps, most)
        self.decays = decays
        self.trained = trained_part(network)
        self.averages = [EMAModel(self.trained.parameters(), decay=decay, foreach=True) for decay in decays]
        self.averaged = copy.deepcopy(network).eval().requires_grad_(False)  # takes an average to draw or save
        self.averaged_part = trained_part(self.averaged)
        self.optimizer = torch.optim.AdamW(
            self.trained.parameters(),
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
        parts = {"optimizer": self.optimizer, "lr_scheduler": self.lr_scheduler}
        parts |= {f"average-{which}": average for which, average in enumerate(self.averages)}
        parts |= {"history": self.history, "scaler": self.accelerator.scaler}
        self.state = RunState(self.trained, {name: part for name, part in parts.items() if part is not None})
        self.state.check()

    def _prepare_frozen(self) -> None:
        frozen = self.objective.frozen.values()
        for name, module in self.objective.frozen.items():
            check_finite(module, f"the {name} that is not trained")
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
            raise FloatingPointError(f"the loss is {loss} at step {self.step}; {self._advice()}")
        if self.history is not None:
            self.history.update(self._of_all_processes(self.history.take()))
        if self.recipe.max_grad_norm > 0:
            self.accelerator.clip_grad_norm_(self.trained.parameters(), self.recipe.max_grad_norm)
        self.optimizer.step()
        self.lr_scheduler.step()
        self.optimizer.zero_grad()
        for average in self.averages:
            average.step(self.trained.parameters())
        self.step += 1
        return loss

    def _advice(self) -> str:
        """What to try against a loss that is not finite."""
        if self.step == 0:  # the weights are finite, and no update has used the learning rate
            return "no update was made yet, so it is not the learning rate: look at the loss and its flags"
        return "try a lower --learning_rate"

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
        """Train up to `max_train_steps`, from the recipe's checkpoint if any; returns the folder of the pipeline.

        Raises:
            Interrupted: a signal came; there is a checkpoint of the last update.
            Exception: anything that fails. `checkpoint` is then the last one, of the last update if it can be written.
        """
        self._resume()
        self._keep_guide(only_if_missing=True)
        self.accelerator.init_trackers("stepwise", config={k: v for k, v in self.settings.items() if v is not None})
        silent, total = not self.accelerator.is_local_main_process, self.recipe.max_train_steps
        with noted() as signals, Progress(self.recipe.recipe, total, self.step, silent) as self.progress:
            try:
                self._updates(signals)
            except Exception as error:
                if signals.number and self.accelerator.num_processes > 1:  # the launcher ends this process
                    raise Interrupted(signals.number) from error
                raise
        return self.output_dir

    def _updates(self, signals: Noted) -> None:
        total = self.recipe.max_train_steps
        self._started, self._first = time.monotonic(), self.step
        while self.step < total:
            loss = self.update()
            with self._saving_after_an_error():
                self._log_and_save(loss)
            if self.step < total:
                self.progress.advance()
                self._stop_for(self._of_any_process(signals.number))
        with self.progress.busy("saving the model"):
            self._finish()
        self.progress.advance()

    def _of_any_process(self, number: int | None) -> int:
        """The signal that any of the processes has noted, so that all stop after the same update; 0 for none."""
        if self.accelerator.num_processes == 1:
            return number or 0
        return int(self.accelerator.gather(torch.tensor([number or 0], device=self.accelerator.device)).max())

    def _stop_for(self, number: int) -> None:
        if number:
            if not self._is_saved():
                self._save_checkpoint()
            raise Interrupted(number)

    @contextmanager
    def _saving_after_an_error(self) -> Iterator[None]:
        """If what follows an update fails, the update is not lost: a checkpoint is written where one still can be."""
        try:
            yield
        except Exception:
            if self.accelerator.num_processes == 1 and not self._is_saved():
                with suppress(Exception):
                    self._save_checkpoint()
            raise

    def _is_saved(self) -> bool:
        return self.checkpoint is not None and self.checkpoint == self.output_dir / f"checkpoint-{self.step}"

    def _log_and_save(self, loss: float) -> None:
        rate = (self.step - self._first) * self.images_per_update / (time.monotonic() - self._started)
        self.progress.values(loss, rate)
        learning_rate = self.lr_scheduler.get_last_lr()[0]
        self.accelerator.log({"loss": loss, "lr": learning_rate, "images_per_second": rate}, step=self.step)
        last = self.step == self.recipe.max_train_steps
        if last or self.recipe.previews_at(self.step):
            with self.progress.busy("drawing samples"):
                self._log_samples()
        self._keep_guide()
        if last or self.step % self.recipe.checkpointing_steps == 0:
            with self.progress.busy("writing a checkpoint"):
                self._save_checkpoint()

    def _keep_guide(self, only_if_missing: bool = False) -> None:
        """Save the average of update `guide_step`; when a run goes on from there, if it was stopped before it was."""
        folder = self.output_dir / GUIDE
        if self.step == self.recipe.guide_step and self.accelerator.is_main_process:
            if not (only_if_missing and folder.is_dir()):
                self.pipeline_to_save().save_pretrained(folder)

    def pipeline(self, which: int = 0) -> DiffusionPipeline:
        """The objective's pipeline over the averaged weights; 1 for those of `second_ema_decay`."""
        self.averages[which].copy_to(self.averaged_part.parameters())
        return self.objective.pipeline(self.averaged)

    def pipeline_to_save(self, which: int = 0) -> DiffusionPipeline:
        """The same, with what the objective measures before it is saved."""
        self.averages[which].copy_to(self.averaged_part.parameters())
        return self.objective.pipeline_to_save(self.averaged)

    def _save(self, folder: Path, which: int = 0, guided: bool = False) -> None:
        """Save what was trained: the pipeline, with its guide where it is the finished one, or an adapter of it."""
        pipeline = self.pipeline_to_save(which)
        if guided and self.recipe.guide_step is not None:
            add_guide(pipeline, self.output_dir / GUIDE)
        save_trained(pipeline, folder, self.origin.get("base"), self.origin.get("base_revision"))

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
            if self.accelerator.is_main_process:
                check_finite(self.network, f"the weights after update {self.step}")
                self.state.save(folder / "state")
                self._save(folder / "pipeline")
                write_json(folder / "training.json", self._record())
                write_whole(self.output_dir / LATEST, f"checkpoint-{self.step}\n".encode())
        self.checkpoint = self.output_dir / f"checkpoint-{self.step}"
        kept = "all are kept" if limit is None else f"of which {limit} are kept"
        self.progress.note(f"{self.checkpoint} takes {size_of(self.checkpoint)}, {kept} (--checkpoints_total_limit)")

    def _resume(self) -> None:
        self.output_dir.mkdir(parents=True, exist_ok=True)
        wanted = self.recipe.resume_from_checkpoint
        checkpoint = intact_checkpoint(self.output_dir, wanted) if wanted else None
        if checkpoint is None:
            if checkpoint_steps(self.output_dir):
                logger.warning("%s holds checkpoints of an earlier run; this one starts from scratch", self.output_dir)
            return
        if self.recipe.guide_step is not None and self.accelerator.is_main_process:
            bring_guide(checkpoint.parent, self.output_dir)
        self.state.load(checkpoint / "state")
        check_finite(self.network, f"the weights in {checkpoint}")
        self.checkpoint = checkpoint
        for average in self.averages:
            average.to(self.accelerator.device)
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
                self._save(folder, which, guided=True)
                own = {} if which == 0 else {"ema_decay": average.decay}
                write_json(folder / "training.json", self._record() | own)
            if is_adapted(self.averaged):
                self._draw_before()
            last = image_path(self.output_dir / "samples", self.step)
            if last.is_file():
                shutil.copyfile(last, self.output_dir / "samples.png")  # shown on the card
        self.accelerator.end_training()

    def _draw_before(self) -> None:
        """Beside the samples of an adapter, the same ones without it."""
        pipeline = self.pipeline()
        pipeline.set_adapters(NAME, 0.0)
        with self.accelerator.autocast():
            self.objective.samples(pipeline, self.recipe.seed).save(self.output_dir / BEFORE)
        pipeline.set_adapters(NAME, 1.0)
