"""Data subjects: erased from every place, left out of every run, unreadable in every copy; counted here, not believed.

`LLMOPS_FAULTS=nightly` erases 100 people from 24 places each; without it 6 people.
"""
import gzip
import json
import random
import shutil
import sqlite3
import unicodedata
from pathlib import Path

import pytest
from conftest import artifacts_of, llmops
from faults.harness import times
from standin import Service

PLACES = ("records text", "records customer", "rejected rows", "older records", "dataset", "removals", "prompt", "evaluation", "batch answers", "preferences", "observed requests", "log in plain", "log sealed", "feedback log",
          "feedback in the ledger", "prompts in the ledger", "errors in the ledger", "executed notebook", "report", "table", "journal of a stage", "pipeline cache", "data sets cache", "W&B file", "vault", "snapshot")


def person(number: int) -> dict[str, str]:
    "An invented customer: address, number, and a sentence that nobody else writes."
    rng = random.Random(f"person {number}")
    word = "".join(rng.choice("bcdfghklmnprstvw") + rng.choice("aeiou") for _ in range(5))
    return {"mail": f"{word}.{number}@example.org", "customer": f"K-{70000 + number}", "said": f"My {word} account number {number} shows a payment that I never made"}


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    "A function that makes a workspace in which so many people are in every place, among bystanders who are in the same ones."
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    return lambda count: plant(tmp_path, [person(number) for number in range(count)], [person(number) for number in range(1000, 1040)])


def plant(tmp_path: Path, people: list[dict], others: list[dict]):
    "The workspace with everything in it."
    from llmops_nb.data.keyring import seal_text
    from llmops_nb.data.records import Loaded, save_records
    from llmops_nb.data.subjects import look_for
    from llmops_nb.data.vault import seal, vault_name
    from llmops_nb.govern.release import open_office
    from llmops_nb.ground import ledger as books
    from llmops_nb.ground.core import write_atomic, write_json, write_lines
    from llmops_nb.ground.settings import create_workspace
    from llmops_nb.operate.backup import backup_folder, take_snapshot

    workspace = create_workspace(tmp_path / "bank")
    office, everybody, folder, work = open_office(workspace), [*others, *people], tmp_path / "work", workspace.private
    names = [one["mail"] for one in everybody]

    def enter(stage: str, name: str, reads: dict[str, str], direction: str = "out") -> dict[str, str]:
        digest, moment = office.store.put(folder / name), books.now()
        number = office.ledger.add(books.stages, dict(run="main", stage=stage, key=name, status="done", started=moment, parameters={}))
        office.ledger.add(books.lineage, *[dict(stage_id=number, direction="in", name=n, digest=d) for n, d in reads.items()], dict(stage_id=number, direction=direction, name=name.partition("~")[0], digest=digest))
        return {name: digest}

    def record(number: int, one: dict, text: str, group: str = "") -> dict:
        return {"id": f"r{number}", "text": text, "label": "payment", "target": "payment", "reply": "", "fields": {}, "language": "en", "time": "", "source": "x.csv", "group": group, "row": number, "split": ""}

    rows = [record(i, one, f"{one['said']}, write to {one['mail'].upper()}.", one["customer"]) for i, one in enumerate(everybody)]
    bad = [{"line": i, "row": 9000 + i, "error": "odd", "raw": f"{one['mail']};;"} for i, one in enumerate(everybody)]
    save_records(folder / "records", Loaded(rows, bad, {"name": "x.csv", "digest": "0" * 64, "read": 2 * len(rows), "kept": len(rows), "cleaned": 0, "columns": ["text"], "limit": 0}))
    save_records(folder / "records~older", Loaded([row | {"text": row["text"] + " Thanks!"} for row in rows], [], {"name": "x.csv", "digest": "1" * 64, "read": len(rows), "kept": len(rows), "cleaned": 0, "columns": ["text"], "limit": 0}))
    clean = [row | {"text": f"{one['said']}, write to [EMAIL_1].", "group": ""} for row, one in zip(rows, everybody)]
    for split, part in (("train", clean), ("valid", clean[:5]), ("test", clean[5:9])):
        write_lines(folder / "dataset" / f"{split}.jsonl", part)
    write_lines(folder / "removals" / "removed.jsonl", [{"id": row["id"], "reason": "near copy"} for row in rows])
    write_json(folder / "prompt" / "prompt.json", {"template": "{{ text }}", "examples": [row["text"] for row in clean[-len(people) :]]})
    write_lines(folder / "evaluation" / "answers.jsonl", [{"id": row["id"], "answer": "payment"} for row in rows])
    write_lines(folder / "deployment" / "answers.jsonl", [{"id": row["id"], "text": row["text"], "answer": "payment"} for row in clean])
    write_lines(folder / "preferences" / "pairs.jsonl", [{"prompt": row["text"], "chosen": "a", "rejected": "b"} for row in clean])
    write_json(folder / "adapter" / "training.json", {"method": "lora"})
    records = enter("explore", "records", {})
    enter("explore", "records~older", {})
    dataset = enter("prepare", "dataset", records)
    for stage, name, reads in (("prepare", "removals", records), ("prompts", "prompt", dataset), ("finetune", "adapter", dataset), ("evaluate", "evaluation", dataset), ("deploy", "deployment", dataset), ("improve", "preferences", dataset)):
        enter(stage, name, reads)
    marks = {one["mail"]: look_for(workspace, [one["mail"]]).mark(one["mail"]) for one in everybody}
    write_lines(folder / "requests" / "requests.jsonl", [{"id": f"old{i}", "prompt": f"again {mail}", "answer": "payment"} for i, mail in enumerate(names)])
    enter("deploy", "requests", {}, "observed")
    sealed = [{"id": f"s{i}", "subject": marks[mail], "prompt": seal_text(workspace, marks[mail], f"I, {mail}, ask")} for i, mail in enumerate(names)]
    write_lines(work / "serving" / "requests.jsonl", [{"id": f"q{i}", "prompt": f"It is {mail} once more", "answer": "payment"} for i, mail in enumerate(names)] + sealed)
    write_lines(work / "serving" / "feedback.jsonl", [{"id": f"q{i}", "rating": -1, "correction": "no"} for i in range(len(names))])
    office.ledger.add(books.feedback, *[dict(time=books.now(), request=f"q{i}", rating="down", correction=f"tell {mail}") for i, mail in enumerate(names)])
    office.ledger.add(books.prompts, *[dict(digest=f"{i:064x}", name="few", content={"examples": [f"Dear {mail}"]}, created=books.now()) for i, mail in enumerate(names)])
    office.ledger.add(books.stages, *[dict(run="broken", stage="explore", key="", status="failed", started=books.now(), error=f"row of {mail} is odd", parameters={}) for mail in names])
    for one in everybody:
        here = workspace.runs / f"run-{one['customer']}" / "02_explore"
        write_json(here / "notebook.ipynb", {"cells": [{"cell_type": "code", "source": "x", "outputs": [{"text": [one["said"] + ", write to [EMAIL_1]."]}]}]})
        write_atomic(here / "report.html", f"<p>{one['said'].replace(' ', '&#32;')}</p>")
        write_json(here / "tables" / "overview.json", {"columns": ["who"], "data": [[one["mail"]]]})
        write_lines(here / "checkpoints" / "languages.jsonl", [["key", one["mail"]]])
        write_atomic(work / "cache" / f"{one['customer']}.json", json.dumps({"zö": one["mail"]}))
        write_atomic(work / "cache" / "datasets" / f"{one['customer']}.arrow.gz", gzip.compress(f"\x01{one['mail']}\x02".encode(), mtime=0))
        write_atomic(work / "tracking" / f"offline-{one['customer']}" / "run.wandb", b"\x00\x17\xff " + one["mail"].encode() + b"\x00")
    seal(workspace, vault_name(folder / "dataset"), {f"r{i}": {"[EMAIL_1]": one["mail"]} for i, one in enumerate(everybody)})
    take_snapshot(workspace, backup_folder(workspace), "before")
    return workspace, people, others


def remains(workspace, people: list[dict]) -> dict[str, list[str]]:
    "For each person the places in which address, customer number or sentence still stand; a search of its own, which shares no code with the one under test."
    from llmops_nb.data.vault import unseal
    from llmops_nb.ground.settings import home

    words = {one["mail"]: [one["mail"], one["customer"].lower(), one["said"].lower()] for one in people}
    found: dict[str, list[str]] = {one["mail"]: [] for one in people}
    roots = [workspace.root, home() / "backups", home() / "subjects"]
    for path in (path for root in roots for path in root.rglob("*") if path.is_file()):
        data = path.read_bytes()
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
        if path.suffix == ".sealed":
            data = json.dumps(unseal(workspace, path.stem)).encode()
        if data[:16] == b"SQLite format 3\0":
            with sqlite3.connect(path) as database:
                data += "\n".join(database.iterdump()).encode()
        text = unicodedata.normalize("NFKC", data.decode("utf-8", "ignore")).lower().replace("&#32;", " ")
        for mail, forms in words.items():
            found[mail] += [f"{path} ({form})" for form in forms if form in text]
    return found


def test_a8_people_are_gone_from_every_place(bank, record_property):
    from llmops_nb.data.subjects import look_for
    from llmops_nb.govern.release import open_office
    from llmops_nb.ground.ledger import sql
    from llmops_nb.ground import ledger as books
    from llmops_nb.operate.radius import open_cases
    from llmops_nb.operate.rights import find, forget_people

    workspace, people, others = bank(times(6, 100))
    before, shared = remains(workspace, people), remains(workspace, others)
    assert all(len(places) >= 20 for places in before.values()), min(before.items(), key=lambda pair: len(pair[1]))
    receipts = [forget_people(workspace, [one["mail"], one["customer"]], "her request", drop_snapshots=True) for one in people]
    after, office = remains(workspace, people), open_office(workspace)
    left = sum(map(len, after.values()))
    record_property("survived", f"A8 erasure: {len(people)} people × {len(PLACES)} places = {len(people) * len(PLACES):,} remnants, {left} left")
    assert after == {one["mail"]: [] for one in people}
    assert all(receipt["found_after"] == receipt["left"] == [] for receipt in receipts) and all(find(workspace, [one["mail"], one["customer"]])[0] == [] for one in people[:3])
    assert office.audit.verify().ok and office.store.verify() == [] and len(office.audit.entries("erasure.done")) == len(people)
    assert all({"adapter", "deployment", "prompt"} <= {model["name"] for model in receipt["models"]} for receipt in receipts) and len(open_cases(office.ledger)) >= len(people)
    (workspace.private / "cache" / "again.json").write_text(json.dumps(people[0]["mail"]))  # the searches can fail
    assert len(remains(workspace, people)[people[0]["mail"]]) == len(find(workspace, [people[0]["mail"]])[0]) == 1
    records = [row["digest"] for row in office.ledger.rows(sql.select(books.lineage.c.digest).where(books.lineage.c.name == "records", books.lineage.c.direction == "out"))]
    rows = [json.loads(line) for line in office.store._read(office.store.blob(next(e.sha256 for e in office.store.entries(records[-2]) if e.path == "records.jsonl"))).splitlines()]
    assert {row["group"] for row in rows} >= {one["customer"] for one in others}, "a bystander was erased"
    assert all(len(places) > 0.3 * len(shared[mail]) for mail, places in remains(workspace, others).items())
    assert look_for(workspace, [others[0]["mail"]]).marks.isdisjoint(row["subject"] for row in office.ledger.rows(sql.select(books.subjects.c.subject)))


def test_an_old_snapshot_brings_nobody_back(bank, tmp_path: Path):
    from llmops_nb.ground.settings import home
    from llmops_nb.operate.backup import backup_folder
    from llmops_nb.operate.restore import open_snapshot, restore_snapshot
    from llmops_nb.operate.rights import forget_again, forget_people

    workspace, people, _ = bank(2)
    copied = shutil.copytree(backup_folder(workspace), tmp_path / "in a safe")
    for one in people:
        forget_people(workspace, [one["mail"], one["customer"]], "her request", drop_snapshots=True)
    restored = restore_snapshot(open_snapshot(copied, "before"), tmp_path / "restored" / "bank")
    shutil.rmtree(home() / "backups")
    assert all(remains(restored, people).values())
    said = forget_again(restored)
    assert said["found_after"] == [] and remains(restored, people) == {one["mail"]: [] for one in people}


def test_the_gateway_seals_and_forgets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from fastapi.testclient import TestClient
    from llmops_nb.data.keyring import Callers
    from llmops_nb.ground.core import read_lines
    from llmops_nb.ground.settings import create_workspace
    from llmops_nb.operate.requests import load_requests
    from llmops_nb.operate.rights import change, forget_people
    from llmops_nb.prompts.clients import FunctionClient
    from llmops_nb.serve.app import Service as Gateway, make_app
    from llmops_nb.serve.journal import Journal
    from llmops_nb.serve.keys import Door, KeyRing, make_key, write_keys

    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    workspace = create_workspace(tmp_path / "bank")
    monkeypatch.setenv("LLMOPS_WORKSPACE", str(workspace.root))
    folder, (secret, key), callers = workspace.private / "serving", make_key("desk"), Callers(workspace, every=0.0)
    logs = [Journal(folder / f"{name}.jsonl", seal=callers.seal) for name in ("requests", "feedback")]
    gateway = Gateway("shout", FunctionClient("shout", lambda turns: turns[-1]["content"].upper()), Door(KeyRing(write_keys(folder / "keys.json", [key]))), *logs, lambda: "", hosts=("testserver",), person=callers)
    with TestClient(make_app(gateway), headers={"authorization": f"Bearer {secret}"}) as http:
        def ask(text: str, user: str = "") -> str:
            body = {"model": "shout", "messages": [{"role": "user", "content": text}], **({"user": user} if user else {})}
            return http.post("/v1/chat/completions", json=body).headers["x-request-id"]

        first = ask("where is my salary?", "anna@example.com")
        ask("where is my rent?", "ben@example.com")
        ask("who are you?")
        assert http.post("/v1/feedback", json={"id": first, "rating": -1, "correction": "it is late", "user": "anna@example.com"}).json()["kept"]
        raw = (folder / "requests.jsonl").read_text() + (folder / "feedback.jsonl").read_text()
        assert not any(word in raw.lower() for word in ("salary", "rent", "late", "anna", "ben@")) and "who are you?" in raw
        assert list(load_requests(folder)["prompt"]) == ["where is my salary?", "where is my rent?", "who are you?"]
        shutil.copytree(folder, tmp_path / "a copy that nobody remembers")
        change(workspace, ["ben@example.com"], "restrict", "he opted out")
        ask("nothing of this is kept", "ben@example.com")
        last = read_lines(folder / "requests.jsonl")[-1]
        assert last["prompt"] == last["answer"] == "" and "subject" not in last and last["status"] == 200
        assert list(load_requests(folder)["prompt"]) == ["where is my salary?", "(erased)", "who are you?", ""]
        receipt = forget_people(workspace, ["anna@example.com"], "her request")
        assert receipt["keys_destroyed"] == 1 and receipt["found_after"] == [] and receipt["places"]["log"]["rows"] == 2
        ask("it is me again", "anna@example.com")
    assert not any(word in (folder / "requests.jsonl").read_text().lower() for word in ("again", "anna")) and read_lines(folder / "feedback.jsonl") == []
    assert list(load_requests(tmp_path / "a copy that nobody remembers")["prompt"])[0] == "(erased)"


def test_runs_leave_people_out_and_replay_agrees(workspace: Path, home: Path, monkeypatch: pytest.MonkeyPatch):
    source = "text,label,group\n" + "".join(f"\"My parcel number {i * 7919 % 1000} has not arrived since {i} days, please look into it\",{('late', 'lost')[i % 2]},C-{5000 + i // 2}\n" for i in range(240))
    (workspace / "mail.csv").write_text(source)
    given = ("-p", "data=mail.csv", "-p", "label_column=label")
    first = llmops(workspace, "run", "explore", *given, home=home)
    assert first.returncode == 0, first.stdout + first.stderr
    erased = llmops(workspace, "subject", "erase", "C-5003", "--why", "her letter", home=home)
    assert erased.returncode == 0 and "left to you: source mail.csv" in erased.stdout and "A second search found nothing." in erased.stdout, erased.stdout + erased.stderr
    fresh = erased.stdout.partition("records ")[2].split(" → ")[1].split(",")[0]
    why = llmops(workspace, "trace", "02", home=home)
    assert "was erased on" in why.stdout + why.stderr
    again = llmops(workspace, "run", "explore", *given, home=home)
    assert again.returncode == 0, again.stdout + again.stderr
    made = artifacts_of(workspace)["02_explore"]["records"]
    assert made.startswith(fresh), "stage 02 makes the version that the erasure made"
    rows = [json.loads(line) for blob in (workspace / ".llmops" / "store" / "blobs").rglob("*") if blob.is_file() for line in blob.read_bytes().splitlines() if line.startswith(b'{"fields"') and b'"group"' in line]
    assert len(rows) >= 238 and not any(row["group"] == "C-5003" for row in rows)
    assert {"kept": 238, "excluded": 2, "read": 240}.items() <= json.loads(next(line for blob in (workspace / ".llmops" / "store" / "blobs").rglob("*") if blob.is_file() for line in blob.read_bytes().splitlines() if b'"excluded"' in line and b'"columns"' in line and b'"digest"' in line and line.startswith(b'{"cleaned"'))).items()
    replay = llmops(workspace, "replay", "main", "02", home=home)
    assert replay.returncode == 0 and "IDENTICAL" in replay.stdout, replay.stdout + replay.stderr


def test_roles_and_deletion_at_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from llmops_nb.govern.people import enrol_person
    from llmops_nb.govern.release import open_office
    from llmops_nb.ground import ledger as books
    from llmops_nb.ground.core import NotAllowed
    from llmops_nb.ground.settings import create_workspace, home
    from llmops_nb.ground.signing import create_key
    from llmops_nb.operate.deletions import delete_queued
    from llmops_nb.operate.rights import forget_people

    service = Service()
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("WANDB_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    workspace = create_workspace(tmp_path / "bank", {"settings.ini": f"[tracking]\naddress = {service.address}\nentity = me\nproject = bank\n"})
    office = open_office(workspace)
    root, paula, dora = (create_key(name, None, home() / "keys") for name in ("root", "paula", "dora"))
    for key, role in ((root, "admin"), (paula, "privacy"), (dora, "data_scientist")):
        enrol_person(office, key.name, [role], key.public_hex, **({} if key is root else {"admin": root}))
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "x").write_text("anna@example.com wrote this")
    number = office.ledger.add(books.stages, dict(run="main", stage="explore", key="k", status="done", started=books.now(), parameters={}))
    office.ledger.add(books.lineage, dict(stage_id=number, direction="out", name="out", digest=office.store.put(tmp_path / "out")))
    office.ledger.add(books.mirrors, dict(stage_id=number, run_id="r1", mode="online", state="sent", rows=0))
    for actor in ("workspace", dora):
        with pytest.raises(NotAllowed, match="may not do erasure.done"):
            forget_people(workspace, ["anna@example.com"], "her request", actor)
    receipt = forget_people(workspace, ["anna@example.com"], "her request", paula)
    assert receipt["by"] == "paula" and receipt["deletions"] == ["me/bank/r1"]
    try:
        assert delete_queued(workspace, paula) == 0
        assert [item["operation"] for item in service.received if item["kind"] == "graphql" and item["operation"] == "DeleteRun"] == ["DeleteRun"]
    finally:
        service.close()
    assert office.audit.verify().ok and "anna" not in str([entry.body for entry in office.audit.entries()])
    assert [(act["action"], act["outcome"]) for entry in office.audit.entries("erasure.") for act in [entry.act]] == [("erasure.done", "refused"), ("erasure.done", "refused"), ("erasure.done", "done"), ("erasure.deleted", "done")]
