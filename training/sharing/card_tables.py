"""The tables on a card, from a folder's metrics.json and noise_accuracy.json."""

import json
import re
from pathlib import Path
from statistics import mean
from typing import Any

from training.files import read_json_object, read_rows, weights_hash
from training.run_record import record_path
from training.sharing.card_data import runs_of
from training.sharing.local_paths import without_path

METRICS = {
    "class_accuracy": "class accuracy",
    "frechet_distance": "Fréchet distance",
    "fd_effnet_lite0": "FD-EffNet-Lite0",
    "fid": "FID",
    "monge_distance": "Monge distance",
    "md_effnet_lite0": "MD-EffNet-Lite0",
    "mind": "MIND",
    "precision": "precision",
    "recall": "recall",
    "nearest_train_ratio": "distance to the training set",
    "nearest_to_second_ratio": "nearest to second-nearest",
    "copied_share": "copies",
}
_USUAL = (  # settings of every row; others are arguments of the pipeline's own call
    "model scheduler num_inference_steps guidance_scale guidance_interval num_samples num_prompts seed dtype dataset "
    "features"
).split()
ODE_NOTE = (
    "Each is an upper bound on the bits of 8-bit images. The ODE's is of images drawn without noise on the way, and "
    "pays for\ndequantization: levels are spread uniformly before their density is taken. The variational bound's is "
    "of images\ndrawn with noise in each step, and pays for each step's divergence from the true posterior."
)
ALIGNMENT_NOTE = (
    "Alignment: how often the real image that is nearest in the features has the concept, subgroup, group and vendor "
    "that the\nprompt names, for {prompts} captions each of training images, of concepts that were held back, and of "
    "concepts with vendors\nthat never drew them. Beside them: {compared}."
)
COMPARED = {
    "reconstructions": "real images that went through the autoencoder",
    "other drawings": "real images whose own drawing does not count",
    "chance": "chance",
}
DISTANCES = ("frechet_distance", "fd_effnet_lite0", "fid")


def sorted_rows(folder: Path) -> list[dict[str, Any]]:
    """The rows of a folder's metrics.json for its current weights, sorted by samples, scheduler, steps and guidance.

    Those of other data than the model was trained on name these as `elsewhere`.
    """
    rows, own = _measured(folder, "results"), _trained_on(folder)
    rows = [row | _elsewhere(row, own) for row in rows]
    for row in rows:
        missing = [name for name in ("floor", "features", "real", "command") if name not in row]
        if missing:
            raise ValueError(f"{folder / 'metrics.json'} holds a row without {', '.join(missing)}: {row['settings']}")
    names = ("num_samples", "scheduler", "num_inference_steps", "guidance_scale")
    return sorted(rows, key=lambda row: [row["settings"][name] or 0 for name in names])


def _trained_on(folder: Path) -> str | None:
    """The name of the data of a model's last run; None if it is not recorded."""
    record = record_path(folder)
    recipe = (read_json_object(record).get("recipe") or {}) if record else {}
    given = recipe.get("train_data_dir") or recipe.get("dataset_name")
    return Path(given).name if isinstance(given, str) else None


def _elsewhere(row: dict[str, Any], own: str | None) -> dict[str, str]:
    """{"elsewhere": NAME} if a row was measured on other data than `own`; {} also where that is not known."""
    given = Path(row["settings"].get("dataset") or "").name
    return {} if own is None or given in ("", own) else {"elsewhere": given}


def _measured(folder: Path, section: str) -> list[dict[str, Any]]:
    path = folder / "metrics.json"
    rows = read_rows(path, [section])[section].values() if path.is_file() else ()
    weights = weights_hash(folder)
    return [row for row in rows if row["weights"] == weights]


def is_stale(folder: Path) -> bool:
    """Whether metrics.json holds rows of other weights or configs than the folder's; its plots then show those, too."""
    path = folder / "metrics.json"
    sections = read_rows(path, read_json_object(path)) if path.is_file() else {}
    rows = [row for rows in sections.values() for row in rows.values()]
    weights = weights_hash(folder)
    return any(row["weights"] != weights for row in rows)


def measured_on(row: dict[str, Any]) -> str:
    """Which images a row was measured on: "test", or those that its run held back, or trained on."""
    real = row.get("real", {})
    split, trained_on = (real.get(part, {}).get("split", part) for part in ("test", "train"))
    if split == trained_on:
        return "training"
    return "held-back" if split.startswith("held back") else "test"


def best_rows(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The row with the lowest distance for each feature network, of those that were measured with the most seeds.

    Rows that differ in their seed alone count as one, with their means: the lowest of them would be a lucky one. Rows
    of images that were drawn with the help of training or test images count where there are no others, and so do those
    of other data than the model was trained on.
    """
    found = []
    rows = [row for row in rows if "elsewhere" not in row] or rows
    rows = [row for row in rows if not row["settings"].keys() & {"inputs", "prompts"}] or rows
    for name in DISTANCES:
        measured = [_mean_row(same) for same in _alike([row for row in rows if name in row["measured"]])]
        found += [min(measured, key=lambda row: (-len(row["seeds"]), row["measured"][name]))] if measured else []
    return found


def _alike(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows in groups that differ in their seed alone."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(json.dumps(row["settings"] | {"seed": None}, sort_keys=True), []).append(row)
    return list(groups.values())


def _mean_row(same: list[dict[str, Any]]) -> dict[str, Any]:
    """The first of rows that differ in their seed, with all their `seeds` and the means of what was measured."""
    return same[0] | {
        "seeds": sorted(row["settings"].get("seed", 0) for row in same),
        "measured": _means([row["measured"] for row in same]),
        "floor": _means([row["floor"] for row in same]),
    }


def _means(measured: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: mean(row[name] for row in measured) if isinstance(value, float) else value
        for name, value in measured[0].items()
        if all(name in row for row in measured)
    }


def by_features(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """The rows of each feature network, in the order of DISTANCES: different features are not comparable."""
    groups = [[row for row in rows if name in row["measured"]] for name in DISTANCES]
    return [group for group in groups if group]


def results_table(models: dict[str, list[dict[str, Any]]], more: dict[str, dict[str, str]] | None = None) -> str:
    """One line per model, given the rows of its card by its name in Markdown: its best row, and what real images score.

    The best row has the lowest Frechet distance of those on the card, in the first of DISTANCES that was measured. A
    table per feature network; a model without rows has no line. `more` are further cells of a model by their column.
    """
    best = {name: best_rows(rows)[0] for name, rows in models.items() if best_rows(rows)}
    tables = []
    for distance in DISTANCES:
        shown = {name: row for name, row in best.items() if distance in row["measured"]}
        tables += [_results_table(shown, distance, more or {})] if shown else []
    return "\n\n".join(tables)


def _results_table(best: dict[str, dict[str, Any]], distance: str, more: dict[str, dict[str, str]]) -> str:
    names = [name for name in METRICS if any(name in row["measured"] for row in best.values())]
    names = [name for name in names if name != "copied_share"]  # the card says how many copies it would find
    further = list(dict.fromkeys(name for model in best for name in more.get(model, {})))
    heads = ["model", *_heads(names), f"{METRICS[distance]} of real images", *further]
    lines = ["| " + " | ".join(heads) + " |", "|" + " --- |" * len(heads)]
    for model, row in best.items():
        cells = "".join(f" {more.get(model, {}).get(name, '')} |" for name in further)
        seeds = f" (mean of {len(row['seeds'])})" if len(row["seeds"]) > 1 else ""  # one seed has other real images
        lines.append(f"| {model} {_row_line(row, names)} {_value(distance, row['floor'][distance])}{seeds} |{cells}")
    return "\n".join(lines)


def text_to_image_cells(folder: Path) -> dict[str, str]:
    """Of a model whose alignment with prompts was measured: how often it was right, and what it costs; else nothing.

    Its alignment is that of captions of training images at the guidance scale with the most right subgroups, its
    seconds are those of the best row, in batches. Training is summed over runs and threads; nothing for a GPU.
    """
    aligned, best = _measured(folder, "alignment"), best_rows(sorted_rows(folder))
    if not aligned or not best:
        return {}
    row = max(aligned, key=lambda row: row["measured"]["training"]["subgroup"])
    right = row["measured"]["training"]
    record = record_path(folder)
    runs = runs_of(read_json_object(record)) if record else []
    return {
        "right concept, of training captions": f"{right['concept']:.1%} at {_guidance(row['settings'])}",
        "right subgroup": f"{right['subgroup']:.1%}",
        "seconds per image in batches": f"{1 / best[0]['measured']['images_per_second']:.2f}",
        "training, without the autoencoder, hours of one core": _core_hours(runs),
    }


def _core_hours(runs: list[dict[str, Any]]) -> str:
    """Summed over the runs; "" if one of them was not on CPU threads."""
    threads = [re.search(r"(\d+) thread", run["device"]) for run in runs]
    if not runs or None in threads:
        return ""
    cores = [run["processes"] * int(found.group(1)) for run, found in zip(runs, threads, strict=True)]
    return f"{sum(run['seconds'] * count for run, count in zip(runs, cores, strict=True)) / 3600:.1f}"


def call_arguments(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings of a row that are further arguments of the pipeline's own call."""
    return {name: value for name, value in settings.items() if name not in _USUAL}


def settings_text(row: dict[str, Any]) -> str:
    """The settings of a row as text."""
    settings = row["settings"]
    guided = "" if settings["guidance_scale"] is None else f", {_guidance(settings)}"
    others = call_arguments(settings)
    sampler = others.pop("sampler", settings["scheduler"].removesuffix("Scheduler").removesuffix("Multistep"))
    more = "".join(f", {name} {value}" for name, value in others.items())
    seed = f", seed {settings['seed']}" if settings.get("seed") else ""
    if len(row.get("seeds", ())) > 1:
        seed = f", mean of seeds {', '.join(map(str, row['seeds'][:-1]))} and {row['seeds'][-1]}"
    data = f", on {row['elsewhere']}" if "elsewhere" in row else ""
    return f"{sampler}, {settings['num_inference_steps']} steps{guided}{more}{seed}{data}"


def _guidance(settings: dict[str, Any]) -> str:
    inside = settings.get("guidance_interval")
    return f"guidance {settings['guidance_scale']:g}" + (f" within {inside[0]:g} to {inside[1]:g}" if inside else "")


def metrics_table(rows: list[dict[str, Any]]) -> str:
    """The rows of metrics.json as Markdown: a table for each feature network, with the floor of its best row."""
    return "\n\n".join(map(_table, by_features(rows)))


def _table(rows: list[dict[str, Any]]) -> str:
    names = [name for name in METRICS if any(name in row["measured"] for row in rows)]
    lines = ["| " + " | ".join(_heads(names)) + " |", "|" + " --- |" * len(_heads(names))]
    lines += [_row_line(row, names) for row in rows]
    floor = best_rows(rows)[0]["floor"]  # rows with other seeds have other real images beside them
    seeds = len(best_rows(rows)[0]["seeds"])
    which = f"real training images (the floor{f', mean of {seeds} seeds' if seeds > 1 else ''})"
    lines.append(_line(which, floor["num_samples"], floor, names, None))
    return "\n".join(lines)


def _heads(names: list[str]) -> list[str]:
    return ["setting", "samples", *(METRICS[name] for name in names), "network evaluations"]


def _row_line(row: dict[str, Any], names: list[str]) -> str:
    measured = row["measured"]
    return _line(settings_text(row), row["settings"]["num_samples"], measured, names, measured["nfe"])


def _line(what: str, count: int, measured: dict[str, Any], names: list[str], nfe: float | None) -> str:
    values = [_value(n, measured[n]) if n in measured else "" for n in names]
    return f"| {what} | {count:,} | " + " | ".join(values) + f" | {'' if nfe is None else format(nfe, 'g')} |"


def _value(name: str, value: float) -> str:
    return f"{value:.1%}" if name in ("class_accuracy", "copied_share") else f"{value:.3f}"


def bits_table(folder: Path) -> str:
    """The bits/dim in a folder's metrics.json as a Markdown table after an empty line; "" if there are none."""
    rows = _measured(folder, "likelihood")
    if not rows:
        return ""
    lines = ["", "", f"| bits/dim by | {measured_on(rows[0])} images | bits/dim |", "|" + " --- |" * 3]
    for row in rows:
        settings, measured = row["settings"], row["measured"]
        bits = f"{measured['bits_per_dim']:.3f} ± {measured['standard_error']:.3f}"
        lines.append(f"| {likelihood_name(settings)} | {settings['num_images']:,} | {bits} |")
    if any(row["settings"].get("method") == "ode" for row in rows):
        lines += ["", ODE_NOTE]
    return "\n".join(lines)


def likelihood_name(settings: dict[str, Any]) -> str:
    """How the bits/dim of a row were measured, as text."""
    if "variance" not in settings:
        return f"the probability-flow ODE, tolerance {settings['tolerance']:g}"
    variance, steps = settings["variance"].replace("_", " "), settings["num_inference_steps"]
    return f"the variational bound, {variance}, {steps:,} steps"


def alignment_table(folder: Path) -> str:
    """How well images show what prompts ask for, as Markdown after an empty line; "" if it was not measured."""
    rows = sorted(_measured(folder, "alignment"), key=lambda row: row["settings"]["guidance_scale"])
    if not rows:
        return ""
    aspects = list(next(iter(rows[0]["measured"].values())))
    lines = ["", "", "| prompts | images | " + " | ".join(aspects) + " |", "|" + " --- |" * (2 + len(aspects))]
    for row in rows:
        for kind, shares in row["measured"].items():
            if kind != "colours":
                lines.append(_shares(kind, f"drawn: {settings_text(row)}", shares))
    last = rows[-1]  # whose command is shown
    references = {kind: compared for kind, compared in last["references"].items() if kind != "colours"}
    for kind, compared in references.items():
        lines += [_shares(kind, name, shares) for name, shares in compared.items()]
    beside = [text for name, text in COMPARED.items() if any(name in compared for compared in references.values())]
    note = ALIGNMENT_NOTE.format(
        prompts=last["settings"]["num_prompts"],
        compared=" and ".join(filter(None, [", ".join(beside[:-1]), beside[-1]])),
    )
    note += "".join(map(_colours, rows)) + _of_real_colours(last["references"].get("colours"))
    return "\n".join([*lines, "", f"{note} The command: `{without_path(last['command'])}`."])


def _shares(kind: str, images: str, shares: dict[str, float]) -> str:
    return f"| {kind} | {images} | " + " | ".join(f"{share:.1%}" for share in shares.values()) + " |"


def _colours(row: dict[str, Any]) -> str:
    if "colours" not in row["measured"]:
        return ""
    found = row["measured"]["colours"]
    of = f" of {found['names']}" if "names" in found else " of"
    text = (
        f" At {_guidance(row['settings'])}, {found['own']:.1%}{of} images whose name has a colour word show its hue, "
        f"and {found['changed']:.1%} that of another word in its place"
    )
    if "both" not in found:  # older rows
        return f"{text}."
    return (
        f"{text}, which changes the hue of {found['different']:.1%}; of each name with each word, {found['both']:.1%} "
        f"(without reading the word: {found['chance']:.1%})."
    )


def _of_real_colours(shares: dict[str, float] | None) -> str:
    return f" Of real images with a colour word {shares['real images']:.1%} do." if shares else ""


def reconstruction_table(folder: Path) -> str:
    """The measures of reconstructions in a folder's metrics.json, as Markdown tables; "" if there are none."""
    return "\n\n".join(map(_reconstructions, _measured(folder, "reconstruction")))


def _reconstructions(row: dict[str, Any]) -> str:
    settings, measured, floor, name = row["settings"], row["measured"], row["floor"], row["features"]["name"]
    distance = next(key for key in DISTANCES if key in measured)
    numbers = f"{measured['psnr']:.2f} | {measured['ssim']:.3f} | {measured[distance]:.3f}"
    heads = f"|  | images of {settings['resolution']} pixels | PSNR, dB | SSIM | {METRICS[distance]} |"
    no_fid = "" if distance == "fid" else ", and is no FID"
    kind, others, what_others_score = measured_on(row), "", ""
    if kind != "training":
        others = f"| training images | {floor['num_samples']:,} |  |  | {floor[distance]:.3f} |  |\n"
        what_others_score = " That of training images is what others of their kind score."
    return (
        f"{heads} seconds to decode 4 |\n|{' --- |' * 6}\n"
        f"| reconstructed {kind} images | {settings['num_samples']:,} | {numbers} | "
        f"{measured['seconds_to_decode_4']:.3f} |\n"
        f"{others}\n"
        f"Measured by `{without_path(row['command'])}`, in {settings['dtype']} on {row['device']}, "
        f"{row['threads']} thread(s). The distance is to the {kind} images themselves, in features of "
        f"{name}{no_fid}.{what_others_score}"
    )


def noise_table(folder: Path) -> str:
    """The accuracy of a noisy classifier by noise level as Markdown after an empty line; "" without a classifier."""
    path = folder / "noise_accuracy.json"
    if not path.is_file():
        return ""
    found = read_json_object(path)
    if found["weights"] != weights_hash(folder / "classifier"):
        return ""
    levels, kind = found["accuracy"], "training" if found["settings"]["test_split"] == "train" else "test"
    lines = ["", "", f"| accuracy of the classifier on {found['num_images']:,} noisy {kind} images, by t | "]
    lines[-1] += " | ".join(levels) + " |"
    lines += ["|" + " --- |" * (len(levels) + 1), "|  | " + " | ".join(f"{v:.1%}" for v in levels.values()) + " |"]
    return "\n".join(lines)
