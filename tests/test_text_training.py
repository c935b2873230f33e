"""Training on captions: embedded once, one of several drawn, some dropped; what is saved is told prompts."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from latent_folders import tiny_vae
from PIL import Image
from text_models import WIDTH, text_unet, tiny_bert, tiny_tokenizer
from tokenizers import normalizers
from toys import quiet
from training_runs import alone, command, noise, noise_images, run_here
from transformers import T5Config, T5Model

from benchmarks import text_training
from benchmarks.stock_text import StockTextTrainer
from pipelines import LatentDiffusionPipeline
from pipelines.text import embed
from training import caption_embeddings as embeddings_module
from training.caption_embeddings import caption_embeddings
from training.files import write_json
from training.networks.text import open_text_encoder
from training.randomness import BatchRandom

SMALL = {
    "_class_name": "PatchedUNet2DConditionModel", "block_out_channels": [16, 16], "attention_head_dim": 8,
    "norm_num_groups": 4,
}  # fmt: skip
CAPTIONS = ("a red apple", ("a fox", "fox", "fox with a hat"), "blue pear", "")


@pytest.fixture(scope="module", autouse=True)
def one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with alone(tmp_path_factory.mktemp("cache")):
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder, a text encoder, images with captions, and configs of networks for 8 x 8 latents."""
    root = tmp_path_factory.mktemp("captions")
    tiny_vae().save_pretrained(root / "autoencoder")
    tiny_bert().save_pretrained(root / "encoder")
    tiny_tokenizer().save_pretrained(root / "encoder")
    (root / "images").mkdir()
    rows = []
    for i in range(8):
        Image.fromarray(noise(16, 16, 3, seed=i)).save(root / "images" / f"{i}.png")
        rows.append({"file_name": f"{i}.png", "text": ["a red apple", "a blue pear"][i % 2]})
    (root / "images" / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    write_json(root / "network.json", SMALL)
    both = {"mid_block_type": "UNetMidBlock2DCrossAttn"}
    write_json(root / "both.json", SMALL | both)
    return root


def arguments(place: Path, **more: object) -> list[str]:
    """A run of two updates."""
    flags = {"objective": "flow_matching", "train_data_dir": place / "images", "vae": place / "autoencoder"}
    flags |= {"text_encoder": place / "encoder", "model_config_name_or_path": place / "network.json"}
    flags |= {"max_train_steps": 2, "checkpointing_steps": 1, "train_batch_size": 2, "output_dir": place / "model"}
    flags |= {"ddpm_num_steps": None}  # of the denoising objective alone
    return command("--recipe unconditional", **flags | more)


def test_embeddings_are_made_once_of_all_captions_and_of_the_empty_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, tokenizer, seen = tiny_bert(), tiny_tokenizer(), []
    monkeypatch.setattr(embeddings_module, "PART", 4)
    monkeypatch.setattr(embeddings_module, "embed", lambda *a, **k: seen.append(len(a[2])) or embed(*a, **k))
    found = caption_embeddings(CAPTIONS, encoder, tokenizer, cache_dir=tmp_path)
    assert set(found.rows) == {"", "a red apple", "a fox", "fox", "fox with a hat", "blue pear"} and seen == [4, 2]
    rows = found.of(["fox", "", "fox"])
    torch.testing.assert_close(rows.float(), embed(encoder, tokenizer, ["fox", "", "fox"]).pooled, rtol=0, atol=2e-3)
    (folder,) = tmp_path.iterdir()
    (folder / "part-00001.npy").write_bytes(b"half a fi")
    again = caption_embeddings(CAPTIONS, encoder, tokenizer, cache_dir=tmp_path)
    assert seen == [4, 2, 2] and torch.equal(again.pooled, found.pooled)
    caption_embeddings(CAPTIONS[:2], encoder, tokenizer, cache_dir=tmp_path)
    with torch.no_grad():
        next(encoder.parameters()).add_(0.1)
    caption_embeddings(CAPTIONS, encoder, tokenizer, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3, "other captions, other weights"
    tokenizer.backend_tokenizer.normalizer = normalizers.Strip()
    caption_embeddings(CAPTIONS, encoder, tokenizer, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 3, "the same tokens: all captions are in small letters"
    caption_embeddings(["Fox"], encoder, tokenizer, cache_dir=tmp_path)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    caption_embeddings(["Fox"], encoder, tokenizer, cache_dir=tmp_path)
    assert len(list(tmp_path.iterdir())) == 5, "the same words of the tokenizer, but other tokens"


def test_captions_that_are_cut_are_counted_and_one_is_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    encoder, tokenizer = tiny_bert(), tiny_tokenizer()
    tokenizer.model_max_length = 6  # with the two around the words
    caption_embeddings(["a red apple", "a fox with a red hat"], encoder, tokenizer, cache_dir=tmp_path)
    (said,) = [record.getMessage() for record in caplog.records]
    assert said.startswith("1 of 2 captions are longer than the 6 tokens that the text encoder reads")
    assert said.endswith("of 'a fox with a red hat ...' it does not read 'red hat'")


def test_of_several_captions_each_is_drawn_equally_often() -> None:
    data = replace(noise_images(4), captions=CAPTIONS)
    index = np.ones(3000, dtype=int)
    drawn = data.captions_of(index, BatchRandom(0, 0, 0, 3000, 3000).uniform("caption"))
    assert set(drawn) == set(CAPTIONS[1])
    assert all(abs(drawn.count(caption) / 1000 - 1) < 0.1 for caption in CAPTIONS[1])
    assert data.captions_of(np.array([0, 2, 3]), torch.rand(3)) == ["a red apple", "blue pear", ""]


@pytest.mark.parametrize("objective", ["flow_matching", "denoising"])
@pytest.mark.parametrize("config", ["network.json", "both.json"])
def test_a_run_on_captions_saves_what_is_told_prompts(place: Path, objective: str, config: str) -> None:
    folder = place / objective / config
    more = {"mixed_precision": "bf16", "validation_steps": 1}  # whose samples are drawn under autocast
    run_here(arguments(place, objective=objective, output_dir=folder, model_config_name_or_path=place / config, **more))
    pipe = quiet(LatentDiffusionPipeline.from_pretrained(folder))
    assert pipe.takes_prompts and pipe.text_encoder.dtype == torch.float16
    assert pipe.config.path == ("linear" if objective == "flow_matching" else None)
    images = pipe(["a red apple", "a blue pear"], num_inference_steps=2, output_type="np").images
    assert images.shape == (2, 16, 16, 3)
    with Image.open(folder / "samples.png") as grid:
        assert grid.mode == "RGB"


def test_the_recipe_of_the_shipped_model_trains_on_a_folder_with_a_table_of_captions(place: Path) -> None:
    """As docs/training.md says it, with small networks in the place of the shipped ones."""
    folder = place / "mine"
    folder.mkdir()
    lines = ["file_name,text"]
    for i in range(4):
        Image.fromarray(noise(40, 24, 3, seed=i)).save(folder / f"{i}.png")
        lines.append(f'{i}.png,"a {["red", "blue"][i % 2]} apple, my style"')
    (folder / "metadata.csv").write_text("\n".join(lines))
    line = "--recipe emoji-latent --resolution 16 --torch_compile False"
    small = {"vae": place / "autoencoder", "text_encoder": place / "encoder"}
    small |= {"model_config_name_or_path": place / "network.json", "max_train_steps": 1, "train_batch_size": 2}
    small |= {"ddpm_num_steps": None}  # of the denoising objective alone
    run_here(command(line, train_data_dir=folder, output_dir=place / "words", **small))
    pipe = quiet(LatentDiffusionPipeline.from_pretrained(place / "words"))
    assert pipe.takes_prompts and pipe("a red apple", num_inference_steps=1, output_type="np").images.shape[1] == 16


def test_fine_tuning_goes_on_with_the_model_s_own_encoders(place: Path) -> None:
    if not (place / "model").exists():
        run_here(arguments(place))
    start = {"pretrained_model_name_or_path": place / "model", "model_config_name_or_path": None}
    run_here(arguments(place, output_dir=place / "tuned", vae=None, text_encoder=None, **start))
    before, tuned = (LatentDiffusionPipeline.from_pretrained(place / name) for name in ("model", "tuned"))
    assert tuned.takes_prompts and tuned.config.path == "linear"
    for name, value in before.text_encoder.state_dict().items():
        assert torch.equal(value, tuned.text_encoder.state_dict()[name])
    moved = [not torch.equal(value, tuned.unet.state_dict()[name]) for name, value in before.unet.state_dict().items()]
    assert any(moved)


def test_fine_tuning_beside_another_encoder_or_autoencoder_is_said(
    place: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if not (place / "model").exists():
        run_here(arguments(place))
    for part, name in ((tiny_vae(), "autoencoder"), (tiny_bert(), "encoder")):
        with torch.no_grad():
            next(part.parameters()).add_(0.1)
        part.save_pretrained(tmp_path / name)
    tiny_tokenizer().save_pretrained(tmp_path / "encoder")
    start = {"pretrained_model_name_or_path": place / "model", "model_config_name_or_path": None}
    told = "{} is not that of the pipeline that is fine-tuned"
    for flag, folder in (("vae", "autoencoder"), ("text_encoder", "encoder")):
        caplog.clear()
        run_here(arguments(place, output_dir=tmp_path / flag, **start | {flag: tmp_path / folder}))
        assert [name for name in ("vae", "text_encoder") if told.format(name) in caplog.text] == [flag]


def test_of_an_encoder_that_also_writes_text_its_half_is_taken(tmp_path: Path) -> None:
    shape = {"d_model": WIDTH, "d_ff": 64, "d_kv": 16, "num_layers": 2, "num_heads": 2, "vocab_size": 40}
    T5Model(T5Config(**shape, decoder_start_token_id=0)).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    encoder, tokenizer = open_text_encoder(str(tmp_path))
    assert embed(encoder.float(), tokenizer, ["a red apple", ""]).pooled.shape == (2, WIDTH)


def test_the_loss_is_of_the_caption_and_of_the_empty_one_as_often_as_asked(place: Path) -> None:
    from training.objectives.flow_matching import FlowMatching
    from training.objectives.text import Captions

    embedded = caption_embeddings(["a red apple", "fox"], tiny_bert(), tiny_tokenizer())
    captions = Captions(tiny_bert(), tiny_tokenizer(), embedded, [])
    for share in (0.0, 0.25, 1.0):
        options = FlowMatching.Options(label_dropout=share)
        task = FlowMatching(options, text_unet(), None, tiny_vae(), captions)
        batch = {"images": torch.zeros(400, 4, 8, 8), "captions": ["a red apple", "fox"] * 200}
        _, given = task.examples(task.encode(batch), BatchRandom(0, 0, 0, 400, 400))
        rows, empty = given["class_labels"], embedded.of([""]).float()
        dropped = (rows == empty).all(1)
        assert abs(float(dropped.float().mean()) - share) < 0.06 and rows.shape == (400, WIDTH)
        expected = embedded.of(batch["captions"]).float()
        assert torch.equal(rows[~dropped], expected[~dropped])


@pytest.mark.parametrize(
    "change, message",
    [
        ({"class_conditional": True}, "class_conditional must be False with a text_encoder, got True"),
        ({"caption_column": "words"}, "words"),
        ({"text_encoder": "nowhere/here"}, "text_encoder must be a folder or a Hub id, got 'nowhere/here'"),
        ({"text_encoder": "autoencoder"}, "text_encoder must hold a text encoder and its tokenizer"),
        ({"model_config_name_or_path": "plain.json"}, "must be of a network with cross-attention or"),
    ],
)
def test_what_does_not_go_with_captions_is_refused_by_name(place: Path, change: dict, message: str) -> None:
    write_json(place / "plain.json", {"_class_name": "UNet2DModel", "block_out_channels": [8, 16]})
    local = {name: place / value for name, value in change.items() if value in ("autoencoder", "plain.json")}
    with pytest.raises(SystemExit, match=message):
        run_here(arguments(place, output_dir=place / "refused", **change | local))
    assert not (place / "refused").exists()


def test_images_without_captions_are_refused(place: Path, tmp_path: Path) -> None:
    Image.fromarray(noise(16, 16, 3)).save(tmp_path / "1.png")
    with pytest.raises(SystemExit, match="caption_column must be a column of captions with a text_encoder, got 'text'"):
        run_here(arguments(place, train_data_dir=tmp_path, output_dir=tmp_path / "run"))


def test_the_benchmark_times_the_loop_of_the_stock_script_beside_ours(
    place: Path, tmp_path: Path, bfloat16_cpu: None, capsys: pytest.CaptureFixture
) -> None:
    features = datasets.Features(image=datasets.Image(), captions=datasets.List(datasets.Value("string")))
    files = sorted(str(file) for file in (place / "images").glob("*.png"))
    rows = {"image": files, "captions": [["a red apple", "a blue pear"]] * len(files)}
    (tmp_path / "data").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "data" / "train-00000.parquet")
    where = f"--dataset_name {tmp_path}/data --vae {place}/autoencoder --text_encoder {place}/encoder"
    found = text_training.main(f"{where} --repeats 1 --steps 1 --batch_size 4 --compile false".split())
    assert [row["name"] for row in found] == ["stock loop, float32", "ours, bf16"]
    assert "| stock loop, float32 |" in capsys.readouterr().out

    parts = tiny_vae(), tiny_bert(), tiny_tokenizer()
    stock = StockTextTrainer(text_unet(), *parts, str(tmp_path / "data"), "captions", 16, 4)
    batch, before = next(iter(stock.loader)), copy.deepcopy(stock.ema.shadow_params)
    assert batch["pixel_values"].shape == (4, 3, 16, 16) and batch["input_ids"].shape == (4, 12)
    assert 0.3 < stock.update() < 3, "the loss of a network that knows nothing is about 1"
    assert any(not torch.equal(a, b) for a, b in zip(before, stock.ema.shadow_params, strict=True))
