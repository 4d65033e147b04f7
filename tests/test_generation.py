"Answers: other architectures, other tokenizers, forms, and engines behind an address."
import json
import re
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest
import torch

from llmops_nb.ground.core import BadInput
from llmops_nb.ground.journal import Journal
from llmops_nb.models.base import load_model, model_folder
from llmops_nb.models.chat import ask_plainly, encode_conversations
from llmops_nb.models.engine import put_engine, vllm_client
from llmops_nb.models.generate import LocalClient, answer_all
from llmops_nb.models.slots import takes_slots
from llmops_nb.prompts.clients import Form, OpenAIClient, json_form

LABELS = ["card_arrival", "card_lost", "refund_missing", "pin_change"]
TICKET = {"type": "object", "properties": {"intent": {"enum": LABELS}, "urgent": {"type": "boolean"}, "count": {"type": "integer", "minimum": 0, "maximum": 99}},
          "required": ["intent", "urgent", "count"], "additionalProperties": False}
ASKED = ask_plainly(["My card has not arrived yet.", "I was charged twice!", "Hi", "How do I change my PIN when I am abroad and have no card with me at all?", "Where is my refund?", "Hello"])


@pytest.fixture(scope="module")
def loaded():
    return load_model()


def shapes() -> dict:
    "Small models with random weights, by architecture, and whether they take slots."
    import transformers as t
    ends = {"vocab_size": 2048, "bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    common = {**ends, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256}
    return {"gpt2": (t.GPT2Config(**ends, n_embd=32, n_layer=2, n_head=4, n_positions=128), True), "llama": (t.LlamaConfig(**common), True), "qwen2": (t.Qwen2Config(**common), True),
            "opt": (t.OPTConfig(**ends, hidden_size=32, ffn_dim=48, num_hidden_layers=2, num_attention_heads=4, word_embed_proj_dim=32, max_position_embeddings=256), None),
            "gemma3": (t.Gemma3TextConfig(**common, sliding_window=8), False), "mamba": (t.MambaConfig(**ends, hidden_size=32, num_hidden_layers=2, state_size=4), False)}


@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen2", "opt", "gemma3", "mamba"])
def test_answers_are_those_of_generate_whatever_the_architecture(loaded, name):
    from transformers import AutoModelForCausalLM
    torch.manual_seed(7)
    config, slots = shapes()[name]
    model = replace(loaded, model=AutoModelForCausalLM.from_config(config).eval(), digest="", context=128)
    assert slots is None or takes_slots(model) == slots
    together, few = answer_all(model, ASKED, 12), answer_all(model, ASKED[::-1], 12, batch_tokens=80)[::-1]
    assert [one.text for one in together] == [one.text for one in few]
    for ids, answer in zip(encode_conversations(loaded.tokenizer, ASKED), together):
        theirs = model.model.generate(torch.tensor([ids]), attention_mask=torch.ones(1, len(ids), dtype=torch.long), max_new_tokens=12, do_sample=False, eos_token_id=1, pad_token_id=0)
        assert loaded.tokenizer.decode(theirs[0, len(ids):], skip_special_tokens=True).strip() == answer.text
    assert {one.first_line for one in answer_all(model, ASKED, 24, LABELS)} <= set(LABELS)


def test_a_form_holds_in_every_answer_and_does_not_depend_on_company(loaded):
    together = answer_all(loaded, ASKED * 3, 64, json_form(TICKET))
    for answer in together:
        assert answer.finish == "stop"
        jsonschema.validate(json.loads(answer.text), TICKET)
    assert [one.text for one in together] == [answer_all(loaded, [one], 64, json_form(TICKET))[0].text for one in ASKED] * 3
    assert all(re.fullmatch("[A-Z]{2}-[0-9]{4}", one.text) for one in answer_all(loaded, ASKED, 16, Form("regex", "[A-Z]{2}-[0-9]{4}")))
    assert all(re.fullmatch("yes|no|ask [a-z]{3}", one.text) for one in answer_all(loaded, ASKED, 16, Form("grammar", 'start: "yes" | "no" | "ask " /[a-z]{3}/')))


def test_a_form_that_cannot_be_used_is_one_message(loaded, tmp_path):
    for form, word in ((json_form({"type": "nonsense"}), "nonsense"), (Form("regex", "(ab"), "unclosed group"), (Form("table", "x"), "json, regex, grammar")):
        with pytest.raises(BadInput, match=word) as error:
            answer_all(replace(loaded, journal=Journal(tmp_path / "answers.jsonl")), ASKED, 16, form)
        assert "\n" not in str(error.value)


def test_nothing_asked_too_long_and_cut_off(loaded):
    assert answer_all(loaded, []) == [] == LocalClient(loaded).ask([]) == answer_all(loaded, [], 8, json_form(TICKET))
    long, short = answer_all(loaded, [*ask_plainly(["card " * 2000]), ASKED[0]], 8)
    assert long.finish == "error" and "1024" in long.error and short.finish == "length" and short.tokens_out == 8
    whole = answer_all(loaded, ASKED[:1], 1023)[0]
    assert whole.finish == "error" and "longer context" in whole.error, "an answer longer than the context is refused before it begins"


def test_a_model_without_pad_token_or_chat_template_answers(loaded, tmp_path):
    folder = Path(shutil.copytree(model_folder("builtin:tiny"), tmp_path / "bare", ignore=shutil.ignore_patterns("chat_template.jinja")))
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings = {name: value for name, value in settings.items() if name not in ("pad_token", "chat_template")}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    bare = load_model(str(folder))
    assert bare.tokenizer.pad_token_id == bare.tokenizer.eos_token_id and "User: Hi" in bare.tokenizer.decode(encode_conversations(bare.tokenizer, ASKED)[2])
    assert [one.text for one in answer_all(bare, ASKED, 12)] == [answer_all(bare, [one], 12)[0].text for one in ASKED]


@pytest.fixture(scope="module")
def address(loaded, tmp_path_factory):
    "Our own server, over a socket, with the model behind it."
    from llmops_nb.serve.app import Service
    from llmops_nb.serve.journal import Journal as Requests
    from llmops_nb.serve.keys import Door, KeyRing, make_key, write_keys
    from llmops_nb.serve.server import start_thread
    folder = tmp_path_factory.mktemp("served")
    secret, key = make_key("tests", per_minute=100_000)
    service = Service("tiny", LocalClient(loaded), Door(KeyRing(write_keys(folder / "keys.json", [key]))), Requests(folder / "requests.jsonl"), Requests(folder / "feedback.jsonl"), lambda: "")
    with pytest.MonkeyPatch.context() as patch, start_thread(service, secret) as server:
        patch.setenv("LLMOPS_API_KEY", secret)
        yield f"{server.url}/v1"


def test_the_engine_behind_an_address_gives_the_same_answers(loaded, address):
    behind = put_engine(loaded, vllm_client("tiny", address, workers=8))
    for choices in (None, LABELS, json_form(TICKET), Form("regex", "[a-z]{4}")):
        ours, theirs = answer_all(loaded, ASKED, 48, choices), answer_all(behind, ASKED, 48, choices)
        assert [(one.text, one.tokens_in, one.tokens_out, one.finish) for one in theirs] == [(one.text, one.tokens_in, one.tokens_out, one.finish) for one in ours]


def test_a_server_refuses_a_form_and_an_unknown_model_with_a_reason(loaded, address):
    refused = OpenAIClient("tiny", address).ask(ASKED[:1], 8, json_form({"type": "nonsense"}))[0]
    assert refused.finish == "error" and refused.error.startswith("400") and "nonsense" in refused.error
    with pytest.raises(BadInput, match="does not answer: 404"):
        put_engine(loaded, vllm_client("another", address))


@pytest.mark.slow
def test_transformers_own_server_is_an_engine(loaded, tmp_path):
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    folder = str(model_folder("builtin:tiny"))
    command = [str(Path(sys.executable).with_name("transformers")), "serve", folder, "--device", "cpu", "--dtype", "float32", "--port", str(port)]
    with open(tmp_path / "log", "w") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            for _ in range(120):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0 or server.poll() is not None:
                        break
                time.sleep(1)
            behind = put_engine(loaded, OpenAIClient(folder, f"http://127.0.0.1:{port}/v1", timeout=120))
            assert [one.text for one in answer_all(behind, ASKED, 24)] == [one.text for one in answer_all(loaded, ASKED, 24)], (tmp_path / "log").read_text()[-2000:]
        finally:
            server.terminate()
