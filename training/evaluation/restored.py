"""At which level of noise a model loses what its images show.

    python -m training.evaluation.restored model_cards/emoji-latent --dataset_name data/emoji --strength 0.2 0.4 1

gives 200 training images noise of a share `strength` of the process, and draws on from there with their own captions.
Each drawing is compared with all real images in the features of a network: the shares whose nearest one has the
concept, subgroup, group and vendor of the image, and the distance to the image itself, a number that settles with fewer
images. With 1 the image counts for nothing. Beside them stand reconstructions by the model's autoencoder, where it has
one, which had no noise. The numbers go to metrics.json. The data set needs the columns of `python -m training.data
emoji`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from transformers import HfArgumentParser

from training.command_line import parse_dataclasses
from training.evaluation import alignment
from training.evaluation.options import DTYPES, OWN_CODE, recorded
from training.evaluation.prepare import default_output
from training.evaluation.prompts import ASPECTS, Known, Prompt, prompts_of
from training.evaluation.results import Row, aligned, find_done, merge, read_rows
from training.evaluation.sampling import Model, open_model
from training.machine import versions
from training.metrics.alignment import nearest
from training.metrics.feature_nets import EFFICIENTNET, open_features
from training.metrics.features import extract
from training.metrics.reconstruction import reconstruct

SECTION = "restored"  # of metrics.json
DISTANCE = "distance"


@dataclass
class Options(alignment.OneScale):
    """The options of the command: those of alignment, for one guidance scale, and the strengths."""

    strength: list[float] = field(
        kw_only=True,
        default_factory=lambda: [0.1, 0.2, 0.4, 0.6, 0.8, 1.0],
        metadata={"help": "one or more, above 0 and at most 1: how much of the noise process an image went through"},
    )

    def __post_init__(self) -> None:
        """Raise ValueError for a value that is not allowed."""
        super().__post_init__()
        for strength in self.strength:
            if not 0 < strength <= 1:
                raise ValueError(f"strength must be above 0, and at most 1, got {strength:g}")


def draw_on(model: Model, images: np.ndarray, texts: list[str], options: Options, strength: float) -> np.ndarray:
    """8-bit images (N, C, H, W) of as many texts, drawn on from 8-bit images with noise."""
    model.inputs = torch.from_numpy(images).float() / 255
    return alignment.draw_prompts(model, texts, options, options.guidance_scale[0], strength=strength)


def measured(made: np.ndarray, images: list[Prompt], network: torch.nn.Module, known: Known) -> Row:
    """The shares of 8-bit images (N, C, H, W) that show what the real ones do, and the mean distance to these."""
    features = extract(network, made, "restored")[0]
    shares = alignment.shares([image.about for image in images], nearest(features, known.features), known)
    own = known.features[[image.row for image in images]]
    return shares | {DISTANCE: float(np.linalg.norm(features - own, axis=1).mean())}


def run(location: str, options: Options, command: str) -> list[Row]:
    """Measure each strength, print and write; returns the rows of metrics.json."""
    output = Path(options.output) if options.output else default_output(location)
    read_rows(output, SECTION)  # raises for another kind of file now, not after the work
    model = open_model(location, DTYPES[options.dtype])
    if not model.is_told_prompts or model.num_stages > 1:
        raise ValueError(f"model must be told prompts and draw in one stage, {model.name} does not")
    model.use_scheduler(options.scheduler, options.num_inference_steps)
    network = open_features(EFFICIENTNET)
    known, prints = alignment.load_known(options, network)
    images = prompts_of(known, options.num_prompts)["training"]
    pixels, texts = known.pixels[[image.row for image in images]], [image.text for image in images]
    rows, reference = [], None
    for strength in options.strength:
        row = alignment.unmeasured(model.folder, model, network, options, options.guidance_scale[0], prints)
        row["settings"] |= {"strength": strength}
        done = find_done(output, row, {*ASPECTS, DISTANCE}, SECTION)
        if done is None:
            if reference is None and getattr(model.pipe, "vae", None) is not None:
                reference = measured(reconstruct(model.pipe.vae, pixels, 25), images, network, known)
            made = draw_on(model, pixels, texts, options, strength)
            row |= {"measured": measured(made, images, network, known), "reconstructions": reference}
            row |= {"device": model.pipe.device.type, "command": command, "versions": versions()}
            merge(output, row, SECTION)
        rows.append(done or row)
    print(f"{table(rows)}\nwritten to {output}")
    return rows


def table(rows: list[Row]) -> str:
    """A line per strength, under that of reconstructions."""
    lines = [["strength", *ASPECTS, DISTANCE]]
    if rows[0]["reconstructions"] is not None:
        lines.append(_line("reconstruction", rows[0]["reconstructions"]))
    return aligned(lines + [_line(f"{row['settings']['strength']:g}", row["measured"]) for row in rows])


def _line(name: str, values: Row) -> list[str]:
    return [name, *(f"{values[aspect]:.1%}" for aspect in ASPECTS), f"{values[DISTANCE]:.2f}"]


def main(arguments: list[str] | None = None) -> None:
    """The command line. Bad input exits with a one-line message."""
    arguments = sys.argv[1:] if arguments is None else arguments
    program = "python -m training.evaluation.restored"
    parser = HfArgumentParser(Options, prog=program, description=__doc__.splitlines()[0])
    parser.add_argument("model", help=f"the folder or the Hub id of a pipeline that is told prompts. {OWN_CODE}")
    try:
        options, rest = parse_dataclasses(parser, arguments)
        run(rest.model, options, recorded(program, arguments, options.dtype))
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
