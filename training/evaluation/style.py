"""How often an adapter (LoRA) draws its style, and whether what it was not trained on keeps its meaning.

    python -m training.evaluation.style model_cards/emoji-latent runs/mine --dataset_name data/emoji \\
        --style_dataset data/emoji-streamline --strength 0 0.5 1 --beside runs/whole

draws captions of the style's test images, whose concepts were held back, and captions of test images of the styles that
the base knows, at each strength. Each image is compared with all real images of both data sets in the features of a
network: the shares whose nearest one has the style, concept, subgroup and group that were asked for. Strength 0 is the
base. `--beside` measures a model that was fine-tuned as a whole in the same way. The numbers go to metrics.json of the
adapter, and onto its card. The data sets need the columns of `python -m training.data emoji`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from transformers import HfArgumentParser

from training.command_line import parse_dataclasses
from training.data.sources import evenly_spaced
from training.evaluation import alignment
from training.evaluation.options import DTYPES, OWN_CODE, flag, recorded
from training.evaluation.prepare import default_output
from training.evaluation.prompts import Known, Prompt
from training.evaluation.results import Row, aligned, merge, read_rows
from training.evaluation.sampling import Model, at_strengths, open_model, short_name
from training.files import weights_hash
from training.machine import versions
from training.metrics.alignment import nearest
from training.metrics.feature_nets import EFFICIENTNET, open_features
from training.metrics.features import classifier_hash, extract

SECTION = "style"  # of metrics.json
SHARES = {"vendor": "style", "concept": "concept", "subgroup": "subgroup", "group": "group"}


@dataclass
class Options(alignment.OneScale):
    """The options of the command: those of alignment, for one guidance scale, and these."""

    num_prompts: int = flag(32, "prompts of each kind")
    style_dataset: str = field(kw_only=True, metadata={"help": "the images of the style: a folder of parquet"})
    strength: list[float] = field(
        kw_only=True, default_factory=lambda: [0.0, 0.5, 1.0], metadata={"help": "one or more"}
    )
    beside: str | None = field(
        kw_only=True, default=None, metadata={"help": "a model that was fine-tuned as a whole, to compare with"}
    )


@dataclass(frozen=True)
class Drawn:
    """What is measured: a model at a strength, and which prompts it draws, by kind."""

    model: Model
    network: torch.nn.Module
    known: Known
    prompts: dict[str, list[Prompt]]
    options: Options

    def shares(self) -> Row:
        """The shares by kind of prompts."""
        found = {}
        for kind, some in self.prompts.items():
            texts = [prompt.text for prompt in some]
            made = alignment.draw_prompts(self.model, texts, self.options, self.options.guidance_scale[0])
            near = nearest(extract(self.network, made, kind)[0], self.known.features)
            shares = alignment.shares([prompt.about for prompt in some], near, self.known)
            found[kind] = {SHARES[aspect]: value for aspect, value in shares.items()}
        return found


def load_both(options: Options, network: torch.nn.Module) -> tuple[Known, dict[str, list[Prompt]], list[str]]:
    """All real images of both data sets, the prompts of each kind, and the fingerprints of the splits.

    Raises:
        ValueError: no such data, or data without the columns.
    """
    base, prints = alignment.load_known(options, network)
    style, more = alignment.load_known(replace(options, dataset_name=options.style_dataset), network)
    known = Known(
        np.concatenate([base.pixels, style.pixels]),
        np.concatenate([base.features, style.features]),
        base.about + style.about,
        base.train,
    )
    prompts = {"its style": _held_back(style, options), "other styles": _held_back(base, options)}
    return known, prompts, prints + more


def _held_back(known: Known, options: Options) -> list[Prompt]:
    some = known.about[known.train :]
    return [Prompt(some[i]["text"], some[i]) for i in evenly_spaced(len(some), options.num_prompts)]


def run(base: str, adapter: str, options: Options, command: str) -> list[Row]:
    """Measure each strength, and the model beside it; print and write; returns the rows of metrics.json."""
    output = Path(options.output) if options.output else default_output(adapter)
    read_rows(output, SECTION)  # raises for another kind of file now, not after the work
    network = open_features(EFFICIENTNET)
    known, prompts, prints = load_both(options, network)
    rows = []
    for model, drawn_by, weights in _models(base, adapter, options):
        row = {
            "settings": {
                "model": model.name,
                "drawn by": drawn_by,
                "scheduler": model.scheduler,
                "num_inference_steps": options.num_inference_steps,
                "guidance_scale": options.guidance_scale[0],
                "num_prompts": options.num_prompts,
                "seed": options.seed,
                "dtype": options.dtype,
            },
            "weights": weights,
            "features": {"name": EFFICIENTNET, "weights": classifier_hash(network)},
            "real": {"splits": prints},
            "measured": Drawn(model, network, known, prompts, options).shares(),
            "device": model.pipe.device.type,
            "command": command,
            "versions": versions(),
        }
        merge(output, row, SECTION)
        rows.append(row)
    print(f"{table(rows)}\nwritten to {output}")
    return rows


def _models(base: str, adapter: str, options: Options) -> Iterator[tuple[Model, str, str]]:
    """What is measured, one after another: the model, in words, and the hash of its weights."""
    model = _opened(base, options)
    own = f"-{weights_hash(Path(adapter))}" if Path(adapter).is_dir() else ""
    weights = f"{weights_hash(model.folder)}{own}"
    for strength in at_strengths(model, adapter, options.strength):
        yield model, "the base" if strength == 0 else f"the adapter at {strength:g}", weights
    if options.beside is not None:
        beside = _opened(options.beside, options)
        yield beside, "all of the network trained", weights_hash(beside.folder)


def _opened(location: str, options: Options) -> Model:
    model = open_model(location, DTYPES[options.dtype])
    if not model.is_told_prompts:
        raise ValueError(f"model must be told prompts, {model.name} is not: it has no text_encoder")
    model.use_scheduler(options.scheduler or short_name(model.own_scheduler), options.num_inference_steps)
    return model


def table(rows: list[Row]) -> str:
    """The shares, a line for each kind of prompts."""
    lines = [["drawn by", "prompts", *SHARES.values()]]
    for row in rows:
        for kind, shares in row["measured"].items():
            lines.append([row["settings"]["drawn by"], kind, *(f"{shares[name]:.1%}" for name in SHARES.values())])
    return aligned(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line. Bad input exits with a one-line message."""
    arguments = sys.argv[1:] if arguments is None else arguments
    program = "python -m training.evaluation.style"
    parser = HfArgumentParser(Options, prog=program, description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", help=f"the base: the folder or the Hub id of a pipeline that is told prompts. {OWN_CODE}"
    )
    parser.add_argument("adapter", help="the folder or the Hub id of the adapter")
    try:
        options, rest = parse_dataclasses(parser, arguments)
        run(rest.model, rest.adapter, options, recorded(program, arguments, options.dtype))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
