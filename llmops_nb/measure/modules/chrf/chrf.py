"""The metric chrf as an `evaluate` module; the definition is in llmops_nb.measure.metrics."""

import datasets
import evaluate

from llmops_nb.measure.metrics import chrf


class Chrf(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Corpus chrF in percent as sacrebleu computes it, with its signature.",
            citation="",
            inputs_description="predictions: texts; references: texts",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references, word_order=0):
        estimate, signature = chrf(predictions, references, word_order)
        return {"chrf": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n, "signature": signature}
