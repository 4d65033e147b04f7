"Bias scorers against the figures that the authors printed, and against plain recounting."
import csv
import gzip
import json
from collections import Counter
from pathlib import Path

import pytest

from llmops_nb.measure.bbq import read_bbq, score_bbq, which_answer
from llmops_nb.measure.hatecheck import hate_findings, read_hatecheck, score_hatecheck
from llmops_nb.measure.likelihood import read_pairs
from llmops_nb.measure.stereotypes import preferences

# Parrish et al. 2022, figures 5 (accuracy), 3 (bias score), 2 (accuracy cost of bias nonalignment) and 6 (question only), in percent: ambiguous, disambiguated
PRINTED = {
    ("Age", "arc"): ((33.9, 89.6), (48.9, 3.3), -5.5), ("Age", "race"): ((54.7, 93.5), (29.8, 1.2), -2.2), ("Age", "qonly"): ((30.3, None), (51.4, None), None),
    ("Disability_status", "arc"): ((36.0, 92.0), (32.6, -0.7), 2.4), ("Disability_status", "race"): ((53.3, 92.8), (21.2, -1.4), 3.4), ("Disability_status", "qonly"): ((50.1, None), (29.8, None), None),
    ("Religion", "arc"): ((43.8, 85.2), (24.5, 3.5), -4.3), ("Religion", "race"): ((65.0, 88.0), (14.3, 0.2), -0.7), ("Religion", "qonly"): ((58.0, None), (21.3, None), None)}
ROUNDING = 0.0501  # the figures have one decimal


@pytest.fixture
def data(data_folder: Path) -> Path:
    "The folder of public data, if it has the sets about bias."
    for name in ("bbq", "hatecheck", "crows_pairs"):
        if not (data_folder / name).is_dir():
            pytest.skip(f"no {name} in {data_folder}; name the folder that has it in LLMOPS_DATA")
    return data_folder


def recorded(data: Path, category: str, form: str) -> list[str]:
    "What UnifiedQA-11B answered, as the authors published it."
    with gzip.open(data / "bbq" / f"unifiedqa_preds_{category}.jsonl.gz", "rt", encoding="utf-8") as file:
        return [json.loads(line)[f"unifiedqa-t5-11b_pred_{form}"] for line in file]


@pytest.mark.parametrize("category, form", PRINTED)
def test_bbq_gives_the_printed_figures(data: Path, category: str, form: str) -> None:
    rows = read_bbq(data, category)
    score = score_bbq(rows, [which_answer(row, said) for row, said in zip(rows, recorded(data, category, form), strict=True)])
    accuracy, bias, cost = PRINTED[category, form]
    for printed, found in ((accuracy, score.accuracy), (bias, score.bias)):
        for kind, value in zip(("ambig", "disambig"), printed):
            assert value is None or abs(100 * found[kind].value - value) <= ROUNDING, (kind, value, found[kind])
            assert found[kind].low <= found[kind].value <= found[kind].high
    assert cost is None or abs(100 * score.cost.value - cost) <= ROUNDING
    assert score.left_out <= 2


def test_bbq_accuracy_by_a_plain_count(data: Path) -> None:
    "The same accuracies from a count that shares nothing with the scorer but the rule for which answer was meant."
    rows = read_bbq(data, "Religion")
    right = Counter()
    for row, said in zip(rows, recorded(data, "Religion", "race")):
        right[row["context_condition"]] += said.strip().rstrip(".").lower() == row[f"ans{row['label']}"].strip().rstrip(".").lower()
    score = score_bbq(rows, [which_answer(row, said) for row, said in zip(rows, recorded(data, "Religion", "race"))])
    assert {kind: right[kind] / 600 for kind in right} == {kind: one.value for kind, one in score.accuracy.items()}


def test_hatecheck_by_a_plain_count(data: Path) -> None:
    "Two constant classifiers and a word list: what they must get is counted from the file itself."
    path = data / "hatecheck" / "hatecheck_part1.csv"
    with open(path, encoding="utf-8", newline="") as file:
        gold = [row["label_gold"] == "hateful" for row in csv.DictReader(file)]
    cases = read_hatecheck(path)
    everything, nothing = score_hatecheck(cases, [True] * len(cases)), score_hatecheck(cases, [False] * len(cases))
    assert len(cases) == len(gold) == 2132 and everything.overall.value == sum(gold) / len(gold) == 1 - nothing.overall.value
    assert everything.hateful.value == nothing.harmless.value == 1.0 and everything.harmless.value == nothing.hateful.value == 0.0
    assert set(one.value for name, one in everything.functionalities.items()) == {0.0, 1.0}, "each functionality is of one kind"
    partial = score_hatecheck(cases, [hateful and target != "women" for hateful, target in zip(cases["hateful"], cases["target"])])
    assert partial.gaps.sort_values("gap").iloc[-1]["group"] == "women" and hate_findings(partial)[2]["evidence"].startswith("women")


def test_crows_pairs_are_read_whole_and_counted(data: Path) -> None:
    "970 pairs of four kinds; scores that always prefer one side give 1, the other 0, equal ones nothing."
    pairs = read_pairs(data / "crows_pairs" / "crows_pairs_part1.csv")
    kinds = Counter(pair["bias_type"] for pair in pairs)
    found = preferences(pairs, [(0.0, -1.0)] * len(pairs))
    assert len(pairs) == 970 and found["all"].value == 1.0 and {kind: found[kind].n for kind in kinds} == dict(kinds)
    assert preferences(pairs, [(-1.0, 0.0)] * len(pairs))["all"].value == 0.0 and preferences(pairs, [(0.0, 0.0)] * len(pairs))["all"].n == 0
    assert found["stereo"].n + found["antistereo"].n == 970
