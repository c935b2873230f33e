"""What leaves this machine: what a pipeline needs, by name; no links to elsewhere, tokens, keys or local paths."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT
from huggingface_hub import constants
from PIL import Image, PngImagePlugin
from safetensors.numpy import save_file

from training.card import shipped_folders
from training.sharing.secrets import FORMS, check_secrets
from training.sharing.uploads import belongs_to_a_model, uploads

INDEX = {
    "_class_name": ["mine_0123abcd", "MinePipeline"],
    "scheduler": ["diffusers", "DDPMScheduler"],
    "unet": ["net_0123abcd", "Net"],
    "tokenizer": ["transformers", "T5Tokenizer"],
}
FILES = {
    "model_index.json": json.dumps(INDEX),
    "mine_0123abcd.py": "from .base_89abcdef import Base\n",
    "base_89abcdef.py": "",
    "scheduler/scheduler_config.json": "{}",
    "unet/config.json": "{}",
    "unet/net_0123abcd.py": "",
    "tokenizer/spiece.model": "",
    "tokenizer/tokenizer_config.json": "{}",
    "LICENSE": "free",
}
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
# none is real; split, so that no scanner of this repository is alarmed
SECRETS = {
    "a Hugging Face token": ["hf_" + "aB3" * 12, "api_org_" + "aB3" * 12],
    "a GitHub token": ["ghp_" + "a1" * 18, "github_pat_" + "11AAAAAAA0_" + "b" * 59],
    "a GitLab token": ["glpat-" + "x" * 20],
    "an AWS key": [
        "AKIA" + "IOSFODNN7EXAMPLE",
        "aws_secret_access_key = " + "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    ],
    "an Azure key": ["AccountKey=" + "a" * 86 + "=="],
    "a Google key": ["AIza" + "Sy" + "a" * 33, "GOCSPX-" + "a" * 28],
    "an OpenAI or Anthropic key": ["sk-" + "a1" * 24, "sk-proj-" + "a_" * 40, "sk-ant-api03-" + "a-" * 30],
    "a Slack token": ["xoxb-" + "123456789012-abcdef", "https://hooks.slack.com/services/" + "T00/B00/XXXX"],
    "a Stripe key": ["sk_live_" + "a" * 24],
    "a Weights & Biases key": ["WANDB_API_KEY=" + "0a" * 20],
    "a Replicate token": ["r8_" + "a" * 37],
    "an npm token": ["npm_" + "a" * 36],
    "a PyPI token": ["pypi-AgE" + "IcHlwaS5vcmc" + "a" * 60],
    "a JSON web token": ["eyJ" + "hbGciOiJIUzI1" + ".eyJ" + "zdWIiOiIxMjM0" + ".SflKxwRJSMeKKF2QT4"],
    "a password in an address": ["https://me:" + "hunter2@host/x.git"],
    "a private key": [
        "-----BEGIN " + "OPENSSH PRIVATE KEY-----",
        "-----BEGIN " + "PRIVATE KEY-----",
        "-----BEGIN " + "RSA PRIVATE KEY-----",
        "-----BEGIN " + "PGP PRIVATE KEY BLOCK-----",
        "PuTTY-User-Key-File-" + "3: ssh-ed25519",
    ],
}
TOKEN = SECRETS["a Hugging Face token"][0]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / "mine" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine" / name).write_text(text)
    save_file({"w": np.zeros(2)}, tmp_path / "mine" / WEIGHTS)
    return tmp_path / "mine"


def test_only_what_a_pipeline_needs_leaves(folder: Path) -> None:
    stray = "unet/aws_config.json creds.model unet/creds.model unet/my_config.json tokenizer/notes.model .env"
    stray += " other_89abcdef.py unet/other_89abcdef.py vocab.json unet/.netrc wandb_config.json unet/model_index.json"
    stray += " unet/model-final.backup.safetensors tokenizer/merges.txt~ checkpoint-1/config.json id_rsa"
    for name in stray.split():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    assert set(uploads(folder)) == {*FILES, WEIGHTS}


def test_all_of_a_shipped_folder_leaves_again() -> None:
    """And all of what version 0.1.0 saved."""
    old = [index.parent for index in (ROOT / "tests" / "saved_0_1_0").glob("*/model_index.json")]
    for folder in [*shipped_folders(), *old]:
        there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert there - set(uploads(folder)) == set(), folder.name


def test_shards_and_variants_leave(folder: Path) -> None:
    more = [
        "unet/diffusion_pytorch_model.fp16.safetensors",
        "unet/diffusion_pytorch_model-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.fp16-00001-of-00002.safetensors",
        "unet/diffusion_pytorch_model.safetensors.index.json",
        "unet/diffusion_pytorch_model.safetensors.index.fp16.json",
        "unet/model.non_ema.safetensors",
    ]
    for name in more:
        (folder / name).write_text("{}")
    assert set(uploads(folder)) == {*FILES, WEIGHTS, *more}
    assert all(belongs_to_a_model(name, ["unet", "tokenizer", "scheduler"]) for name in {*FILES, *more} - {"LICENSE"})


@pytest.mark.parametrize("name", ["base_89abcdef.py", "unet/net_0123abcd.py"])
def test_code_that_is_not_there_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"folder must hold {name}, which its code needs"):
        uploads(folder)


@pytest.mark.parametrize("name", ["../private", "/etc", "unet/../../private", ".."])
def test_components_lie_in_the_folder(folder: Path, name: str) -> None:
    (folder.parent / "private").mkdir()
    (folder / "model_index.json").write_text(json.dumps(INDEX | {name: ["diffusers", "UNet2DModel"]}))
    with pytest.raises(ValueError, match="model_index.json must name components by their folders in it"):
        uploads(folder)


# ------------------------------------------------------------------------------------------------------------- links


@pytest.mark.parametrize(
    "name", ["LICENSE", "README.md", "unet/config.json", WEIGHTS, "unet", "tokenizer", "samples.png"]
)
def test_a_link_that_leaves_the_folder_is_refused(folder: Path, tmp_path: Path, name: str) -> None:
    """Also through links to links, and in a loop of links."""
    outside = tmp_path / "private"
    if (folder / name).exists():
        (folder / name).rename(outside)
    else:
        outside.write_text("a diary")
    (tmp_path / "hop").symlink_to(outside)
    for target in (outside, tmp_path / "hop", Path("..") / "private" if name.count("/") == 0 else outside):
        (folder / name).symlink_to(target)
        with pytest.raises(ValueError, match=f"^{name}.* is a link to {outside}"):
            uploads(folder)
        (folder / name).unlink()
    (folder / name).symlink_to(folder / "nowhere")
    if name not in ("unet", "tokenizer"):
        with pytest.raises(ValueError, match="is a link to nothing"):
            uploads(folder)


def test_links_inside_the_folder_and_hard_links_are_files(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("free")
    (folder / "NOTICE").hardlink_to(tmp_path / "elsewhere")
    (folder / "LICENSE.txt").symlink_to("LICENSE")
    (tmp_path / "latest").symlink_to(folder)
    for place in (folder, tmp_path / "latest"):
        assert set(uploads(place)) == {*FILES, WEIGHTS, "NOTICE", "LICENSE.txt"}


def test_blobs_of_the_hub_s_cache_are_no_strangers(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that was downloaded can be pushed as it lies in the cache, or linked from there; nothing else of it."""
    repository = tmp_path / "cache" / "models--me--mine"
    blob = repository / "blobs" / ("0a" * 20)
    blob.parent.mkdir(parents=True)
    (repository / "snapshots").mkdir()
    snapshot = folder.rename(repository / "snapshots" / ("1b" * 20))
    (snapshot / "unet" / "config.json").rename(blob)
    (snapshot / "unet" / "config.json").symlink_to(Path("../../../blobs") / blob.name)
    assert set(uploads(snapshot)) == {*FILES, WEIGHTS}
    snapshot.rename(tmp_path / "mine")
    (tmp_path / "mine" / "unet" / "config.json").unlink()
    (tmp_path / "mine" / "unet" / "config.json").symlink_to(blob)
    with pytest.raises(ValueError, match="is a link to"):
        uploads(tmp_path / "mine")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    assert set(uploads(tmp_path / "mine")) == {*FILES, WEIGHTS}
    (tmp_path / "cache" / "token").write_text("a token")
    (tmp_path / "mine" / "LICENSE").unlink()
    (tmp_path / "mine" / "LICENSE").symlink_to(tmp_path / "cache" / "token")
    with pytest.raises(ValueError, match="LICENSE is a link to"):
        uploads(tmp_path / "mine")


# ----------------------------------------------------------------------------------------------------------- secrets


def test_every_form_has_an_example() -> None:
    assert set(SECRETS) == set(FORMS)


@pytest.mark.parametrize(("what", "secret"), [(what, each) for what, found in SECRETS.items() for each in found])
def test_tokens_and_keys_are_refused_by_file_and_line(tmp_path: Path, what: str, secret: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(f'{{\n"a": "b",\n"c": "{secret}"}}')
    for content in (path, path.read_bytes(), path.read_text().encode("utf-16"), path.read_text().encode("utf-16-be")):
        with pytest.raises(ValueError, match=f"^unet/config.json contains {what}, in line 3: remove") as refused:
            check_secrets({"README.md": b"nothing", "unet/config.json": content}, None)
        assert secret not in str(refused.value)


def test_words_that_look_like_secrets_leave(tmp_path: Path) -> None:
    words = "hf_hub_download(repo_id) HF_TOKEN=... sk-learn task-based-guidance risk-adjusted-diffusion-of-everything "
    words += (
        "https://huggingface.co/me/mine?a=b:c@d BEGIN PUBLIC KEY a private key sha256:" + "0a" * 32 + " ghost_writers"
    )
    check_secrets({"README.md": words.encode(), "LICENSE": (ROOT / "LICENSE")}, "hf_me_writes")


def test_text_in_weights_images_and_tables_is_read(tmp_path: Path) -> None:
    save_file({"w": np.zeros(2)}, tmp_path / "a.safetensors", metadata={"note": TOKEN})
    (tmp_path / "b.safetensors").write_text(f"not weights at all: {TOKEN}")
    pq.write_table(pa.table({"x": [1]}).replace_schema_metadata({"note": TOKEN}), tmp_path / "c.parquet")
    for name, text in {"d": {"zip": False}, "e": {"zip": True}}.items():
        info = PngImagePlugin.PngInfo()
        info.add_itxt("settings", f"drawn with {TOKEN}", **text)
        Image.new("L", (4, 4)).save(tmp_path / f"{name}.png", pnginfo=info)
    assert TOKEN.encode() not in (tmp_path / "e.png").read_bytes()  # compressed
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(
            ValueError, match=f"^{path.name} contains a Hugging Face token, in its (header|footer|bytes|text)"
        ):
            check_secrets({path.name: path}, None)


def test_a_path_of_this_machine_is_refused_wherever_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save_file({"w": np.zeros(2)}, tmp_path / "a.safetensors", metadata={"made in": f"{tmp_path}/runs"})
    files = {"README.md": f"one\nsee {tmp_path}/diary".encode(), "a.safetensors": tmp_path / "a.safetensors"}
    for name, where in {"README.md": "line 2", "a.safetensors": "its header"}.items():
        with pytest.raises(ValueError, match=f"^{name} contains a path of this machine, {tmp_path}, in {where}"):
            check_secrets({name: files[name]}, None)
