"Benchmarks: published figures from recorded answers, official scoring rules, the same scores as lm-evaluation-harness, and resumption after a kill."
import json
import math
import os
import signal
import string
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from llmops_nb.ground.core import BadInput
from llmops_nb.measure.benchmark import read_recording, run_task, score_recording
from llmops_nb.measure.extraction import squad_f1, squad_text
from llmops_nb.measure.tasks import list_tasks, load_task
from llmops_nb.prompts.clients import FunctionClient


@pytest.mark.parametrize(("family", "way"), [("bbh", "direct"), ("bbh_cot", "cot")])
def test_recorded_answers_give_the_published_accuracies(data_folder: Path, family: str, way: str):
    published = json.loads((data_folder / "bbh" / "published_accuracy.json").read_text())
    assert len(published) == 12
    for part, figures in published.items():
        result, same = score_recording(load_task(f"{family}/{part}", data_folder), read_recording(data_folder / "bbh" / f"outputs_{way}" / f"{part}.json.gz"))
        accuracy = result.metrics["accuracy"]
        print(f"{family}/{part}: published {figures[way]['accuracy']}, obtained {100 * accuracy.value} [{100 * accuracy.low:.1f}, {100 * accuracy.high:.1f}], n={accuracy.n}, {same} prompts equal")
        assert 100 * accuracy.value == figures[way]["accuracy"], part
        assert accuracy.low < accuracy.value < accuracy.high and result.failed == 0
        assert same == accuracy.n - (part == "snarks"), "one sarcasm item was cut off upstream after it was recorded"


def official_f1(prediction: str, truth: str) -> float:
    "f1_score of SQuAD's evaluate-v1.1.py, written down again from its text."
    import re
    def normalize(text):
        text = "".join(ch for ch in text.lower() if ch not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())
    said, wanted = normalize(prediction).split(), normalize(truth).split()
    shared = sum((Counter(said) & Counter(wanted)).values())
    return 0 if shared == 0 else 2 * (shared / len(said)) * (shared / len(wanted)) / (shared / len(said) + shared / len(wanted))


def test_reading_comprehension_is_scored_as_the_official_script_does(data_folder: Path):
    task = load_task("xquad", data_folder)
    answers = [sample.context.split(".")[0][:60] if i % 3 else f"The {sample.targets[0]}!" for i, sample in enumerate(task.samples)]
    replies = iter(answers)
    result = run_task(task, FunctionClient("given", lambda _: next(replies)))
    wanted = [max(official_f1(answer.strip(), target) for target in sample.targets) for sample, answer in zip(task.samples, answers)]
    assert [row["scores"]["f1"] for row in result.rows] == wanted
    assert math.isclose(result.metrics["f1"].value, sum(wanted) / len(wanted), rel_tol=1e-12) and result.metrics["exact_match"].n == 826
    assert squad_text("An A-team\u2014the b_.") == "ateam\u2014 b" and squad_f1("a", "the") == 0.0


def test_every_task_in_the_data_folder_can_be_asked(data_folder: Path):
    names = list_tasks(data_folder)
    assert {name.partition("/")[0] for name in names} == set(list_tasks()) and len(names) == 6 + 24
    for name in names:
        task = load_task(name, data_folder)
        if task.recipe["score"]["scorer"] != "likelihood":
            perfect = {task.prompt(sample): sample.targets[0] for sample in task.samples}
            result = run_task(task, FunctionClient("knows", lambda talk, known=perfect: known[talk[-1]["content"]]), limit=40)
            unsure = 1 - len(perfect) / len(task.samples)  # causal_judgement asks two questions twice, with different answers
            assert all(one.value == 1.0 or unsure and one.value > 0.95 for one in result.metrics.values()), (name, result.metrics)
            assert run_task(task, FunctionClient("silent", lambda _: ""), limit=40).metrics[next(iter(result.metrics))].value == 0.0


def test_likelihood_of_truthful_answers_does_not_depend_on_batches(data_folder: Path):
    from llmops_nb.measure.benchmark import score_choices
    from llmops_nb.models.base import load_model
    from llmops_nb.models.generate import LocalClient

    task, loaded = load_task("truthfulqa", data_folder), load_model("builtin:tiny")
    together = run_task(task, LocalClient(loaded), limit=8)
    chosen = {row["id"]: row for row in together.rows}
    for sample in [sample for sample in task.samples if sample.id in chosen][:4]:
        alone = score_choices(task, [sample], loaded)[0]
        assert alone["answer"] == chosen[sample.id]["answer"] and alone["scores"]["mc1"] == chosen[sample.id]["scores"]["mc1"]
        assert math.isclose(alone["scores"]["mc2"], chosen[sample.id]["scores"]["mc2"], abs_tol=1e-4)
    with pytest.raises(BadInput, match="LocalClient"):
        run_task(task, FunctionClient("no model", lambda _: ""))


ASK = """
import sys, time
from pathlib import Path
from llmops_nb.measure.benchmark import run_task
from llmops_nb.measure.tasks import load_task
from llmops_nb.prompts.clients import FunctionClient

def answer(talk):
    time.sleep(float(sys.argv[3]))
    return str(len(talk[-1]["content"]) % 10)

result = run_task(load_task("object.toml", "."), FunctionClient("slow", answer), journal="answers.jsonl", block=5)
print(result.metrics["accuracy"].value, len(result.rows))
"""


def test_a_killed_run_goes_on_and_ends_the_same(tmp_path: Path):
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"q": "x" * i, "a": str(i % 7)}) + "\n" for i in range(1, 81)))
    (tmp_path / "object.toml").write_text('[data]\nfiles = ["rows.jsonl"]\ntext = "q"\ntarget = "a"\n[prompt]\ntemplate = "{{ text }}"\n[score]\nscorer = "exact"\n')
    (tmp_path / "ask.py").write_text(ASK)
    command = lambda pause: [sys.executable, "ask.py", "x", "y", str(pause)]
    slow = subprocess.Popen(command(0.05), cwd=tmp_path, stdout=subprocess.PIPE)
    journal, deadline = tmp_path / "answers.jsonl", time.monotonic() + 40
    while not (journal.exists() and len(journal.read_text().splitlines()) >= 10) and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(slow.pid, signal.SIGKILL)
    slow.wait()
    kept = len(journal.read_text().splitlines())
    assert 10 <= kept < 80, "it was killed in the middle, and what was answered is on disk"
    ends = subprocess.run(command(0), cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    journal.unlink()
    assert ends == subprocess.run(command(0), cwd=tmp_path, capture_output=True, text=True, check=True).stdout


CHOICE = """
task: our_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "Message: {{{{text}}}}\\nIntent:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: "{{{{gold}}}}"
target_delimiter: " "
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
WRITE = """
task: our_write
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{text}}}}"
doc_to_target: "{{{{choices[gold]}}}}"
generation_kwargs: {{until: ["\\n", "."], max_gen_toks: 24, do_sample: false}}
metric_list: [{{metric: exact_match}}]
"""
ROLL = """
task: our_roll
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{{{long}}}}"
metric_list: [{{metric: word_perplexity}}, {{metric: bits_per_byte}}]
"""


def test_the_harness_gives_the_same_scores_on_our_engine_as_on_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("lm_eval", reason="lm_eval is not installed (optional: pip install lm_eval, in an environment of its own)")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    from llmops_nb.data.support import generate_support
    from llmops_nb.measure.harness import harness_model, run_harness
    from llmops_nb.models.base import load_model, model_folder

    records = [record for record in generate_support(rows=400).records if record["label"] and record["text"].strip()]
    labels = sorted({record["label"] for record in records})
    rows = []
    for i, record in enumerate(records[:60]):
        wrong = [label for label in labels if label != record["label"]]
        choices = sorted({record["label"], *(wrong[(i * 5 + k) % len(wrong)] for k in range(3))})
        rows.append({"text": record["text"], "choices": choices, "gold": choices.index(record["label"]), "long": " ".join(one["text"] for one in records[i:i + (120 if i < 3 else 4)])})
    (tmp_path / "rows.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name, text in (("choice", CHOICE), ("write", WRITE), ("roll", ROLL)):
        (tmp_path / f"{name}.yaml").write_text(text.format(file=json.dumps(str(tmp_path / "rows.json"))))
    tasks = ["our_choice", "our_write", "our_roll"]
    ours = run_harness(load_model("builtin:tiny"), tasks, str(tmp_path))
    theirs_model = HFLM(pretrained=str(model_folder("builtin:tiny")), dtype="float32", device="cpu", batch_size=4)
    theirs = lm_eval.simple_evaluate(model=theirs_model, tasks=tasks, task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False), log_samples=True, bootstrap_iters=0)
    for task in tasks:
        assert len(ours["samples"][task]) == len(theirs["samples"][task]) == 60
        for mine, other in zip(ours["samples"][task], theirs["samples"][task]):
            assert mine["doc_id"] == other["doc_id"]
            for metric in ("acc", "acc_norm", "exact_match"):
                assert mine.get(metric) == other.get(metric)
            for said, wanted in zip(mine["resps"], other["resps"]):
                if task == "our_write":
                    assert said == wanted
                else:
                    numbers = lambda value: [float(one) if not isinstance(one, str) or one not in ("True", "False") else one == "True" for one in (value[0] if isinstance(value[0], list | tuple) else value)]
                    assert all(math.isclose(a, b, rel_tol=1e-4, abs_tol=1e-3) for a, b in zip(numbers(said), numbers(wanted))), (said, wanted)
        found, wanted = ours["results"][task], theirs["results"][task]
        print(task, {name: (value, wanted[name]) for name, value in found.items() if isinstance(value, float)})
        for name, value in found.items():
            if isinstance(value, float):
                assert math.isclose(value, wanted[name], rel_tol=1e-5), (task, name)
    with pytest.raises(BadInput, match="no task"):
        run_harness(load_model("builtin:tiny"), ["nonsense"], str(tmp_path))
    assert harness_model(load_model("builtin:tiny")).rank == 0


def test_without_the_harness_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    from llmops_nb.measure.harness import harness_model

    monkeypatch.setitem(sys.modules, "lm_eval.api.model", None)
    with pytest.raises(BadInput, match="pip install"):
        harness_model(None)
