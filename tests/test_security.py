"Attacks on the product itself: names that climb, archives that burst, models that carry code, templates, addresses, markup and parameters. Each test prints n tried / n that got through."
import base64
import functools
import gzip
import http.server
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from faults.harness import told

import llmops_nb
from llmops_nb.ground.core import BadInput, LlmopsError, digest_bytes

ROOT = Path(llmops_nb.__file__).parent


class Watch:
    "What this process opened for writing, removed, started or connected to while `on`; an audit hook cannot be taken away, so there is one."

    def __init__(self) -> None:
        self.on, self.events, self.known = False, [], False

    def hook(self, event: str, given: tuple) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(given[0], str | bytes | os.PathLike):
            self.events.append(("write" if any(letter in str(given[1] or "r") for letter in "wax+") or isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR) else "read", os.path.realpath(os.fsdecode(given[0]))))
        elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link"):
            self.events += [("write", os.path.realpath(os.fsdecode(path))) for path in given[:2] if isinstance(path, str | bytes | os.PathLike)]
        elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"):
            self.events.append((event, str(given)[:200]))

    @contextmanager
    def ing(self) -> Iterator[list[tuple[str, str]]]:
        if not self.known:
            sys.addaudithook(self.hook)
            self.known = True
        self.events, self.on = [], True
        try:
            yield self.events
        finally:
            self.on = False


watch = Watch()


def quietly(*words: str) -> int:
    "The exit code of a command, in this process."
    from llmops_nb.desk.cli import main

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            return main(list(words))
        except SystemExit as end:
            return int(end.code or 0)


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "A workspace in which this process stands, beside a folder that nobody may touch."
    from llmops_nb.ground.settings import create_workspace

    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLMOPS_PASSPHRASE", "correct horse battery")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.json").write_text('{"secret": 1}')
    root = create_workspace(tmp_path / "bank").root
    monkeypatch.chdir(root)
    return root


# S1 --------------------------------------------------------------------------------------------------------------------------------------------

def climbing(outside: Path) -> list[str]:
    "Sixty spellings of a place that is not the workspace."
    plain = ["../outside/secret.json", "../../outside/secret.json", "../outside", "../../../../../../../../etc/passwd", "/etc/passwd", str(outside / "secret.json"), str(outside), "..", ".", "~", "~root/.ssh/id_rsa", "/", "//etc/passwd", "./../outside",
             "a/../../outside/secret.json", "runs/../../outside", "main/../../../outside/secret.json", "/proc/self/environ", "/dev/stdin", "$HOME/.ssh", "`id`", "$(id)", "a;id", "a|id", "-rf", "--help", ".git/config", ".llmops/keys", "con", "nul"]
    spelt = [how(text) for text in plain[:6] for how in (lambda t: t.replace("/", "\\"), lambda t: quote(t, safe=""), lambda t: t.replace(".", "%2e"), lambda t: t + "\0.json", lambda t: t.replace("..", "....//").replace("//", "/"))]
    return plain + spelt


def test_s1_no_name_leaves_its_folder(bank: Path, record_property: Callable) -> None:
    from llmops_nb.ground.core import check_name
    from llmops_nb.ground.store import Store
    from llmops_nb.notebooks.bundle import write_folder

    outside, store = bank.parent / "outside", Store(str(bank / "store"))
    names = climbing(outside)
    assert len(names) == 60
    typed = {"run": ("run", "--dry-run", "--run"), "status": ("status", "--run"), "stage": ("run", "--dry-run"), "show": ("show",), "why": ("why",), "trace": ("trace",), "replay": ("replay",), "release": ("release", "show"), "person": ("person", "add"),
             "finding": ("finding", "accept", "--until", "2026-12-01", "--reason", "long enough a reason")}
    called: dict[str, Callable[[str], Any]] = {"artifact": store.entries, "artifact copy": lambda name: store.get(name, bank / "here"), "bundle": lambda name: write_folder(bank / "node", {name: b"x"}), "name": check_name}
    tried, through = 0, []
    before = sorted(outside.rglob("*"))
    for name in names:
        for kind, words in typed.items():
            with watch.ing() as events:
                quietly(*words, name)
            tried += 1
            through += [f"{kind} {name!r}: {event}" for event in events if escapes(event, bank, outside)]
        for kind, function in called.items():
            with watch.ing() as events, suppress(LlmopsError, ValueError, OSError):
                function(name)
            tried += 1
            through += [f"{kind} {name!r}: {event}" for event in events if escapes(event, bank, outside)]
    assert sorted(outside.rglob("*")) == before
    told(record_property, "S1", tried - len(through), tried, f"{len(through)} names led out of the workspace")
    assert not through, through[:10]


def escapes(event: tuple[str, str], bank: Path, outside: Path) -> bool:
    "Whether an event touched what it must not: anything read outside on purpose, anything written elsewhere than workspace and home."
    what, path = event
    if what == "read":
        return path.startswith(str(outside)) or path in ("/etc/passwd", "/proc/self/environ", "/root/.ssh/id_rsa")
    kept = (str(bank), str(bank.parent / "home"), "/dev/null", "/dev/urandom")
    return what == "write" and not path.startswith(kept) and "__pycache__" not in path and not path.startswith(os.path.realpath(os.environ.get("TMPDIR", "/tmp")) + "/tmp")
