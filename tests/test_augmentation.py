"""Augmentation that the network is told of: what happens to images and labels, and that none of it is drawn."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from training_runs import alone, trainer_of

from training.objectives.augmentation import CHANGES, augmented
from training.objectives.denoising import Denoising
from training.objectives.flow_matching import FlowMatching
from training.objectives.score_matching import ScoreMatching
from training.randomness import BatchRandom

KINDS = {"flow": FlowMatching, "denoising": Denoising, "score": ScoreMatching}


@pytest.fixture(scope="module", autouse=True)
def on_the_cpu(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with alone(tmp_path_factory.mktemp("cache")):
        yield


def test_images_are_mirrored_or_moved_by_a_pixel_and_the_edge_repeats() -> None:
    images = torch.randn(600, 2, 5, 6, generator=torch.Generator().manual_seed(0))
    found, change = augmented(images, 0.5, BatchRandom(0, 0, 0, 600, 600))
    x = images.numpy()
    expected = {
        0: x,
        1: x[..., ::-1],
        2: np.concatenate([x[..., 1:], x[..., -1:]], 3),  # to the left
        3: np.concatenate([x[..., :1], x[..., :-1]], 3),
        4: np.concatenate([x[:, :, 1:], x[:, :, -1:]], 2),  # upwards
        5: np.concatenate([x[:, :, :1], x[:, :, :-1]], 2),
    }
    assert len(expected) == CHANGES
    for kind, images in expected.items():
        rows = (change == kind).numpy()
        assert np.array_equal(found.numpy()[rows], images[rows])
        share = rows.mean()
        assert abs(share - (0.5 if kind == 0 else 0.1)) < 0.05, (kind, share)


def test_none_and_all_are_changed_at_0_and_1() -> None:
    images = torch.randn(64, 1, 4, 4)
    rng = BatchRandom(0, 0, 0, 64, 64)
    assert torch.equal(augmented(images, 0.0, rng)[0], images)
    assert int(augmented(images, 1.0, rng)[1].min()) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_network_is_told_and_the_saved_one_knows_the_classes_alone(kind: str, tmp_path: Path) -> None:
    trainer = trainer_of(KINDS[kind], tmp_path / "run", augment=0.9, label_dropout=0.5, train_batch_size=64)
    images, conditions = trainer.objective.examples(*trainer.batch(0))
    plain, rng = trainer.batch(0)
    expected, change = augmented(plain["images"], 0.9, rng)
    assert torch.equal(images, expected)
    labels, count = conditions["class_labels"], 3  # bird, cat, "no class"
    assert torch.equal(labels // count, change)
    told = labels % count
    assert bool(((told == plain["labels"]) | (told == 2)).all()) and bool((told == 2).any())
    trainer.update()
    saved = trainer.pipeline().unet
    assert (saved.config.num_class_embeds, saved.class_embedding.num_embeddings) == (count, count)
    assert trainer.averaged.class_embedding.num_embeddings == count * CHANGES
    assert trainer.averaged.config.num_class_embeds == count * CHANGES
    x, t = torch.randn(3, 1, 8, 8), torch.tensor([1.0, 2.0, 3.0])
    both = [network(x, t, torch.arange(count)).sample for network in (saved, trainer.averaged)]
    assert torch.equal(*both)


def test_every_label_of_an_augmented_image_gets_a_gradient_and_starts_apart(tmp_path: Path) -> None:
    trainer = trainer_of(FlowMatching, tmp_path / "run", augment=0.8, label_dropout=0.3, train_batch_size=256)
    rows = trainer.network.class_embedding.weight
    assert len({tuple(row.tolist()) for row in rows}) == 3 * CHANGES
    trainer.gradients()
    assert bool((rows.grad.abs().sum(1) > 0).all())


@pytest.mark.parametrize(
    "options, message",
    [
        ({"augment": -0.1}, r"augment must be in \[0, 1\], got -0.1"),
        ({"augment": 1.5}, r"augment must be in \[0, 1\], got 1.5"),
        ({"augment": 0.2, "class_conditional": False}, "augment must be 0 without --class_conditional, got 0.2"),
    ],
)
def test_a_share_that_cannot_be_told_is_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FlowMatching.Options(**{"class_conditional": True} | options)
