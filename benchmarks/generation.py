"""Answers a second beside transformers' own padded-batch `generate`, on the same prompts and the same model.

    python benchmarks/generation.py [--repeats 5] [--prompts 96] [--batch 16]

Two kinds of work, with builtin:tiny on this machine's CPU: short questions, and the same questions behind instructions and examples (few-shot). The peer gets batches of --batch in the order of the questions,
padded on the left, greedy, with the same limit; that is what a text-generation pipeline does. Equality first: all answers must be the same texts. Then alternating, wall and CPU time.
"""
import argparse
import os
import platform
import statistics
import time

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
EXAMPLES = [("My card has not arrived yet.", "card_arrival"), ("I was charged twice for one payment.", "charged_twice"), ("How do I change my PIN?", "pin_change"), ("Where is my refund?", "refund_missing")]


def questions(count: int) -> list[str]:
    "Different messages of the built-in task, of all lengths."
    from llmops_nb.data.support import generate_support

    texts = dict.fromkeys(row["text"] for row in generate_support(11, 2000).records if row["language"] == "en")
    return list(texts)[:count]


def few_shot(text: str) -> list[dict]:
    "The question behind instructions and examples."
    shown = "\n".join(f"Message: {asked}\nIntent: {label}" for asked, label in EXAMPLES * 2)
    return [{"role": "user", "content": f"You sort messages of a bank's customers. Say the intent, then answer politely.\n{shown}\nMessage: {text}"}]


def padded(loaded, conversations: list, limit: int, batch: int) -> list[str]:
    "What transformers' generate answers, batch by batch in the order given."
    import torch

    from llmops_nb.models.chat import encode_conversations

    tokenizer, answers = loaded.tokenizer, []
    prompts = encode_conversations(tokenizer, conversations)
    for start in range(0, len(prompts), batch):
        part = prompts[start:start + batch]
        wide = max(map(len, part))
        ids = torch.tensor([[tokenizer.pad_token_id] * (wide - len(one)) + one for one in part])
        mask = torch.tensor([[0] * (wide - len(one)) + [1] * len(one) for one in part])
        out = loaded.model.generate(ids, attention_mask=mask, max_new_tokens=limit, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        answers += [text.strip() for text in tokenizer.batch_decode(out[:, wide:], skip_special_tokens=True)]
    return answers


def timed(work) -> tuple[float, float, list[str]]:
    "Wall seconds, CPU seconds, and the result of some work."
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - wall, time.process_time() - cpu, result


def spread(values: list[float]) -> str:
    "Median and range."
    return f"{statistics.median(values):.2f} [{min(values):.2f}–{max(values):.2f}]"


def main() -> None:
    "Compare, then time, and print."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=96)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--limit", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    import torch
    import transformers

    from llmops_nb.models.base import load_model
    from llmops_nb.models.chat import ask_plainly
    from llmops_nb.models.generate import answer_all

    torch.set_num_threads(given.threads)
    transformers.logging.set_verbosity_error()
    loaded, texts = load_model(), questions(given.prompts)
    print(f"{platform.machine()}, {os.cpu_count()} cores, {given.threads} thread, load {os.getloadavg()[0]:.1f}; torch {torch.__version__}, transformers {transformers.__version__}; "
          f"{len(texts)} prompts, at most {given.limit} tokens, peer in batches of {given.batch}, {given.repeats} alternations")
    for name, conversations in (("short questions", ask_plainly(texts)), ("few-shot prompts", [few_shot(text) for text in texts])):
        ours = lambda conversations=conversations: [answer.text for answer in answer_all(loaded, conversations, given.limit)]
        theirs = lambda conversations=conversations: padded(loaded, conversations, given.limit, given.batch)
        same = sum(a == b for a, b in zip(ours(), theirs()))
        if same != len(texts):
            raise SystemExit(f"{name}: only {same} of {len(texts)} answers are equal")
        rows = [(timed(theirs), timed(ours)) for _ in range(given.repeats)]
        wall, cpu = ([peer[k] / own[k] for peer, own in rows] for k in (0, 1))
        print(f"{name}: all {same} answers equal; generate {spread([peer[0] for peer, _ in rows])} s, ours {spread([own[0] for _, own in rows])} s; "
              f"ratio {spread(wall)} in wall time, {spread(cpu)} in CPU time")


if __name__ == "__main__":
    main()
