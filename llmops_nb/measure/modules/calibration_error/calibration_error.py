"""The metric calibration_error as an `evaluate` module; the definition is in llmops_nb.measure.metrics."""

import datasets
import evaluate

from llmops_nb.measure.metrics import calibration_error


class CalibrationError(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Expected calibration error of confidences against right (1) or wrong (0).",
            citation="",
            inputs_description="predictions: confidences from 0 to 1; references: 1 for right, 0 for wrong",
            features=datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("int64")}),
        )

    def _compute(self, predictions, references):
        estimate = calibration_error(predictions, [bool(one) for one in references])
        return {"calibration_error": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
