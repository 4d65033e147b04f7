"""The metric bits_per_byte as an `evaluate` module; the definition is in llmops_nb.measure.likelihood."""

import datasets
import evaluate

from llmops_nb.measure.likelihood import Likelihood
from llmops_nb.measure.likelihood import bits_per_byte


class BitsPerByte(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Mean negative base-2 log-probability of a byte.",
            citation="",
            inputs_description="predictions: natural log-probabilities of texts; references: their numbers of bytes",
            features=datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references):
        estimate = bits_per_byte([Likelihood(logprob, 0, size) for logprob, size in zip(predictions, references)])
        return {"bits_per_byte": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
