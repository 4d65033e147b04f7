"""The metric macro_f1 as an `evaluate` module; the definition is in llmops_nb.measure.metrics."""

import datasets
import evaluate

from llmops_nb.measure.metrics import macro_f1


class MacroF1(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Mean F1 over the labels of the references, with a bootstrap interval.",
            citation="",
            inputs_description="predictions: texts; references: texts",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references):
        estimate = macro_f1(predictions, references)
        return {"macro_f1": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
