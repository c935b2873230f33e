"""LoRA: a low-rank change of a trained network, kept beside it (Hu et al. 2021, https://arxiv.org/abs/2106.09685).

    W' = W + s (alpha / r) B A,     A: r x in, B: out x r       eq. 3, for a layer's weight W

s is the strength that a call chooses, 0 for the network as it was. Loading, strengths, fusing and unloading are
diffusers' own, by its calls and in its file format; what is added here is that any network takes an adapter, also those
that diffusers gives no such calls (UNet2DModel, DiTTransformer2DModel), and that one of another network is refused.
"""

import math
from functools import cache
from typing import Any

import torch
from diffusers.loaders import StableDiffusionLoraLoaderMixin
from diffusers.loaders.lora_base import LORA_WEIGHT_NAME_SAFE
from diffusers.loaders.peft import PeftAdapterMixin
from huggingface_hub import constants
from torch import Tensor, nn

NETWORKS = ("unet", "transformer", "unet_2", "unet_3")  # components that may be adapted
BASE_VALUES = "base_values"  # in the adapter's config: some weights of the layers that it was trained on
PER_LAYER = 8  # such weights of each layer
LEAST_LIKENESS = 0.99  # cosine of these with a network's own; a fused adapter changes it little, another run much


class AdapterLoader(StableDiffusionLoraLoaderMixin):
    """`load_lora_weights`, `set_adapters`, `fuse_lora`, `unload_lora_weights` and their kin, for a pipeline."""

    @property
    def _lora_loadable_modules(self) -> list[str]:
        """The components that diffusers' calls are for: those that have such calls, by now."""
        return [name for name in NETWORKS if isinstance(getattr(self, name, None), PeftAdapterMixin)]

    def load_lora_weights(
        self,
        pretrained_model_name_or_path_or_dict: Any,
        adapter_name: str | None = None,
        hotswap: bool = False,
        **kwargs: Any,
    ) -> None:
        """Load an adapter from a folder, a file, a Hub id or a state dict; it is active at strength 1.

        Args:
            pretrained_model_name_or_path_or_dict: where it is, or its tensors, which are taken for any network that
                they fit
            adapter_name: what `set_adapters` calls it [default_0, default_1, ...]
            hotswap: put it in the place of the loaded adapter of that name
            kwargs: `weight_name`, `subfolder`, `revision`, `token`, ... as diffusers' loader takes them

        Raises:
            ValueError: no adapter of this network, or a name that is in use.
        """
        if adapter_name is not None and (not adapter_name or "." in adapter_name):
            raise ValueError(f"adapter_name must be a name without dots, got {adapter_name!r}")
        source, options = pretrained_model_name_or_path_or_dict, {"use_safetensors": True} | kwargs
        if constants.HF_HUB_OFFLINE or options.get("local_files_only"):  # the Hub cannot be asked for the file's name
            options.setdefault("weight_name", None if isinstance(source, dict) else LORA_WEIGHT_NAME_SAFE)
        low_memory = options.pop("low_cpu_mem_usage", True)
        state, alphas, metadata = self.lora_state_dict(source, return_lora_metadata=True, **options)
        parts = self._adapted_parts(state, metadata)
        for name in parts:
            with_adapters(getattr(self, name)).load_lora_adapter(
                state,
                prefix=name,
                network_alphas=alphas,
                adapter_name=adapter_name,
                metadata=metadata,
                _pipeline=self,
                low_cpu_mem_usage=low_memory,
                hotswap=hotswap,
            )

    def _adapted_parts(self, state: dict[str, Tensor], metadata: dict[str, Any] | None) -> list[str]:
        """The components that an adapter changes; ValueError if it is not of this pipeline's networks."""
        found = list(dict.fromkeys(key.partition(".")[0] for key in state))
        here = [name for name in NETWORKS if isinstance(getattr(self, name, None), nn.Module)]
        wrong = [name for name in found if name not in here]
        if wrong or not found:
            got = f"one of {', '.join(wrong)}" if found else "a file without tensors"
            raise ValueError(f"load_lora_weights must be given an adapter of {' or '.join(here)}, got {got}")
        for name in found:
            tensors = {key.removeprefix(f"{name}."): state[key] for key in state if key.startswith(f"{name}.")}
            config = {key.removeprefix(f"{name}."): value for key, value in (metadata or {}).items()}
            check_fits(getattr(self, name), tensors, config)
        return found

    def fuse_lora(
        self,
        components: list[str] | None = None,
        lora_scale: float = 1.0,
        safe_fusing: bool = False,
        adapter_names: list[str] | None = None,
        **kwargs: Any,
    ) -> None:
        """Add the active adapters to the weights, which draws at the speed of the base; of all networks by default."""
        components = components or self._lora_loadable_modules
        super().fuse_lora(components, lora_scale, safe_fusing, adapter_names, **kwargs)

    def unfuse_lora(self, components: list[str] | None = None, **kwargs: Any) -> None:
        """Take what was fused out of the weights again, up to rounding."""
        super().unfuse_lora(components or self._lora_loadable_modules, **kwargs)

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As without adapters: see `CodeCarryingPipeline.save_pretrained`.

        Raises:
            ValueError: adapters are loaded; they are saved by themselves, and a base without them.
        """
        loaded = sorted({name for names in self.get_list_adapters().values() for name in names})
        if loaded:
            raise ValueError(
                f"save_pretrained must be called without adapters, {', '.join(loaded)} is loaded: call "
                "unload_lora_weights() first, and before it fuse_lora() to keep what the adapter has learned"
            )
        super().save_pretrained(*args, **kwargs)


def with_adapters(network: nn.Module) -> nn.Module:
    """The network itself, with diffusers' calls for adapters, which not all of its classes have."""
    if not isinstance(network, PeftAdapterMixin):
        network.__class__ = _adapted_class(type(network))
    return network


@cache
def _adapted_class(kind: type) -> type:
    """`kind` with these calls, under its own name and module: it is saved as `kind`."""
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (kind, PeftAdapterMixin), names)


def check_fits(network: nn.Module, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Raise ValueError, by the first layer, unless an adapter's tensors are of this network's layers.

    `state` are its tensors by layer, "mid_block.attentions.0.to_q.lora_A.weight"; names in other formats are left to
    diffusers. `config` may say on which weights it was trained.
    """
    modules, of = dict(network.named_modules()), config.get("base_model_name_or_path")
    told = f", which is an adapter of {of}" if of else ""
    for key, tensor in state.items():
        name, _, half = key.rpartition(".lora_")
        if half not in ("A.weight", "B.weight"):
            continue
        layer = _base_layer(modules.get(name))
        width = None if layer is None else layer.weight.shape[0 if half.startswith("B") else 1]
        got = tensor.shape[0 if half.startswith("B") else 1]
        if width != got:
            here = "there is none here" if width is None else f"here it is {width} wide"
            raise ValueError(f"load_lora_weights must be given an adapter of this network: {name} is {got} wide in the "
                             f"one given{told}, and {here}")  # fmt: skip
    values = (config.get("auto_mapping") or {}).get(BASE_VALUES)
    offloaded = any(weight.is_meta for weight in network.parameters())  # enable_sequential_cpu_offload: none is here
    if values and not offloaded and likeness(values, base_values(network, layers_of(state))) < LEAST_LIKENESS:
        raise ValueError(
            f"load_lora_weights must be given an adapter of these weights: the one given{told} was trained on others "
            "of the same shape. To try it all the same, give its tensors: safetensors.torch.load_file(FILE)"
        )


def layers_of(state: dict[str, Tensor]) -> list[str]:
    """The names of the layers that an adapter changes, in order."""
    return sorted({key.rpartition(".lora_")[0] for key in state if ".lora_" in key})


def base_values(network: nn.Module, layers: list[str]) -> list[float]:
    """Some weights of each of these layers of a network, without what adapters add: they tell networks apart."""
    modules, found = dict(network.named_modules()), []
    for name in layers:
        weight = _base_layer(modules[name]).weight.detach().flatten()
        found += weight[:: max(1, len(weight) // PER_LAYER)][:PER_LAYER].float().tolist()
    return found


def likeness(one: list[float], other: list[float]) -> float:
    """The cosine of two lists of weights, 1 for the same network in any number format; 0 for lists of other lengths."""
    a, b = torch.tensor(one), torch.tensor(other)
    if a.shape != b.shape or not math.isfinite(float(size := a.norm() * b.norm())) or size == 0:
        return 0.0
    return float(a @ b / size)


def _base_layer(module: nn.Module | None) -> nn.Module | None:
    """The layer below an adapter, or the layer itself."""
    return getattr(module, "base_layer", module)
