"What the tests share: the real-data folder, workspaces of their own, and one finished demonstration run."
import os
import subprocess
import sys
from pathlib import Path

import pytest
from house import House, build_house

ROOT = Path(__file__).resolve().parents[1]
os.environ.setdefault("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")  # else torchao prints two lines wherever transformers is imported
DATA = Path(os.environ.get("LLMOPS_DATA", ROOT.parent / "shared" / "data"))


def llmops(folder: Path, *words: str, home: Path, timeout: float = 1200, **environment: str) -> subprocess.CompletedProcess:
    "Run the command line in a folder with a home of its own."
    command = [sys.executable, "-m", "llmops_nb.desk.cli", *words]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("LLMOPS_", "WANDB_"))}
    return subprocess.run(command, cwd=folder, env={**inherited, "LLMOPS_HOME": str(home), **environment}, capture_output=True, text=True, timeout=timeout)


def artifacts_of(workspace: Path, run: str = "main") -> dict[str, dict[str, str]]:
    "The digests of all repeatable artifacts of a run, by stage and name, from the signed receipts."
    from llmops_nb.notebooks.receipt import read_receipt

    return {path.parent.name: read_receipt(path)["predicate"]["outputs"] for path in sorted((workspace / "runs" / run).glob("*/receipt.json"))}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    "An empty folder for keys and witnesses."
    return tmp_path / "home"


@pytest.fixture
def workspace(tmp_path: Path, home: Path) -> Path:
    "A new workspace."
    assert llmops(tmp_path, "init", "bot", home=home).returncode == 0
    return tmp_path / "bot"


@pytest.fixture
def house(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    "A workspace with a proposed release and people who may decide on it."
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    return build_house(tmp_path)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    "A workspace in which the whole lifecycle has run once on the built-in data, by the command line."
    folder = tmp_path_factory.mktemp("demo")
    assert llmops(folder, "init", "bot", home=folder / "home").returncode == 0
    done = llmops(folder / "bot", "run", "-p", "policy=demo", home=folder / "home")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "bot"


@pytest.fixture
def data_folder() -> Path:
    "The folder of public data; the test is skipped where there is none."
    if not (DATA / "banking77" / "train.csv").exists():
        pytest.skip(f"no public data in {DATA}; name its folder in LLMOPS_DATA")
    return DATA


def pytest_terminal_summary(terminalreporter) -> None:
    "After the tests: one line for each fault that was survived, as the tests noted it with `record_property('survived', …)`."
    lines = [value for kind in ("passed", "failed") for report in terminalreporter.getreports(kind) if report.when == "call" for name, value in report.user_properties if name == "survived"]
    if lines:
        terminalreporter.section("faults survived, and what was lost")
        for line in sorted(lines):
            terminalreporter.line(line)
