"""The metric tokens as an `evaluate` module; the definition is in llmops_nb.measure.compare."""

import datasets
import evaluate

from llmops_nb.measure.compare import bootstrap


class Tokens(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Mean number of tokens of an answer.",
            citation="",
            inputs_description="predictions: numbers of tokens",
            features=datasets.Features({"predictions": datasets.Value("int64")}),
        )

    def _compute(self, predictions):
        estimate = bootstrap(predictions)
        return {"tokens": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
