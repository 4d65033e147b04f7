"""The metric embedding_similarity as an `evaluate` module; the definition is in llmops_nb.measure.closeness."""

import datasets
import evaluate

from llmops_nb.measure.closeness import embedding_similarity
from llmops_nb.models.base import load_model


class EmbeddingSimilarity(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description="Mean similarity by the word vectors of a model (BERTScore's F1, without rescaling).",
            citation="",
            inputs_description="predictions: texts; references: texts; model: a builtin, a folder or a hub name",
            features=datasets.Features({"predictions": datasets.Value("string"), "references": datasets.Value("string")}),
        )

    def _compute(self, predictions, references, model="builtin:tiny", layer=-2):
        estimate = embedding_similarity(predictions, references, load_model(model), layer)
        return {"embedding_similarity": estimate.value, "low": estimate.low, "high": estimate.high, "n": estimate.n}
