"""Every shipped model and every pipeline class goes to a Hub and comes back, in fresh processes with fresh caches."""

import hashlib
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from conftest import ROOT
from diffusers import DiffusionPipeline
from hub_runs import LOAD, ROUND_TRIP, elsewhere, push
from hub_server import HubServer, Repository
from safetensors.torch import load
from test_cascade import cascade
from toys import ddim, ddpm, guided, latent, score_sde, seeded

from pipelines.about import draws_in_steps, pipeline_names
from training.card import shipped_folders
from training.networks.open import load_pipeline

TINY = {"cascade": cascade, "ddim": ddim, "latent": latent, "score_sde": score_sde}  # of kinds that are not shipped
SHIPPED = {folder.name: folder for folder in shipped_folders()}


def drawn(pipe: DiffusionPipeline) -> str:
    """The digest of one image, drawn here by the project's own class."""
    pipe.set_progress_bar_config(disable=True)
    if not hasattr(pipe, "stream"):  # an autoencoder
        images = torch.linspace(0, 1, 3 * 128 * 128).reshape(1, 3, 128, 128)
        return hashlib.sha256(pipe(images, output_type="pt").images.numpy().tobytes()).hexdigest()
    options = {"class_labels": 1} if "Classifier" in type(pipe).__name__ or pipe.class_names else {}
    if getattr(pipe, "takes_prompts", False):
        options = {"prompt": "a red apple, noto style", "guidance_scale": 3.0}
    out = pipe(num_inference_steps=2, generator=seeded(0), output_type="pt", **options)
    return hashlib.sha256(out.images.float().numpy().tobytes()).hexdigest()


def test_every_pipeline_class_is_among_them() -> None:
    drawing = [folder for folder in SHIPPED.values() if draws_in_steps(folder)]
    shipped = {json.loads((folder / "model_index.json").read_text())["_class_name"][1] for folder in drawing}
    assert shipped | {type(make()).__name__ for make in TINY.values()} == set(pipeline_names())


@dataclass
class RoundTrip:
    """What became of a model: the digests of its image, and the files of its two repositories."""

    drawn: list[str]
    one: dict[str, bytes]
    again: dict[str, bytes]
    commits: int


@pytest.fixture(scope="module")
def round_trips(hub_server: HubServer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, RoundTrip]:
    """All models, pushed from here, then loaded, saved and pushed by a stranger; that is loaded by two others.

    Each of the three is a fresh process with fresh caches; a process each for every model would be two minutes more.
    """
    hub_server.clear()
    place, names = tmp_path_factory.mktemp("models"), [*TINY, *SHIPPED]
    for name, make in TINY.items():
        make().save_pretrained(place / "copy" / name)
    for name, folder in SHIPPED.items():  # a push notes beside a model where it went
        shutil.copytree(folder, place / "copy" / name)
    drawn_here = {name: drawn(load_pipeline(str(place / "copy" / name))) for name in names}
    for name in names:
        done = push(hub_server, place / "copy" / name, f"me/{name}")
        assert done.returncode == 0, done.stderr
    first = [{"id": f"me/{name}", "again": f"me/{name}-again", "saved": f"saved/{name}"} for name in names]
    printed = [elsewhere(hub_server, place / "one", ROUND_TRIP, first)]
    with ThreadPoolExecutor() as both:
        second = [{"id": f"me/{name}-again"} for name in names]
        third = [{"id": str(place / "one" / "saved" / name)} for name in names]
        tasks = {"two": second, "three": third}
        printed += both.map(lambda at: elsewhere(hub_server, place / at, ROUND_TRIP, tasks[at]), tasks)
    nothing = Repository()  # of a model that failed before; its test shows how
    nothing.commit({})
    repositories = {id: repository for (_, id), repository in hub_server.repositories.items()}
    again = {name: repositories.get(f"me/{name}-again", nothing) for name in names}
    return {
        name: RoundTrip(
            [drawn_here[name], *found],
            repositories[f"me/{name}"].files,
            again[name].files,
            len(again[name].revisions) - 1,  # the first is of its creation
        )
        for name, *found in zip(names, *printed, strict=True)
    }


@pytest.mark.parametrize("name", [*TINY, *SHIPPED])
def test_pushed_loaded_saved_pushed_and_loaded_again(round_trips: dict[str, RoundTrip], name: str) -> None:
    trip = round_trips[name]
    assert trip.drawn == [trip.drawn[0]] * 4
    assert trip.commits == 1
    code, again = (
        {path: text for path, text in files.items() if path.endswith(".py")} for files in (trip.one, trip.again)
    )
    assert code == again
    before, after = weights(trip.one), weights(trip.again)
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)


def weights(files: dict[str, bytes]) -> dict[tuple[str, str], torch.Tensor]:
    """By component and name: float16 ones are saved as float32 again, and shards as one file."""
    found = [(path, text) for path, text in files.items() if path.endswith(".safetensors")]
    return {(Path(path).parent.name, name): x.float() for path, text in found for name, x in load(text).items()}


def test_a_revision_stays_what_it_was_and_two_versions_run_in_one_process(hub: HubServer, tmp_path: Path) -> None:
    """The second version has other weights and other code; both come from one repository."""
    folder = tmp_path / "model"
    ddpm().save_pretrained(folder)
    push(hub, folder, "me/model")
    repository = hub.repositories["model", "me/model"]
    first, before = repository.head, drawn(load_pipeline(str(folder)))
    pipe = load_pipeline(str(folder))
    pipe.unet.conv_out.weight.data.mul_(1.5)
    pipe.save_pretrained(folder)
    after = drawn(pipe)
    source = next(folder.glob("ddpm_*.py"))
    (folder / "ddpm_0123abcd.py").write_text(source.read_text() + "\nVERSION = 2\n")
    source.unlink()
    index = json.loads((folder / "model_index.json").read_text())
    index["_class_name"][0] = "ddpm_0123abcd"
    (folder / "model_index.json").write_text(json.dumps(index))
    assert push(hub, folder, "me/model").returncode == 0
    program = LOAD + (
        "pipes = [load('me/model', revision=task['first']), load('me/model')]\n"
        "print(*map(draw, pipes), draw(pipes[0]))\n"
        "print(*(hasattr(sys.modules[type(pipe).__module__], 'VERSION') for pipe in pipes))"
    )
    printed = elsewhere(hub, tmp_path / "one", program, {"first": first})
    assert printed == [before, after, before, "False", "True"] and before != after


def test_a_push_without_code_brings_none(hub: HubServer, tmp_path: Path) -> None:
    """And the weights in the form that was asked for, and no shards of an earlier push, which would be loaded."""
    program = (
        "from toys import ddpm\n"
        "ddpm().save_pretrained('m', carry_code=False, push_to_hub=True, repo_id='me/m', variant='fp16')"
    )
    unet, old = "unet/diffusion_pytorch_model", Repository()
    old.commit({f"{unet}.fp16-00001-of-00002.safetensors": b"", f"{unet}.safetensors.index.fp16.json": b"{}"})
    hub.repositories["model", "me/m"] = old
    elsewhere(hub, tmp_path / "one", program, {}, PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}")
    names = {path for path in hub.repositories["model", "me/m"].files if "/" in path or path.endswith(".py")}
    assert names == {
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.fp16.safetensors",
    }
    assert (tmp_path / "one" / "m" / "unet" / "diffusion_pytorch_model.fp16.safetensors").is_file()


def test_a_variant_in_half_precision(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    ddpm().save_pretrained(folder)
    ddpm().to(dtype=torch.float16).save_pretrained(folder, variant="fp16")
    assert push(hub, folder, "me/model").returncode == 0
    program = LOAD + (
        "pipe = load('me/model', variant='fp16', dtype=torch.float16)\n"
        "found = [name for _, _, names in os.walk(os.environ['HF_HOME']) for name in names if 'safetens' in name]\n"
        "print(pipe.unet.dtype, *found)"
    )
    printed = elsewhere(hub, tmp_path / "one", program, {})
    assert printed == ["torch.float16", "diffusion_pytorch_model.fp16.safetensors"]


def test_the_project_s_own_class_runs_a_hub_id_without_its_code(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    guided().save_pretrained(folder)
    push(hub, folder, "me/model", "--private")
    program = (
        "import sys; from pipelines import ClassifierFreeGuidancePipeline as P\n"
        "print(type(P.from_pretrained('me/model')) is P, any('diffusers_modules' in name for name in sys.modules))"
    )
    assert elsewhere(hub, tmp_path / "one", program, {}, PYTHONPATH=str(ROOT)) == ["True", "False"]
