"F5: folders that cannot be read or written, that are missing, or made with an odd umask: one line that says what to do, quickly, and nothing done before."
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import llmops
from harness import chain, environment, told

pytestmark = pytest.mark.slow


def as_somebody(folder: Path, home: Path, *words: str) -> subprocess.CompletedProcess:
    "The command line as a user who may not do everything."
    prefix = ["setpriv", "--reuid", "65534", "--clear-groups"] if os.geteuid() == 0 else []
    more = {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*prefix, sys.executable, "-m", "llmops_nb.desk.cli", *words], cwd=folder, env=environment(home, **more), capture_output=True, text=True, timeout=120)


def everybody(folder: Path, mode_folder: int, mode_file: int) -> None:
    "Set the modes of a folder and all that is in it."
    for path in [*folder.rglob("*"), folder]:
        path.chmod(mode_folder if path.is_dir() else mode_file)


@pytest.fixture
def place(workspace: Path, home: Path):
    "A workspace with one finished stage that anybody may reach; made writable again afterwards."
    if os.geteuid() == 0 and not shutil.which("setpriv"):
        pytest.skip("root may write anywhere, and setpriv is not installed")
    chain(workspace, ["90_one", "91_two"])
    assert llmops(workspace, "run", "one", home=home).returncode == 0
    everybody(home, 0o777, 0o666)
    everybody(workspace, 0o777, 0o666)
    for key in (home / "keys").rglob("*.pem"):  # a private key that others can read is refused before anything else
        key.chmod(0o600)
        if os.geteuid() == 0:
            os.chown(key, 65534, -1)
    for parent in workspace.parents:
        if str(parent).startswith("/tmp/"):
            parent.chmod(parent.stat().st_mode | 0o055)
    probe = as_somebody(workspace, home, "--version")
    if probe.returncode:
        pytest.skip(f"the interpreter cannot be used by another user here: {probe.stderr[-200:]}")
    yield workspace
    everybody(workspace, 0o755, 0o644)


CASES = {
    "read-only workspace": (lambda root: everybody(root, 0o555, 0o444), ["run", "two"]),
    "read-only runs folder": (lambda root: (root / "runs").chmod(0o555), ["run", "two"]),
    "read-only private folder": (lambda root: (root / ".llmops").chmod(0o555), ["run", "two"]),
    "unreadable ledger": (lambda root: (root / ".llmops" / "ledger.sqlite").chmod(0o000), ["run", "two"]),
    "unreadable settings": (lambda root: (root / "settings.ini").chmod(0o000), ["run", "two"]),
    "unreadable template": (lambda root: (root / "templates" / "91_two.ipynb").chmod(0o000), ["run", "two"]),
    "missing data folder": (lambda root: None, ["run", "-p", "data=nowhere/rows.csv"]),
}


@pytest.mark.parametrize("case", CASES)
def test_f5_refused_with_one_message(place: Path, home: Path, record_property, case: str):
    spoil, words = CASES[case]
    spoil(place)
    began = time.monotonic()
    done = as_somebody(place, home, *words)
    seconds = time.monotonic() - began
    assert done.returncode in (1, 2), (done.returncode, done.stdout, done.stderr)
    assert "Traceback" not in done.stderr and str(place) in done.stderr or "nowhere" in done.stderr, done.stderr
    assert len(done.stderr.strip().splitlines()) <= 3, done.stderr
    assert seconds < 20
    told(record_property, "F5", 1, 1, f"{case}: refused in {seconds:.1f} s, exit {done.returncode}")


@pytest.mark.parametrize("mask", ["000", "077"])
def test_f5_odd_umask_works(workspace: Path, home: Path, record_property, mask: str):
    "Private keys stay private whatever the umask says."
    chain(workspace, ["90_one"])
    done = subprocess.run(["sh", "-c", f"umask {mask}; exec {sys.executable} -m llmops_nb.desk.cli run one"], cwd=workspace, env=environment(home), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert all(path.stat().st_mode & 0o077 == 0 for path in (home / "keys").glob("*.pem"))
    told(record_property, "F5", 1, 1, f"umask {mask}: works, keys are for their owner only")
