"""The metric latency as an `evaluate` module; the definition is in llmops_nb.measure.usage."""

import datasets
import evaluate

from llmops_nb.measure.usage import quantile


class Latency(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="A quantile of the seconds that answers took, the 95 % one unless another is asked for.",
            citation="",
            inputs_description="predictions: seconds; share: which quantile",
            features=datasets.Features({"predictions": datasets.Value("float64")}),
        )

    def _compute(self, predictions, share=0.95):
        estimate = quantile(predictions, share)
        return {"latency": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
