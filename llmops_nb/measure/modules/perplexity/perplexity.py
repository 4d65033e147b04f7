"""The metric perplexity as an `evaluate` module; the definition is in llmops_nb.measure.likelihood."""

import datasets
import evaluate

from llmops_nb.measure.likelihood import Likelihood
from llmops_nb.measure.likelihood import perplexity


class Perplexity(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="exp of the mean negative log-probability of a token.",
            citation="",
            inputs_description="predictions: natural log-probabilities of texts; references: their numbers of tokens",
            features=datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references):
        estimate = perplexity([Likelihood(logprob, tokens, 0) for logprob, tokens in zip(predictions, references)])
        return {"perplexity": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
