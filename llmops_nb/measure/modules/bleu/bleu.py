"""The metric bleu as an `evaluate` module; the definition is in llmops_nb.measure.metrics."""

import datasets
import evaluate

from llmops_nb.measure.metrics import bleu


class Bleu(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Corpus BLEU in percent as sacrebleu computes it, with its signature.",
            citation="",
            inputs_description="predictions: texts; references: texts",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references, tokenize="13a"):
        estimate, signature = bleu(predictions, references, tokenize)
        return {"bleu": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n, "signature": signature}
