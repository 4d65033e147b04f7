"""The metric accuracy as an `evaluate` module; the definition is in llmops_nb.measure.metrics."""

import datasets
import evaluate

from llmops_nb.measure.metrics import accuracy


class Accuracy(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Share of predictions equal to their reference, with the Wilson interval.",
            citation="",
            inputs_description="predictions: texts; references: texts",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references):
        estimate = accuracy(predictions, references)
        return {"accuracy": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
