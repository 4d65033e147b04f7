"Training refuses what cannot work, each time with one clear sentence, and never loses the last good checkpoint."
import shutil
from dataclasses import replace
from pathlib import Path

import pandas
import pytest
import torch

from llmops_nb.data.records import Dataset
from llmops_nb.ground.core import BadInput, IntegrityError, LlmopsError, read_json, write_json
from llmops_nb.models.adapters import add_adapter
from llmops_nb.models.base import load_candidate, load_model
from llmops_nb.models.checkpoints import checkpoints, newest_checkpoint, number
from llmops_nb.models.finetune import make_task, save_trained, train_methods
from llmops_nb.models.steps import Settings
from llmops_nb.models.training import train

SETTINGS = Settings(method="lora", rank=4, epochs=2, batch_tokens=64, evaluations=1)


def dataset_of(rows: list[tuple[str, str]], valid: list[tuple[str, str]] | None = None) -> Dataset:
    "A dataset of these texts and targets."
    frames = [pandas.DataFrame({"id": [f"{i}" for i in range(len(part))], "text": [t for t, _ in part], "label": [t for _, t in part], "target": [t for _, t in part]})
              for part in (rows, rows if valid is None else valid)]
    return Dataset(frames[0], frames[1], frames[1], sorted({target for _, target in rows}), {})


GOOD = [(f"my {thing} is {state}", state) for thing in ("card", "PIN", "app", "top-up") for state in ("lost", "blocked")]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    "A copy of the built-in model's folder, to be broken."
    return Path(shutil.copytree(Path(load_model.__code__.co_filename).parent / "tiny", tmp_path / "model"))


@pytest.mark.parametrize("rows, valid, words", [([], None, "nothing to learn"), (GOOD, [], "nothing to learn"), ([("card", "long " * 5000)], None, "fits the model's context of"),
                                                ([("long " * 5000, "card")], None, "fits the model's context of")])
def test_empty_splits_and_answers_longer_than_the_context(rows, valid, words):
    with pytest.raises(BadInput, match=words):
        make_task("builtin:tiny", dataset_of(rows, valid), SETTINGS)


def test_what_does_not_fit_is_counted():
    task = make_task("builtin:tiny", dataset_of([*GOOD, ("card", "long " * 5000)]), SETTINGS)
    assert task.left_out == 2 and len(task.examples) == len(GOOD)


def test_a_target_without_a_word_is_refused():
    with pytest.raises(BadInput, match="target"):
        make_task("builtin:tiny", dataset_of([("a card", ""), ("a PIN", "  ")]), SETTINGS)


def test_not_a_number_names_the_batch_and_keeps_the_checkpoint(tmp_path: Path):
    task = make_task("builtin:tiny", dataset_of(GOOD), SETTINGS)
    assert train(task.loaded, task.examples, task.valid, task.settings, tmp_path, stop_after=2, rest=0) is None
    kept = newest_checkpoint(tmp_path)
    task = make_task("builtin:tiny", dataset_of(GOOD), replace(SETTINGS, learning_rate=1e30, clip=1e30))
    with pytest.raises(LlmopsError, match=r"became .* at step \d+, with the examples \[.*\]: .*my .*last good checkpoint is kept.*learning_rate \(now 1e\+30\)"):
        train(task.loaded, task.examples, task.valid, task.settings, tmp_path)
    assert newest_checkpoint(tmp_path).name.startswith("checkpoint-") and kept in checkpoints(tmp_path)


def test_no_chat_template_and_no_pad_token(folder: Path):
    config = read_json(folder / "tokenizer_config.json")
    for name in ("pad_token", "chat_template"):
        config.pop(name, None)
    write_json(folder / "tokenizer_config.json", config)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    task = make_task(str(folder), dataset_of(GOOD), SETTINGS)
    assert task.loaded.tokenizer.chat_template and task.loaded.tokenizer.pad_token_id is not None
    assert train(task.loaded, task.examples, task.valid, task.settings).steps > 0, "both have a stand-in"


def test_an_adapter_of_another_base(tmp_path: Path, folder: Path):
    task, trained = train_methods(["lora"], "builtin:tiny", dataset_of(GOOD), replace(SETTINGS, epochs=1))["lora"]
    (tmp_path / "adapter").mkdir()
    save_trained(tmp_path / "adapter", task, trained)
    assert make_task("builtin:tiny", dataset_of(GOOD), SETTINGS, adapter=tmp_path / "adapter").loaded.name == "builtin:tiny"
    changed = load_model(str(folder)).model
    with torch.no_grad():
        next(changed.parameters()).add_(1.0)
    changed.save_pretrained(folder)
    for act in (lambda: load_candidate(tmp_path / "adapter", str(folder)), lambda: make_task(str(folder), dataset_of(GOOD), SETTINGS, adapter=tmp_path / "adapter")):
        with pytest.raises(IntegrityError, match="was trained on builtin:tiny with digest .* fine-tune again"):
            act()
    with pytest.raises(BadInput, match="go on from an adapter of kind Lora, but the method is loha"):
        task = make_task("builtin:tiny", dataset_of(GOOD), replace(SETTINGS, method="loha"), adapter=tmp_path / "adapter")
        train(task.loaded, task.examples, task.valid, task.settings)


def test_layers_that_an_adapter_cannot_take():
    class Quantised(torch.nn.Module):
        "A layer with whole numbers for weights, of no kind that PEFT knows."
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(4, 4, dtype=torch.int8), requires_grad=False)

    loaded = load_model("builtin:tiny")
    for block in loaded.model.model.layers:
        for part in (block.self_attn, block.mlp):
            for name, child in list(part.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(part, name, Quantised())
    with pytest.raises(BadInput, match="cannot put lora on builtin:tiny: .* Use another method"):
        add_adapter(loaded, "lora", 4, 4, 0.0)


def test_weights_in_few_bits_learn_through_an_adapter_or_not_at_all(tmp_path: Path):
    from llmops_nb.models.compress import save_smaller, shrink
    from llmops_nb.models.prefer import PreferenceSettings, prefer

    base = load_model()
    save_smaller(tmp_path / "int8", shrink(base, "int8"), "int8", {"method": "full", "base_model": "builtin:tiny", "base_digest": base.digest})
    task = make_task(str(tmp_path / "int8"), dataset_of(GOOD), replace(SETTINGS, method="full"))
    with pytest.raises(BadInput, match="few bits and cannot all learn. Train the model that it was made from"):
        train(task.loaded, task.examples, task.valid, task.settings)
    with pytest.raises(BadInput, match="few bits and cannot learn"):
        prefer(load_candidate(tmp_path / "int8"), [{"prompt": "a card", "chosen": "lost", "rejected": "blocked"}] * 4, PreferenceSettings())
    task = make_task(str(tmp_path / "int8"), dataset_of(GOOD), replace(SETTINGS, embeddings=False))
    trained = train(task.loaded, task.examples, task.valid, task.settings)
    assert trained.losses[-1] < trained.losses[0], "an adapter beside them learns"


def test_words_the_tokenizer_has_never_seen():
    task = make_task("builtin:tiny", dataset_of([("\u2603 \U0001f9ca \u6f22\u5b57", "\u0636\u0627\u0626\u0639"), ("\x00\u200b", "\u0e2b\u0e32\u0e22")]), SETTINGS)
    assert all(torch.isfinite(torch.tensor(train(task.loaded, task.examples, task.valid, task.settings).losses)))


def test_targets_that_are_all_cut_off():
    with pytest.raises(BadInput, match="none of the 2 examples fits the model's context of"):
        make_task("builtin:tiny", dataset_of([("a card", "word " * 5000), ("a PIN", "long " * 5000)]), SETTINGS)


@pytest.mark.parametrize("broken", ["weights.safetensors", "optimizer.safetensors", "random.safetensors", "state.json", "MANIFEST.json"])
@pytest.mark.parametrize("how", ["missing", "changed"])
def test_a_damaged_checkpoint_is_as_if_it_were_not_there(tmp_path: Path, broken: str, how: str):
    task = make_task("builtin:tiny", dataset_of(GOOD), SETTINGS)
    assert train(task.loaded, task.examples, task.valid, task.settings, tmp_path, stop_after=3, rest=0) is None
    newest, before = sorted(checkpoints(tmp_path), key=number)[::-1]
    if how == "missing":
        (newest / broken).unlink()
    else:
        content = bytearray((newest / broken).read_bytes())
        content[len(content) // 2] ^= 1
        (newest / broken).write_bytes(content)
    assert newest_checkpoint(tmp_path) == before


@pytest.mark.parametrize("given, words", [({"method": "lorra"}, "unknown; use lora, dora"), ({"method": "qlora"}, "needs a CUDA GPU|needs bitsandbytes"), ({"precision": "fp8"}, "precision is auto, fp32 or bf16"),
                                          ({"rank": 0}, "rank is at least 1"), ({"dropout": 1.0}, "below 1")])
def test_settings_that_make_no_sense(given: dict, words: str):
    with pytest.raises(BadInput, match=words):
        task = make_task("builtin:tiny", dataset_of(GOOD), replace(SETTINGS, **given))
        train(task.loaded, task.examples, task.valid, task.settings)
