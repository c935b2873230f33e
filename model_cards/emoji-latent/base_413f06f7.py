"""What all pipelines here share: runs as iterators of steps, seeds, callbacks and output types.

A pipeline checks the arguments of `__call__` in `start` and returns a generator of `Step`s. `stream` hands it out as a
`Run`, which counts network evaluations and can be stopped; `__call__` drains it with diffusers' callbacks.
"""

import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import get_ident
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import BaseOutput
from PIL import Image
from torch import Tensor

from .conditions_5712ea1d import Classes, Conditions, Labels, Nulls
from .facts_c265849c import Facts
from .lora_462a865d import AdapterLoader
from .packaging_51c09d16 import CodeCarryingPipeline
from .run_32486b83 import Run, Step, evaluate, plain

Generators = torch.Generator | list[torch.Generator] | None
OUTPUT_TYPES = ("pil", "np", "pt", "latent")
CALLBACK_TENSORS = ("latents", "pred_original_sample", "eps")
# what diffusers' own callbacks ask for besides, to cut it; here there is nothing of the kind, and they get no rows
PROMPT_TENSORS = ("prompt_embeds", "pooled_prompt_embeds", "add_text_embeds", "add_time_ids", "image")
# arguments of `__call__` that concern its output, and not the run
OUTPUT_ARGUMENTS = (
    "output_type",
    "return_dict",
    "callback_on_step_end",
    "callback_on_step_end_tensor_inputs",
    "return_stages",
)


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
    """One generator per image.

    A list is used as it is. From a single generator, image 0 takes the generator itself and image i a seed that
    depends on the generator's state and on i, never on the batch size. None: a seed from torch's own generator.

    Raises:
        ValueError: a list of another length than `batch_size`, or the same generator twice in it.
    """
    if isinstance(generator, (list, tuple)):
        _check_generators(generator, batch_size)
        return list(generator)
    if generator is None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, (1,))))
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator must be a torch.Generator or a list of them, got {type(generator).__name__}")
    peek = torch.Generator(generator.device)
    peek.set_state(generator.get_state())
    base = int(torch.randint(2**62, (1,), generator=peek, device=peek.device))
    others = [torch.Generator(generator.device).manual_seed(base + i) for i in range(1, batch_size)]
    return [generator, *others]


def _check_generators(generators: list[torch.Generator], batch_size: int) -> None:
    others = [type(one).__name__ for one in generators if not isinstance(one, torch.Generator)]
    if others:
        raise ValueError(f"generator must be a torch.Generator or a list of them, got a list with {others[0]}")
    if len(generators) != batch_size:
        raise ValueError(f"generator must be one generator or a list of {batch_size}, got {len(generators)}")
    if len({id(one) for one in generators}) != batch_size:
        raise ValueError(
            f"generator must be a list of {batch_size} different ones, got the same one more than once: a single "
            "generator, not in a list, gives each image a seed of its own"
        )


def check_count(name: str, value: object, low: int = 1) -> None:
    """Raise ValueError unless `value` is an integer of at least `low`."""
    value = plain(value)
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise ValueError(f"{name} must be an integer of at least {low}, got {value!r}")


def check_number(name: str, value: object, low: float = -math.inf, high: float = math.inf) -> None:
    """Raise ValueError unless `value` is a finite number in [low, high]."""
    value = plain(value)
    number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    if not number or not low <= value <= high:
        raise ValueError(f"{name} must be a finite number in [{low:g}, {high:g}], got {value!r}")


def check_given_noise(latents: object, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless `latents` is a finite tensor of this shape."""
    if not isinstance(latents, Tensor) or tuple(latents.shape) != shape or not latents.isfinite().all():
        got = tuple(latents.shape) if isinstance(latents, Tensor) else type(latents).__name__
        raise ValueError(f"latents must be a finite tensor of shape {shape}, got {got}")


def variance_type_of(scheduler: Any, is_learned: bool) -> str:
    """The variance of ancestral steps: what the network has learned, or what the scheduler's config asks for."""
    if is_learned:
        return "learned_range"
    kind = scheduler.config.get("variance_type", "fixed_small")
    if kind == "fixed_small_log":  # another way to write the same number
        return "fixed_small"
    if kind not in ("fixed_small", "fixed_large"):
        raise ValueError(f"variance_type must be fixed_small or fixed_large for this network, got {kind!r}")
    return kind


class StepwisePipeline(AdapterLoader, CodeCarryingPipeline):
    """What the pipelines of this project share. A subclass has `__call__` and `start`, which takes its arguments."""

    _interrupted = False
    _of_last_run: tuple[int | None, float | None] = (None, None)  # its number of steps and guidance scale
    _callback_tensor_inputs = list(CALLBACK_TENSORS)
    unguided_scale = 1.0  # the guidance scale that stands for no guidance

    def __init__(self) -> None:
        super().__init__()
        self._draining: list[tuple[int, Run]] = []  # with the thread that takes each run to its end

    def start(self, **arguments: Any) -> Iterator[Step]:
        """Check the arguments of `__call__`, draw x_T, and return the generator of steps, which has not begun."""
        raise NotImplementedError

    def stream(self, *args: Any, **kwargs: Any) -> Run:
        """The steps of a run, one at a time. Takes the arguments of `__call__`, but for those of the output."""
        whole = inspect.signature(type(self).__call__)
        parameters = [p for name, p in whole.parameters.items() if name not in ("self", *OUTPUT_ARGUMENTS)]
        bound = whole.replace(parameters=parameters).bind(*args, **kwargs)
        bound.apply_defaults()
        given = {name: value if name == "condition" else plain(value) for name, value in bound.arguments.items()}
        bound.arguments.update(given)
        scale = bound.arguments.get("guidance_scale")
        to_images = self.to_images_of(**bound.arguments)
        return Run(self.start(**bound.arguments), self.denoising_networks, scale, to_images)

    def to_images_of(self, **arguments: Any) -> Callable[..., Any]:
        """(sample, output_type) -> images, for a run with these arguments of `__call__`."""
        return self.to_images

    # ------------------------------------------------------------------------------------------------- the network

    @property
    def denoising_network(self) -> torch.nn.Module:
        """What the sampler calls as (x_t, t): the U-Net, unless a pipeline has another component for it."""
        return self.unet

    @property
    def denoising_networks(self) -> list[torch.nn.Module]:
        """All networks whose evaluations count as `nfe`."""
        guide = getattr(self, "guide_unet", None)
        return [self.denoising_network] if guide is None else [self.denoising_network, guide]

    @property
    def sample_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of what the network denoises; ValueError where its config does not say."""
        shape = self.facts.sample_shape
        if shape is None:
            raise ValueError("sample_size must be in the network's config, an integer or (height, width), got None")
        return shape

    def network(self, x_t: Tensor, t: Tensor | float, **conditions: Tensor) -> Tensor:
        """The network as a denoiser: x_t (N, C, H, W), t a number or (N,) -> (N, C or 2C, H, W)."""
        return evaluate(self.denoising_network, x_t, t, conditions)

    @property
    def variance_type(self) -> str:
        """The variance that the config asks for; a network with 2C channels has learned its own."""
        return variance_type_of(self.scheduler, self.facts.learns_variance)

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
        check_given_noise(latents, (batch_size, *self.sample_shape))
        return latents.to(noise.device, torch.promote_types(latents.dtype, torch.float32)), noise

    @property
    def facts(self) -> Facts:
        """What the configs of the parts say: classes, channels, sizes."""
        names, said = self.class_names or [], self.about.get("last_label_is_null", False)
        vae, classifier, second, third = (
            getattr(self, part, None) for part in ("vae", "classifier", "unet_2", "unet_3")
        )
        enlarging = second if third is None else third
        return Facts(
            self.denoising_network.config,
            None if vae is None else vae.config,
            None if classifier is None else classifier.config,
            len(names),
            self.config.get("last_label_is_null", said),
            None if enlarging is None else enlarging.config,
        )

    @property
    def num_class_embeds(self) -> int | None:
        """How many labels the network knows, with the one that may stand for "no class"; None without classes."""
        return self.facts.num_class_embeds

    @property
    def class_names(self) -> list[str] | None:
        """Names by class index, or None."""
        names = self.config.get("id2label")
        return [names[key] for key in sorted(names, key=int)] if names else None

    @property
    def null_label(self) -> int | None:
        """The label that stands for "no class" in a network trained with label dropout, its last one; else None."""
        return self.facts.null_label

    @property
    def num_classes(self) -> int | None:
        """How many classes can be asked for; None for an unconditional network."""
        return self.facts.num_classes

    @property
    def nulls(self) -> Nulls:
        """What each condition is replaced by where it is dropped."""
        return {} if self.null_label is None else {"class_labels": self.null_label}

    def resolve_labels(self, class_labels: Labels, batch_size: int | None) -> tuple[Tensor | None, int]:
        """Class indices (N,) or None, and N, as `Classes.resolve`; ValueError for what the network does not know."""
        if batch_size is not None:
            check_count("batch_size", batch_size)
        required = self.num_class_embeds is not None and self.null_label is None
        return Classes(self.num_classes, self.class_names, self.null_label, required).resolve(class_labels, batch_size)

    def scale_of(self, class_labels: Labels, guidance_scale: float) -> float:
        """0, no class, where no class is asked for; a `guide_unet` guides there, too."""
        without = class_labels is None and getattr(self, "guide_unet", None) is None
        return 0.0 if without else float(guidance_scale)

    def conditions(self, class_labels: Labels, batch_size: int | None) -> tuple[Conditions, int]:
        """What the network is given beside x_t and t, and the number of images; ValueError as `resolve_labels`."""
        labels, count = self.resolve_labels(class_labels, batch_size)
        return ({} if labels is None else {"class_labels": labels}), count

    def _refuse_custom_code(self) -> None:
        super()._refuse_custom_code()
        if self.stock_class == "DDIMPipeline" and self.facts.learns_variance:
            raise ValueError("carry_code=False: the stock DDIMPipeline cannot take a network that learned a variance")
        if self.stock_class == "DDPMPipeline" and type(self.scheduler).__name__ != "DDPMScheduler":
            got = type(self.scheduler).__name__
            raise ValueError(f"carry_code=False: the stock DDPMPipeline draws with a DDPMScheduler alone, got {got}")
        takes_labels = "class_labels" in inspect.signature(getattr(diffusers, self.stock_class).__call__).parameters
        if self.num_class_embeds is not None and not takes_labels:
            raise ValueError(
                f"carry_code=False: the stock {self.stock_class} passes no class labels to component 'unet'"
            )

    # ----------------------------------------------------------------------------------------------------- outputs

    @property
    def interrupt(self) -> bool:
        """Whether the last call was stopped.

        Set `_interrupt` to True, from a callback or another thread, to stop after the current step: the run of this
        thread or, from a thread that draws nothing, all runs of this pipeline.
        """
        return self._interrupted

    @property
    def _interrupt(self) -> bool:
        return self._interrupted

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        self._interrupted = bool(value)
        for run in self._runs():
            run.interrupted = bool(value)

    def _runs(self) -> list[Run]:
        """The runs that this thread takes to their end or, for a thread that draws nothing, all."""
        own = [run for thread, run in self._draining if thread == get_ident()]
        return own or [run for _, run in self._draining]

    @property
    def num_timesteps(self) -> int | None:
        """The number of steps of this thread's run, or of the last one; None before the first."""
        runs = self._runs()
        return runs[-1].num_steps if runs else self._of_last_run[0]

    @property
    def guidance_scale(self) -> float | None:
        """The guidance scale of this thread's run, or of the last one; None before the first.

        Set from a callback, it holds from the next step on, in the terms of the call.
        """
        runs = self._runs()
        return runs[-1].guidance_scale if runs else self._of_last_run[1]

    @guidance_scale.setter
    def guidance_scale(self, value: float) -> None:
        check_number("guidance_scale", value, 0.0)
        for run in self._runs():
            run.guidance_scale = float(plain(value))

    @property
    def _guidance_scale(self) -> float | None:
        return self.guidance_scale

    @_guidance_scale.setter
    def _guidance_scale(self, value: float) -> None:
        """What diffusers' callbacks set, by its convention: 0 switches guidance off, and the class stays."""
        self.guidance_scale = value or self.unguided_scale

    def drain(
        self,
        run: Run,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable | None = None,
        callback_on_step_end_tensor_inputs: tuple[str, ...] | list[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Take a run to its end, or until `_interrupt`, with diffusers' callbacks and progress bar.

        `callback_on_step_end(pipeline, index, timestep, tensors)` may return {"latents": ...} to replace the sample.
        One of diffusers' PipelineCallbacks, or several, name the tensors that they are given.
        """
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
            self._check_tensors(callback_on_step_end_tensor_inputs, CALLBACK_TENSORS + PROMPT_TENSORS)
        with self._interruptible(run), self.progress_bar(total=1) as bar:
            for step in run:
                bar.total = step.num_steps
                if callback_on_step_end is not None:
                    self._call_back(callback_on_step_end, step, callback_on_step_end_tensor_inputs)
                bar.update()
        images = run.to_images(step.prev_sample, output_type)
        self.maybe_free_model_hooks()  # of enable_model_cpu_offload
        return ImagePipelineOutput(images=images, nfe=run.nfe) if return_dict else (images,)

    @contextmanager
    def _interruptible(self, run: Run) -> Iterator[None]:
        self._interrupted, entry = False, (get_ident(), run)
        self._draining.append(entry)
        try:
            yield
        finally:
            run.close()
            self._draining.remove(entry)
            self._of_last_run = run.num_steps, run.guidance_scale

    def _call_back(self, callback: Callable, step: Step, names: tuple[str, ...] | list[str]) -> None:
        tensors = {"latents": step.prev_sample, "pred_original_sample": step.pred_original_sample, "eps": step.eps}
        tensors |= dict.fromkeys(PROMPT_TENSORS, step.prev_sample.new_empty(0))
        changed = callback(self, step.index, step.timestep, {name: tensors[name] for name in names}) or {}
        step.prev_sample = changed.get("latents", step.prev_sample)

    def check_output(self, output_type: str, callback_tensor_inputs: tuple[str, ...] | list[str]) -> None:
        """Raise ValueError for an unknown `output_type` or callback tensor, before any work."""
        if output_type not in OUTPUT_TYPES:
            raise ValueError(f"output_type must be one of {', '.join(OUTPUT_TYPES)}, got {output_type!r}")
        self._check_tensors(callback_tensor_inputs, CALLBACK_TENSORS)

    @staticmethod
    def _check_tensors(names: tuple[str, ...] | list[str], allowed: tuple[str, ...]) -> None:
        unknown = [name for name in names if name not in allowed]
        if unknown:
            raise ValueError(f"callback_on_step_end_tensor_inputs must be among {', '.join(allowed)}, got {unknown}")

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


# what the imports above import: diffusers' loader fetches only the files that this one names
from .saved_files_ce9a389c import __doc__ as _  # noqa: E402, F401
from .staging_5ca18f0b import __doc__ as _  # noqa: E402, F401
