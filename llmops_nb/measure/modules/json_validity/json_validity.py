"""The metric json_validity as an `evaluate` module; the definition is in llmops_nb.measure.metrics."""

import datasets
import evaluate

from llmops_nb.measure.metrics import json_validity


class JsonValidity(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Share of predictions that are a JSON object with the required keys; references are not looked at.",
            citation="",
            inputs_description="predictions: texts; references: texts",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references, required=()):
        estimate = json_validity(predictions, required)
        return {"json_validity": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
