"""What is handed out after somebody changed it: a stored artifact, the production alias, the history. Ours beside MLflow and DVC, with the same changes.

    python benchmarks/integrity.py [--times 50] [--mlflow FOLDER] [--dvc FOLDER]

Each change is made behind the product's back, in its files or its database, as a fault or an insider would; then the product is asked for the thing in its ordinary way. Counted is how often it refused. Before that it must hand out the unchanged thing.
The peers are taken from virtual environments (python -m venv FOLDER; FOLDER/bin/pip install mlflow-skinny sqlalchemy alembic; FOLDER/bin/pip install dvc); one that is not given is left out. Neither says that it does this: the table shows what a team gets without adding something.
"""
import argparse
import json
import os
import platform
import random
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

WEIGHTS = 200_000  # bytes of the artifact
MLFLOW = '''
import json, os, sqlite3, sys
from pathlib import Path
os.environ["GIT_PYTHON_REFRESH"] = "quiet"
import mlflow
from mlflow import MlflowClient
root, sentence = Path(sys.argv[1]), sys.stdin
mlflow.set_tracking_uri(f"sqlite:///{root}/mlflow.db")
client = MlflowClient()
experiment = client.create_experiment("x", artifact_location=f"file://{root}/artifacts")
runs = []
for version in (1, 2):
    run = client.create_run(experiment)
    client.log_artifact(run.info.run_id, str(root / f"weights{version}.bin"), "model")
    client.log_metric(run.info.run_id, "accuracy", 0.8)
    if version == 1: client.create_registered_model("bot")
    client.create_model_version("bot", f"{run.info.artifact_uri}/model", run.info.run_id)
    runs.append(run.info.run_id)
client.set_registered_model_alias("bot", "production", "1")
for line in sentence:
    what = json.loads(line)
    try:
        if what == "artifact":
            version = client.get_model_version_by_alias("bot", "production")
            said = Path(mlflow.artifacts.download_artifacts(artifact_uri=version.source)).joinpath("weights1.bin").read_bytes().hex()[:64]
        elif what == "alias":
            said = client.get_model_version_by_alias("bot", "production").version
        else:
            said = str(client.get_run(runs[0]).data.metrics["accuracy"])
        print(json.dumps({"handed out": said}), flush=True)
    except Exception as error:
        print(json.dumps({"refused": str(error)[:80]}), flush=True)
'''


def flip(path: Path, chance: random.Random) -> Callable[[], None]:
    "Flip one bit of a file; returns what puts it back."
    data = bytearray(path.read_bytes())
    place, bit, mode = chance.randrange(len(data)), chance.randrange(8), path.stat().st_mode
    path.chmod(0o644)

    def change() -> None:
        data[place] ^= 1 << bit
        path.write_bytes(bytes(data))

    change()
    path.chmod(mode)
    return lambda: (path.chmod(0o644), change(), path.chmod(mode))


class Ours:
    "A workspace with an approved release in production, and one that nobody has signed."

    def __init__(self, root: Path):
        os.environ["LLMOPS_HOME"] = str(root / "home")
        from llmops_nb.govern.people import enrol_person
        from llmops_nb.govern.registry import promote
        from llmops_nb.govern.release import open_office, propose_release, release_manifest, release_subjects
        from llmops_nb.govern.signoff import Intent, sign_release
        from llmops_nb.ground import ledger as tables
        from llmops_nb.ground.core import write_json
        from llmops_nb.ground.settings import create_workspace
        from llmops_nb.ground.signing import create_key

        self.workspace = create_workspace(root / "bank")
        self.office = open_office(self.workspace)
        self.releases = []
        write_json(root / "security" / "security.json", {"findings": []})
        security = self.office.store.put(root / "security")
        stage = self.office.ledger.add(tables.stages, {"run": "main", "stage": "secure", "key": "", "status": "done", "started": tables.now(), "ended": tables.now(), "parameters": {}})
        self.office.ledger.add(tables.lineage, {"stage_id": stage, "direction": "out", "name": "security", "digest": security})
        for version in (1, 2):
            folder = root / f"adapter{version}"
            folder.mkdir()
            (folder / "weights.bin").write_bytes((root / f"weights{version}.bin").read_bytes())
            self.adapter = self.office.store.put(folder) if version == 1 else self.adapter
            subjects = release_subjects({"adapter": self.office.store.put(folder), "security": security})
            check = {"id": "quality", "title": "good enough", "kind": "metric", "value": 0.8, "low": 0.7, "high": 0.9, "n": 500, "at_least": 0.7, "at_most": None, "passed": True, "blocking": True, "detail": "0.8", "evidence": ""}
            write_json(root / f"release{version}" / "release.json", release_manifest("bot", subjects, [check], self.office.policy("demo"), ["anna"]))
            self.releases.append(propose_release(self.office, root / f"release{version}", "main"))
        for person, role in (("ben", "evaluator"), ("cleo", "risk_owner")):
            key = create_key(person, "a long passphrase", root / "home" / "keys")
            enrol_person(self.office, person, [role], key.public_hex)
            sign_release(self.office, self.releases[0], key, Intent(person, role, "approve", "read it"))
        promote(self.office, self.releases[0], "production")

    def ask(self, what: str) -> bool:
        "Whether the thing is handed out."
        from llmops_nb.govern.approval import require_approved
        from llmops_nb.govern.registry import release_at
        from llmops_nb.ground.core import LlmopsError

        try:
            if what == "history":
                return self.office.audit.verify().ok
            if what == "alias":
                require_approved(self.office, release_at(self.office, "bot").digest)
            else:
                with tempfile.TemporaryDirectory() as folder:
                    self.office.store.get(self.adapter, Path(folder) / "copy")
        except LlmopsError:
            return False
        return True

    def change(self, what: str, chance: random.Random) -> Callable[[], None]:
        "Make the change; returns what undoes it."
        if what == "artifact":
            store = self.office.store
            return flip(store.shelf.root / store.blob(store.entries(self.adapter)[0].sha256), chance)
        if what == "alias":
            return edit(self.workspace.address("ledger").removeprefix("sqlite:///"), "update aliases set digest = ? where alias = 'production'", self.releases[1].digest, self.releases[0].digest)
        path = str(self.office.audit.path)
        with sqlite3.connect(path) as database:
            for (name,) in database.execute("select name from sqlite_master where type = 'trigger'").fetchall():
                database.execute(f"drop trigger {name}")
            seq, body = chance.choice(database.execute("select seq, body from entries").fetchall())
        return edit(path, f"update entries set body = ? where seq = {seq}", body.replace('"time":"2', '"time":"1'), body)


def edit(path: str, statement: str, new: str, old: str) -> Callable[[], None]:
    "Run a statement on a database behind its owner's back; returns what undoes it."
    def run(value: str) -> None:
        with sqlite3.connect(path, timeout=30) as database:
            database.execute(statement, (value,))

    run(new)
    return lambda: run(old)


class Mlflow:
    "A registered model with two versions and a production alias, in SQLite and a folder."

    def __init__(self, root: Path, environment: Path):
        self.root = root
        self.process = subprocess.Popen([str(environment / "bin" / "python"), "-W", "ignore", "-c", MLFLOW, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.ask("alias")  # until it is set up

    def ask(self, what: str) -> bool:
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        return "handed out" in json.loads(self.process.stdout.readline())

    def change(self, what: str, chance: random.Random) -> Callable[[], None]:
        if what == "artifact":
            return flip(next((self.root / "artifacts").rglob("weights1.bin")), chance)
        if what == "alias":
            return edit(str(self.root / "mlflow.db"), "update registered_model_aliases set version = ?", "2", "1")
        return edit(str(self.root / "mlflow.db"), "update metrics set value = ?", "0.99", "0.8")


class Dvc:
    "A repository with one tracked file; asked with `dvc checkout` after the working copy was deleted."

    def __init__(self, root: Path, environment: Path):
        self.root, self.dvc = root / "repository", str(environment / "bin" / "dvc")
        self.root.mkdir()
        (self.root / "weights.bin").write_bytes((root / "weights1.bin").read_bytes())
        for command in (("init", "--no-scm", "-q"), ("config", "core.analytics", "false"), ("add", "-q", "weights.bin")):
            subprocess.run([self.dvc, *command], cwd=self.root, check=True, capture_output=True)

    def ask(self, what: str) -> bool:
        (self.root / "weights.bin").unlink(missing_ok=True)
        return subprocess.run([self.dvc, "checkout", "-q", "--force"], cwd=self.root, capture_output=True).returncode == 0 and (self.root / "weights.bin").exists()

    def change(self, what: str, chance: random.Random) -> Callable[[], None]:
        return flip(max((path for path in (self.root / ".dvc" / "cache").rglob("*") if path.is_file()), key=lambda path: path.stat().st_size), chance)


def refused(product: Ours | Mlflow | Dvc, what: str, times: int, chance: random.Random) -> int:
    "How many of so many changes were refused. Ends with an error when the unchanged thing is."
    count = 0
    for _ in range(times):
        undo = product.change(what, chance)
        count += not product.ask(what)
        undo()
    assert product.ask(what), f"{type(product).__name__} does not hand out the unchanged {what}"
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--mlflow", type=Path, help="virtual environment with mlflow")
    parser.add_argument("--dvc", type=Path, help="virtual environment with dvc")
    given, chance = parser.parse_args(), random.Random(7)
    with tempfile.TemporaryDirectory() as folder:
        products: dict[str, tuple[Ours | Mlflow | Dvc, tuple[str, ...]]] = {}
        for name, make, asked in (("ours", Ours, ("artifact", "alias", "history")), ("mlflow", Mlflow, ("artifact", "alias", "history")), ("dvc", Dvc, ("artifact",))):
            if name == "ours" or getattr(given, name):
                root = Path(folder) / name
                root.mkdir()
                for version in (1, 2):
                    (root / f"weights{version}.bin").write_bytes(random.Random(version).randbytes(WEIGHTS))
                products[name] = (make(root) if name == "ours" else make(root, getattr(given, name).absolute()), asked)
        print(f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}; refused, of {given.times} changes each")
        for what, title in (("artifact", "one bit of a stored artifact flipped"), ("alias", "production alias moved in the database to what nobody approved"), ("history", "a row of the history changed")):
            cells = [f"{name} {refused(product, what, given.times, chance)}" for name, (product, asked) in products.items() if what in asked]
            print(f"  {title:<64} {'   '.join(cells)}")


if __name__ == "__main__":
    main()
