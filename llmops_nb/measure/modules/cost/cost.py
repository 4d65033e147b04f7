"""The metric cost as an `evaluate` module; the definition is in llmops_nb.measure.compare."""

import datasets
import evaluate

from llmops_nb.measure.compare import bootstrap


class Cost(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Cost of a thousand answers at prices for a million tokens.",
            citation="",
            inputs_description="predictions: tokens generated; references: tokens read; price_in and price_out: for a million tokens",
            features=datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references, price_in, price_out):
        estimate = bootstrap([(read * price_in + made * price_out) / 1000 for made, read in zip(predictions, references)])
        return {"cost": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
