"""The metric text_f1 as an `evaluate` module; the definition is in llmops_nb.measure.closeness."""

import datasets
import evaluate

from llmops_nb.measure.closeness import text_f1


class TextF1(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Mean word F1 as in SQuAD's script.",
            citation="",
            inputs_description="predictions: texts; references: texts",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references):
        estimate = text_f1(predictions, references)
        return {"text_f1": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
