"""The metric distinct as an `evaluate` module; the definition is in llmops_nb.measure.metrics."""

import datasets
import evaluate

from llmops_nb.measure.metrics import distinct


class Distinct(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Different word n-grams over all word n-grams; references are not looked at.",
            citation="",
            inputs_description="predictions: texts; references: texts",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references, order=2):
        return {"distinct": distinct(predictions, order)}
