"""Opens all that one run of training.evaluate needs, and lays out the rows that it will fill with numbers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path

from torch import nn

from training.data import ImageData
from training.evaluation import checks
from training.evaluation.options import DTYPES, GREY, Options
from training.evaluation.processes import Processes
from training.evaluation.real_images import load_real
from training.evaluation.results import Row, read_rows
from training.evaluation.sampling import Model, find_folder, open_model, pipeline_hash, short_name
from training.evaluation.small_images import inputs_for
from training.files import weights_hash
from training.machine import versions
from training.metrics.feature_nets import EFFICIENTNET, open_features
from training.metrics.features import FeatureClassifier, classifier_hash
from training.metrics.monge import DIRECTIONS
from training.metrics.sample_quality import NEIGHBOURS, subset_size

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Evaluation:
    """An open model, a feature network, the real images, and the file that the numbers go to."""

    options: Options
    output: Path
    model: Model
    pipeline: str  # pipeline_hash of the model's folder
    network: nn.Module
    test: ImageData
    train: ImageData
    processes: Processes
    about: Row  # in every row, beside its settings


def prepare(location: str, options: Options, command: str, processes: Processes) -> Evaluation:
    """Open everything and check that it fits.

    Raises:
        ValueError: something is missing or does not fit.
    """
    folder = find_folder(location)
    output = Path(options.output) if options.output else default_output(location)
    read_rows(output)  # raises for another kind of file now, not after the work
    network = None if options.features is None else open_features(options.features)
    images = load_real(options.dataset_name, options.test_split, options.train_split, options.resolution, folder)
    test, train = images.test, images.train
    chosen = options.features or features_for(test)
    options = replace(options, test_split=images.split, features=chosen)
    network = network or open_features(chosen)
    checks.check_features(options, network, test)
    checks.check_splits(options, train, test)
    model = open_model(location, DTYPES[options.dtype], device=processes.device)
    checks.check_fit(model, options, network, test)
    checks.check_bits(model, options, test)
    model.prompts = checks.prompts_for(model, options, train if options.training_prompts else test)
    model.inputs = inputs_for(model, options, test)
    about = {
        "weights": weights_hash(folder),
        "batch_size": options.batch_size,
        "processes": processes.count,
        "device": processes.device.type,
        "command": command,
        "versions": versions(),
    }
    network = network.to(processes.device)
    return Evaluation(options, output, model, pipeline_hash(folder), network, test, train, processes, about)


def features_for(images: ImageData) -> str:
    """The network for these images: the grey classifier for those of its classes, EfficientNet for all others."""
    classifier = next((path for path in (Path(GREY), ROOT / GREY) if path.is_dir()), None)
    if classifier is None or images.class_names is None:
        return EFFICIENTNET
    config = FeatureClassifier.load_config(classifier)
    takes = (config["in_channels"], config["sample_size"], config["sample_size"])
    names, known = ([name.lower() for name in some or ()] for some in (images.class_names, config["class_names"]))
    return str(classifier) if names == known and images.images.shape[1:] == takes else EFFICIENTNET


def default_output(location: str) -> Path:
    """metrics.json in the model's folder; for a Hub id, in a folder of its name here, not in the Hub's cache."""
    return (Path(location) if Path(location).is_dir() else Path(location.rpartition("/")[2])) / "metrics.json"


def sweep(evaluation: Evaluation) -> list[Row]:
    """A row for each setting, without its numbers."""
    options, model = evaluation.options, evaluation.model
    own = model.arguments.get("guidance_scale")
    own = [float(own)] if isinstance(own, (int, float)) else [None]
    known = {"features": features(evaluation), "real": real(evaluation), **evaluation.about}
    schedulers = dict.fromkeys(options.scheduler or [short_name(model.own_scheduler)])
    settings = itertools.product(schedulers, options.num_inference_steps, options.guidance_scale or own)
    return [{"settings": settings_of(evaluation, *chosen), **known} for chosen in settings]


def settings_of(evaluation: Evaluation, scheduler: str, steps: int, scale: float | None) -> Row:
    """The settings of a row, which are also its key in metrics.json."""
    options = evaluation.options
    return {
        "model": evaluation.model.name,
        "scheduler": scheduler,
        "num_inference_steps": steps,
        "guidance_scale": scale,
        "guidance_interval": options.guidance_interval or own_interval(evaluation.model),
        "num_samples": options.num_samples,
        "seed": options.seed,
        "dtype": options.dtype,
        "dataset": options.dataset,
        "features": None if hasattr(evaluation.network, "head") else options.features,
        **({} if evaluation.model.inputs is None else {"inputs": "real"}),
        **({"prompts": "training"} if options.training_prompts else {}),
        **options.call_arguments,
    }


def own_interval(model: Model) -> list[float] | None:
    """The guidance interval that a model was saved with; None if it covers all noise levels."""
    own = model.pipe.config.get("guidance_interval")
    return None if own is None or list(own) == [0.0, 1.0] else list(own)


def features(evaluation: Evaluation) -> Row:
    """The name and the hash of the feature network."""
    return {"name": Path(evaluation.options.features).name, "weights": classifier_hash(evaluation.network)}


def real(evaluation: Evaluation) -> Row:
    """The real images that samples are compared with."""
    options, test, train = evaluation.options, evaluation.test, evaluation.train
    return {
        "test": {"split": options.test_split, "fingerprint": test.fingerprint, "frechet_images": len(test.images)},
        "train": {"split": options.train_split, "fingerprint": train.fingerprint},
        "precision_recall_images": subset_size(options.num_samples, len(test.images)),
        "neighbours": NEIGHBOURS,
        "nearest_samples": options.nearest,
        "monge_directions": DIRECTIONS,
    }
