"""Adapters (LoRA): trained alone, saved in diffusers' layout, loaded by its calls, added up, and taken off again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel, UNet2DModel
from fresh_processes import run_elsewhere
from hub_runs import push
from hub_server import HubServer
from huggingface_hub import ModelCard
from latent_folders import tiny_vae
from PIL import Image
from safetensors.torch import load_file, save_file
from test_alignment import save_words
from text_models import text_pipeline
from toys import ddpm, quiet, seeded
from training_runs import alone, assert_same, checkpoint_state, command, noise, run_here

from pipelines import LatentDiffusionPipeline
from pipelines.base import StepwisePipeline
from pipelines.lora import BASE_VALUES, check_fits
from training import contact_sheet
from training.data.captions import trigger_words
from training.evaluation import style
from training.model_index import ADAPTER, is_adapter
from training.networks.lora import add_lora, check_rank, save_trained, target_layers, trained_part
from training.recipes import Recipe
from training.sharing.card_text import render
from ui import Catalogue
from ui.comparison import choices
from ui.controls import looks
from ui.device import Placement
from ui.links import opened as opened_by
from ui.links import query
from ui.run import draw
from ui.settings import Settings
from ui.snippet import snippet

STEPS = {"num_inference_steps": 2, "output_type": "pt"}


@pytest.fixture(scope="module", autouse=True)
def one_thread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with alone(tmp_path_factory.mktemp("cache")), pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.sample_grid.ROWS", 1)
        patch.setattr("training.sample_grid.COLUMNS", 2)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base that is told prompts, another of its shape, and images with captions."""
    root = tmp_path_factory.mktemp("lora")
    pipe = text_pipeline("both")
    pipe.save_pretrained(root / "base")
    with torch.no_grad():
        for weight in pipe.unet.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=seeded(5)))
    pipe.save_pretrained(root / "other")
    text_pipeline("both", unet=wider()).save_pretrained(root / "wider")
    (root / "images").mkdir()
    rows = ["file_name,text"]
    for i in range(6):
        Image.fromarray(noise(16, 16, 3, seed=i)).save(root / "images" / f"{i}.png")
        rows.append(f'{i}.png,"a {("red", "blue")[i % 2]} apple, noto style"')
    (root / "images" / "metadata.csv").write_text("\n".join(rows) + "\n")
    return root


def wider() -> torch.nn.Module:
    from text_models import text_unet

    return text_unet("both", block_out_channels=(24, 24))


def arguments(place: Path, **more: object) -> list[str]:
    """A run of two updates that writes an adapter of the base."""
    flags = {"objective": "flow_matching", "train_data_dir": place / "images", "lora_rank": 2, "learning_rate": 0.05}
    flags |= {"pretrained_model_name_or_path": place / "base", "max_train_steps": 2, "checkpointing_steps": 1}
    flags |= {"train_batch_size": 2, "lr_warmup_steps": 0, "ddpm_num_steps": None, "output_dir": place / "adapter"}
    return command("--recipe unconditional", **flags | more)


@pytest.fixture(scope="module")
def adapter(place: Path) -> Path:
    """What such a run leaves."""
    run_here(arguments(place))
    return place / "adapter"


def opened(folder: Path) -> LatentDiffusionPipeline:
    return quiet(LatentDiffusionPipeline.from_pretrained(folder))


def drawn(pipe: StepwisePipeline, **options: object) -> torch.Tensor:
    """Two images, with prompts where the pipeline takes them."""
    told = {"prompt": ["a red apple, noto style", "a fox"]} if getattr(pipe, "text_encoder", None) else {}
    generators = [seeded(i) for i in range(2)]
    return pipe(**told or {"batch_size": 2}, generator=generators, **STEPS | options).images


# --------------------------------------------------------------------------------------------------------- training


def test_a_run_saves_the_adapter_alone_in_diffusers_layout(place: Path, adapter: Path) -> None:
    assert is_adapter(adapter) and not (adapter / "unet").exists() and not (adapter / "model_index.json").exists()
    saved = load_file(adapter / ADAPTER)
    assert all(name.startswith("unet.") and name.endswith((".lora_A.weight", ".lora_B.weight")) for name in saved)
    halves = [value for name, value in saved.items() if ".lora_B." in name]
    assert all(bool(value.any()) for value in halves), "each layer has learned something"
    assert {value.shape[0] for name, value in saved.items() if ".lora_A." in name} == {2}
    for checkpoint in ("checkpoint-1", "checkpoint-2"):
        state = checkpoint_state(adapter / checkpoint)
        assert all(".lora_" in name for name in state["weights"]), "the base is not copied into checkpoints, either"
        assert is_adapter(adapter / checkpoint / "pipeline")
    size = sum(path.stat().st_size for path in (adapter / "checkpoint-2").rglob("*") if path.is_file())
    assert size < (place / "base" / "unet" / "diffusion_pytorch_model.safetensors").stat().st_size
    record = json.loads((adapter / "training.json").read_text())
    assert record["base"] == "base" and record["trigger_words"] == ["noto style"]


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(adapter: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(adapter / "checkpoint-1", whole / "checkpoint-1")
    run_here([f"--output_dir={whole}", "--resume_from_checkpoint=latest", "--report_to=none"])
    assert_same(checkpoint_state(whole / "checkpoint-2"), checkpoint_state(adapter / "checkpoint-2"))
    assert (whole / ADAPTER).read_bytes() == (adapter / ADAPTER).read_bytes()


def test_only_the_adapter_has_gradients_and_a_run_begins_as_the_base() -> None:
    pipe, recipe = text_pipeline("both"), lora(rank=2)
    before, known = drawn(pipe), {name: value.clone() for name, value in pipe.unet.state_dict().items()}
    add_lora(pipe.unet, recipe)
    assert torch.equal(drawn(pipe), before), "B is 0"
    told = pipe.prompts(["a fox"])
    pipe.unet(torch.randn(1, 4, 8, 8), torch.tensor([5.0]), **told).sample.sum().backward()
    for name, value in pipe.unet.named_parameters():
        assert (value.grad is not None) == (".lora_" in name), name
    part = trained_part(pipe.unet)
    assert {name for name, _ in part.named_parameters()} == {n for n, p in pipe.unet.named_parameters() if "lora" in n}
    assert all(one is dict(pipe.unet.named_parameters())[name] for name, one in part.named_parameters())
    assert sum(p.numel() for p in part.parameters()) < 0.5 * sum(value.numel() for value in known.values())


def lora(rank: int = 2, **more: object) -> Recipe:
    return Recipe(pretrained_model_name_or_path="base", lora_rank=rank, **more)


# --------------------------------------------------------------------------------------------------------- loading


def test_at_strength_0_it_is_the_base_bit_for_bit_and_unloaded_too(place: Path, adapter: Path) -> None:
    pipe = opened(place / "base")
    before = drawn(pipe)
    pipe.load_lora_weights(str(adapter), adapter_name="style")
    after = drawn(pipe)
    assert not torch.equal(after, before) and pipe.get_active_adapters() == ["style"]
    pipe.set_adapters("style", 0.0)
    assert torch.equal(drawn(pipe), before)
    pipe.set_adapters("style", 0.5)
    half = drawn(pipe)
    assert not torch.equal(half, before) and not torch.equal(half, after)
    pipe.set_adapters("style", 1.0)
    assert torch.equal(drawn(pipe), after)
    pipe.unload_lora_weights()
    assert torch.equal(drawn(pipe), before) and pipe.get_list_adapters() == {}


def test_two_adapters_add_up_layer_by_layer_and_may_be_fused(place: Path, adapter: Path) -> None:
    pipe = opened(place / "base")
    saved = load_file(adapter / ADAPTER)
    state = {name: -0.5 * value if ".lora_B." in name else value for name, value in saved.items()}
    layer = "mid_block.attentions.0.transformer_blocks.0.attn2.to_q"
    before = pipe.unet.get_submodule(layer).weight.detach().clone()
    pipe.load_lora_weights(str(adapter), adapter_name="one")
    pipe.load_lora_weights(state, adapter_name="two")
    pipe.set_adapters(["one", "two"], [0.4, 0.2])
    beside = drawn(pipe)
    pipe.fuse_lora()
    change = load_file(adapter / ADAPTER)
    change = change[f"unet.{layer}.lora_B.weight"] @ change[f"unet.{layer}.lora_A.weight"]
    fused = pipe.unet.get_submodule(layer).base_layer.weight
    torch.testing.assert_close(fused, before + (0.4 - 0.5 * 0.2) * change, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(drawn(pipe), beside, rtol=0, atol=2e-4)
    pipe.unload_lora_weights()
    torch.testing.assert_close(drawn(pipe), beside, rtol=0, atol=2e-4)


def test_an_adapter_is_loaded_into_an_offloaded_network(place: Path, adapter: Path) -> None:
    from accelerate import cpu_offload

    pipe, offloaded = opened(place / "base"), opened(place / "base")
    pipe.load_lora_weights(str(adapter), adapter_name="style")
    cpu_offload(offloaded.unet, torch.device("cpu"))
    assert all(weight.is_meta for weight in offloaded.unet.parameters())
    check_fits(offloaded.unet, {}, {"auto_mapping": {BASE_VALUES: [1.0]}})  # which it cannot compare
    with pytest.raises(ValueError, match="adapter of these weights"):
        check_fits(pipe.unet, {}, {"auto_mapping": {BASE_VALUES: [1.0]}})


def test_a_pipeline_with_adapters_is_not_saved_as_a_model(place: Path, adapter: Path, tmp_path: Path) -> None:
    pipe = opened(place / "base")
    pipe.load_lora_weights(str(adapter), adapter_name="style")
    with pytest.raises(ValueError, match="style is loaded: call unload_lora_weights"):
        pipe.save_pretrained(tmp_path / "model")
    assert not (tmp_path / "model").exists()
    pipe.fuse_lora()
    fused = drawn(pipe)
    pipe.unload_lora_weights()
    pipe.save_pretrained(tmp_path / "model")
    torch.testing.assert_close(drawn(opened(tmp_path / "model")), fused, rtol=0, atol=2e-4)


STRANGER = """
import sys, torch
from diffusers import DiffusionPipeline
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
assert "pipelines" not in sys.modules and "training" not in sys.modules
pipe.set_progress_bar_config(disable=True)
pipe.load_lora_weights(sys.argv[2], adapter_name="style")
pipe.set_adapters("style", float(sys.argv[3]))
generators = [torch.Generator().manual_seed(i) for i in range(2)]
prompts = ["a red apple, noto style", "a fox"]
torch.save(pipe(prompts, num_inference_steps=2, output_type="pt", generator=generators).images, sys.argv[4])
"""


def dit() -> StepwisePipeline:
    torch.manual_seed(4)
    network = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, num_layers=1, sample_size=8,
        num_embeds_ada_norm=3, norm_num_groups=1,
    )  # fmt: skip
    from diffusers import DDIMScheduler

    return quiet(LatentDiffusionPipeline(tiny_vae(), DDIMScheduler(clip_sample=False), transformer=network.eval()))


@pytest.mark.parametrize("make", [ddpm, dit], ids=["a U-Net", "a transformer"])
def test_networks_without_diffusers_calls_for_adapters_get_them(make: object, tmp_path: Path) -> None:
    pipe, again = quiet(make()), quiet(make())
    kind, before = type(pipe.denoising_network), drawn(pipe)
    assert kind in (UNet2DModel, DiTTransformer2DModel) and not hasattr(pipe.denoising_network, "load_lora_adapter")
    add_lora(pipe.denoising_network, lora(lora_target_modules="all", rank=1))
    with torch.no_grad():
        for name, value in pipe.denoising_network.named_parameters():
            if ".lora_B." in name:
                value.add_(0.05)
    save_trained(pipe, tmp_path / "adapter", "base", None)
    again.load_lora_weights(str(tmp_path / "adapter"), adapter_name="style")
    assert torch.equal(drawn(again), drawn(pipe)) and not torch.equal(drawn(again), before)
    again.set_adapters("style", 0.0)
    assert torch.equal(drawn(again), before)
    again.unload_lora_weights()
    again.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "model_index.json").read_text()).keys() >= {"scheduler"}
    assert isinstance(again.denoising_network, kind) and type(again.denoising_network).__name__ == kind.__name__


# ---------------------------------------------------------------------------------------------- on the Hub, on the page


def test_it_is_pushed_without_its_base_and_loads_by_its_id(place: Path, hub: HubServer, tmp_path: Path) -> None:
    shutil.copytree(place / "base", tmp_path / "base")
    assert push(hub, tmp_path / "base", "me/base").returncode == 0
    run_here(arguments(place, pretrained_model_name_or_path=tmp_path / "base", output_dir=tmp_path / "style"))
    done = push(hub, tmp_path / "style", "me/style")
    assert done.returncode == 0, done.stderr
    files, revision = hub.repositories["model", "me/style"].files, hub.repositories["model", "me/base"].head
    assert set(files) - {".gitattributes"} == {ADAPTER, "README.md", "training.json", "samples.png", "before.png"}
    card = files["README.md"].decode()
    assert ModelCard(card).data.base_model == "me/base" and ModelCard(card).data.instance_prompt == "noto style"
    assert f'from_pretrained("me/base", revision="{revision}"' in card and "**noto style**" in card
    assert "(before.png)" in card and "(samples.png)" in card and "of the model's author" in card

    pipe = opened(place / "base")
    pipe.load_lora_weights(str(tmp_path / "style"), adapter_name="style")
    pipe.set_adapters("style", 0.7)
    # offline diffusers asks the Hub for the code of an id: docs/drawing.md has the way with a folder
    for name, offline, base in (("online", "0", "me/base"), ("offline", "1", str(place / "base"))):
        images = tmp_path / f"{name}.pt"
        environment = hub.environment(tmp_path / "far", HF_HUB_OFFLINE=offline)
        run_elsewhere(tmp_path / "far", STRANGER, base, "me/style", "0.7", str(images), environment=environment)
        assert torch.equal(torch.load(images), drawn(pipe)), name


def test_a_base_that_is_pushed_after_it_stands_on_its_card(place: Path, hub: HubServer, tmp_path: Path) -> None:
    base, style = tmp_path / "base", tmp_path / "style"
    shutil.copytree(place / "base", base)
    run_here(arguments(place, pretrained_model_name_or_path=base, output_dir=style))
    assert "the adapter's base, base, is not on the Hub: push it, and then" in push(hub, style, "me/style").stderr
    assert ModelCard(hub.repositories["model", "me/style"].files["README.md"].decode()).data.base_model == "base"
    assert push(hub, base, "me/base").returncode == 0
    done, revision = push(hub, style, "me/style"), hub.repositories["model", "me/base"].head
    card = hub.repositories["model", "me/style"].files["README.md"].decode()
    assert done.returncode == 0 and "not on the Hub" not in done.stderr
    assert ModelCard(card).data.base_model == "me/base" and f'"me/base", revision="{revision}"' in card


def test_the_page_offers_it_at_a_strength(place: Path, adapter: Path) -> None:
    catalogue = Catalogue({"words": place / "base", "another": place / "other"})
    info = catalogue["words"]
    assert list(info.adapters) == ["adapter"] and not catalogue["another"].adapters
    look = looks(info, Settings.checked({"model": "words"}, catalogue))
    assert look["adapter"]["choices"] == ["none", "adapter"] and "“noto style”" in look["adapter"]["info"]
    assert look["adapter"]["visible"] and not look["adapter_strength"]["visible"]

    chosen = {"model": "words", "count": 1, "steps": 2, "prompt": "a fox", "adapter": "adapter"}
    images = {}
    for strength in (None, 0.0, 0.5):
        given = {"adapter": "none"} if strength is None else {"adapter_strength": strength}
        settings = Settings.checked(chosen | given, catalogue)
        *_, last = draw(settings, catalogue)
        images[strength] = last.frames.final
        assert looks(info, settings)["adapter_strength"]["visible"] == (strength is not None)
    assert (images[0.0] == images[None]).all() and (images[0.5] != images[None]).any()
    assert catalogue.pipeline("words").get_list_adapters() == {}, "visitors share the network of the base"

    assert "&adapter=adapter&adapter_strength=0.5" in query(settings, info)
    link = {"model": "words", "adapter": "adapter", "adapter_strength": "0.5"}
    assert opened_by(link, {}, catalogue)[0].adapter_strength == 0.5
    code = snippet(settings, info, Placement(channels_last=False))
    assert f'pipe.load_lora_weights("{adapter}", adapter_name="style")\npipe.set_adapters("style", 0.5)' in code
    assert "load_lora" not in snippet(Settings.checked({"model": "words"}, catalogue), info, Placement())
    assert choices(catalogue)[-2:] == [("Adapter", "adapter"), ("Strength of the adapter", "adapter_strength")]
    with pytest.raises(ValueError, match="adapter must be one of none, adapter; got 'nope'"):
        Settings.checked(chosen | {"adapter": "nope"}, catalogue)


def test_an_adapter_that_is_given_must_be_of_a_model_of_the_page(place: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "mine", ignore=shutil.ignore_patterns("checkpoint-*"))
    catalogue = Catalogue({"words": place / "base"}, [str(tmp_path / "mine")])
    assert list(catalogue["words"].adapters) == ["adapter", "mine"]
    shutil.copytree(tmp_path / "mine", tmp_path / "another" / "mine")
    both = [str(tmp_path / "mine"), str(tmp_path / "another" / "mine")]
    assert list(Catalogue({"words": place / "base"}, both)["words"].adapters) == ["adapter", "mine", both[1]]
    with pytest.raises(ValueError, match=r"adapter must be of a model of the page \(another\), got"):
        Catalogue({"another": place / "other"}, [str(tmp_path / "mine")])
    with pytest.raises(ValueError, match="adapter must hold pytorch_lora_weights.safetensors"):
        Catalogue({"words": place / "base"}, [str(place / "images")])


def test_the_contact_sheet_shows_it_at_each_strength(place: Path, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a red apple, noto style\na fox\n")
    line = f"{place / 'base'} --adapter {adapter} --strength 0 1 --prompts {tmp_path / 'prompts.txt'} "
    contact_sheet.main(f"{line} --num_inference_steps 1 --dtype float32 --output {tmp_path / 'strengths.png'}".split())
    with Image.open(tmp_path / "strengths.png") as sheet:
        assert sheet.width > 2 * 16
    with pytest.raises(SystemExit, match="strength goes with adapter, which was not given"):
        contact_sheet.main([str(place / "base"), "--strength", "1"])


def test_its_style_is_measured_and_stands_on_its_card(place: Path, adapter: Path, tmp_path: Path) -> None:
    shutil.copytree(adapter, tmp_path / "style", ignore=shutil.ignore_patterns("checkpoint-*"))
    save_words(tmp_path / "words")
    data = f"--dataset_name {tmp_path / 'words'} --style_dataset {tmp_path / 'words'} --beside {place / 'other'}"
    flags = f"{data} --strength 0 1 --num_prompts 1 --num_inference_steps 1"
    style.main(f"{place / 'base'} {tmp_path / 'style'} {flags}".split())
    rows = json.loads((tmp_path / "style" / "metrics.json").read_text())["style"].values()
    wanted = ["the base", "the adapter at 1", "all of the network trained"]
    assert [row["settings"]["drawn by"] for row in rows] == wanted
    assert all(set(row["measured"]) == {"its style", "other styles"} for row in rows)
    card = render(tmp_path / "style")
    assert "| the adapter at 1 | its style | " in card and ") of `base`. The base is" in card
    weights = load_file(tmp_path / "style" / ADAPTER)
    save_file({name: value / 2 for name, value in weights.items()}, tmp_path / "style" / ADAPTER)
    assert "Not measured yet" in render(tmp_path / "style"), "these are other weights"


# --------------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize("base", ["other", "wider"])
def test_an_adapter_of_another_base_is_refused(place: Path, adapter: Path, base: str) -> None:
    pipe = opened(place / base)
    before = drawn(pipe)
    wanted = {"other": "trained on others of the same shape", "wider": "here it is 96 wide"}[base]
    with pytest.raises(ValueError, match=f"an adapter of base,? .*{wanted}"):
        pipe.load_lora_weights(str(adapter))
    assert torch.equal(drawn(pipe), before) and pipe.get_list_adapters() == {}
    if base == "other":
        pipe.load_lora_weights(load_file(adapter / ADAPTER))
        assert not torch.equal(drawn(pipe), before), "its tensors are taken for any network that they fit"


def test_an_adapter_of_another_part_or_under_a_wrong_name_is_refused(adapter: Path) -> None:
    with pytest.raises(ValueError, match="must be given an adapter of transformer, got one of unet"):
        dit().load_lora_weights(str(adapter))
    with pytest.raises(ValueError, match="adapter_name must be a name without dots, got 'my.style'"):
        text_pipeline("both").load_lora_weights(str(adapter), adapter_name="my.style")
    with pytest.raises(OSError, match=r"pytorch_lora_weights"):
        text_pipeline("both").load_lora_weights(str(adapter.parent / "images"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lora_rank": 0}, "lora_rank must be at least 1, got 0"),
        ({"lora_rank": 17}, r"lora_rank must be at most 16, the width of .*, got 17"),
        ({"lora_alpha": 0}, "lora_alpha must be above 0, got 0.0"),
        ({"lora_target_modules": "to_w"}, "must be all, or some of .*, got 'to_w'; did you mean to_"),
        ({"lora_target_modules": ","}, "lora_target_modules must be all, or some of .*, got ','"),
        ({"lora_rank": None, "lora_alpha": 2}, "lora_alpha goes with --lora_rank, which was not given, got 2.0"),
        ({"pretrained_model_name_or_path": None}, "lora_rank goes with --pretrained_model_name_or_path"),
        ({"pretrained_model_name_or_path": "dit"}, "must have a unet for lora_rank"),
        ({"objective": "denoising"}, "objective must be flow_matching to go on from .*base"),
        ({"objective": "autoencoder"}, "lora_rank must be None with --objective autoencoder, got 2"),
        ({"objective": "noisy_classifier"}, "lora_rank must be None with --objective noisy_classifier, got 2"),
        ({"vae": "base"}, "vae must be None with --lora_rank"),
        ({"text_encoder": "base"}, "text_encoder must be None with --lora_rank"),
        ({"guide_step": 1}, "guide_step must be None with --lora_rank, got 1"),
        ({"train_data_dir": "plain"}, "caption_column must be a column of captions with a text_encoder"),
    ],
)
def test_what_a_run_of_an_adapter_cannot_have_is_refused(place: Path, change: dict, message: str) -> None:
    if not (place / "plain").exists():
        (place / "plain").mkdir()
        Image.fromarray(noise(16, 16, 3)).save(place / "plain" / "1.png")
        dit().save_pretrained(place / "dit")
    local = {name: place / value for name, value in change.items() if value in ("base", "plain", "dit")}
    with pytest.raises(SystemExit, match=message):
        run_here(arguments(place, output_dir=place / "refused", **change | local))
    assert not (place / "refused").exists()


def test_a_run_does_not_go_on_with_another_base_or_rank(place: Path, adapter: Path) -> None:
    go_on = [f"--output_dir={adapter}", "--resume_from_checkpoint=checkpoint-1", "--max_train_steps=2"]
    with pytest.raises(SystemExit, match=r"lora_rank must be 2, as in .*, got 4"):
        run_here([*go_on, "--lora_rank=4"])
    with pytest.raises(SystemExit, match="pretrained_model_name_or_path must be that of .*checkpoint-1"):
        run_here([*go_on, f"--pretrained_model_name_or_path={place / 'other'}"])


def test_layers_are_found_by_the_ends_of_their_names() -> None:
    network = text_pipeline("both").unet
    usual, attending = target_layers(network, None), target_layers(network, "attn2.to_q, to_k")
    assert all(name.endswith((".attn2.to_q", ".to_k")) for name in attending)
    assert any("attn1.to_k" in name for name in attending)
    for end in (".to_out.0", ".conv1", ".time_emb_proj", "class_embedding.linear_1"):
        assert any(name.endswith(end) for name in usual), end
    assert set(usual) < set(target_layers(network, "all"))
    check_rank(network, attending, 16)
    with pytest.raises(ValueError, match="lora_rank must be at most 16"):
        check_rank(network, attending, 17)


def test_the_trigger_words_are_what_the_captions_share() -> None:
    assert trigger_words(["a fox, noto style", ("a red fox, noto style", "fox"), "a hat"]) == ["noto style"]
    assert trigger_words(["a photo of sks dog", "sks dog in the snow"]) == ["sks dog"]
    assert trigger_words(["fox", "hat"]) == [] and trigger_words([]) == []
