"A slip answers only while nothing that it depends on has changed, and never when a proof does not hold."
import base64
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ASK = "from llmops_nb.ground.settings import find_workspace\nfrom llmops_nb.notebooks.slip import Request, read_slip\nprint(bool(read_slip(find_workspace(), Request('main', {}, ['1', '2'], '', ''))))"
CODE = "from llmops_nb.ground.stage import open_stage\nstage = open_stage('{name}', globals())\n(stage.output('{name}_value') / 'value.txt').write_text('{name}' + {more})\nstage.close()"


def template(folder: Path, name: str, parameters: str, more: str) -> None:
    "Write a small stage notebook."
    cells = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": f"# {name}\n> What?"}]
    for n, (source, tags) in enumerate(((parameters, ["parameters"]), (CODE.format(name=name.partition("_")[2], more=more), []))):
        cells.append({"cell_type": "code", "id": f"c{n}", "metadata": {"tags": tags}, "source": source, "outputs": [], "execution_count": None})
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.ipynb").write_text(json.dumps({"cells": cells, "metadata": {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}, "nbformat": 4, "nbformat_minor": 5}))


class Place:
    "A workspace with two finished stages, a copy of the package to work with, and a slip."

    def __init__(self, root: Path):
        self.root, self.library = root / "w", root / "lib"
        shutil.copytree(ROOT / "llmops_nb", self.library / "llmops_nb", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copytree(ROOT / "templates", self.library / "templates")
        self.environment = {**os.environ, "PYTHONPATH": str(self.library), "LLMOPS_HOME": str(root / "home"), "LLMOPS_CACHE": str(root / "cache"), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONSAFEPATH": "1"}
        self.root.mkdir()
        (self.root / "settings.ini").write_text("[workspace]\nname = w\n[pipeline]\nkernel = python3\n[tracking]\nmode = disabled\n")
        (self.root / "policy.toml").write_text("[demo]\ndemonstration = true\n")
        (self.root / "numbers.txt").write_text("1 2 3")
        template(self.root / "templates", "01_objectives", "numbers: str = 'numbers.txt'  # a file", "open(stage.workspace.root / numbers).read()")
        template(self.root / "templates", "02_explore", "seed: int = 7  # nothing", "str(len(list(stage.input('objectives_value').iterdir())))")

    def run(self) -> str:
        "What `llmops run 1 2` says."
        done = subprocess.run([sys.executable, "-m", "llmops_nb.desk.cli", "run", "1", "2"], cwd=self.root, env=self.environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stderr + done.stdout

    def slip(self, **more: str) -> bool:
        "Whether the slip answers."
        done = subprocess.run([sys.executable, "-c", ASK], cwd=self.root, env={**self.environment, **more}, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip() == "True"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    made = Place(tmp_path_factory.mktemp("slip"))
    assert made.run().count("✓") == 2
    time.sleep(2.5)
    assert made.run().count("nothing changed") == 2 and made.slip()
    return made


def first(place: Place, pattern: str) -> Path:
    return sorted(place.root.glob(pattern))[0]


def rewrite(path: Path, text: str) -> None:
    path.chmod(0o644)
    path.write_text(text)


def tamper(path: Path) -> None:
    "Sign nothing, change one character of what was signed."
    envelope = json.loads(path.read_text())
    payload = base64.b64decode(envelope["payload"]).replace(b'"seconds":', b'"seconds" :')
    path.write_text(json.dumps({**envelope, "payload": base64.b64encode(payload).decode()}))


def sql(place: Place, statement: str) -> None:
    connection = sqlite3.connect(place.root / ".llmops" / "ledger.sqlite")
    with connection:
        connection.execute(statement)
    connection.close()


CHANGES: dict[str, Callable[[Place], object]] = {
    "a template's code": lambda p: template(p.root / "templates", "02_explore", "seed: int = 7  # nothing", "'changed'"),
    "a template's default": lambda p: template(p.root / "templates", "02_explore", "seed: int = 8  # nothing", "''"),
    "a new template": lambda p: template(p.root / "templates", "90_more", "seed: int = 7  # nothing", "''"),
    "a parameter's file": lambda p: (p.root / "numbers.txt").write_text("1 2 4"),
    "a parameter's file, gone": lambda p: (p.root / "numbers.txt").unlink(),
    "the settings": lambda p: (p.root / "settings.ini").write_text((p.root / "settings.ini").read_text() + "threads = 1\n"),
    "the policy": lambda p: (p.root / "policy.toml").write_text("[demo]\n"),
    "a module of the library": lambda p: (p.library / "llmops_nb/ground/core.py").write_text((p.library / "llmops_nb/ground/core.py").read_text() + "\n"),
    "a new module of the library": lambda p: (p.library / "llmops_nb/ground/new.py").write_text(""),
    "the packages": lambda p: (p.library / "numpy-99.dist-info").mkdir(),
    "the ledger's status": lambda p: sql(p, "update stages set status = 'failed' where stage = 'explore'"),
    "the ledger's key": lambda p: sql(p, "update stages set key = '0' where stage = 'explore'"),
    "the run's parameters": lambda p: sql(p, """update runs set parameters = '{"seed": "9"}'"""),
    "a receipt": lambda p: tamper(first(p, "runs/main/01_*/receipt.json")),
    "a receipt, gone": lambda p: first(p, "runs/main/01_*/receipt.json").unlink(),
    "an executed notebook": lambda p: rewrite(first(p, "runs/main/01_*/notebook.ipynb"), "{}"),
    "a report, gone": lambda p: first(p, "runs/main/02_*/report.html").unlink(),
    "the index": lambda p: rewrite(p.root / "runs/main/index.html", ""),
    "a blob, gone": lambda p: first(p, ".llmops/store/blobs/*/*").unlink(),
    "a blob, shorter": lambda p: rewrite(first(p, ".llmops/store/blobs/*/*"), ""),
    "a manifest, gone": lambda p: first(p, ".llmops/store/manifests/*/*").unlink(),
    "the engine's key": lambda p: os.utime(first(p, "../home/keys/*.pem")),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_voids_the_slip(place, what, tmp_path):
    saved = {name: tmp_path / name for name in ("w", "lib", "home")}
    for name, path in saved.items():
        subprocess.run(["cp", "-a", str(place.root.parent / name), str(path)], check=True)
    CHANGES[what](place)
    try:
        assert not place.slip()
    finally:  # put the old bytes back; their times are new, so the next one needs a new slip
        for name, path in saved.items():
            shutil.rmtree(place.root.parent / name)
            subprocess.run(["cp", "-a", str(path), str(place.root.parent / name)], check=True)
        time.sleep(2.1)
        assert place.run().count("nothing changed") == 2 and place.slip()


def test_surroundings_and_requests_are_their_own(place):
    assert place.slip() and not place.slip(CUDA_VISIBLE_DEVICES="" if os.path.exists("/dev/nvidiactl") else "0", LLMOPS_HOME=str(place.root.parent / "other"))
    assert not place.slip(PYTHONPATH=f"{place.library}{os.pathsep}/tmp")


def test_a_damaged_slip_is_none(place):
    path = first(place, "../cache/slips/*.json")
    data = path.read_bytes()
    for wrong in (b"", data[:-1], data.replace(b"main", b"mine"), data + b" "):
        path.write_bytes(wrong)
        assert not place.slip()
    path.write_bytes(data)
    assert place.slip()
