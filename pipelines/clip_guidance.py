"""CLIP guidance: a caption steers the sampler (Nichol et al. 2021, GLIDE, https://arxiv.org/abs/2112.10741, eq. 3).

    log p(c | x_t) ~ tau g(x_t) . h(c)

g and h are CLIP's image and text encoders, their embeddings of length 1, and tau its learned temperature. GLIDE looks
at x_t with a CLIP that was trained on noisy images; an ordinary CLIP is shown the predicted x_0 instead, and the
gradient goes through the network. Either is a guide for ClassifierGuidancePipeline:

    pipe(batch_size=4, guide=CLIPGuide(clip, tokenizer, pipe.predict_x0), condition="a red shoe", guidance_scale=3.0)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate, normalize

if TYPE_CHECKING:  # importing transformers takes a second, which only users of this guide should pay
    from transformers import CLIPModel, PreTrainedTokenizerBase

CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # of RGB in [0, 1]


class CLIPGuide:
    """An object whose `log_prob` rises as an image comes closer to a caption.

    Args:
        model: a CLIPModel; for images that are noisy themselves, one that was trained on them
        tokenizer: needed for captions that are text; None where they are given as embeddings
        predict_x0: (x_t, t) -> x_0, differentiable, such as `pipe.predict_x0`; None: the model is shown x_t itself
    """

    def __init__(
        self,
        model: CLIPModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        predict_x0: Callable[[Tensor, Tensor | float], Tensor] | None = None,
    ) -> None:
        self.model, self.tokenizer, self.predict_x0 = model.eval().requires_grad_(False), tokenizer, predict_x0

    def log_prob(self, x_t: Tensor, t: Tensor | float, condition: str | list[str] | Tensor) -> Tensor:
        """tau g(x) . h(c), (N,), up to a constant; x_t (N, C, H, W) in [-1, 1], grey or RGB.

        `condition` is a caption for all, one per image, or embeddings h(c), (N or 1, D).

        Raises:
            ValueError: a number of captions that is not that of the images, or text without a tokenizer.
        """
        x = x_t if self.predict_x0 is None else self.predict_x0(x_t, t)
        text = condition if isinstance(condition, Tensor) else self.embed_text(condition)
        if len(text) not in (1, len(x)):
            raise ValueError(f"condition must be one caption or one per image ({len(x)}), got {len(text)}")
        image = self.embed_image(x)
        return self.model.logit_scale.exp() * (image * normalize(text.to(image), dim=-1)).sum(-1)

    def embed_image(self, x: Tensor) -> Tensor:
        """g(x) of length 1, (N, D), differentiable in x (N, C, H, W) in [-1, 1]."""
        size = self.model.config.vision_config.image_size
        pixels = (x if x.shape[1] == 3 else x.expand(-1, 3, -1, -1)).to(self.model.dtype) / 2 + 0.5
        pixels = interpolate(pixels, size=(size, size), mode="bilinear", antialias=True)
        mean, std = (
            torch.tensor(values, dtype=x.dtype, device=x.device).view(1, 3, 1, 1).to(pixels)
            for values in (CLIP_MEAN, CLIP_STD)
        )
        return normalize(_embedding(self.model.get_image_features(pixel_values=(pixels - mean) / std)), dim=-1)

    def embed_text(self, captions: str | list[str]) -> Tensor:
        """h(c), (number of captions, D).

        Raises:
            ValueError: there is no tokenizer.
        """
        if self.tokenizer is None:
            raise ValueError(f"tokenizer must be given for captions that are text, got None and {captions!r}")
        captions = [captions] if isinstance(captions, str) else list(captions)
        tokens = self.tokenizer(captions, padding=True, truncation=True, return_tensors="pt").to(self.model.device)
        return _embedding(self.model.get_text_features(**tokens))


def _embedding(output: Any) -> Tensor:
    """Some versions of transformers wrap the embeddings in an output record."""
    return output if isinstance(output, Tensor) else output.pooler_output
