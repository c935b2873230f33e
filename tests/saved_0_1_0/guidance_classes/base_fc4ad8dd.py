"""Bookkeeping that every pipeline shares, and no algorithm.

A pipeline here is a generator of `Step`s. This file holds what surrounds it: draining the generator with diffusers'
callbacks, one noise stream an image, counted network calls, class names, post-processing, driving a diffusers
scheduler, and saving a folder that carries its own code. It imports nothing of ours, so that it can travel.
"""

import copy
import hashlib
import inspect
import json
import logging
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

import diffusers
import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from huggingface_hub import CommitOperationAdd, create_commit, snapshot_download
from PIL import Image
from torch import Tensor

logger = logging.getLogger(__name__)

Generators = torch.Generator | list[torch.Generator] | None
Labels = int | str | list[int | str] | None
Denoiser = Callable[..., Tensor]
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
CALLBACK_TENSORS = ("latents", "pred_original_sample", "eps")
# These two only state the process; our pipelines take their steps themselves. Any other scheduler is driven.
PROCESS_SCHEDULERS = ("DDPMScheduler", "DDIMScheduler")
_HUB_ARGUMENTS = ("repo_id", "private", "token", "commit_message", "create_pr")
_HASHED = re.compile(r"_[0-9a-f]{8}$")
_SIBLING = re.compile(r"^from \.(\w+) import", re.MULTILINE)


@dataclass
class Step:
    """One step of a sampler; the tensors are (N, C, H, W) and at least float32.

    Attributes:
        index, num_steps: 0-based position and the number of steps of the run
        timestep: the time that the network was given, in the process it was trained on
        x_t: the sample that the network saw
        pred_original_sample: the predicted x_0, in [-1, 1] where the scheduler's config clips it
        eps: the predicted noise
        prev_sample: the sample after this step. A consumer may replace it: the sampler goes on from there.
    """

    index: int
    num_steps: int
    timestep: float
    x_t: Tensor
    pred_original_sample: Tensor
    eps: Tensor
    prev_sample: Tensor


@dataclass
class ImagePipelineOutput(BaseOutput):
    """`images` as asked for by `output_type`; `nfe`, the network evaluations that one image took, counted by a hook."""

    images: list[Image.Image] | np.ndarray | Tensor
    nfe: float


class NoiseStreams:
    """Gaussian noise of one shape, in which image i depends on its own generator alone, whatever the batch."""

    def __init__(self, generators: list[torch.Generator], shape: tuple[int, ...], device: torch.device) -> None:
        self.generators, self.shape, self.device = generators, shape, device

    def __call__(self) -> Tensor:
        """The next float32 draw of every image, (N, *shape)."""
        draws = [torch.randn((1, *self.shape), generator=g, device=g.device) for g in self.generators]
        return torch.cat([draw.to(self.device) for draw in draws])


def image_generators(generator: Generators, batch_size: int) -> list[torch.Generator]:
    """One generator an image.

    A list is used as it is. From a single generator, image 0 takes the generator itself and image i a seed that
    depends on the generator's state and on i, never on the batch size. None: fresh seeds.

    Raises:
        ValueError: a list of another length than `batch_size`, or the same generator twice in it.
    """
    if isinstance(generator, (list, tuple)):
        if len(generator) != batch_size or len({id(g) for g in generator}) != batch_size:
            raise ValueError(
                f"generator must be one generator or a list of {batch_size} different ones, got {len(generator)}"
            )
        return list(generator)
    if generator is None:
        generator = torch.Generator().manual_seed(torch.seed() % 2**63)
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator must be a torch.Generator or a list of them, got {type(generator).__name__}")
    peek = torch.Generator(generator.device)
    peek.set_state(generator.get_state())
    base = int(torch.randint(2**62, (1,), generator=peek, device=peek.device))
    others = [torch.Generator(generator.device).manual_seed(base + i) for i in range(1, batch_size)]
    return [generator, *others]


def check_count(name: str, value: object, low: int = 1) -> None:
    """Raise ValueError unless `value` is an integer of at least `low`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")


def check_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise ValueError unless `value` is a finite number in [low, high]."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        raise ValueError(f"{name} must be a finite number in [{low:g}, {high:g}], got {value!r}")


def padded_rows(count: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Rows 0 to count - 1 and, on a CPU, the last again and again.

    The rows of a matrix product come out equal to the last bit only for multiples of four, and in float32 on a single
    thread for 16 and more: a picture must not depend on how many are drawn.
    """
    least = 16 if torch.get_num_threads() == 1 and dtype == torch.float32 else 4
    padding = max(least - count, -count % 4) if device.type == "cpu" else 0
    return torch.arange(count + padding, device=device).clamp(max=count - 1)


def clip_x0(x0: Tensor, config: dict) -> Tensor:
    """The predicted x_0 clipped as the scheduler's config says: dynamic thresholds an image, a fixed range, or not."""
    if config.get("thresholding", False):
        limits = torch.quantile(x0.flatten(1).abs(), config["dynamic_thresholding_ratio"], dim=1)
        limits = limits.clamp(1.0, config["sample_max_value"]).reshape(-1, *(1,) * (x0.ndim - 1))
        return x0.clamp(-limits, limits) / limits
    if config.get("clip_sample", False):
        limit = config.get("clip_sample_range", 1.0)
        return x0.clamp(-limit, limit)
    return x0


def _classes_called(label: str, names: list[str]) -> list[int]:
    """Indices of the classes of that name, or else with it among their synonyms, which commas part as in ImageNet."""
    wanted, lowered = label.strip().lower(), [name.lower() for name in names]
    whole = [index for index, name in enumerate(lowered) if name == wanted]
    return whole or [i for i, name in enumerate(lowered) if wanted in (part.strip() for part in name.split(","))]


def _few_names(label: str, names: list[str]) -> str:
    """The names to choose from; of many, those that look like `label`."""
    if len(names) <= 20:
        return ", ".join(names)
    synonyms = [part.strip() for name in names for part in name.split(",")]
    return ", ".join([*(get_close_matches(label, synonyms) or synonyms[:3]), "..."])


def drives_itself(scheduler: Any) -> bool:
    """Whether `scheduler` has to be driven, rather than read as the statement of a noise schedule."""
    return type(scheduler).__name__ not in PROCESS_SCHEDULERS


@torch.no_grad()
def scheduler_steps(
    denoiser: Denoiser,
    x_T: Tensor,
    scheduler: Any,
    num_inference_steps: int,
    alphas_cumprod: Tensor,
    generators: list[torch.Generator],
) -> Iterator[Step]:
    """Drive any diffusers scheduler, also those that scale the model's input (Heun, Euler).

    `x_T` is unit noise; `denoiser(x_t, t)` gets the scaled input, and x_t, x_0 and eps of each Step refer to it. A
    learned variance, the second half of the channels, is of no use to these solvers.
    """
    scheduler = copy.deepcopy(scheduler)  # solvers keep a history, which set_timesteps clears: each run has its own
    scheduler.set_timesteps(num_inference_steps, device=x_T.device)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # else it searches for t, and starts too late where rounded timesteps repeat
    takes_generator = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if takes_generator else {}
    x = x_T * scheduler.init_noise_sigma
    for i, t in enumerate(scheduler.timesteps):
        x_in = scheduler.scale_model_input(x, t)
        output = denoiser(x_in, t)[:, : x_in.shape[1]]
        x0, eps = _to_x0_eps(output, x_in, _sigma_at(scheduler, i, t, alphas_cumprod), scheduler)
        x = scheduler.step(output, t, x, **extra).prev_sample
        step = Step(i, len(scheduler.timesteps), float(t), x_in, x0, eps, x)
        yield step
        x = step.prev_sample


def _sigma_at(scheduler: Any, index: int, t: Tensor, alphas_cumprod: Tensor) -> float:
    """sqrt(1 - abar) / sqrt(abar) at a step, from the scheduler's own list where it keeps one."""
    sigmas = getattr(scheduler, "sigmas", None)
    if not getattr(scheduler, "state_in_first_order", True) and hasattr(scheduler, "sigmas_interpol"):
        sigmas = scheduler.sigmas_interpol  # KDPM2 asks the network at half steps between its sigmas
    if sigmas is not None and len(sigmas) > len(scheduler.timesteps):
        return float(sigmas[index])
    return math.sqrt(1.0 / float(alphas_cumprod[int(t)]) - 1.0)


def _to_x0_eps(output: Tensor, x_in: Tensor, sigma: float, scheduler: Any) -> tuple[Tensor, Tensor]:
    a, b = 1.0 / math.sqrt(1.0 + sigma**2), sigma / math.sqrt(1.0 + sigma**2)
    kind = scheduler.config.prediction_type
    if kind == "v_prediction":
        return a * x_in - b * output, b * x_in + a * output
    if kind == "sample":
        return output, (x_in - a * output) / max(b, 1e-12)
    return (x_in - b * output) / a, output


class StepwisePipeline(DiffusionPipeline):
    """What the pipelines of this project share. A subclass has `stream(...) -> Iterator[Step]` and `__call__`."""

    _interrupt = False
    stock_class: str | None = None  # the diffusers pipeline that can run this one's model without our code

    # ------------------------------------------------------------------------------------------------- the network

    @property
    def interrupt(self) -> bool:
        """Set `_interrupt` to True, from a callback or another thread, to stop the run after the current step."""
        return self._interrupt

    @property
    def denoising_network(self) -> torch.nn.Module:
        """What the sampler calls as (x_t, t): the U-Net, unless a pipeline has another component for it."""
        return self.unet

    @property
    def num_class_embeds(self) -> int | None:
        """How many labels the network knows, with the one that may stand for "no class"; None without classes."""
        return self.denoising_network.config.get("num_class_embeds")

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the network denoises."""
        config = self.denoising_network.config
        size = config.sample_size
        height, width = (size, size) if isinstance(size, int) else size
        return (config.in_channels, height, width)

    def network(self, x_t: Tensor, t: Tensor | float, class_labels: Tensor | None = None) -> Tensor:
        """Call the network in its own dtype: x_t (N, C, H, W) -> output (N, C or 2C, H, W) in the dtype of `x_t`.

        `t` is a time for all, or one an image, (N,).
        """
        network, count = self.denoising_network, x_t.shape[0]
        dtype = next(network.parameters()).dtype  # `network.dtype` walks all modules: a hundredth of a fast step
        rows = padded_rows(count, dtype, x_t.device)
        self._padding = len(rows) - count
        times = torch.as_tensor(t, device=x_t.device).expand(count)[rows]
        labels = {} if class_labels is None else {"class_labels": class_labels.to(x_t.device)[rows]}
        output = network(x_t[rows].to(dtype), times, **labels).sample
        return output[:count].to(x_t.dtype)

    @contextmanager
    def counted_rows(self) -> Iterator[Callable[[], int]]:
        """Count the rows that the network evaluates, through a forward hook on it."""
        rows = 0

        def count(module: torch.nn.Module, args: tuple, output: Any) -> None:
            nonlocal rows
            rows += args[0].shape[0] - self._padding

        handle = self.denoising_network.register_forward_hook(count)
        try:
            yield lambda: rows
        finally:
            handle.remove()

    @property
    def variance_type(self) -> str:
        """The variance that the config asks for; a network with 2C channels has learned its own."""
        config = self.denoising_network.config
        if config.out_channels == 2 * config.in_channels:
            return "learned_range"
        kind = self.scheduler.config.get("variance_type", "fixed_small")
        if kind == "fixed_small_log":  # another way to write the same number
            return "fixed_small"
        if kind not in ("fixed_small", "fixed_large"):
            raise ValueError(f"variance_type must be fixed_small or fixed_large for this network, got {kind!r}")
        return kind

    # ----------------------------------------------------------------------------------------------------- inputs

    def streams(self, batch_size: int, generator: Generators, latents: Tensor | None) -> tuple[Tensor, NoiseStreams]:
        """x_T, (N, C, H, W) unit noise, and the noise that follows.

        Raises:
            ValueError: `latents` of another shape than (batch_size, C, H, W), or generators that do not fit.
        """
        check_count("batch_size", batch_size)
        noise = NoiseStreams(image_generators(generator, batch_size), self.sample_shape, self._execution_device)
        if latents is None:
            return noise(), noise
        expected = (batch_size, *self.sample_shape)
        if not isinstance(latents, Tensor) or tuple(latents.shape) != expected or not latents.isfinite().all():
            got = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
            raise ValueError(f"latents must be a finite tensor of shape {expected}, got {got}")
        return latents.to(noise.device, torch.promote_types(latents.dtype, torch.float32)), noise

    @property
    def class_names(self) -> list[str] | None:
        """Names by class index, or None."""
        names = self.config.get("id2label")
        return [names[key] for key in sorted(names, key=int)] if names else None

    @property
    def null_label(self) -> int | None:
        """The label that stands for "no class" in a network trained with label dropout: one past the last name."""
        count, names = self.num_class_embeds, self.class_names
        return len(names) if names and count == len(names) + 1 else None

    @property
    def num_classes(self) -> int | None:
        """How many classes can be asked for; None for an unconditional network."""
        embeds, null = self.num_class_embeds, self.null_label
        return embeds if null is None else null

    def resolve_labels(self, class_labels: Labels, batch_size: int | None) -> tuple[Tensor | None, int]:
        """Class indices (N,) or None, and N.

        A single label is drawn `batch_size` times; a list gives one label an image.

        Raises:
            ValueError: an unknown name or index, a list that contradicts `batch_size`, labels for a network that
                takes none, or none for a network that cannot go without.
        """
        if batch_size is not None:
            check_count("batch_size", batch_size)
        embeds = self.num_class_embeds
        if class_labels is None:
            if embeds is not None and self.null_label is None:
                raise ValueError(
                    f"class_labels is required: the network was trained on {embeds} classes without dropout"
                )
            count = batch_size or 1
            return (None if embeds is None else torch.full((count,), self.null_label)), count
        if self.num_classes is None:
            raise ValueError(f"class_labels must be None for an unconditional network, got {class_labels!r}")
        if isinstance(class_labels, Tensor):
            class_labels = class_labels.tolist()
        many = class_labels if isinstance(class_labels, (list, tuple)) else [class_labels] * (batch_size or 1)
        if len(many) == 0 or (batch_size or len(many)) != len(many):
            raise ValueError(f"class_labels must have one entry an image, got {len(many)} for batch_size {batch_size}")
        return torch.tensor([self._class_index(label) for label in many]), len(many)

    def _class_index(self, label: int | str) -> int:
        names, highest = self.class_names, self.num_classes - 1
        if isinstance(label, str) and names:
            found = _classes_called(label, names)
            if len(found) > 1:
                raise ValueError(
                    f"class_labels must name one class, got {label!r}, which is the name of each of {found}"
                )
            if found:
                return found[0]
        elif isinstance(label, (int, np.integer)) and not isinstance(label, bool) and 0 <= label <= highest:
            return int(label)
        told = f" or one of {_few_names(str(label), names)}" if names else " (the model has no class names)"
        allowed = f"0 to {highest}{told}"
        raise ValueError(f"class_labels must be {allowed}, got {label!r}")

    # ----------------------------------------------------------------------------------------------------- outputs

    def drain(
        self,
        steps: Iterator[Step],
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Run a stream of steps to its end, or until `_interrupt`, with diffusers' callbacks and progress bar.

        `callback_on_step_end(pipeline, index, timestep, tensors)` may return {"latents": ...} to replace the sample.
        """
        self._interrupt = False
        with self.counted_rows() as rows, self.progress_bar(total=1) as bar:
            for step in steps:
                bar.total = step.num_steps
                if callback_on_step_end is not None:
                    self._call_back(callback_on_step_end, step, callback_on_step_end_tensor_inputs)
                bar.update()
                if self._interrupt:
                    break
        steps.close()
        sample = step.prev_sample
        images = self.to_images(sample, output_type)
        nfe = rows() / len(sample)
        return ImagePipelineOutput(images=images, nfe=nfe) if return_dict else (images,)

    def _call_back(self, callback: Callable, step: Step, names: tuple[str, ...] | list[str]) -> None:
        tensors = {"latents": step.prev_sample, "pred_original_sample": step.pred_original_sample, "eps": step.eps}
        changed = callback(self, step.index, step.timestep, {name: tensors[name] for name in names}) or {}
        step.prev_sample = changed.get("latents", step.prev_sample)

    def check_output(self, output_type: str, callback_tensor_inputs: tuple[str, ...] | list[str]) -> None:
        """Raise ValueError for an unknown `output_type` or callback tensor, before any work."""
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
        unknown = [name for name in callback_tensor_inputs if name not in CALLBACK_TENSORS]
        if unknown:
            raise ValueError(
                f"callback_on_step_end_tensor_inputs must be among {', '.join(CALLBACK_TENSORS)}, got {unknown}"
            )

    @classmethod
    def to_images(cls, sample: Tensor, output_type: str = "pil") -> list[Image.Image] | np.ndarray | Tensor:
        """(N, C, H, W) in [-1, 1] -> PIL images, numpy (N, H, W, C) in [0, 1], a tensor in [0, 1], or as it is."""
        if output_type == "latent":
            return sample
        pixels = (sample / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return pixels
        array = pixels.permute(0, 2, 3, 1).float().cpu().numpy()
        return array if output_type == "np" else cls.numpy_to_pil(array)

    # ---------------------------------------------------------------------------------------------- save and load

    def save_pretrained(
        self, save_directory: str | os.PathLike, *args: Any, carry_code: bool = True, **kwargs: Any
    ) -> None:
        """Write a folder that loads anywhere, with the code of this pipeline and of its custom components.

        The folder is written under a temporary name beside its target and then moved into place. `carry_code=False`
        writes the name of the stock diffusers class instead and no source.

        Raises:
            ValueError: `carry_code=False` for a pipeline or a component that no stock class can run, which it names,
                or weights asked for in another form than safetensors.
        """
        if args[:1] not in ((), (True,)) or kwargs.get("safe_serialization", True) is not True:
            raise ValueError("safe_serialization must be True: this project writes safetensors only")
        if not carry_code:
            self._refuse_custom_code()
        target = Path(save_directory).absolute()
        target.parent.mkdir(parents=True, exist_ok=True)
        self._carry_code = carry_code and self._carry_code  # push_to_hub saves again, for a push without code too
        push = kwargs.pop("push_to_hub", False)
        to_hub = {name: kwargs.pop(name) for name in _HUB_ARGUMENTS if name in kwargs}
        try:
            with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as temporary:
                staged = Path(temporary) / target.name
                super().save_pretrained(staged, *args, **kwargs)
                _move_into(staged, target)
            if push:
                self.push_to_hub(to_hub.pop("repo_id", target.name), variant=kwargs.get("variant"), **to_hub)
        finally:
            self._carry_code = True

    def save_config(self, save_directory: str | os.PathLike, push_to_hub: bool = False, **kwargs: Any) -> None:
        """diffusers calls this last, for `save_pretrained` and `push_to_hub` alike: the place to add the sources."""
        super().save_config(save_directory, push_to_hub=False, **kwargs)
        folder = Path(save_directory)
        index = json.loads((folder / self.config_name).read_text())
        index.pop("_name_or_path", None)
        for config in folder.glob("*/*config.json"):
            _drop_key(config, "_name_or_path")
        if self._carry_code:
            index["_class_name"] = [_carry_sources(_source_of(type(self)), folder), type(self).__name__]
            for name, component in self._custom_components().items():
                stem = _carry_sources(_source_of(type(component)), folder / name)
                index[name] = [stem, type(component).__name__]
        else:
            index["_class_name"] = self.stock_class
            accepted = inspect.signature(getattr(diffusers, self.stock_class).__init__).parameters
            index = {key: value for key, value in index.items() if key.startswith("_") or key in accepted}
        (folder / self.config_name).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")

    def _upload_folder(
        self,
        working_dir: str | os.PathLike,
        repo_id: str,
        token: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        subfolder: str | None = None,
    ) -> str:
        """For `push_to_hub`: one commit, so that a repository never holds half a model; diffusers' may make several."""
        files = sorted(path for path in Path(working_dir).rglob("*") if path.is_file())
        names = [(Path(subfolder or "") / path.relative_to(working_dir)).as_posix() for path in files]
        added = [CommitOperationAdd(name, path) for name, path in zip(names, files, strict=True)]
        message = commit_message or f"Upload {type(self).__name__}"
        return create_commit(repo_id, added, commit_message=message, token=token, create_pr=create_pr)

    _carry_code = True

    def _custom_components(self) -> dict[str, torch.nn.Module]:
        """Components whose class neither diffusers nor transformers ships."""
        unwrapped = {name: getattr(part, "_orig_mod", part) for name, part in self.components.items()}
        shipped = ("diffusers", "transformers")
        return {
            name: part
            for name, part in unwrapped.items()
            if part is not None and type(part).__module__.split(".")[0] not in shipped
        }

    def _refuse_custom_code(self) -> None:
        if self.stock_class is None:
            raise ValueError(f"carry_code=False: no stock diffusers pipeline can run {type(self).__name__}")
        for name, component in self._custom_components().items():
            raise ValueError(f"carry_code=False: component {name!r} needs its own code ({type(component).__name__})")
        takes_labels = "class_labels" in inspect.signature(getattr(diffusers, self.stock_class).__call__).parameters
        if self.num_class_embeds is not None and not takes_labels:
            raise ValueError(
                f"carry_code=False: the stock {self.stock_class} passes no class labels to component 'unet'"
            )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Self:
        """Load weights from a folder or a Hub id and run this very class, whatever code the folder carries.

        Takes the arguments of `DiffusionPipeline.from_pretrained`; weights are read from safetensors only. Custom
        components run the code that lies beside this class; any other needs `trust_remote_code=True`.
        """
        folder = str(pretrained_model_name_or_path)
        if not os.path.isdir(folder):
            hub = ("revision", "token", "cache_dir", "local_files_only", "force_download")
            options = {key: kwargs.pop(key) for key in hub if kwargs.get(key) is not None}
            patterns = ["*.json", "*.safetensors", "*.txt", "*.model", "*.py"]
            folder = snapshot_download(folder, allow_patterns=patterns, **options)
        kwargs = {"use_safetensors": True, **kwargs}
        forwarded = {
            key: kwargs[key] for key in ("dtype", "torch_dtype", "use_safetensors", "variant") if key in kwargs
        }
        for name, component_class in _sibling_components(cls, super().load_config(folder)).items():
            if name not in kwargs:
                kwargs[name] = component_class.from_pretrained(folder, subfolder=name, **forwarded)
        return super().from_pretrained(folder, **kwargs)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> dict | tuple:
        """The folder's model_index, made to name this class; `from_pretrained` passes the custom components itself."""
        loaded = super().load_config(*args, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        for name in _sibling_components(cls, config):
            config[name] = [None, None]
        config["_class_name"] = cls.__name__
        return loaded


def _sibling_components(cls: type, index: dict) -> dict[str, type]:
    """The custom components of a model_index whose source lies beside that of `cls`, with their classes."""
    package = cls.__module__.rpartition(".")[0]
    found = {}
    for name, value in index.items():
        if name.startswith("_") or not isinstance(value, (list, tuple)) or len(value) != 2 or not package:
            continue
        module = f"{package}.{_HASHED.sub('', str(value[0]))}"
        if _HASHED.search(str(value[0])) and find_spec(module):
            found[name] = getattr(import_module(module), value[1])
    return found


def _source_of(cls: type) -> Path:
    try:
        return Path(inspect.getfile(cls))
    except (TypeError, OSError) as error:
        raise ValueError(f"{cls.__name__} has no source file to save: define it in a module") from error


def _drop_key(path: Path, key: str) -> None:
    """Remove `key` from a JSON file: diffusers notes there from which folder of which machine it was loaded."""
    content = json.loads(path.read_text())
    if content.pop(key, None) is not None:
        path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def _carry_sources(source: Path, folder: Path) -> str:
    """Copy `source` and the siblings it imports into `folder` as <stem>_<8 hex of its text>.py; return the stem.

    Remote modules land in one flat package a process, so that equal names must mean equal text. A file that was
    carried before comes out under the same name again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    text = source.read_text()
    for sibling in dict.fromkeys(_SIBLING.findall(text)):
        carried = _carry_sources(source.parent / f"{sibling}.py", folder)
        text = re.sub(rf"^from \.{sibling} import", f"from .{carried} import", text, flags=re.MULTILINE)
    stem = f"{_HASHED.sub('', source.stem)}_{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    for stale in folder.glob("*.py"):
        if _HASHED.sub("", stale.stem) == _HASHED.sub("", stem) and stale.stem != stem:
            stale.unlink()
    (folder / f"{stem}.py").write_text(text)
    return stem


def _move_into(staged: Path, target: Path) -> None:
    """Move the files of `staged` over those of `target`, the index last, and drop sources it no longer names."""
    files = sorted(
        (p.relative_to(staged) for p in staged.rglob("*") if p.is_file()), key=lambda p: p.name == "model_index.json"
    )
    for path in files:
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(staged / path, target / path)
    for folder in {path.parent for path in files}:  # only where this pipeline writes: other folders are not ours
        for stale in (target / folder).glob("*.py"):
            if _HASHED.search(stale.stem) and stale.relative_to(target) not in files:
                stale.unlink()
