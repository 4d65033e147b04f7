"""How long the tasks of lm-evaluation-harness take on our engine and on its own Hugging Face model; equal answers first.

    python benchmarks/harness.py [--samples 64] [--repeats 5] [--model builtin:tiny]

Needs lm_eval (optional, best in an environment of its own that also sees this package). Both sides get the same request objects, once multiple choice (four choices a question) and once generation (24 tokens, until a line break),
float32 on the CPU. The peer is lm_eval's HFLM with batch sizes 1 (its default), 8 and 32; the best of these counts. Processor seconds, all threads together. Texts are messages of the built-in support data.
"""
import argparse
import math
import os
import platform
import statistics
import time
from importlib.metadata import version

import torch
import transformers

from llmops_nb.data.support import generate_support
from llmops_nb.ground.core import BadInput
from llmops_nb.measure.harness import harness_model
from llmops_nb.models.base import load_model, model_folder


def requests_of(samples: int) -> tuple[list, list]:
    "Requests for the probability of choices, and for a continuation."
    from lm_eval.api.instance import Instance
    records = [record for record in generate_support(rows=6 * samples).records if record["label"] and record["text"].strip()][:samples]
    labels = sorted({record["label"] for record in records})
    make = lambda kind, i, arguments: Instance(request_type=kind, doc={}, arguments=arguments, idx=i, metadata=("task", i, 1))
    rate = [make("loglikelihood", i, (f"Message: {record['text']}\nIntent:", f" {labels[(3 * i + k) % len(labels)]}")) for i, record in enumerate(records) for k in range(4)]
    write = [make("generate_until", i, (record["text"], {"until": ["\n"], "max_gen_toks": 24, "do_sample": False})) for i, record in enumerate(records)]
    return rate, write


def timed(call, requests: list) -> float:
    "Processor seconds of one passage, all threads together: other work on the machine hardly disturbs them."
    start = time.process_time()
    call(requests)
    return time.process_time() - start


def main() -> None:
    "Check equality, then alternate."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--model", default="builtin:tiny")
    given = parser.parse_args()
    loaded = load_model(given.model)
    try:
        ours = harness_model(loaded)
    except BadInput as error:
        raise SystemExit(str(error)) from error
    from lm_eval.models.huggingface import HFLM
    theirs = {size: HFLM(pretrained=str(model_folder(given.model)), dtype="float32", device="cpu", batch_size=size) for size in (1, 8, 32)}
    rate, write = requests_of(given.samples)
    quiet = lambda model, kind: lambda requests: getattr(model, kind)(requests, disable_tqdm=True)
    wanted = quiet(theirs[1], "loglikelihood")(rate)
    assert all(math.isclose(a[0], b[0], rel_tol=1e-4, abs_tol=1e-3) and a[1] == b[1] for a, b in zip(ours.loglikelihood(rate), wanted)), "probabilities differ"
    assert ours.generate_until(write) == quiet(theirs[1], "generate_until")(write), "generated texts differ"
    print(f"{len(rate)} choices and {len(write)} continuations of {given.model}: equal answers")
    for kind, requests in (("loglikelihood", rate), ("generate_until", write)):
        seconds: dict = {"ours": []} | {size: [] for size in theirs}
        for i in range(given.repeats):
            for name in (list(seconds) if i % 2 else list(seconds)[::-1]):
                seconds[name].append(timed(getattr(ours, kind) if name == "ours" else quiet(theirs[name], kind), requests))
        middle = {name: statistics.median(values) for name, values in seconds.items()}
        best = min(theirs, key=middle.get)
        ratios = sorted(b / a for a, b in zip(seconds["ours"], seconds[best]))
        print(f"{kind:15} ours {middle['ours']:.2f} s ({min(seconds['ours']):.2f}–{max(seconds['ours']):.2f}) · lm_eval " + " · ".join(f"batch {size}: {middle[size]:.2f} s" for size in theirs)
              + f" · against its best ratio {statistics.median(ratios):.2f} ({ratios[0]:.2f}–{ratios[-1]:.2f}), {given.repeats} alternations")
    print(f"lm_eval {version('lm_eval')}, transformers {transformers.__version__}, torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
