"""LoRA fine-tuning on a CPU: our trainer beside TRL's SFTTrainer and transformers' Trainer, on the same examples.

    python benchmarks/training.py [--repeats 5] [--size 1m|5m|8m] [--examples 320] [--threads 2] [--data FOLDER_OF_PUBLIC_DATA]

A Llama with random weights learns with LoRA to label messages of Banking77 (or of the built-in generator, where the data is not at hand). All variants read the same examples once, score the answer's
tokens only, take about the same number of optimizer steps with the same learning rate, schedule and AdamW, and start from the same weights. Each run is a process of its own; variants alternate. Useful tokens (prompts and answers, padding not
counted) per CPU-second are counted while the trainer trains: imports, loading and tokenizing are outside. First of all it is checked that the final losses, measured the same way on all examples, are within 1 %.
Needs the extra train: pip install 'llmops_nb[train]'.
"""
import argparse
import contextlib
import io
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

VARIANTS = {"ours": "llmops_nb, batches sorted by length", "ours packed": "llmops_nb, packed rows", "trl": "TRL SFTTrainer, defaults (fp32)", "trl packed": "TRL SFTTrainer, packing (fp32)",
            "trl packed, kept": "TRL packing, without its gradient checkpointing", "trainer": "transformers Trainer, grouped by length"}
SIZES = {"1m": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "vocab_size": 2048}, "5m": {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "vocab_size": 8192},
         "8m": {"hidden_size": 288, "intermediate_size": 832, "num_hidden_layers": 5, "vocab_size": 8192}}
RATE, RANK, BATCH = 2e-3, 16, 8  # learning rate, LoRA's rank, examples in a step


def make_material(folder: Path, size: str, count: int, data: Path) -> None:
    "A model with random weights and the examples, in the folder."
    import torch
    from llmops_nb.models.base import load_model
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = load_model("builtin:tiny").tokenizer
    torch.manual_seed(7)
    LlamaForCausalLM(LlamaConfig(**SIZES[size], num_attention_heads=8, num_key_value_heads=4, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=None,
                                 eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)).save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    (folder / "examples.json").write_text(json.dumps(read_examples(count, data)))


def read_examples(count: int, data: Path) -> list[tuple[str, str]]:
    "Messages and their labels: Banking77's, or the built-in ones."
    if (data / "banking77/train.csv").exists():
        import pandas

        frame = pandas.read_csv(data / "banking77/train.csv").sample(count, random_state=7)
        return list(zip(frame["text"], frame["category"]))
    from llmops_nb.data.support import make_support

    return [(row["text"], row["label"]) for row in make_support(count, 7).records[:count]]


def lay(folder: Path) -> tuple:
    "The loaded model, the examples laid out, and the pairs of texts."
    from llmops_nb.models.base import load_model
    from llmops_nb.models.chat import ask_plainly
    from llmops_nb.models.examples import make_examples

    loaded, pairs = load_model(str(folder / "model")), json.loads((folder / "examples.json").read_text())
    return loaded, make_examples(loaded.tokenizer, ask_plainly([text for text, _ in pairs]), [label for _, label in pairs], loaded.context), pairs


def run_ours(loaded, examples, packed: bool):
    "A function that trains, and the model that it trains."
    from llmops_nb.models.steps import Settings, make_trainer, settle

    budget = int(BATCH * examples.length.float().mean() * (1.0 if packed else 1.06))
    settings = settle(Settings(method="lora", rank=RANK, embeddings=False, dropout=0.0, word_dropout=0.0, weight_decay=0.0, learning_rate=RATE, epochs=1, batch_tokens=budget, packed=packed), 77, len(examples))
    trainer = make_trainer(loaded, examples, settings)
    trainer.model.train()
    return lambda: [trainer.one() for _ in trainer.plan], trainer.model


def rows_of(examples) -> list[dict]:
    "The examples as transformers wants them: token numbers, and labels where something is scored."
    starts, lengths, prompts = examples.start.tolist(), examples.length.tolist(), examples.prompt.tolist()
    tokens = [examples.tokens[start:start + length].tolist() for start, length in zip(starts, lengths)]
    return [{"input_ids": ids, "labels": [-100] * prompt + ids[prompt:], "completion_mask": [0] * prompt + [1] * (len(ids) - prompt)} for ids, prompt in zip(tokens, prompts)]


def common(folder: Path) -> dict:
    "Arguments that all Trainers of transformers get."
    return {"output_dir": str(folder / "out"), "use_cpu": True, "bf16": False, "num_train_epochs": 1, "learning_rate": RATE, "lr_scheduler_type": "cosine", "warmup_steps": 0.1, "report_to": "none", "save_strategy": "no",
            "disable_tqdm": True, "seed": 7, "per_device_train_batch_size": BATCH, "adam_beta2": 0.98}


def run_trl(loaded, examples, folder: Path, packed: bool, kept: bool):
    "As run_ours, with TRL; its defaults where nothing is said."
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    more = {"packing": True, "max_length": max(int(BATCH * examples.length.float().mean()), int(examples.length.max())), "per_device_train_batch_size": 1} if packed else {}
    config = SFTConfig(**common(folder) | more | ({"gradient_checkpointing": False} if kept else {}), completion_only_loss=True, dataset_kwargs={"skip_prepare_dataset": False})
    rows = [{"input_ids": row["input_ids"], "completion_mask": row["completion_mask"]} for row in rows_of(examples)]
    trainer = SFTTrainer(loaded.model, config, train_dataset=Dataset.from_list(rows), processing_class=loaded.tokenizer,
                         peft_config=LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    return trainer.train, trainer.model


def run_trainer(loaded, examples, folder: Path):
    "As run_ours, with transformers' Trainer, its batches grouped by length."
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    torch.manual_seed(7)
    model = get_peft_model(loaded.model, LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))
    rows = [{"input_ids": row["input_ids"], "labels": row["labels"], "length": len(row["input_ids"])} for row in rows_of(examples)]
    trainer = Trainer(model, TrainingArguments(**common(folder), optim="adamw_torch_fused", train_sampling_strategy="group_by_length"), train_dataset=rows,
                      data_collator=DataCollatorForSeq2Seq(loaded.tokenizer))
    return trainer.train, model


def run_variant(name: str, folder: Path) -> dict:
    "Train once; tokens, CPU-seconds, seconds, final loss over all examples, and the process's peak memory in MB while training."
    from llmops_nb.models.training import assess

    loaded, examples, _ = lay(folder)
    with contextlib.redirect_stdout(io.StringIO()):
        work, model = run_trainer(loaded, examples, folder) if name == "trainer" else run_ours(loaded, examples, "packed" in name) if name.startswith("ours") else \
            run_trl(loaded, examples, folder, "packed" in name, "kept" in name)
        cpu, wall = time.process_time(), time.perf_counter()
        work()
    row = {"tokens": int(examples.length.sum()), "cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3}
    return row | {"loss": assess(model, examples, shortcut=False, batch_tokens=2048)[0]}


def in_own_process(name: str, folder: Path, threads: int) -> dict:
    "What run_variant gives, from a fresh process."
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run([sys.executable, __file__, "--variant", name, "--folder", str(folder)], capture_output=True, text=True, env=environment)
    if done.returncode:
        sys.exit(f"{name} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    "Alternate, and print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--size", choices=SIZES, default="5m")
    parser.add_argument("--examples", type=int, default=320)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--data", type=Path, default=Path(os.environ.get("LLMOPS_DATA", "../shared/data")))
    parser.add_argument("--only", default="", help="variants, separated by semicolons; empty = all")
    parser.add_argument("--variant", default="", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.variant:
        print(json.dumps(run_variant(given.variant, given.folder)))
        return
    names = [name for name in VARIANTS if not given.only or name in given.only.split(";")]
    with tempfile.TemporaryDirectory() as place:
        make_material(Path(place), given.size, given.examples, given.data)
        rows: dict[str, list[dict]] = {name: [] for name in names}
        for number in range(given.repeats):
            for name in names:
                rows[name].append(in_own_process(name, Path(place), given.threads))
                print(number + 1, name, {key: round(value, 3) for key, value in rows[name][-1].items()}, file=sys.stderr)
    report(rows, given)


def report(rows: dict[str, list[dict]], given: argparse.Namespace) -> None:
    "Print the table; exit 1 when the losses are not alike."
    losses = {name: statistics.median(row["loss"] for row in found) for name, found in rows.items()}
    speeds = {name: sorted(row["tokens"] / row["cpu"] for row in found) for name, found in rows.items()}
    print(f"Llama shape {given.size}, LoRA rank {RANK}, {given.examples} examples, {given.threads} threads, {given.repeats} alternations; Python {platform.python_version()}, "
          f"{', '.join(f'{name} {metadata.version(name)}' for name in ('torch', 'transformers', 'peft', 'trl'))}; {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    print(f"{'variant':50} {'tokens per CPU-second':>26} {'ours is':>8} {'seconds':>8} {'final loss':>10} {'peak MB':>8}")
    for name, found in rows.items():
        middle = statistics.median(speeds[name])
        ours = statistics.median(speeds["ours"]) / middle if "ours" in speeds else float("nan")
        print(f"{VARIANTS[name]:50} {middle:8.0f} [{speeds[name][0]:6.0f} - {speeds[name][-1]:6.0f}] {ours:7.2f}x {statistics.median(row['wall'] for row in found):8.2f} {losses[name]:10.4f} "
              f"{statistics.median(row['peak'] for row in found):8.0f}")
    apart = max(losses.values()) / min(losses.values()) - 1
    print(f"final losses are within {apart:.2%}")
    if apart > 0.01:
        sys.exit("the losses differ by more than 1 %, so the speeds may not be compared")


if __name__ == "__main__":
    main()
