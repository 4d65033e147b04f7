"F6: one bit is flipped at a random place of everything that is kept; whoever reads it refuses, and says which file or entry it is."
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import llmops
from harness import chain, draw, times, told

from llmops_nb.ground.core import LlmopsError

FLIPS = times(5, 200)


def flip(path: Path, name: str) -> int:
    "Flip one bit of a file, chosen at random; returns where."
    data = bytearray(path.read_bytes())
    place = draw(name).randrange(8 * len(data))
    data[place // 8] ^= 1 << place % 8
    path.chmod(0o644)
    path.write_bytes(data)
    return place


def kept_in_store(folder: Path, part: str) -> tuple[Path, Callable]:
    from llmops_nb.ground.store import Store

    source, store = folder / "source", Store(folder / "store")
    source.mkdir()
    (source / "rows.jsonl").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(200)))
    digest = store.put(source)
    path = next(p for p in (folder / "store" / part).rglob("*") if p.is_file())
    return path, lambda: store.get(digest, folder / "out")


def kept_receipt(folder: Path, name: str) -> tuple[Path, Callable]:
    from llmops_nb.ground.core import digest_file, write_atomic
    from llmops_nb.ground.signing import service_key
    from llmops_nb.notebooks.receipt import verify_receipt, write_receipt

    key = service_key("workspace-test", folder / "keys")
    write_atomic(folder / "notebook.ipynb", json.dumps({"cells": ["x" * 500]}))
    facts = {"outputs": {}, "observed": {}, "notebook": digest_file(folder / "notebook.ipynb")}
    write_receipt(folder / "receipt.json", {"outputs": {}, "observed": {}}, facts, key)
    return folder / name, lambda: verify_receipt(folder / "receipt.json", [key.public_hex])


def kept_checkpoint(folder: Path, name: str) -> tuple[Path, Callable]:
    import torch
    from llmops_nb.models.checkpoints import read_checkpoint, save_checkpoint

    tensors = {part: {"a": torch.arange(500.0)} for part in ("weights", "optimizer", "random")}
    path = save_checkpoint(folder, 3, tensors, {"losses": [0.5]}, {"fingerprint": "x", "seed": 7})
    return path / name, lambda: read_checkpoint(path)


def kept_snapshot(folder: Path, name: str) -> tuple[Path, Callable]:
    from llmops_nb.ground.settings import create_workspace
    from llmops_nb.operate.backup import heads, take_snapshot
    from llmops_nb.operate.restore import open_snapshot, restore_snapshot

    snapshot = take_snapshot(create_workspace(folder / "w", {"data.txt": "data " * 100}), folder / "snapshots", "one")
    key = heads(snapshot.archive)["one"] if name == "head" else snapshot.archive.name(snapshot.manifest["files"][name]["sha256"])
    return folder / "snapshots" / key, lambda: restore_snapshot(open_snapshot(folder / "snapshots", "one"), folder / "restored")


def kept_package(folder: Path, name: str) -> tuple[Path, Callable]:
    from llmops_nb.prompts.variants import Material
    from llmops_nb.serve.package import package_neighbours, read_deployment

    texts = [f"my card {n} is lost" for n in range(20)] + [f"refund number {n} please" for n in range(20)]
    labels = ["lost"] * 20 + ["refund"] * 20
    package_neighbours(folder / "package", {"name": "bot", "version": "1"}, "0" * 64, Material(["lost", "refund"], texts, labels), texts[::5], labels[::5])
    return folder / "package" / name, lambda: read_deployment(folder / "package")


def kept_signoff(folder: Path, name: str) -> tuple[Path, Callable]:
    from llmops_nb.ground.signing import service_key, sign_statement, statement, verify_envelope

    key = service_key("alice", folder / "keys")
    path = folder / name
    path.write_text(json.dumps(sign_statement(statement([{"name": "release", "digest": "0" * 64}], "https://example.org/signoff", {"decision": "approve"}), key)))

    def read() -> None:
        try:
            verify_envelope(json.loads(path.read_text()), [key.public_hex])
        except ValueError as error:  # not JSON, not UTF-8
            raise LlmopsError(f"{path} is not an envelope: {error}") from error

    return path, read


def kept_audit(folder: Path, name: str) -> tuple[Path, Callable]:
    from llmops_nb.ground.audit import export_log, open_audit, verify_export
    from llmops_nb.ground.settings import create_workspace

    log = open_audit(create_workspace(folder / "w"))
    for number in range(3):
        log.append("test.act", "tester", details={"number": number})
    export_log(log, folder / "export")

    def read() -> None:
        if not (verdict := verify_export(folder / "export")).ok:
            raise LlmopsError(str(verdict))

    return folder / "export" / name, read


KINDS = {"stored file": (kept_in_store, "blobs"), "manifest": (kept_in_store, "manifests"), "receipt": (kept_receipt, "receipt.json"), "notebook": (kept_receipt, "notebook.ipynb"),
         "weights of a checkpoint": (kept_checkpoint, "weights.safetensors"), "optimizer of a checkpoint": (kept_checkpoint, "optimizer.safetensors"),
         "manifest of a checkpoint": (kept_checkpoint, "MANIFEST.json"), "snapshot": (kept_snapshot, "data.txt"), "manifest of a snapshot": (kept_snapshot, "head"), "served package": (kept_package, "material.json"),
         "sign-off": (kept_signoff, "signoff.json"), "audit log": (kept_audit, "entries.jsonl")}


@pytest.mark.parametrize("kind", KINDS)
def test_f6_flipped_bit(tmp_path: Path, home: Path, record_property, monkeypatch, kind: str):
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    for number in range(FLIPS):
        folder = tmp_path / str(number)
        folder.mkdir()
        path, read = KINDS[kind][0](folder, KINDS[kind][1])
        read()
        for left in ("out", "restored"):
            os.rename(folder / left, folder / f"first {left}") if (folder / left).exists() else None
        place = flip(path, f"F6 {kind} {number}")
        with pytest.raises((LlmopsError, UnicodeDecodeError)) as refused:
            read()
        assert str(refused.value), f"bit {place} of {path.name}"
    told(record_property, "F6", FLIPS, FLIPS, f"{kind}: refused, by name")


def test_f6_through_the_command_line(workspace: Path, home: Path, record_property):
    "A stage that would read a changed artifact does not run; doctor finds it; the message names artifact and digests."
    chain(workspace, ["90_one", "91_two"])
    assert llmops(workspace, "run", "one", home=home).returncode == 0
    blob = next(p for p in (workspace / ".llmops/store/blobs").rglob("*") if p.is_file() and p.read_bytes() == b"0")
    flip(blob, "F6 command line")
    done = llmops(workspace, "run", "two", home=home)
    assert done.returncode == 1 and "was changed: expected " in done.stdout + done.stderr, done.stdout + done.stderr
    assert llmops(workspace, "doctor", home=home).returncode == 1
    told(record_property, "F6", 1, 1, "artifact read by a stage: refused with both digests")
