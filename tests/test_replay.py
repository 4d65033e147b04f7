"A small run with training: traced to its raw rows, handed on, executed again elsewhere, and tampered with in every place."
import base64
import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, llmops

pytestmark = pytest.mark.slow
STAGES = ["01_objectives", "02_explore", "03_prepare", "06_finetune"]
GIVEN = {"data": "../mail.csv", "text_column": "text", "label_column": "label", "reply_column": "reply", "method": "lora", "finetune.epochs": "1", "near_duplicates": "0"}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A workspace beside a data file, with four stages of it done."
    from llmops_nb.data.support import generate_support

    folder = tmp_path_factory.mktemp("small")
    with open(folder / "mail.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "label", "reply"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(row for row in generate_support(7, 400).records if "\n" not in row["text"])
    assert llmops(folder, "init", "bot", home=folder / "home").returncode == 0
    words = [word for name, value in GIVEN.items() for word in ("-p", f"{name}={value}")]
    done = llmops(folder / "bot", "run", "objectives", "explore", "prepare", "finetune", *words, home=folder / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bot"


@pytest.fixture
def copy(small: Path, tmp_path: Path) -> Path:
    "A copy of it, with data file and keys, to change at will."
    shutil.copytree(small.parent, tmp_path / "copy", symlinks=True)
    return tmp_path / "copy" / "bot"


def home_of(workspace: Path) -> Path: return workspace.parent / "home"


def facts_of(workspace: Path, stem: str) -> dict:
    "What a stage's receipt says."
    from llmops_nb.notebooks.receipt import read_receipt

    return read_receipt(workspace / "runs/main" / stem / "receipt.json")["predicate"]


def change_byte(path: Path, place: int = -1) -> None:
    "Flip the lowest bit of one byte, the middle one by default, leaving the times of the file as they were."
    before, data = path.stat(), bytearray(path.read_bytes())
    path.chmod(0o644)
    data[len(data) // 2 if place < 0 else place] ^= 1
    path.write_bytes(bytes(data))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_another_place_gives_the_same_bytes(copy: Path):
    "Another folder, user, host name, time zone, locale and number of threads."
    command = [sys.executable, "-m", "llmops_nb.desk.cli", "replay", "main", "--threads", "1", "--json"]
    elsewhere = ["unshare", "--uts", "sh", "-c", 'hostname elsewhere && exec "$@"', "sh"]
    if subprocess.run([*elsewhere, "true"], capture_output=True).returncode:
        elsewhere = []
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LLMOPS_", "WANDB_"))}
    environment |= {"LLMOPS_HOME": str(home_of(copy)), "HOME": str(copy.parent), "USER": "somebody", "LOGNAME": "somebody", "HOSTNAME": "elsewhere", "TZ": "Asia/Kathmandu", "LC_ALL": "C", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    environment |= {"TMPDIR": str(copy.parent / "another place, with a longer path")}
    Path(environment["TMPDIR"]).mkdir()
    done = subprocess.run([*elsewhere, *command], cwd=copy, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    said = json.loads(done.stdout)
    assert said["verdict"] == "identical" and said["stages"] == STAGES and said["executed"] and not said["differences"]
    assert said["compared"]["files"] >= 20 and said["place"]["threads"] == "1" and said["place"]["user"] == "somebody" and said["place"]["host"] == ("elsewhere" if elsewhere else said["place"]["host"])
    assert "peak memory" in said["measured"]["06_finetune"]
    assert "identical" in (copy / "runs/main/replay.html").read_text() and not list(Path(environment["TMPDIR"]).glob("llmops-replay-*"))
    acts = llmops(copy, "audit", "show", "--json", home=home_of(copy)).stdout.splitlines()
    assert json.loads(acts[-1])["action"] == "run.replay" and json.loads(acts[-1])["details"]["verdict"] == "identical"
    assert llmops(copy, "audit", "verify", home=home_of(copy)).returncode == 0


def test_one_stage_alone_takes_its_inputs_from_the_store(copy: Path):
    (copy.parent / "mail.csv").unlink()
    done = llmops(copy, "replay", "main", "prepare", home=home_of(copy))
    assert done.returncode == 0 and "stage 03_prepare of run main: IDENTICAL" in done.stdout, done.stdout + done.stderr


def test_a_changed_template_is_named_and_shows_where_it_leads(copy: Path):
    shutil.copytree(ROOT / "templates", copy / "templates")
    path = copy / "templates/03_prepare.ipynb"
    path.write_text(path.read_text().replace("split_records(near.kept, valid_share, test_share, near_duplicates, seed)", "split_records(near.kept, valid_share, test_share, near_duplicates, seed)".replace("valid_share", "2 * valid_share")))
    named = llmops(copy, "replay", "main", "prepare", home=home_of(copy))
    assert named.returncode == 3 and "First difference: 03_prepare: template 03_prepare.ipynb: changed" in named.stdout and "Nothing was executed" in named.stdout, named.stdout
    shown = json.loads(llmops(copy, "replay", "main", "prepare", "--anyway", "--json", home=home_of(copy)).stdout)
    artifacts = [difference for difference in shown["differences"] if difference["kind"] == "artifact"]
    assert shown["verdict"] == "different" and shown["executed"] and any("line" in difference["detail"] and "$." in difference["detail"] for difference in artifacts)
    assert "Three parts with nothing in common" in shown["cells"]["03_prepare"]


def store_file(kind: str, stem: str, name: str) -> Callable[[Path], Path]:
    "Where an artifact's manifest or its largest blob lies."
    def find(workspace: Path) -> Path:
        from llmops_nb.ground.store import Store

        store, digest = Store(workspace / ".llmops/store"), facts_of(workspace, stem)["outputs"][name]
        largest = max(store.entries(digest), key=lambda entry: entry.size)
        return workspace / ".llmops/store" / (store.manifest(digest) if kind == "manifest" else store.blob(largest.sha256))
    return find


PLACES = {  # what is changed: where it lies, and the words that name it
    "input file": (lambda workspace: workspace.parent / "mail.csv", "02_explore: source file ../mail.csv (data)"),
    "objectives": (lambda workspace: workspace / "objectives.toml", "01_objectives: source file objectives.toml"),
    "artifact": (store_file("blob", "03_prepare", "dataset"), "03_prepare: artifact dataset: artifact dataset"),
    "weights": (store_file("blob", "06_finetune", "adapter"), "06_finetune: artifact adapter"),
    "manifest": (store_file("manifest", "02_explore", "records"), "02_explore: artifact records"),
    "receipt": (lambda workspace: workspace / "runs/main/03_prepare/receipt.json", "03_prepare: receipt receipt.json"),
    "executed notebook": (lambda workspace: workspace / "runs/main/02_explore/notebook.ipynb", "02_explore: executed notebook notebook.ipynb"),
    "result": (lambda workspace: workspace / "runs/main/06_finetune/result.json", "06_finetune: result result.json"),
    "template": (lambda workspace: Path(shutil.copytree(ROOT / "templates", workspace / "templates")) / "03_prepare.ipynb", "03_prepare: template 03_prepare.ipynb"),
}


@pytest.mark.parametrize("what", PLACES)
def test_one_changed_byte_is_found_and_named(copy: Path, what: str, monkeypatch: pytest.MonkeyPatch):
    from llmops_nb.ground.settings import Workspace
    from llmops_nb.notebooks.replay import replay_run
    from llmops_nb.notebooks.verdict import replay_lines

    monkeypatch.setenv("LLMOPS_HOME", str(home_of(copy)))
    place, words = PLACES[what]
    path = place(copy)
    data = path.read_bytes()
    change_byte(path, data.index(b"text", len(data) // 2) if what in ("template", "executed notebook") else data.rindex(b'"sig": "') + 20 if what == "receipt" else data.rindex(b"7") if what == "result" else -1)
    found = replay_run(Workspace(copy), "main")
    assert found.verdict == "different" and not found.executed
    assert any(line.removeprefix("First difference: ").strip().startswith(words) for line in replay_lines(found)), replay_lines(found)


def test_one_changed_byte_of_a_module_is_found_and_named(copy: Path, tmp_path: Path):
    "A comment in a module that stage 03 reaches: no other result, but not the file that was used."
    for name in ("llmops_nb", "templates"):
        shutil.copytree(ROOT / name, tmp_path / "library" / name, ignore=shutil.ignore_patterns("__pycache__"))
    module = tmp_path / "library/llmops_nb/data/dedup.py"
    change_byte(module, module.read_bytes().index(b"# %%") + 5)
    done = llmops(copy, "replay", "main", home=home_of(copy), PYTHONPATH=str(tmp_path / "library"))
    assert done.returncode == 3 and "module llmops_nb.data.dedup: changed" in done.stdout and "Nothing was executed" in done.stdout, done.stdout + done.stderr


def test_a_number_leads_to_raw_rows_in_a_copy_without_keys(copy: Path, tmp_path: Path):
    "Another person's machine: no key folder, no network, only the copy and the public key told by other means."
    public_hex = json.loads(llmops(copy, "receipt", "key", home=home_of(copy)).stdout)
    public_hex = next(iter(public_hex.values()))["public_hex"]
    nobody = tmp_path / "nobody"
    offline = {"http_proxy": "http://127.0.0.1:9", "https_proxy": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    done = llmops(copy, "trace", "finetune/valid_accuracy_lora", "--key", public_hex, home=nobody, **offline)
    assert done.returncode == 0, done.stdout + done.stderr
    for words in ("06_finetune", "dataset", "← 03_prepare", "records", "← 02_explore", "mail.csv", "(same)", "Every link holds", "known from given"):
        assert words in done.stdout, done.stdout
    assert not list(nobody.glob("keys/*")), "looking made a key"
    said = json.loads(llmops(copy, "trace", "dataset", "--json", home=nobody, **offline).stdout)
    assert said["holds"] and [step["stage"] for step in said["steps"]] == ["03_prepare", "02_explore"] and "compare" in said["key"]["known_from"]
    assert llmops(copy, "trace", "dataset", "--key", "0" * 63 + "9", home=nobody).returncode == 1


def test_a_record_leads_to_its_line_in_the_file(copy: Path):
    from llmops_nb.ground.store import Store

    records = Store(copy / ".llmops/store").get(facts_of(copy, "02_explore")["outputs"]["records"], copy.parent / "records")
    record = [json.loads(line) for line in (records / "records.jsonl").read_text().splitlines()][5]
    done = llmops(copy, "trace", record["id"], home=home_of(copy))
    assert done.returncode == 0 and f"row {record['row']}, line {record['row'] + 2}" in done.stdout and "prepared" in done.stdout, done.stdout


@pytest.mark.parametrize("what", ["artifact", "receipt", "input file"])
def test_a_broken_link_is_named(copy: Path, what: str):
    place, words = PLACES[what]
    path = place(copy)
    change_byte(path, path.read_bytes().rindex(b'"sig": "') + 20 if what == "receipt" else -1)
    done = llmops(copy, "trace", "adapter", home=home_of(copy))
    named = {"artifact": "artifact dataset", "receipt": "03_prepare/receipt.json", "input file": "mail.csv"}[what]
    assert done.returncode == 1 and "BROKEN" in done.stdout and any(line.startswith("✗") and named in line for line in done.stdout.splitlines()), done.stdout


def test_a_result_of_another_receipt_does_not_fit(copy: Path):
    "A properly signed receipt, put in the place of another: signatures hold, the link does not."
    shutil.copy(copy / "runs/main/02_explore/receipt.json", copy / "runs/main/03_prepare/receipt.json")
    done = llmops(copy, "trace", "adapter", home=home_of(copy))
    assert done.returncode == 1 and "no receipt names it as written" in done.stdout, done.stdout


def test_receipts_and_slsa_satisfy_the_independent_verifier(copy: Path, tmp_path: Path):
    files = []
    assert llmops(copy, "receipt", "key", "--to", str(tmp_path / "keys.json"), home=home_of(copy)).returncode == 0
    for stem in STAGES:
        for kind in ([], ["--slsa"]):
            files.append(tmp_path / f"{stem}{'.slsa' * len(kind)}.json")
            done = llmops(copy, "receipt", stem, *kind, "--to", str(files[-1]), home=home_of(copy))
            assert done.returncode == 0, done.stderr
    verify = lambda *names: subprocess.run([sys.executable, str(ROOT / "docs/verify_receipt.py"), str(tmp_path / "keys.json"), *map(str, names)], capture_output=True, text=True)
    good = verify(*files)
    assert good.returncode == 0 and good.stdout.count("GOOD") == 8 and good.stdout.count("slsa.dev/provenance/v1") == 4, good.stdout + good.stderr
    envelope = json.loads(files[-1].read_text())
    envelope["payload"] = base64.b64encode(base64.b64decode(envelope["payload"]).replace(b"finetune", b"finetime")).decode()
    (tmp_path / "changed.json").write_text(json.dumps(envelope))
    assert verify(tmp_path / "changed.json").returncode == 1
    source = (ROOT / "docs/verify_receipt.py").read_text()
    assert len(source.splitlines()) <= 60 and "import llmops" not in source and "from llmops" not in source


def test_slsa_has_the_fields_of_the_specification(copy: Path):
    envelope = json.loads(llmops(copy, "receipt", "prepare", "--slsa", home=home_of(copy)).stdout)
    said, facts = json.loads(base64.b64decode(envelope["payload"])), facts_of(copy, "03_prepare")
    assert said["_type"] == "https://in-toto.io/Statement/v1" and said["predicateType"] == "https://slsa.dev/provenance/v1" and set(said) == {"_type", "subject", "predicateType", "predicate"}
    assert {subject["name"]: subject["digest"]["sha256"] for subject in said["subject"]} == facts["outputs"]
    definition, details = said["predicate"]["buildDefinition"], said["predicate"]["runDetails"]
    assert set(said["predicate"]) == {"buildDefinition", "runDetails"} and set(definition) == {"buildType", "externalParameters", "internalParameters", "resolvedDependencies"}
    assert set(details) == {"builder", "metadata", "byproducts"} and set(details["metadata"]) == {"invocationId", "startedOn", "finishedOn"} and ":" in details["builder"]["id"] and ":" in definition["buildType"]
    assert details["metadata"]["startedOn"].endswith("Z") and details["metadata"]["startedOn"] <= details["metadata"]["finishedOn"]
    assert definition["externalParameters"]["parameters"] == facts["parameters"]
    for row in [*definition["resolvedDependencies"], *details["byproducts"]]:
        assert set(row) <= {"uri", "digest", "name", "downloadLocation", "mediaType", "content", "annotations"} and ({"uri", "digest", "content"} & set(row)), row
    named = {row.get("name", row.get("uri")): row.get("digest", {}).get("sha256") for row in definition["resolvedDependencies"]}
    assert named["records"] == facts["inputs"]["records"] and named["03_prepare.ipynb"] == facts["template"]["digest"] and "llmops_nb.data.dedup" in named and any(name.startswith("pkg:pypi/torch@") for name in named)


def test_a_report_shows_its_lineage(small: Path):
    page = (small / "runs/main/06_finetune/report.html").read_text()
    assert "<svg" in page and 'href="../03_prepare/report.html"' in page and facts_of(small, "03_prepare")["outputs"]["dataset"][:6] in page
    assert "<svg" in (small / "runs/main/index.html").read_text()


def test_mistakes_are_answered(copy: Path):
    for words, answer in ((["replay", "mian"], "has no receipt. Runs with receipts: main"), (["replay", "main", "deploy"], "Stages with receipts: 01_objectives"), (["replay", "main", "no"], "There is no stage 'no'"),
                          (["trace", "nothing"], "has nothing called 'nothing'"), (["receipt", "govern"], "has no receipt"), (["trace", "dataset", "--key", "x"], "not an Ed25519 public key")):
        done = llmops(copy, *words, home=home_of(copy))
        assert done.returncode == 1 and answer in done.stderr, done.stdout + done.stderr
