"The whole lifecycle: once through the command line, again in another place, continued, signed, served, and by hand."
import base64
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from conftest import ROOT, artifacts_of, llmops

STAGES = sorted(path.stem for path in (ROOT / "templates").glob("*.ipynb"))


@pytest.fixture
def copy(demo: Path, tmp_path: Path) -> Path:
    "A copy of the finished demonstration with its keys, to change at will."
    shutil.copytree(demo.parent, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy" / "bot"


def home_of(workspace: Path) -> Path: return workspace.parent / "home"


@pytest.mark.slow
def test_every_stage_left_a_report_and_a_receipt_that_verifies(demo: Path):
    from llmops_nb.ground.store import Store

    assert Store(demo / ".llmops/store").verify() == []
    for stem in STAGES:
        folder = demo / "runs/main" / stem
        assert (folder / "receipt.json").exists() and (folder / "notebook.ipynb").exists() and json.loads((folder / "metrics.json").read_text())
        page = (folder / "report.html").read_text()
        assert "<script" not in page and "DEMONSTRATION" in page and "Evidence" in page
        shown = llmops(demo, "show", stem, home=home_of(demo))
        assert shown.returncode == 0 and "receipt verified" in shown.stdout, shown.stderr
    index = (demo / "runs/main/index.html").read_text()
    assert all(stem in index for stem in STAGES) and "DEMONSTRATION" in index


@pytest.mark.slow
def test_an_independent_verifier_agrees(demo: Path, tmp_path: Path):
    from llmops_nb.ground.settings import Workspace

    os.environ["LLMOPS_HOME"] = str(home_of(demo))
    try:
        from llmops_nb.notebooks.receipt import engine_key

        key = engine_key(Workspace(demo))
    finally:
        os.environ.pop("LLMOPS_HOME")
    receipts = [str(path) for path in sorted((demo / "runs/main").glob("*/receipt.json"))]
    keys = tmp_path / "keys.json"
    keys.write_text(json.dumps({key.key_id: {"person": "engine", "public_hex": key.public_hex}}))
    good = subprocess.run([sys.executable, str(ROOT / "docs/verify_receipt.py"), str(keys), *receipts], capture_output=True, text=True)
    assert good.returncode == 0, good.stdout + good.stderr
    envelope = json.loads(Path(receipts[0]).read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b'"run":"main"', b'"run":"mein"')
    (tmp_path / "changed.json").write_text(json.dumps({**envelope, "payload": base64.b64encode(payload).decode()}))
    bad = subprocess.run([sys.executable, str(ROOT / "docs/verify_receipt.py"), str(keys), str(tmp_path / "changed.json")], capture_output=True, text=True)
    assert bad.returncode == 1 and "BAD" in bad.stdout


@pytest.mark.slow
def test_nothing_changed_nothing_runs(demo: Path):
    again = llmops(demo, "run", "-p", "policy=demo", home=home_of(demo))
    assert again.returncode == 0 and again.stderr.count("nothing changed") == len(STAGES), again.stderr
    assert "would not run" in llmops(demo, "why", "finetune", home=home_of(demo)).stdout


def optional_modules() -> set[str]:
    "What the extras of settings.ini would install, by the names that are imported, without what comes anyway."
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini")
    names = lambda *keys: {re.match(r"[\w.-]+", word)[0].lower() for key in keys for word in settings["DEFAULT"][key].split() if word[0].isalpha()}
    extras = names(*(key for key in settings["DEFAULT"] if key.startswith("extra_") and key != "extra_dev"))
    return {module for module, packages in packages_distributions().items() if {package.lower() for package in packages} <= extras - names("requirements")}


@pytest.mark.slow
def test_another_place_gives_the_same_bytes(copy: Path):
    "The whole lifecycle, executed again in another folder, time zone and locale, by another user with another number of threads, without any optional package."
    place, absent = copy.parent / "another place, with a longer path", optional_modules()
    assert {"model_signing", "torchao", "cyclonedx", "ray"} <= absent and not absent & {"torch", "transformers", "pandas"}
    place.mkdir()
    bare = {"PYTHONPATH": str(ROOT / "tests" / "bare"), "ABSENT_MODULES": " ".join(sorted(absent))}
    done = llmops(copy, "replay", "main", "--threads", "1", "--json", home=home_of(copy), **bare, TZ="Asia/Tokyo", LC_ALL="C", HOME=str(place), USER="somebody", LOGNAME="somebody", OMP_NUM_THREADS="1", TMPDIR=str(place))
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["verdict"] == "identical" and said["stages"] == STAGES and said["compared"]["artifacts"] == sum(map(len, artifacts_of(copy).values())), said
    assert "identical" in (copy / "runs/main/index.html").read_text()


@pytest.mark.slow
def test_an_answer_leads_to_the_raw_data(demo: Path, tmp_path: Path):
    from llmops_nb.ground.store import Store
    from llmops_nb.notebooks.receipt import read_receipt

    observed = read_receipt(demo / "runs/main/10_deploy/receipt.json")["predicate"]["observed"]["requests"]
    row = json.loads((Store(demo / ".llmops/store").get(observed, tmp_path / "requests") / "requests.jsonl").read_text().splitlines()[3])
    done = llmops(demo, "trace", row["id"], home=home_of(demo))
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("written by 10_deploy", "← 09_govern", "sign-off ✓ approve by demo-evaluator", "← 08_secure", "← 07_evaluate", "← 06_finetune", "dataset", "← 03_prepare", "← 02_explore", "builtin:support", "Every link holds"):
        assert words in done.stdout, f"{words!r} is missing in:\n{done.stdout}"
    said = json.loads(llmops(demo, "trace", "evaluate/accuracy", "--rows", "--json", home=home_of(demo)).stdout)
    assert said["holds"] and len(said["what"]["rows"]) == next(m["n"] for m in json.loads((demo / "runs/main/07_evaluate/metrics.json").read_text()) if m["name"] == "accuracy")


@pytest.mark.slow
def test_the_evidence_of_the_release_can_be_checked_without_us(demo: Path, tmp_path: Path):
    mlcroissant = pytest.importorskip("mlcroissant")
    from huggingface_hub import ModelCard

    done = llmops(demo, "evidence", "--to", str(tmp_path / "pack"), home=home_of(demo))
    assert done.returncode == 0 and "the release verifies now" in done.stdout, done.stdout + done.stderr
    pack = tmp_path / "pack"
    assert subprocess.run(["sha256sum", "-c", "--quiet", "SHA256SUMS"], cwd=pack).returncode == 0
    said = json.loads((pack / "evidence.json").read_text())
    wanting = [row["id"] for row in said["controls"] if row["status"] == "met" and not row["evidence"]]
    assert not wanting and all(rule["passed"] for rule in said["rules"]), wanting
    assert ModelCard((pack / "release/model_card.md").read_text()).data.eval_results
    assert not mlcroissant.Dataset(jsonld=pack / "data_card/croissant.json").metadata.ctx.issues.errors
    pages = [page.read_text() for page in pack.glob("*.html")]
    assert len(pages) == 9 and all("DEMONSTRATION" in page and "<script" not in page for page in pages) and "MISSING" in (pack / "annex_iv.html").read_text()


@pytest.mark.slow
def test_the_release_binds_receipts_and_environment(copy: Path, monkeypatch: pytest.MonkeyPatch):
    from llmops_nb.govern.release import changed_subjects, find_release, lacking, open_office
    from llmops_nb.ground.settings import Workspace

    monkeypatch.setenv("LLMOPS_HOME", str(home_of(copy)))
    office = open_office(Workspace(copy))
    release = find_release(office, "support-bot")
    assert lacking(release.manifest) == [] and changed_subjects(office, release) == []
    shutil.rmtree(copy / "runs")  # what was kept with the release is enough
    assert "← 06_finetune" in llmops(copy, "release", "graph", home=home_of(copy)).stdout
    entry = next(entry for entry in office.store.entries(release.papers) if entry.path.startswith("06_"))
    blob = office.store.shelf.root / office.store.blob(entry.sha256)
    blob.chmod(0o644)
    blob.write_bytes(blob.read_bytes().replace(b'"sig": "', b'"sig": "A', 1))
    assert {line.partition(":")[0] for line in changed_subjects(office, release)} == {"receipts", "environment"}
    assert llmops(copy, "release", "promote", "--to", "production", home=home_of(copy)).returncode == 1


@pytest.mark.slow
def test_production_needs_people(copy: Path):
    home, signed = home_of(copy), {"LLMOPS_PASSPHRASE": "a long passphrase"}
    waiting = llmops(copy, "run", "-p", "policy=production", home=home)
    assert waiting.returncode == 4 and "sign" in waiting.stdout + waiting.stderr, waiting.stdout + waiting.stderr
    assert waiting.stderr.count("nothing changed") == 8  # 01 to 07, and 12, which needs none of the stages that a policy governs
    assert llmops(copy, "run", "deploy", home=home).returncode == 1
    for name, role in (("alice", "evaluator"), ("bob", "risk_owner")):
        added = llmops(copy, "person", "add", name, "--roles", role, home=home, **signed)
        assert added.returncode == 0, added.stderr
    first = llmops(copy, "sign", "alice", "--yes", "--reason", "read", home=home, **signed)
    assert first.returncode == 0, first.stderr
    assert llmops(copy, "run", home=home).returncode == 4
    wrong = llmops(copy, "sign", "bob", "--yes", home=home, LLMOPS_PASSPHRASE="another")
    assert wrong.returncode == 1
    assert llmops(copy, "sign", "bob", "--yes", home=home, **signed).returncode == 0
    done = llmops(copy, "run", home=home)
    assert done.returncode == 0, done.stdout + done.stderr
    assert llmops(copy, "audit", "verify", home=home).returncode == 0
    assert not [path for path in (copy / "runs/main").glob("*/report.html") if "DEMONSTRATION: this run" in path.read_text()]


@pytest.mark.slow
def test_a_byte_changed_after_approval_is_not_deployed(copy: Path):
    from llmops_nb.ground.ledger import Ledger
    from llmops_nb.ground.settings import Workspace
    from llmops_nb.ground.stage import find_artifact
    from llmops_nb.ground.store import Store

    store = Store(copy / ".llmops/store")
    digest = find_artifact(Ledger(Workspace(copy).address("ledger")), "main", "dataset")
    blob = copy / ".llmops/store" / store.blob(store.entries(digest)[-1].sha256)
    blob.chmod(0o644)
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(bytes(data))
    done = llmops(copy, "run", "deploy", "--force", home=home_of(copy))
    assert done.returncode == 1, done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("stem", STAGES)
def test_by_hand(demo: Path, stem: str, tmp_path: Path):
    "Every template runs outside of the engine, with its defaults, as in JupyterLab; it is recorded as exploratory."
    if stem in ("09_govern", "10_deploy"):
        pytest.skip("needs sign-offs under the production policy; tested through the command line")
    code = (f"import nbformat, nbclient; nb = nbformat.read({str(ROOT / 'templates' / (stem + '.ipynb'))!r}, 4); "
            f"nbclient.NotebookClient(nb, kernel_name='python3', timeout=600).execute(); nbformat.write(nb, {str(tmp_path / 'out.ipynb')!r})")
    environment = {**{n: v for n, v in os.environ.items() if not n.startswith("LLMOPS_")}, "LLMOPS_WORKSPACE": str(demo), "LLMOPS_HOME": str(home_of(demo)), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([sys.executable, "-c", code], cwd=demo, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (demo / "runs/exploratory").is_dir()


@pytest.mark.slow
def test_a_missing_input_names_its_stage(workspace: Path, home: Path):
    done = llmops(workspace, "run", "prepare", home=home)
    assert done.returncode == 1 and "llmops run explore" in done.stdout + done.stderr, done.stdout + done.stderr


def make_other_model(folder: Path) -> None:
    "A model of another shape and family than the built-in one: Qwen2, 2 layers, random weights, the built-in tokenizer."
    import torch
    from llmops_nb.models.base import model_folder
    from transformers import AutoTokenizer, Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model_folder("builtin:tiny"))
    config = Qwen2Config(vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
                         tie_word_embeddings=True, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
def test_another_model_goes_through_the_same_templates(copy: Path, tmp_path: Path):
    make_other_model(tmp_path / "other")
    objectives = (copy / "objectives.toml").read_text()
    (copy / "objectives.toml").write_text(objectives.replace("at_least = 0.60", "at_least = 0.01").replace("at_least = 0.55", "at_least = 0.001"))
    done = llmops(copy, "run", "-p", f"base_model={tmp_path / 'other'}", "-p", f"base_models={tmp_path / 'other'},builtin:tiny", "-p", "finetune.epochs=1", "-p", "method=lora", home=home_of(copy))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "= 02_explore" in done.stderr and "✓ 06_finetune" in done.stderr
    from llmops_nb.ground.store import Store

    adapter = Store(copy / ".llmops/store").get(artifacts_of(copy)["06_finetune"]["adapter"], tmp_path / "adapter")
    assert "other" in json.loads((adapter / "training.json").read_text())["base_model"]
