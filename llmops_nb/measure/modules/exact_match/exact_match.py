"""The metric exact_match as an `evaluate` module; the definition is in llmops_nb.measure.metrics."""

import datasets
import evaluate

from llmops_nb.measure.metrics import exact_match


class ExactMatch(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Share equal after folding case, punctuation, articles and blanks.",
            citation="",
            inputs_description="predictions: texts; references: texts",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references):
        estimate = exact_match(predictions, references)
        return {"exact_match": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
