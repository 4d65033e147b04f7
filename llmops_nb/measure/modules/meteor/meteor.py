"""The metric meteor as an `evaluate` module; the definition is in llmops_nb.measure.closeness."""

import datasets
import evaluate

from llmops_nb.measure.closeness import meteor


class Meteor(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Mean METEOR from exact word matches, without stems and synonyms.",
            citation="",
            inputs_description="predictions: texts; references: texts",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references):
        estimate = meteor(predictions, references)
        return {"meteor": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
