"""CLIP guidance with a tiny random CLIP: what it is shown, and that its gradient is that of the dot product."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler
from torch import Tensor
from toys import SHIPPED, quiet, seeded, tiny_unet
from transformers import CLIPConfig, CLIPModel

from pipelines import ClassifierGuidancePipeline, CLIPGuide, NoiseSchedule
from pipelines.classifier_guidance import gradient_of

SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def clip() -> CLIPModel:
    torch.manual_seed(0)
    text = SHAPE | {"vocab_size": 20, "max_position_embeddings": 8, "bos_token_id": 0, "eos_token_id": 1}
    config = CLIPConfig(
        text_config=text | {"pad_token_id": 2}, vision_config=SHAPE | {"image_size": 8, "patch_size": 4}
    )
    return CLIPModel(config).double()


class Words:
    """A tokenizer that gives each caption the number of its letters."""

    def __call__(self, captions: list[str], **options: object) -> object:
        from transformers import BatchEncoding

        ids = torch.tensor([[0, 3 + len(caption) % 10, 1] for caption in captions])
        return BatchEncoding({"input_ids": ids, "attention_mask": torch.ones_like(ids)})


def noise_images(channels: int = 3, size: int = 8) -> Tensor:
    return torch.rand((2, channels, size, size), generator=seeded(), dtype=torch.float64) * 2 - 1


def by_hand(model: CLIPModel, pixels: Tensor, ids: Tensor) -> Tensor:
    """The model's own similarity of images and captions, pixels in [0, 1]: its logits on the diagonal."""
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073], dtype=torch.float64).view(1, 3, 1, 1)
    std = torch.tensor([0.26862954, 0.26130258, 0.27577711], dtype=torch.float64).view(1, 3, 1, 1)
    output = model(input_ids=ids, attention_mask=torch.ones_like(ids), pixel_values=(pixels - mean) / std)
    return output.logits_per_image.diagonal()


def test_it_is_clips_own_similarity_and_so_is_its_gradient() -> None:
    model, x = clip(), noise_images().requires_grad_()
    guide, captions = CLIPGuide(model, Words()), ["a shoe", "a red bag"]
    found = guide.log_prob(x, 7, captions)
    ids = Words()(captions)["input_ids"]
    expected = by_hand(model, x / 2 + 0.5, ids)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    gradients = [torch.autograd.grad(value.sum(), x, retain_graph=True)[0] for value in (found, expected)]
    assert float(gradients[1].abs().max()) > 1e-3
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_grey_images_of_any_size_and_embeddings_are_taken() -> None:
    guide, x = CLIPGuide(clip(), Words()), noise_images(1, 16)
    text = guide.embed_text("a shoe")
    assert text.shape == (1, 512)
    found = guide.log_prob(x, 0, text)
    small = torch.nn.functional.interpolate(x, size=(8, 8), mode="bilinear", antialias=True).expand(-1, 3, -1, -1)
    torch.testing.assert_close(found, guide.log_prob(small, 0, "a shoe"), rtol=0, atol=1e-9)


def test_on_the_predicted_x0_the_gradient_goes_through_the_network() -> None:
    pipe = quiet(ClassifierGuidancePipeline(tiny_unet().double(), DDIMScheduler(**SHIPPED)))
    model, x, t = clip(), noise_images(1), 300
    guide = CLIPGuide(model, Words(), pipe.predict_x0)
    found = gradient_of(guide.log_prob, x, t, "a shoe")
    leaf = x.clone().requires_grad_()
    abar = float(NoiseSchedule.cosine().alphas_cumprod[t])
    x0 = abar**0.5 * leaf - (1 - abar) ** 0.5 * pipe.unet(leaf, t).sample
    ids = Words()(["a shoe"] * 2)["input_ids"]
    value = by_hand(model, x0.expand(-1, 3, -1, -1) / 2 + 0.5, ids).sum()
    (expected,) = torch.autograd.grad(value, leaf)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))
    plain = gradient_of(CLIPGuide(model, Words()).log_prob, x, t, "a shoe")
    assert float((plain - found).abs().max()) > 1e-3 * float(found.abs().max())


@pytest.mark.parametrize("on_x0", [False, True], ids=["x_t", "x_0"])
def test_a_guided_run_comes_closer_to_the_caption(on_x0: bool) -> None:
    pipe = quiet(ClassifierGuidancePipeline(tiny_unet(), DDIMScheduler(**SHIPPED)))
    guide = CLIPGuide(clip().float(), Words(), pipe.predict_x0 if on_x0 else None)
    judge = CLIPGuide(clip().float(), Words())
    options = dict(batch_size=4, num_inference_steps=6, output_type="latent", guide=guide, condition="a red bag")
    scores = [
        float(judge.log_prob(pipe(generator=seeded(), guidance_scale=s, **options).images, 0, "a red bag").mean())
        for s in (0.0, 30.0)
    ]
    assert scores[1] > scores[0]


def test_what_does_not_fit_is_named() -> None:
    guide = CLIPGuide(clip(), Words())
    with pytest.raises(ValueError, match=r"^condition must be one caption or one per image \(2\), got 3"):
        guide.log_prob(noise_images(), 0, ["a", "b", "c"])
    with pytest.raises(ValueError, match="^tokenizer must be given"):
        CLIPGuide(clip()).log_prob(noise_images(), 0, "a shoe")
