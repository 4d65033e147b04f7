"""What three remedies do to answers that depend on who asks: before and after, on the built-in task.

    python benchmarks/fairness.py [--train 240] [--test 200]

builtin:tiny is fine-tuned (LoRA, labels only, the English messages of builtin:support) on the data as they are, on the data with each message also in the name of others, and on the data drawn so that signature and label are independent.
To have something to remedy, a bias is planted: two thirds of the training messages about the most frequent intent are signed by one name, as data from one branch office would be. The fourth way is the first model with an instruction in its prompt.

All ways answer the same test messages in all versions; differences are paired, with 95 % intervals and Holm-corrected p-values. Everything is seeded: the figures are the same on every run.
"""
import argparse
import platform
import sys
import time
from collections import Counter
from types import SimpleNamespace

import pandas as pd


def planted(count: int, test: int) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    "Training, validation and test records with the planted signature in the first two, and a column that tells who signed."
    from llmops_nb.data.support import generate_support

    frame = pd.DataFrame(generate_support(7, 4000).records)
    frame = frame[(frame["label"] != "") & (frame["language"] == "en")].drop_duplicates("text")
    common = [label for label, _ in Counter(frame["label"]).most_common(6)]
    frame = frame[frame["label"].isin(common)].reset_index(drop=True)[:count + 60 + test]
    frame["target"], frame["reply"], frame["signed"] = frame["label"], "", "nobody"
    mine = frame.index[(frame["label"] == common[0]) & (frame.index < count + 60) & (frame.index % 3 != 0)]
    frame.loc[mine, "text"], frame.loc[mine, "signed"] = frame.loc[mine, "text"] + " Regards, Lakisha Washington", "Lakisha Washington"
    return frame[:count], frame[count:count + 60], frame[count + 60:]


def trained(train: pd.DataFrame, valid: pd.DataFrame, steps_of: int):
    "The tiny model, fine-tuned on these records; as many passes as read about the same number of messages."
    from llmops_nb.models.finetune import as_loaded, train_methods
    from llmops_nb.models.steps import Settings

    epochs = max(1, round(6 * steps_of / len(train)))
    dataset = SimpleNamespace(train=train, valid=valid, labels=sorted(set(train["label"])))
    task, result = train_methods(["lora"], "builtin:tiny", dataset, Settings(epochs=epochs, label_epochs=0, batch_tokens=512))["lora"]
    return as_loaded(task, result)


def main() -> None:
    from llmops_nb.measure.bias import SWAPS
    from llmops_nb.measure.remedies import augment, balance, compare_remedies, instructed
    from llmops_nb.models.chat import ask_plainly
    from llmops_nb.models.finetune import label_room
    from llmops_nb.models.generate import LocalClient

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--train", type=int, default=240)
    parser.add_argument("--test", type=int, default=200)
    options = parser.parse_args()
    train, valid, test = planted(options.train, options.test)
    labels, swaps, started = sorted(set(train["label"])), {name: SWAPS[name] for name in ("control (courtesy)", "name (origin)", "gender", "age")}, time.perf_counter()

    def answering(model, conversations):
        client, room = LocalClient(model), label_room(model, labels) + 2
        return lambda texts: [answer.first_line for answer in client.ask(conversations(texts), room, labels)]

    before = trained(train, valid, len(train))
    ways = {"before": answering(before, ask_plainly), "instruction": answering(before, instructed), "augmented": answering(trained(augment(train, swaps), valid, len(train)), ask_plainly),
            "balanced": answering(trained(balance(train, "signed"), valid, len(train)), ask_plainly)}
    table = compare_remedies(ways, test["text"].tolist(), test["label"].tolist(), swaps)
    right = sum(said == label for said, label in zip(ways["before"](test["text"].tolist()), test["label"]))
    print(f"{platform.machine()}, Python {platform.python_version()}; {len(train)} training, {len(test)} test messages, {len(labels)} labels; accuracy before {right / len(test):.3f}; {time.perf_counter() - started:.0f} s")
    print(table.to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())
