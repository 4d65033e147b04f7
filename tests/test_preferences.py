"Preferences: what people said becomes clean pairs, on real data too; the losses are TRL's; learning stops before it has learnt its raters too well."
import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest

from llmops_nb.models.pairs import Feedback, anonymise, make_pairs, read_feedback, set_aside
from llmops_nb.operate.triggers import Facts, judge_triggers, read_triggers

TEXTS = ["My card is lost", "Where is my refund?", "Change my PIN", "I lost my wallet", "No refund yet", "New PIN please"]
PAIRS = [{"prompt": text, "chosen": good, "rejected": bad} for text, good, bad in zip(TEXTS, ["blue sky", "red", "green"] * 2, ["red", "green", "blue sky"] * 2)]


def test_dialogues_of_hh_rlhf_become_pairs(data_folder: Path, tmp_path: Path):
    rows = [json.loads(line) for line in gzip.open(data_folder / "hh_rlhf" / "harmless_base_part1.jsonl.gz", "rt").readlines()[:200]]
    file = tmp_path / "hh.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    opinions, rejected = read_feedback(file, {})
    assert len(opinions) + len(rejected) == 200 and len(opinions) > 180
    pairs, dropped = make_pairs(anonymise(opinions))
    assert len(pairs) + sum(dropped.values()) >= len(opinions) and all(pair["chosen"] != pair["rejected"] and pair["source"] == "hh.jsonl" for pair in pairs)
    whole = {row["chosen"].replace("\n\n", " ") for row in rows}
    assert any("Human:" in pair["prompt"] and pair["prompt"].split("Human:", 1)[1].strip()[:20] in text for pair in pairs for text in whole)


def test_instruction_demo_becomes_pairs(data_folder: Path):
    opinions, rejected = read_feedback(data_folder / "instruction_demo" / "preference_train.json", {})
    assert len(opinions) + len(rejected) == 935
    pairs, dropped = make_pairs(opinions)
    learn, aside = set_aside(pairs, 0.3, seed=1)
    assert len(pairs) > 800 and not {pair["prompt"] for pair in learn} & {pair["prompt"] for pair in aside}
    assert len({(pair["prompt"], pair["chosen"], pair["rejected"]) for pair in pairs}) == len(pairs), "repeated items are one pair"


def test_a_pair_says_where_it_comes_from():
    said = [Feedback("q", "a", "down", "b", "feedback.jsonl", f"r{i}", f"chatcmpl-{i}") for i in range(3)] + [Feedback("q", "a", "up", "", "feedback.jsonl", "r9", "chatcmpl-9")]
    pairs, _ = make_pairs(said)
    assert pairs == [{"prompt": "q", "chosen": "b", "rejected": "a", "source": "feedback.jsonl", "agreement": 0.75, "opinions": 4, "requests": ["chatcmpl-0", "chatcmpl-1", "chatcmpl-2", "chatcmpl-9"]}]


@pytest.fixture(scope="module")
def learnt():
    "A model after a few steps of preference learning, the model before, and both sides of the pairs under both."
    from llmops_nb.models.base import load_model
    from llmops_nb.models.prefer import PreferenceSettings, Sides, all_logprobs, lay_pairs, prefer

    policy, frozen = prefer(load_model(), PAIRS, PreferenceSettings(epochs=2, learning_rate=1e-3, batch_tokens=128))[0], load_model()
    laid = lay_pairs(frozen, PAIRS)
    sides = Sides(*(all_logprobs(one.model, side) for one in (policy, frozen) for side in (laid.chosen, laid.rejected)), *(side.length - side.prompt for side in (laid.chosen, laid.rejected)))
    return policy, frozen, sides


@pytest.mark.slow
@pytest.mark.parametrize("ours, theirs", [("dpo", "sigmoid"), ("ipo", "ipo"), ("hinge", "hinge")])
def test_the_losses_are_those_of_trl(learnt, tmp_path: Path, ours: str, theirs: str):
    trl = pytest.importorskip("trl")
    from datasets import Dataset

    from llmops_nb.models.chat import ask_plainly, render, special_tokens
    from llmops_nb.models.prefer import preference_loss

    policy, frozen, sides = learnt
    rendered = [render(frozen.tokenizer, asked, special_tokens(frozen.tokenizer)) for asked in ask_plainly(TEXTS)]
    rows = Dataset.from_list([{"prompt": text, "chosen": pair["chosen"], "rejected": pair["rejected"]} for text, pair in zip(rendered, PAIRS)])
    given = trl.DPOConfig(output_dir=str(tmp_path), beta=0.1, loss_type=theirs, bf16=False, report_to="none", use_cpu=True, per_device_train_batch_size=6, save_strategy="no", disable_tqdm=True)
    trainer = trl.DPOTrainer(policy.model.requires_grad_(True), frozen.model, given, train_dataset=rows, processing_class=frozen.tokenizer)
    expected = trainer.compute_loss(policy.model.eval(), next(iter(trainer.get_train_dataloader()))).item()
    assert preference_loss(sides, 0.1, ours)[0].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_the_losses_without_a_reference_are_those_of_trl(learnt):
    pytest.importorskip("trl")
    from types import SimpleNamespace

    cpo, orpo = pytest.importorskip("trl.experimental.cpo"), pytest.importorskip("trl.experimental.orpo")
    from llmops_nb.models.prefer import LEAD, preference_loss

    _, _, sides = learnt
    chosen, rejected = sides.mean(reference=False)
    settings = SimpleNamespace(accelerator=SimpleNamespace(device="cpu"), beta=0.1, simpo_gamma=LEAD, loss_type="simpo", label_smoothing=0.0, alpha=0.0)
    assert preference_loss(sides, 0.1, "simpo")[0].item() == pytest.approx(cpo.CPOTrainer.cpo_loss(settings, chosen, rejected)[0].mean().item(), rel=1e-5)
    assert preference_loss(sides, 0.1, "orpo")[0].item() == pytest.approx(-orpo.ORPOTrainer.odds_ratio_loss(settings, chosen, rejected)[0].mean().item(), rel=1e-5)


@pytest.mark.slow
def test_the_loss_of_thumbs_is_that_of_trl(learnt, tmp_path: Path):
    trl = pytest.importorskip("trl")
    import torch
    from datasets import Dataset

    from llmops_nb.models.chat import ask_plainly, render, special_tokens
    from llmops_nb.models.prefer import Sides, all_logprobs, lay_pairs, preference_loss

    policy, frozen, _ = learnt
    judged = [pair | {"rejected": PAIRS[i - 1]["chosen"], "up": i % 3 > 0} for i, pair in enumerate(PAIRS)]  # TRL, too, takes the answer of the row before
    laid = lay_pairs(frozen, judged)
    sides = Sides(*(all_logprobs(one.model, side) for one in (policy, frozen) for side in (laid.chosen, laid.rejected)), *(side.length - side.prompt for side in (laid.chosen, laid.rejected)), laid.up, torch.ones(6))
    rendered = [render(frozen.tokenizer, asked, special_tokens(frozen.tokenizer)) for asked in ask_plainly(TEXTS)]
    rows = Dataset.from_list([{"prompt": text, "completion": row["chosen"], "label": row["up"]} for text, row in zip(rendered, judged)])
    given = trl.KTOConfig(output_dir=str(tmp_path), beta=0.1, bf16=False, report_to="none", use_cpu=True, per_device_train_batch_size=6, save_strategy="no", disable_tqdm=True, train_sampling_strategy="sequential")
    trainer = trl.KTOTrainer(policy.model.requires_grad_(True), frozen.model, given, train_dataset=rows, processing_class=frozen.tokenizer)
    expected = trainer.compute_loss(policy.model.eval(), next(iter(trainer.get_train_dataloader()))).item()
    assert preference_loss(sides, 0.1, "kto")[0].item() == pytest.approx(expected, rel=1e-5)


def test_learning_stops_when_the_watched_pairs_lose():
    from llmops_nb.models.base import load_model
    from llmops_nb.models.prefer import PreferenceSettings, kept_step, prefer

    contrary, looks = [pair | {"chosen": pair["rejected"], "rejected": pair["chosen"]} for pair in PAIRS], []
    settings = PreferenceSettings(epochs=12, learning_rate=1e-3, batch_tokens=128, looks=12)
    _, rows = prefer(load_model(), PAIRS, settings, watch=contrary, on_look=looks.append)
    assert looks[-1]["loss"] > looks[0]["loss"]
    assert kept_step(rows, looks) < rows[-1]["step"] and len(looks) == settings.patience + looks.index(min(looks, key=lambda look: look["loss"])) + 1


def test_interrupted_with_watched_pairs_it_ends_the_same(tmp_path: Path):
    import torch

    from llmops_nb.models.base import load_model
    from llmops_nb.models.prefer import PreferenceSettings, prefer

    settings = PreferenceSettings(epochs=4, learning_rate=1e-3, batch_tokens=128)
    whole, rows = prefer(load_model(), PAIRS[:4], settings, watch=PAIRS[4:])
    assert prefer(load_model(), PAIRS[:4], settings, folder=tmp_path, stop_after=3, rest=0, watch=PAIRS[4:]) is None
    again, rows_again = prefer(load_model(), PAIRS[:4], settings, folder=tmp_path, rest=0, watch=PAIRS[4:])
    assert rows == rows_again and all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), again.model.state_dict().values()))


def test_a_rule_without_data_is_not_quiet():
    states = judge_triggers(read_triggers(), Facts({}, 1000, None, None))["state"]
    assert set(states) == {"no data"}
    assert replace(Facts({}, 0, 1.0, 0)).opinions == 0
