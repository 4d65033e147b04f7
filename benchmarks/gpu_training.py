"""LoRA fine-tuning on a CUDA GPU: our trainer beside TRL's best settings, on Llama shapes of 1 B and 8 B with random weights.

    python benchmarks/gpu_training.py [--repeats 5] [--shapes 1b,8b] [--lengths 2048,8192] [--steps 8]

For each shape and length: the same packed rows, one row a step, bfloat16 products, gradient checkpointing for both where the 8 B shape needs it, LoRA of rank 16 on all linear layers. Prints tokens a second, the share of this
card's measured bfloat16 matrix rate (4 FLOPs a parameter and token, and attention's), peak memory, and the losses, which must be within 1 %. Goals: 1.5 times TRL's best, 45 % of the measured rate on the 8 B shape.
Needs the extra train: pip install 'llmops_nb[train]', and flash-attn or kernels for TRL's padding-free packing.

State of this file: it was written on a machine without a GPU. There its --check was run (a tiny shape on the CPU goes through both trainers); no figure of it has been measured on a GPU yet.
"""
import argparse
import contextlib
import importlib.util
import io
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import metadata

SHAPES = {"1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
          "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
          "check": {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 2048, "tie_word_embeddings": True}}
RANK, RATE = 16, 1e-4


def make_model(shape: str, length: int, device: str):
    "A Llama of this shape with random weights, made on the device, in bfloat16 on a GPU."
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(7)
    kind = torch.bfloat16 if device == "cuda" else torch.float32
    previous = torch.get_default_dtype()
    torch.set_default_dtype(kind)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[shape], max_position_embeddings=length))
    torch.set_default_dtype(previous)
    return model.eval()


def make_rows(length: int, steps: int) -> list[tuple[list[int], list[int]]]:
    "Prompts and answers of random tokens, so many that each step's row of this length is full: documents of an eighth of it, half of each an answer."
    import random

    rng = random.Random(7)
    size = length // 8
    return [([rng.randrange(5, 2000) for _ in range(size // 2)], [rng.randrange(5, 2000) for _ in range(size - size // 2)]) for _ in range(8 * steps)]


def matrix_rate(device: str, size: int = 8192) -> float:
    "Measured bfloat16 operations a second of a large matrix product."
    import torch

    if device == "cpu":
        return float("nan")
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(20):
        a @ b
    torch.cuda.synchronize()
    return 20 * 2 * size**3 / (time.perf_counter() - started)


def run_ours(shape: str, length: int, steps: int, device: str):
    "A function that trains and gives the losses."
    from llmops_nb.models.base import LoadedModel, load_model
    from llmops_nb.models.examples import lay_out
    from llmops_nb.models.steps import Settings, make_trainer, settle

    rows = make_rows(length, steps)
    examples = lay_out([prompt for prompt, _ in rows], [answer for _, answer in rows], [1] * len(rows))
    loaded = LoadedModel(make_model(shape, length, device), load_model("builtin:tiny").tokenizer, shape, "", length)
    settings = settle(Settings(rank=RANK, epochs=1, batch_tokens=length, packed=True, embeddings=False, dropout=0.0, word_dropout=0.0, weight_decay=0.0, warmup=0.0, learning_rate=RATE,
                               checkpointing=shape == "8b", compile="yes" if device == "cuda" else "no"), len(rows), len(rows))
    trainer = make_trainer(loaded, examples, settings)
    trainer.model.train()
    return lambda: [trainer.one() for _ in range(steps)]


def run_trl(shape: str, length: int, steps: int, device: str, folder: str):
    "As run_ours, with TRL: packed, padding-free where flash attention is installed, its fused loss where Liger is."
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from llmops_nb.models.base import load_model

    losses: list[float] = []

    class Keep(TrainerCallback):
        "Keeps the logged losses."

        def on_log(self, arguments, state, control, logs=None, **more):
            losses.extend([logs["loss"]] if "loss" in logs else [])

    model = make_model(shape, length, device)
    if importlib.util.find_spec("flash_attn"):
        model.set_attn_implementation("flash_attention_2")
    rows = [{"input_ids": prompt + answer, "completion_mask": [0] * len(prompt) + [1] * len(answer)} for prompt, answer in make_rows(length, steps)]
    config = SFTConfig(output_dir=folder, packing=True, max_length=length, per_device_train_batch_size=1, max_steps=steps, learning_rate=RATE, lr_scheduler_type="cosine", bf16=device == "cuda", use_cpu=device == "cpu",
                       gradient_checkpointing=shape == "8b", use_liger_kernel=device == "cuda" and importlib.util.find_spec("liger_kernel") is not None, completion_only_loss=True, report_to="none",
                       save_strategy="no", logging_steps=1, disable_tqdm=True, torch_compile=device == "cuda", seed=7)
    trainer = SFTTrainer(model, config, train_dataset=Dataset.from_list(rows), processing_class=load_model("builtin:tiny").tokenizer, callbacks=[Keep()],
                         peft_config=LoraConfig(r=RANK, lora_alpha=RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"))

    def work() -> list[float]:
        trainer.train()
        return losses

    return work


def run_variant(name: str, shape: str, length: int, steps: int) -> dict:
    "Train twice in this process, the first time to warm up; tokens a second of the second time, the loss, the peak memory in GB."
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        for timed in (False, True):
            work = run_ours(shape, length, steps, device) if name == "ours" else run_trl(shape, length, steps, device, folder)
            if timed and device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            started = time.perf_counter()
            losses = work()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds = time.perf_counter() - started
            del work
    return {"speed": steps * length / seconds, "loss": sum(losses) / len(losses), "peak": torch.cuda.max_memory_allocated() / 1e9 if device == "cuda" else 0.0}


def flops_a_token(shape: str, length: int) -> float:
    "4 operations a parameter (LoRA: forward, and backward through frozen weights), the table of embeddings left out, and 4 a pair for causal attention over an eighth of the row."
    config = SHAPES[shape]
    width, head = config["hidden_size"], config["hidden_size"] // config["num_attention_heads"]
    layer = 2 * width * width + 2 * width * head * config["num_key_value_heads"] + 3 * width * config["intermediate_size"]
    return 4 * (config["num_hidden_layers"] * layer + width * config["vocab_size"] / 2) + 3 * 2 * config["num_hidden_layers"] * width * length / 8


def main() -> None:
    "Alternate, and print; without a GPU say so."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shapes", default="1b,8b")
    parser.add_argument("--lengths", default="2048,8192")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--check", action="store_true", help="a tiny shape once, on whatever is there: does the script itself work?")
    parser.add_argument("--variant", default="", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.variant:
        print(json.dumps(run_variant(given.variant, given.shapes, int(given.lengths), given.steps)))
        return
    import torch

    if given.check:
        given.repeats, given.shapes, given.lengths, given.steps = 1, "check", "256", 3
    elif not torch.cuda.is_available():
        sys.exit("this machine has no CUDA GPU, so there is nothing to measure. --check runs a tiny shape on the CPU.")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rate = matrix_rate(device)
    print(f"{torch.cuda.get_device_name() if device == 'cuda' else 'CPU, a check only'}; {rate / 1e12:.0f} TFLOP/s measured; Python {platform.python_version()}, "
          f"{', '.join(f'{name} {metadata.version(name)}' for name in ('torch', 'transformers', 'peft', 'trl'))}; load {os.getloadavg()[0]:.1f}")
    for shape in given.shapes.split(","):
        for length in map(int, given.lengths.split(",")):
            rows: dict[str, list[dict]] = {"ours": [], "trl": []}
            for _ in range(given.repeats):
                for name, found in rows.items():
                    done = subprocess.run([sys.executable, __file__, "--variant", name, "--shapes", shape, "--lengths", str(length), "--steps", str(given.steps)], capture_output=True, text=True)
                    if done.returncode:
                        sys.exit(f"{name} failed on {shape} at {length}:\n{done.stderr[-3000:]}")
                    found.append(json.loads(done.stdout.splitlines()[-1]))
            report(shape, length, rows, rate)


def report(shape: str, length: int, rows: dict[str, list[dict]], rate: float) -> None:
    "One line a variant."
    middle = {name: statistics.median(row["speed"] for row in found) for name, found in rows.items()}
    for name, found in rows.items():
        speeds = sorted(row["speed"] for row in found)
        print(f"{shape} {length:5} {name:5} {middle[name]:9.0f} [{speeds[0]:.0f} - {speeds[-1]:.0f}] tokens/s, {middle[name] * flops_a_token(shape, length) / rate:.0%} of the measured rate, "
              f"{max(row['peak'] for row in found):.1f} GB, loss {statistics.median(row['loss'] for row in found):.4f}")
    losses = [statistics.median(row["loss"] for row in found) for found in rows.values()]
    print(f"ours is {middle['ours'] / middle['trl']:.2f} times TRL; losses within {max(losses) / min(losses) - 1:.2%}")


if __name__ == "__main__":
    main()
