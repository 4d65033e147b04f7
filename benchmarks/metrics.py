"""How long ROUGE, exact match and word F1 of 10,000 pairs take, here and as `evaluate` computes them with rouge-score; equal numbers first.

    python benchmarks/metrics.py [--pairs 10000] [--repeats 5] [--data FOLDER_OF_PUBLIC_DATA]

The peer is what evaluate's own metric scripts do (they are fetched from a hub, so their loops are written down here): rouge_score's RougeScorer on each pair with the mean (and with its bootstrap
aggregator, the script's default, against our intervals), and SQuAD's evaluate-v1.1 for exact match and F1. Both sides go through `evaluate.Metric.compute`. Ours is `rouge` with ascii_only, rouge-score's tokenizer.
Text: the outputs and references of mt_deen, each output with several references, so that no pair occurs twice; without the data, replies of the built-in support data.
"""
import argparse
import os
import platform
import re
import statistics
import string
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

import datasets
import evaluate
import numpy as np

from llmops_nb.measure.extraction import score_span
from llmops_nb.measure.metrics import load_metric, rouge_scores

TYPES = ["rouge1", "rouge2", "rougeL"]


def pairs_of(folder: Path, count: int) -> tuple[list[str], list[str], str]:
    "Predictions, references and where they are from."
    if (folder / "mt_deen").exists():
        lines = lambda name: [line.replace("@@ ", "") for line in (folder / "mt_deen" / name).read_text(encoding="utf-8").split("\n")[:3000]]
        output, wanted = lines("deen_output"), lines("deen_ref_bpe")
        places = [(i % 3000, (i % 3000 + i // 3000) % 3000) for i in range(count)]
        return [output[i] for i, _ in places], [wanted[j] for _, j in places], "mt_deen"
    from llmops_nb.data.support import generate_support
    replies = [record["reply"] for record in generate_support(rows=3000).records]
    return [replies[i % 3000] for i in range(count)], [replies[(i * 7 + i // 3000) % 3000] for i in range(count)], "builtin:support"


class TheirRouge(evaluate.Metric):
    "The computation of evaluate's metric script `rouge`."

    def _info(self):
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}))

    def _compute(self, predictions, references, use_aggregator=True):
        from rouge_score import rouge_scorer, scoring
        scorer = rouge_scorer.RougeScorer(rouge_types=TYPES, use_stemmer=False)
        if use_aggregator:
            aggregator = scoring.BootstrapAggregator()
            for ref, pred in zip(references, predictions):
                aggregator.add_scores(scorer.score(ref, pred))
            return {key: value.mid.fmeasure for key, value in aggregator.aggregate().items()}
        scores = [scorer.score(ref, pred) for ref, pred in zip(references, predictions)]
        return {key: [score[key].fmeasure for score in scores] for key in TYPES}


class TheirSpans(evaluate.Metric):
    "The computation of evaluate's metric script `squad` (evaluate-v1.1.py) over plain texts."

    def _info(self):
        return evaluate.MetricInfo(description="", citation="", features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}))

    @staticmethod
    def normalize_answer(s):
        def remove_articles(text):
            return re.sub(r"\b(a|an|the)\b", " ", text)
        def white_space_fix(text):
            return " ".join(text.split())
        def remove_punc(text):
            exclude = set(string.punctuation)
            return "".join(ch for ch in text if ch not in exclude)
        return white_space_fix(remove_articles(remove_punc(s.lower())))

    def f1_score(self, prediction, ground_truth):
        prediction_tokens, ground_truth_tokens = self.normalize_answer(prediction).split(), self.normalize_answer(ground_truth).split()
        num_same = sum((Counter(prediction_tokens) & Counter(ground_truth_tokens)).values())
        if num_same == 0:
            return 0
        precision, recall = 1.0 * num_same / len(prediction_tokens), 1.0 * num_same / len(ground_truth_tokens)
        return (2 * precision * recall) / (precision + recall)

    def _compute(self, predictions, references):
        return {"f1": [self.f1_score(p, r) for p, r in zip(predictions, references)], "exact": [self.normalize_answer(p) == self.normalize_answer(r) for p, r in zip(predictions, references)]}


class OurRouge(TheirRouge):
    "Our ROUGE of each pair, without intervals, through the same door."

    def _compute(self, predictions, references):
        rows = [rouge_scores(p, r, ascii_only=True) for p, r in zip(predictions, references)]
        return {key: [row[key] for row in rows] for key in TYPES}


class OurSpans(TheirSpans):
    "Our exact match and F1 of each pair."

    def _compute(self, predictions, references):
        rows = [score_span(p, [r]) for p, r in zip(predictions, references)]
        return {"f1": [row["f1"] for row in rows], "exact": [row["exact_match"] for row in rows]}


def timed(call) -> tuple[float, dict]:
    "Seconds and the result."
    start = time.perf_counter()
    result = call()
    return time.perf_counter() - start, result


def main() -> None:
    "Check equality, then alternate."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--data", default=os.environ.get("LLMOPS_DATA", str(Path(__file__).resolve().parents[1] / "../shared/data")))
    given = parser.parse_args()
    predictions, references, name = pairs_of(Path(given.data), given.pairs)
    texts = {"predictions": predictions, "references": references}
    make = lambda kind: kind(keep_in_memory=True)
    calls = {
        "ROUGE-1/2/L of each pair": (lambda: make(OurRouge).compute(**texts), lambda: make(TheirRouge).compute(**texts, use_aggregator=False)),
        "ROUGE-1/2/L with intervals": (lambda: load_metric("rouge").compute(**texts, ascii_only=True), lambda: make(TheirRouge).compute(**texts)),
        "exact match and F1 (SQuAD)": (lambda: make(OurSpans).compute(**texts), lambda: make(TheirSpans).compute(**texts)),
    }
    ours, theirs = (call() for call in calls["ROUGE-1/2/L of each pair"])
    assert all(abs(a - b) <= 1e-12 for key in TYPES for a, b in zip(ours[key], theirs[key])), "ROUGE differs"
    mean = load_metric("rouge").compute(**texts, ascii_only=True)
    assert all(abs(mean[key] - float(np.mean(theirs[key]))) <= 1e-12 for key in TYPES), "mean ROUGE differs"
    ours, theirs = (call() for call in calls["exact match and F1 (SQuAD)"])
    assert ours["f1"] == theirs["f1"] and ours["exact"] == theirs["exact"], "F1 differs"
    print(f"{given.pairs:,} pairs of {name}: equal numbers (to 1e-12)")
    for title, sides in calls.items():
        seconds = [[timed(call)[0] for call in (sides if i % 2 else sides[::-1])][:: 1 if i % 2 else -1] for i in range(given.repeats)]
        own, peer = ([row[k] for row in seconds] for k in (0, 1))
        ratios = sorted(b / a for a, b in seconds)
        print(f"{title:28} ours {statistics.median(own):.2f} s ({min(own):.2f}–{max(own):.2f}) · peer {statistics.median(peer):.2f} s ({min(peer):.2f}–{max(peer):.2f}) · "
              f"ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}), {given.repeats} alternations")
    print(f"evaluate {version('evaluate')}, rouge-score {version('rouge-score')}, Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
