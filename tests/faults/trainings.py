"""Trainings that are killed (kill -9) at one step after the other, each time by a process that goes on from the newest checkpoint; and answers that are killed at one batch after the other.

    python trainings.py KIND FOLDER KILLS   prints as JSON: kills, steps done twice, whether losses and weights equal those of an uninterrupted one
"""
import hashlib
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from llmops_nb.ground.journal import Journal
from llmops_nb.models.base import load_model
from llmops_nb.models.chat import ask_plainly
from llmops_nb.models.examples import make_examples
from llmops_nb.models.generate import answer_all
from llmops_nb.models.prefer import PreferenceSettings, prefer
from llmops_nb.models.steps import Settings, settle
from llmops_nb.models.training import train

TEXTS = [f"{opening} {topic}" for opening in ("Please help:", "Hello,", "Hi there,", "Question:") for topic in ("my card is lost", "where is my refund", "change my PIN")]
TARGETS = ["card_lost", "refund", "pin"] * 4


def weights_of(model) -> str:
    "A digest of all weights."
    return hashlib.sha256(b"".join(tensor.contiguous().numpy().tobytes() for tensor in model.state_dict().values())).hexdigest()


def learn(kind: str, folder: Path | None, tell: Callable[[int], None]) -> dict:
    "One training from its newest checkpoint to its end: losses and weights."
    loaded = load_model("builtin:tiny")
    if kind == "dpo":
        pairs = [{"prompt": text, "chosen": good, "rejected": bad} for text, good, bad in zip(TEXTS, TARGETS, TARGETS[1:] + TARGETS[:1])]
        trained, rows = prefer(loaded, pairs, PreferenceSettings(epochs=4, batch_tokens=128), lambda step, *_: tell(step), folder, rest=0.0)
        return {"losses": rows, "weights": weights_of(trained.model)}
    examples = make_examples(loaded.tokenizer, ask_plainly(TEXTS), TARGETS, loaded.context)
    trained = train(loaded, examples, examples, settle(Settings(method=kind, epochs=4, batch_tokens=64), 3, 12), folder, lambda step, *_: tell(step), rest=0.0)
    return {"losses": trained.losses, "weights": weights_of(trained.model)}


def answer(kind: str, folder: Path | None, tell: Callable[[int], None]) -> dict:
    "Answers to many messages, noted in a journal."
    loaded = load_model("builtin:tiny")
    kept = replace(loaded, journal=Journal(folder / "answers.jsonl")) if folder else loaded
    messages = [f"{text} ({number})" for number in range(16) for text in TEXTS]
    answers = answer_all(kept, ask_plainly(messages), 12, batch_tokens=100, on_batch=lambda done, total: tell(done))
    return {"losses": [], "weights": hashlib.sha256(repr([(one.text, one.logprob.hex(), one.tokens_out, one.finish) for one in answers]).encode()).hexdigest()}


def in_a_process(work: Callable, kind: str, folder: Path | None, stop: int) -> tuple[list[int], dict]:
    "Do the work in a forked process, killed when it has told `stop` steps (0: never); the steps it told, and the result if it came to one."
    here, there = os.pipe()
    if not (child := os.fork()):
        try:
            os.close(here)
            result = work(kind, folder, lambda step: os.write(there, f"{step}\n".encode()))
            os.write(there, (json.dumps(result) + "\n").encode())
        finally:
            os._exit(0)
    os.close(there)
    steps, result = [], {}
    with open(here) as lines:
        for line in lines:
            if line.startswith("{"):
                result = json.loads(line)
            else:
                steps.append(int(line))
            if stop and len(steps) == stop:
                os.kill(child, signal.SIGKILL)
                stop = 0
    os.waitpid(child, 0)
    return steps, result


def main(kind: str, folder: Path, kills: int) -> dict:
    "Kill as often as asked, one or two steps further each time, then let it end and compare."
    work = answer if kind == "answers" else learn
    _, whole = in_a_process(work, kind, None, 0)
    done, survived = [], 0
    for number in range(kills):
        steps, result = in_a_process(work, kind, folder, 1 + number % 2)
        done += steps
        survived += not result
    steps, result = in_a_process(work, kind, folder, 0)
    done += steps
    return {"kills": survived, "steps": max(done), "repeated": len(done) - len(set(done)), "same_losses": result["losses"] == whole["losses"], "same_weights": result["weights"] == whole["weights"]}


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True, warn_only=True)
    Path(sys.argv[2]).mkdir(parents=True, exist_ok=True)
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
