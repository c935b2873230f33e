"""Each code block of the README and of docs/ runs when it is pasted alone into a fresh shell, in a copy of the tree.

The blocks run as they stand. A test changes how much they compute, by flags that --help lists (COMMANDS), and gives
what a machine under test lacks: a Hub, the images of a user, the files of a checkpoint.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import numpy as np
import published_adm
import pytest
import torch
from conftest import ROOT
from fresh_processes import contents, run_elsewhere
from hub_runs import LOAD, push, trained_folder
from hub_server import HubServer, Repository
from image_files import write_idx
from PIL import Image
from safetensors.torch import load_file
from served import free_port, wait_for
from text_models import text_pipeline
from toys import ddpm, latent, tiny_unet
from training_runs import assert_same, noise

from pipelines import AutoencoderPipeline, LatentDiffusionPipeline
from training.conversion.flags import PUBLISHED

ADDRESS = "http://127.0.0.1:7860"  # of the page, as the README gives it

# each block by the page that it stands on, its language and a text that it alone has
BLOCKS = {
    "page": ("README.md", "bash", "python app.py"),
    "tests": ("README.md", "bash", "pytest"),
    "http": ("README.md", "python", "gradio_client"),
    "draw": ("README.md", "python", "model_cards/fashion-cfg"),
    "train a shipped model": ("README.md", "bash", "--recipe fashion-cfg"),
    "train on own images": ("README.md", "bash", "--recipe finetune"),
    "style": ("README.md", "bash", "--recipe lora"),
    "push": ("README.md", "bash", "training.hub push"),
    "offline": ("docs/drawing.md", "python", "snapshot_download"),
    "inpaint": ("docs/drawing.md", "python", "mask_image=mask"),
    "guide": ("docs/drawing.md", "python", "class Brighter"),
    "mixture": ("docs/drawing.md", "python", "GaussianMixture"),
    "published": ("docs/drawing.md", "python", "google/ddpm-cifar10-32"),
    "decoder": ("docs/training.md", "python", "AutoencoderPipeline"),
    "convert": ("docs/drawing.md", "bash", "training.convert guided-diffusion"),
}

UPDATES = "--max_train_steps 2 --train_batch_size 2"
SMALL_NETWORK = (
    "--image_size 16 --channel_mult 1,2 --num_channels 32 --num_res_blocks 1 --attention_resolutions 8 "
    "--num_head_channels 16 --class_cond True --learn_sigma True "
    "--classifier_width 32 --classifier_depth 1 --classifier_attention_resolutions 8"
)
# what a command of a bash block runs as here; a command that is none of these fails the test
COMMANDS = {
    r"pip install -r \S+": r"\g<0> --dry-run --no-deps --no-index --quiet",  # all of the file is installed already
    r"python app\.py": r"\g<0>",
    r"pytest -n auto": r"\g<0> -n 0 --collect-only -q --ignore-glob='tests/test_[!r]*'",
    r"python -m training\.data fashion .*": r"\g<0> --source originals",
    r"accelerate launch -m training\.train --recipe fashion-cfg": (
        rf"\g<0> {UPDATES} --ddpm_num_steps 5 --torch_compile False --mixed_precision no"
    ),
    r"accelerate launch -m training\.train --recipe (finetune|conditional) .*": (
        rf"\g<0> {UPDATES} --resolution 8 --ddpm_num_steps 5"
    ),
    r"accelerate launch -m training\.train --recipe lora .*": (
        rf"\g<0> {UPDATES} --pretrained_model_name_or_path base --lora_rank 2"
    ),
    r"python -m training\.evaluate .*": r"\g<0> --num_samples 10 --num_inference_steps 2 --no_grid",
    r"python -m training\.hub push .*": r"\g<0>",
    r"(python -m training\.convert .*) --flags imagenet-64 (.*)": rf'\1 --flags "{SMALL_NETWORK}" \2',
}


def blocks_of(page: str) -> list[tuple[str, str]]:
    """(language, text) of each fenced block."""
    return re.findall(r"^```([^\n]*)\n(.*?)^```$", (ROOT / page).read_text(), flags=re.MULTILINE | re.DOTALL)


def block(name: str) -> str:
    """The text of a block of BLOCKS."""
    page, language, part = BLOCKS[name]
    (found,) = [text for kind, text in blocks_of(page) if kind == language and part in text]
    return found


def with_budget(text: str) -> str:
    """A bash block with each of its commands as COMMANDS has it."""
    commands = [re.split(r"\s+#", line)[0].split(" && ") for line in text.splitlines()]
    return "\n".join(" && ".join(map(_one_with_budget, line)) for line in commands)


def _one_with_budget(command: str) -> str:
    fitting = [(pattern, other) for pattern, other in COMMANDS.items() if re.fullmatch(pattern, command)]
    assert len(fitting) == 1, f"a block has the command {command!r}: say in COMMANDS how a test is to run it"
    return re.sub(*fitting[0], command)


def copy_tree(folder: Path) -> Path:
    """The files of the repository, as a clone would have them."""
    for name in subprocess.check_output(["git", "ls-files", "-z"], cwd=ROOT, text=True).split("\0")[:-1]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, folder / name)
    return folder


def fresh_environment(hub: HubServer, clone: Path) -> dict[str, str]:
    """Of a shell that was just opened: a home of its own, and the commands of this Python on the path."""
    home = clone.parent / "home"
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return hub.environment(home, PATH=path, STEPWISE_CACHE=str(home / "cache"), GRADIO_ANALYTICS_ENABLED="False")


def bash(hub: HubServer, clone: Path, name: str) -> str:
    """Run a bash block; what it prints."""
    command = ["bash", "-e", "-c", with_budget(block(name))]
    environment = fresh_environment(hub, clone)
    done = subprocess.run(command, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout + done.stderr


def python(hub: HubServer, clone: Path, text: str, **environment: str) -> str:
    """Run Python in an interpreter of its own, as if it were pasted; what it prints."""
    return run_elsewhere(clone, text, environment=fresh_environment(hub, clone) | environment)


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Path]:
    """A copy of the tree for one block; it is large, so it goes at the end."""
    folder = copy_tree(tmp_path / "clone")
    yield folder
    shutil.rmtree(folder)


def test_every_block_is_one_that_is_run_here() -> None:
    pages = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
    found = [(page, kind, text) for page in pages for kind, text in blocks_of(page)]
    found = [(page, kind, text) for page, kind, text in found if (page, kind) != ("docs/files.md", "")]  # the tree
    for page, kind, text in found:
        names = [name for name, (where, what, part) in BLOCKS.items() if (where, what) == (page, kind) and part in text]
        assert len(names) == 1, f"{page} has a {kind} block that no test here runs:\n{text}"
    assert len(found) == len(BLOCKS)


# --- the two commands, and the page ---


@contextmanager
def page_at(hub: HubServer, clone: Path) -> Iterator[str]:
    """The address of the page while the block that starts it runs."""
    port, log = free_port(), clone.parent / "log"
    command = ["bash", "-e", "-c", with_budget(block("page"))]
    environment = fresh_environment(hub, clone) | {"GRADIO_SERVER_PORT": str(port)}
    with log.open("w") as output:
        shell = subprocess.Popen(
            command, cwd=clone, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            wait_for(f"http://127.0.0.1:{port}/", shell, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            os.killpg(shell.pid, signal.SIGTERM)
            shell.wait(20)


def test_the_page_starts_opens_with_a_link_and_draws_over_http(hub: HubServer, clone: Path) -> None:
    assert ADDRESS in block("http")
    (link,) = re.findall(rf"{ADDRESS}/\?(\S+)`", (ROOT / "README.md").read_text())
    with page_at(hub, clone) as address:
        assert urllib.request.urlopen(f"{address}/?{link}", timeout=60).status == 200
        patient = f'{address}", httpx_kwargs={{"timeout": 60}}'  # the cores may be busy with something else
        program = block("http").replace(f'{ADDRESS}"', patient)
        program += f"""print(repr(Client("{patient}, verbose=False).view_api(return_format='dict')))"""
        printed = python(hub, clone, program).splitlines()
    report = next(json.loads(line) for line in printed if line.startswith("{"))
    assert (report["model"], report["class_name"], report["seed"]) == ("fashion-cfg", "Sneaker", 7)
    assert all(repr(name) in printed[-1] for name in re.findall(r"(\w+)=", link))


def test_the_tests_are_found(hub: HubServer, clone: Path) -> None:
    """Found and not run, for this test is one of them; in the
    files test_r*: to find all of them takes this process as long as it took the one that runs it."""
    printed = bash(hub, clone, "tests")
    assert "tests/test_readme_blocks.py" in printed and re.search(r"\d+ tests collected", printed)


# --- drawing ---


def test_drawing_prints_images_and_steps(hub: HubServer, clone: Path) -> None:
    printed = python(hub, clone, block("draw"))
    assert "PIL.Image" in printed and len(re.findall(r"^\d+ tensor\(", printed, flags=re.MULTILINE)) == 20
    assert Image.open(clone / "bag.png").size == (28, 28)


def test_a_model_that_was_fetched_draws_without_a_hub(hub: HubServer, tmp_path: Path) -> None:
    """With the lines that docs/drawing.md gives for it: from a folder without the project, the same image twice."""
    place = tmp_path / "place"
    place.mkdir()
    ddpm().save_pretrained(tmp_path / "model")
    assert push(hub, tmp_path / "model", "me/model").returncode == 0
    program = f"import sys; sys.argv.append('{{}}')\n{LOAD}\n{block('offline')}\nprint('drawn', draw(pipe))"
    program = program.replace("org/model", "me/model")
    online = python(hub, place, program)
    hub.break_request(1, "drop", forever=True)
    offline = python(hub, place, program, HF_HUB_OFFLINE="1")
    assert re.findall("drawn .*", online) == re.findall("drawn .*", offline) != [] and not hub.requests


def test_inpainting_guides_mixtures_decoders_and_published_checkpoints(
    hub: HubServer, clone: Path, tmp_path: Path
) -> None:
    """Five blocks, each alone in a namespace; they share an interpreter, whose imports take longest."""
    on_hub(hub, "google/ddpm-cifar10-32", diffusers.DDPMPipeline(tiny_unet(), diffusers.DDPMScheduler()), tmp_path)
    on_hub(hub, "facebook/DiT-XL-2-256", tiny_dit(), tmp_path)
    words, vae = latent(), latent().vae
    torch.nn.init.ones_(vae.decoder.conv_out.bias)
    AutoencoderPipeline(vae).save_pretrained(clone / "runs" / "decoder")
    words.save_pretrained(clone / "runs" / "words")
    texts = [*map(block, ("inpaint", "guide", "mixture", "decoder"))]
    texts += [block("published") + "print(type(pipe).__name__)"]
    printed = python(hub, clone, f"for text in {texts!r}:\n    exec(text, {{'__name__': '__main__'}})")
    assert re.search(r"tensor\(.*LatentDiffusionPipeline", printed, flags=re.DOTALL)
    assert Image.open(clone / "boot.png").size == (28, 28)
    made = LatentDiffusionPipeline.from_pretrained(clone / "runs" / "words-2")
    assert_same(dict(vae.state_dict()), dict(made.vae.state_dict()))
    assert_same(dict(words.unet.state_dict()), dict(made.unet.state_dict()))


def on_hub(hub: HubServer, repo_id: str, pipe: diffusers.DiffusionPipeline, place: Path) -> None:
    """Put a pipeline where a published one stands."""
    folder = place / repo_id
    pipe.save_pretrained(folder)
    hub.repositories["model", repo_id] = Repository()
    hub.repositories["model", repo_id].commit(contents(folder))


def tiny_dit() -> diffusers.DiTPipeline:
    torch.manual_seed(0)
    shape = dict(num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=1)
    network = diffusers.DiTTransformer2DModel(**shape, sample_size=8, num_embeds_ada_norm=1000)
    return diffusers.DiTPipeline(network, latent().vae, diffusers.DDIMScheduler(), {"207": "golden retriever"})


def test_a_published_checkpoint_is_converted(hub: HubServer, clone: Path) -> None:
    assert "imagenet-64" in PUBLISHED["guided-diffusion"]
    shape = dict(width=32, mult=(1, 2), attention=(2,))
    unet = published_adm.UNet(**shape, head_channels=16, num_classes=1000, outputs=6)
    classifier = published_adm.Encoder(
        **shape, size=16, head_channels=64, outputs=1000, resblock_updown=True, pool="attention"
    )
    torch.save(unet.state_dict(), clone / "64x64_diffusion.pt")
    torch.save(classifier.state_dict(), clone / "64x64_classifier.pt")
    printed = bash(hub, clone, "convert")
    assert "a ClassifierGuidancePipeline" in printed and (clone / "adm-64" / "model_index.json").is_file()


# --- training and sharing ---


def test_a_shipped_model_is_trained_and_measured(hub: HubServer, clone: Path) -> None:
    original_fashion(clone / "originals")
    bash(hub, clone, "train a shipped model")
    run_folder = clone / "runs" / "fashion-cfg"
    (row,) = json.loads((run_folder / "metrics.json").read_text())["results"].values()
    assert row["measured"]["frechet_distance"] > 0
    assert (run_folder / "samples" / "step-000002.png").is_file()
    assert [*(clone / "runs").rglob("events.out.tfevents.*")], "tensorboard --logdir runs would show nothing"


def original_fashion(folder: Path, count: int = 40) -> None:
    """The four files of Fashion-MNIST, of noise and much smaller."""
    for split in ("train", "t10k"):
        write_idx(folder, split, noise(count, 28, 28), np.arange(count, dtype=np.uint8) % 10)


def test_own_images_are_trained_on_twice_side_by_side(hub: HubServer, clone: Path) -> None:
    for i in range(8):
        folder = clone / "mine" / ("bird", "cat")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noise(20, 16, 3, seed=i)).save(folder / f"{i}.png")
    assert "8 colour images were converted to grey" in bash(hub, clone, "train on own images")
    for name, channels in {"finetuned": 1, "scratch": 3}.items():
        config = json.loads((clone / "runs" / name / "unet" / "config.json").read_text())
        assert config["out_channels"] == channels
        index = json.loads((clone / "runs" / name / "model_index.json").read_text())
        assert list(index["id2label"].values()) == ["bird", "cat"]


def test_a_style_is_taught_from_images_with_captions(hub: HubServer, clone: Path) -> None:
    text_pipeline().save_pretrained(clone / "base")
    (clone / "mine").mkdir()
    for i in range(2):
        Image.fromarray(noise(20, 16, 3, seed=i)).save(clone / "mine" / f"{i}.png")
    (clone / "mine" / "metadata.csv").write_text(
        'file_name,text\n0.png,"a red apple, my style"\n1.png,"a fox, my style"\n'
    )
    bash(hub, clone, "style")
    adapter = load_file(clone / "runs" / "style" / "pytorch_lora_weights.safetensors")
    assert any(float(weight.abs().max()) > 0 for name, weight in adapter.items() if "lora_B" in name)


def test_a_run_is_pushed_with_a_space(hub: HubServer, clone: Path) -> None:
    trained_folder(clone / "runs" / "finetuned")
    assert "me/mine draws with it" in bash(hub, clone, "push")
    assert {("model", "me/mine"), ("space", "me/mine")} == set(hub.repositories)
