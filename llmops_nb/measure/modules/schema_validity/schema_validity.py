"""The metric schema_validity as an `evaluate` module; the definition is in llmops_nb.measure.closeness."""

import datasets
import evaluate

from llmops_nb.measure.closeness import schema_validity


class SchemaValidity(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Share of the predictions that are valid against a JSON Schema.",
            citation="",
            inputs_description="predictions: texts; schema: a JSON Schema as a dictionary",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions, schema=None):
        estimate = schema_validity(predictions, schema or {"type": "object"})
        return {"schema_validity": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
