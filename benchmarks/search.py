"""How much computing a search needs to reach the same quality as random search, on real learning curves.

    python benchmarks/search.py [--repeats 50] [--record] [--no-check]

A grid of up to 48 settings (method, learning rate, batch, dropout) was trained once, each to the end, on the built-in task at reduced size: 6 intents, 120 training and 72 validation
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
    labels = [label for label, _ in Counter(row["label"] for row in rows).most_common(6)]
    chosen = list({row["text"]: row for row in rows if row["label"] in labels}.values())[:220]
    split = lambda i: "train" if i < 120 else "valid" if i < 192 else "test"
    save_dataset(folder, [row | {"target": row["label"], "reply": "", "split": split(i)} for i, row in enumerate(chosen)], {"seed": 7, "knowledge": []})
    return folder


def settings_of(row: dict):
    "The whole settings of a place in the grid."
    from llmops_nb.models.training import Settings
    from llmops_nb.models.tuning import looks

    return looks(Settings(epochs=3, label_epochs=0, alpha=32, **row))


def train_one(dataset: Path, row: dict) -> dict:
    "The curve of one setting, trained to the end, with the steps and tokens read at each part."
    import torch

    from llmops_nb.models.base import load_model
    from llmops_nb.models.training import train
    from llmops_nb.models.tuning import examples_of, read_until, stop_step

    torch.set_num_threads(1)
    (examples, valid), settings, started = examples_of(str(dataset), "builtin:tiny", ""), settings_of(row), time.perf_counter()
    found = train(load_model(), examples, valid, settings)
    read = read_until(examples, settings)
    stops = [stop_step(read, settings, part) or len(read) for part in PARTS]
    curve = [[look["step"], look["loss"], look["exact"]] for look in found.evaluations]
    return {"settings": row, "curve": curve, "stops": stops, "tokens": [read[stop - 1] for stop in stops], "seconds": round(time.perf_counter() - started, 2)}


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


def replayed(rows: list[dict]):
    "The recorded curves as the work of a search, and the tokens of a whole training."
    from llmops_nb.ground.core import digest_value
    from llmops_nb.models.tuning import value_of

    table = {digest_value(row["settings"]): row for row in rows}

    def work(number: int, settings: dict, part: float) -> dict:
        row, place = table[digest_value(settings)], PARTS.index(part)
        seen = [{"step": step, "loss": loss, "exact": exact, "whole": True} for step, loss, exact in row["curve"] if step <= row["stops"][place]]
        return {"value": value_of(seen), "tokens": row["tokens"][place], "seconds": 0.0, "curve": []}

    return work, lambda settings: float(table[digest_value(settings)]["tokens"][-1])


def recorded_part(rows: list[dict]) -> dict[str, tuple]:
    "The grid with those batch sizes for which every setting is recorded."
    from llmops_nb.models.space import grid

    known = [row["settings"] for row in rows]
    whole = tuple(size for size in GRID["batch_tokens"] if all(place in known for place in grid(GRID | {"batch_tokens": (size,)})))
    if not whole:
        raise SystemExit("the recording is not complete for any batch size; run with --record first")
    return GRID | {"batch_tokens": whole}


def random_tokens(values: list[tuple[float, float]], target: float) -> float:  # values: (quality, tokens) of every setting, finished
    "Tokens that finishing settings in a random order reads on average until one is at least as good as the target: exact, over all orders."
    good, bad = [t for v, t in values if v >= target], [t for v, t in values if v < target]
    return sum(good) / len(good) + sum(bad) / (len(good) + 1)


def check(rows: list[dict]) -> str:
    "Train one setting again and compare."
    row = rows[len(rows) // 2]
    with tempfile.TemporaryDirectory() as folder:
        again = train_one(small_dataset(Path(folder) / "dataset"), row["settings"])
    same = again["curve"] == row["curve"]
    near = max(abs(a - b) for one, other in zip(again["curve"], row["curve"]) for a, b in zip(one, other))
    return "to the last bit" if same else f"to within {near:.1e} (another machine or version)"


def main() -> None:
    "Record or replay, and print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--record", action="store_true")
    parser.add_argument("--no-check", action="store_true")
    given = parser.parse_args()
    if given.record:
        record()
    rows = json.loads(CURVES.read_text())
    import optuna
    import torch

    from llmops_nb.models.search import Plan, search

    space = recorded_part(rows)
    rows = [row for row in rows if row["settings"]["batch_tokens"] in space["batch_tokens"]]
    work, whole = replayed(rows)
    values = [(work(0, row["settings"], 1.0)["value"], whole(row["settings"])) for row in rows]
    training, first = statistics.mean(tokens for _, tokens in values), {"method": "lora", "learning_rate": 0.004, "batch_tokens": max(space["batch_tokens"]), "dropout": 0.1}
    print(f"Python {platform.python_version()}, torch {torch.__version__}, optuna {optuna.__version__}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {len(rows)} recorded trainings of {training:,.0f} tokens, {given.repeats} seeds")
    print(f"quality of the trainings: best {max(values)[0]:.3f}, median {statistics.median(v for v, _ in values):.3f}, worst {min(values)[0]:.3f}, automatic settings {work(0, first, 1.0)['value']:.3f}")
    if not given.no_check:
        print(f"one of them trained again: equal {check(rows)}")
    ways = {"ours: given up early, three finished": dict(), "the same, automatic settings first": dict(), "the same, Bayesian": dict(kind="bayes"), "Bayesian, all finished": dict(kind="bayes", parts=(1.0,))}
    for trials in (9, 12, 16, 24):
        for name, way in ways.items():
            ratios, found, spent = [], [], []
            for seed in range(given.repeats):
                state = search(space, Plan(trials=trials, seed=seed, **way), work, whole, first if "automatic" in name else None)
                found.append(state.best.last["value"])
                spent.append(state.used("tokens") / training)
                ratios.append(random_tokens(values, found[-1]) / state.used("tokens"))
            print(f"{trials:3d} trials, {name}: quality {statistics.median(found):.4f} [{min(found):.4f}-{max(found):.4f}], cost {statistics.median(spent):.1f} trainings, "
                  f"random search needs {statistics.median(ratios):.2f} times as much [{min(ratios):.2f}-{max(ratios):.2f}], mean {statistics.mean(ratios):.2f}")


if __name__ == "__main__":
    main()
