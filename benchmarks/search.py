"""How much computing a search needs to reach the same quality as random search, on real learning curves.

    python benchmarks/search.py [--repeats 50] [--record]

A grid of 48 settings (method, learning rate, batch, dropout) was trained once, each to the end, on the built-in task at reduced size: 8 intents, 240 training and 120 validation
records, labels only, builtin:tiny, 3 passes. The curves are in benchmarks/search_curves.json; --record trains them again (about five minutes of computing). Searches are then replayed on these
curves: a trial costs the tokens it would have read. Each repetition has a seed of its own and runs all ways on the same curves.

Equality first: the curve of one setting is trained again here and must be what was recorded. Then, for each seed: the tokens that random search, finishing every training, reads on average until it
has finished a training at least as good as the one the other way chose (exactly, over all orders); divided by the tokens that way read in all.
"""
import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
CURVES = Path(__file__).with_name("search_curves.json")
GRID = {"method": ("lora", "full"), "learning_rate": (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016), "batch_tokens": (256, 512), "dropout": (0.0, 0.1)}
PARTS = (1 / 9, 1 / 3, 1.0)


def small_dataset(folder: Path) -> Path:
    "The built-in task cut down to eight intents, labels only."
    from llmops_nb.data.records import save_dataset
    from llmops_nb.data.support import generate_support

    rows = [row for row in generate_support(7, 4000).records if row["label"] and row["language"] == "en"]
    labels = [label for label, _ in Counter(row["label"] for row in rows).most_common(8)]
    chosen = list({row["text"]: row for row in rows if row["label"] in labels}.values())[:400]
    split = lambda i: "train" if i < 240 else "valid" if i < 360 else "test"
    save_dataset(folder, [row | {"target": row["label"], "reply": "", "split": split(i)} for i, row in enumerate(chosen)], {"seed": 7, "knowledge": []})
    return folder


def settings_of(row: dict):
    "The whole settings of a place in the grid."
    from llmops_nb.models.training import Settings
    from llmops_nb.models.tuning import looks

    return looks(Settings(epochs=3, label_epochs=0, alpha=32, **row))


def train_one(dataset: Path, row: dict) -> dict:
    "The curve of one setting, trained to the end, with the tokens read at each part."
    from llmops_nb.models.tuning import examples_of, read_until, stop_step, train_part

    with tempfile.TemporaryDirectory() as folder:
        settings = settings_of(row)
        found = train_part(str(dataset), "builtin:tiny", "", asdict(settings), folder, 1.0, 1)
    read = read_until(examples_of(str(dataset), "builtin:tiny", "")[0], settings)
    stops = [stop_step(read, settings, part) or len(read) for part in PARTS]
    return {"settings": row, "curve": found["curve"], "stops": stops, "tokens": [read[stop - 1] for stop in stops], "seconds": round(found["seconds"], 2)}


def record() -> None:
    "Train what is not recorded yet."
    from llmops_nb.models.space import grid

    rows = json.loads(CURVES.read_text()) if CURVES.exists() else []
    known = [row["settings"] for row in rows]
    with tempfile.TemporaryDirectory() as folder:
        dataset = small_dataset(Path(folder) / "dataset")
        for place in grid(GRID):
            if place not in known:
                rows.append(train_one(dataset, place))
                CURVES.write_text("[\n" + ",\n".join(json.dumps(row) for row in rows) + "\n]\n")
                print(len(rows), place, rows[-1]["curve"][-1], rows[-1]["seconds"], file=sys.stderr, flush=True)


def main() -> None:
    "Record or replay, and print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--record", action="store_true")
    given = parser.parse_args()
    if given.record:
        record()


if __name__ == "__main__":
    main()
