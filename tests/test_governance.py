"Forgery, tampering and races: what nobody may get past. Figures are printed as n tried / n found."
import base64
import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

import llmops_nb
from llmops_nb.govern.approval import examine, logged_signoffs, require_approved, verify_release
from llmops_nb.govern.people import add_key, enrol_person, make_demo_identities, revoke_key
from llmops_nb.govern.policy import DEFAULT_POLICY
from llmops_nb.govern.registry import promote, release_at
from llmops_nb.govern.release import Office, Release, find_release, open_office, propose_release, release_manifest, release_subjects
from llmops_nb.govern.signoff import Intent, prepare_signoff, sign_release
from llmops_nb.ground import ledger as tables
from llmops_nb.ground.audit import AuditLog, Entry, declare_restore, export_log, verify_export, write_entry
from llmops_nb.ground.checkpoint import add_leaf, leaf_hash, tree_root, write_checkpoint
from llmops_nb.ground.core import IntegrityError, LlmopsError, NotAllowed, canonical_json, digest_bytes, digest_value, write_json
from llmops_nb.ground.ledger import now, sql
from llmops_nb.ground.settings import create_workspace
from llmops_nb.ground.signing import Key, create_key, service_key, sign_statement, verify_envelope

SEED = 11


@dataclass
class House:
    "A workspace with a proposed release, four people and their keys."

    office: Office
    keys: dict[str, Key]
    release: Release
    root: Path

    def sign(self, *names: str, decision: str = "approve") -> "House":
        for name in names:
            sign_release(self.office, self.release, self.keys[name], Intent(name, "", decision, "because"))
        return self

    def rows(self) -> list[dict]:
        return self.office.ledger.rows(sql.select(tables.signoffs).order_by(tables.signoffs.c.id))

    def add_row(self, envelope: dict, **change: str) -> None:
        "What somebody with the database can do: enter a sign-off row of their own."
        self.office.ledger.add(tables.signoffs, {**{k: v for k, v in self.rows()[0].items() if k != "id"}, "envelope": envelope, **change})

    def ok(self) -> bool:
        return verify_release(self.office, self.release).ok


def propose(office: Office, root: Path, policy: str = "production", weights: str = "w") -> Release:
    artifacts = {}
    for name in ("adapter", "dataset", "evaluation", "prompt", "security"):
        write_json(root / weights / name / "file.json", {"of": name, "weights": weights})
        artifacts[name] = office.store.put(root / weights / name)
    number = office.ledger.add(tables.stages, dict(run="main", stage="secure", key="", status="done", started=now(), ended=now(), parameters={}))
    office.ledger.add(tables.lineage, dict(stage_id=number, direction="out", name="security", digest=artifacts["security"]))
    check = {"id": "quality", "title": "", "kind": "metric", "blocking": True, "passed": True, "detail": "0.83", "evidence": artifacts["evaluation"], "metric": "accuracy", "value": 0.83, "low": 0.8, "high": 0.86, "n": 760, "at_least": 0.8, "at_most": None}
    folder = root / f"release-{weights}-{policy}"
    write_json(folder / "release.json", release_manifest("support-bot", release_subjects(artifacts, "b" * 64), [check], office.policy(policy), ["dora"], {"finetune": {"seed": 7}}))
    return propose_release(office, folder, "main")


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> House:
    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    office, keys = open_office(create_workspace(tmp_path / "bank", {"policy.toml": DEFAULT_POLICY})), {}
    for name, role in (("alice", "evaluator"), ("bob", "risk_owner"), ("carl", "risk_owner"), ("dora", "evaluator")):
        keys[name] = create_key(name, None, tmp_path / "keys")
        enrol_person(office, name, [role], keys[name].public_hex)
    return House(office, keys, propose(office, tmp_path), tmp_path)


def test_two_people_approve_and_one_does_not(house: House) -> None:
    assert not house.ok() and not house.sign("alice").ok() and house.sign("bob").ok()


def test_a_flipped_bit_is_never_accepted(house: House) -> None:
    house.sign("alice", "bob")
    row, chance, accepted = house.rows()[0], random.Random(SEED), 0
    text, policy, enrolled, logged = canonical_json(row["envelope"]), house.office.policy("production"), house.office.audit.enrolled(), logged_signoffs(house.office, house.release)
    for _ in range(1000):
        place, forged = chance.randrange(len(text) * 8), bytearray(text)
        forged[place // 8] ^= 1 << place % 8
        try:
            envelope = json.loads(forged.decode("utf-8"))
        except ValueError:
            continue
        accepted += examine({**row, "envelope": envelope}, house.release, policy, enrolled, logged, datetime.now(UTC)).counts
    assert examine(row, house.release, policy, enrolled, logged, datetime.now(UTC)).counts and accepted == 0


def forge(house: House, key: Key, person: str, role: str, policy: str = "production", release: Release | None = None, at: datetime | None = None) -> None:
    "Enter an approval made without asking sign_release, and log it as the service would."
    said = prepare_signoff(house.office, release or house.release, house.office.policy(policy), Intent(person, role, "approve"), at)
    envelope = sign_statement(said, key)
    house.add_row(envelope, person=person, role=role, key_id=key.key_id, created=said["predicate"]["issuedAt"], expires=said["predicate"]["expiresAt"])
    house.office.audit.append("signoff.approve", person, {"release": house.release.digest, "envelope": digest_value(envelope)}, key=key)


def forgeries(house: House) -> dict[str, Callable[[], object]]:
    "By name, ways to get a second approval beside alice's without bob."
    stranger, spare, keys = create_key(f"x{os.urandom(4).hex()}", None, house.root / "keys"), create_key(f"y{os.urandom(4).hex()}", None, house.root / "keys"), house.keys
    def rename(row: dict) -> dict:
        return {**row["envelope"], "signatures": [{**row["envelope"]["signatures"][0], "keyid": keys["bob"].key_id}]}
    def second_key() -> None:
        add_key(house.office, "alice", spare.public_hex)
        forge(house, spare, "alice", "risk_owner")
    def stolen() -> None:
        forge(house, keys["bob"], "bob", "risk_owner")
        revoke_key(house.office, keys["bob"].key_id, "stolen")
    def made_up() -> None:
        people = make_demo_identities(house.office, house.root / "keys")
        forge(house, people[1], "demo-risk-owner", "risk_owner")
    return {
        "missing": lambda: None,
        "duplicate": lambda: house.add_row(house.rows()[0]["envelope"]),
        "unknown key": lambda: forge(house, stranger, "bob", "risk_owner"),
        "unknown person": lambda: forge(house, stranger, "mallory", "risk_owner"),
        "revoked key": stolen,
        "expired": lambda: forge(house, keys["bob"], "bob", "risk_owner", at=datetime.now(UTC) - timedelta(days=91)),
        "from the future": lambda: forge(house, keys["bob"], "bob", "risk_owner", at=datetime.now(UTC) + timedelta(days=1)),
        "the author": lambda: forge(house, keys["dora"], "dora", "evaluator"),
        "same key under two ids": lambda: house.add_row(rename(house.rows()[0]), person="bob", role="risk_owner", key_id=keys["bob"].key_id),
        "same key, another name": lambda: forge(house, keys["alice"], "bob", "risk_owner"),
        "same person with two keys": second_key,
        "a role not held": lambda: forge(house, keys["carl"], "carl", "evaluator"),
        "another policy": lambda: forge(house, keys["bob"], "bob", "risk_owner", policy="demo"),
        "replay from another release": lambda: forge(house, keys["bob"], "bob", "risk_owner", release=propose(house.office, house.root, weights="other")),
        "a made-up person": made_up,
        "empty envelope": lambda: house.add_row({}, person="bob", role="risk_owner", key_id=keys["bob"].key_id),
        "no signature": lambda: house.add_row({**house.rows()[0]["envelope"], "signatures": []}, person="bob", role="risk_owner", key_id=keys["bob"].key_id),
    }


KINDS = ["missing", "duplicate", "unknown key", "unknown person", "revoked key", "expired", "from the future", "the author", "same key under two ids", "same key, another name", "same person with two keys", "a role not held",
         "another policy", "replay from another release", "a made-up person", "empty envelope", "no signature"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_forged_second_approval_is_refused(house: House, kind: str) -> None:
    house.sign("alice")
    ways = forgeries(house)
    assert sorted(ways) == sorted(KINDS)
    ways[kind]()
    assert not house.ok(), kind
    with pytest.raises(NotAllowed):
        promote(house.office, house.release)
    assert release_at(house.office, "support-bot") is None


def test_a_release_judged_by_a_weaker_policy_cannot_replace_a_real_one(house: House) -> None:
    promote(house.office, house.sign("alice", "bob").release)
    weaker = propose(house.office, house.root, "demo", "other")
    for key, name in zip(make_demo_identities(house.office, house.root / "keys"), ("demo-evaluator", "demo-risk-owner")):
        sign_release(house.office, weaker, key, Intent(name, "", "approve"))
    assert verify_release(house.office, weaker).ok  # it is approved, as a demonstration
    with pytest.raises(NotAllowed, match="demonstration cannot take its place"):
        promote(house.office, weaker)
    assert release_at(house.office, "support-bot") == house.release


def test_withdrawing_works_at_once_and_for_good(house: House) -> None:
    house.sign("alice", "bob").sign("carl", decision="revoke")
    assert not house.ok()
    house.sign("carl", "alice", "bob")
    assert not house.ok()
    revoke_key(house.office, house.keys["carl"].key_id, "to silence him")
    assert "revoke by carl" in verify_release(house.office, house.release).reason


@pytest.mark.parametrize("subject", ["adapter", "dataset", "evaluation", "prompt", "security", "release"])
def test_any_changed_byte_is_refused_before_use(house: House, subject: str) -> None:
    house.sign("alice", "bob")
    assert require_approved(house.office, "support-bot")
    store, chance = house.office.store, random.Random(SEED)
    blob = store.shelf.root / store.blob(store.entries(house.release.subjects[subject])[0].sha256)
    blob.chmod(0o644)
    kept = blob.read_bytes()
    for _ in range(10):
        changed = bytearray(kept)
        changed[chance.randrange(len(kept))] ^= 1 << chance.randrange(8)
        blob.write_bytes(changed)
        with pytest.raises(NotAllowed):
            require_approved(house.office, "support-bot")
    blob.write_bytes(kept)
    assert require_approved(house.office, "support-bot")


def test_changed_code_templates_base_and_parameters_are_refused(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    house.sign("alice", "bob")
    package = Path(llmops_nb.__file__).parent
    copy = house.root / "elsewhere" / "llmops_nb"
    shutil.copytree(package, copy, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(package.parent / "templates", copy.parent / "templates")
    monkeypatch.setattr(llmops_nb, "__file__", str(copy / "__init__.py"))
    assert house.ok()
    chance, files = random.Random(SEED), sorted(copy.rglob("ground/*.py")) + sorted(copy.rglob("measure/*.py"))
    for path in chance.sample(files, 5):
        kept = path.read_bytes()
        path.write_bytes(kept + b"\n")
        assert not house.ok(), path
        path.write_bytes(kept)
    template = copy.parent / "templates" / "09_govern.ipynb"
    kept = template.read_text()
    template.write_text(kept.replace("stage.close()", "stage.close( )"))
    assert not house.ok()
    template.write_text(kept)
    assert house.ok() and not verify_release(house.office, house.release, {"base-model": "c" * 64}).ok
    other = {**house.release.manifest, "parameters": {"finetune": {"seed": 8}}}
    house.office.ledger.change(tables.releases, tables.releases.c.digest == house.release.digest, manifest=other)
    assert not verify_release(house.office, find_release(house.office, house.release.digest)).ok


def test_eight_promote_at_once_and_production_is_always_one(house: House) -> None:
    second = House(house.office, house.keys, propose(house.office, house.root, weights="other"), house.root)
    house.sign("alice", "bob"), second.sign("alice", "bob")
    promote(house.office, house.release)
    code = "from llmops_nb.govern.registry import promote; from llmops_nb.govern.release import find_release, open_office; from llmops_nb.ground.settings import find_workspace; import sys\n" \
           "office = open_office(find_workspace(sys.argv[1]))\nfor _ in range(2): promote(office, find_release(office, sys.argv[2]), by='racer')"
    racers = [subprocess.Popen([sys.executable, "-c", code, str(house.root / "bank"), (house, second)[i % 2].release.digest]) for i in range(8)]
    reads = 0
    while any(racer.poll() is None for racer in racers):
        rows = house.office.ledger.rows(sql.select(tables.aliases).where(tables.aliases.c.alias == "production"))
        assert len(rows) == 1 and rows[0]["digest"] in (house.release.digest, second.release.digest)
        reads += 1
    assert [racer.returncode for racer in racers] == [0] * 8 and reads > 0
    moves = [e.act for e in house.office.audit.entries("release.promote")]
    assert all(before["objects"]["release"] == after["objects"]["before"] for before, after in zip(moves, moves[1:])) and house.office.audit.verify().ok


# ---- the audit log


@pytest.fixture(scope="module")
def long_log(tmp_path_factory: pytest.TempPathFactory) -> AuditLog:
    tmp_path = tmp_path_factory.mktemp("log")
    log = AuditLog(tmp_path / "audit.sqlite", service_key("log", tmp_path / "keys"), "llmops-nb/test", tmp_path / "outside.txt")
    alice = create_key("alice", None, tmp_path / "keys")
    log.append("person.enrol", "workspace", details={"person": "alice", "roles": ["evaluator"], "key_id": alice.key_id, "public_hex": alice.public_hex})
    for number in range(70):
        log.append("stage.done", "engine", {"evaluation": digest_bytes(b"%d" % number)})
    log.append("signoff.approve", "alice", {"release": "r", "envelope": "e"}, key=alice)
    assert log.verify().ok and log.verify().witnessed == 72
    return log


@pytest.fixture
def log(long_log: AuditLog, tmp_path: Path) -> AuditLog:
    shutil.copytree(long_log.path.parent, tmp_path, dirs_exist_ok=True)
    return AuditLog(tmp_path / "audit.sqlite", long_log.key, long_log.origin, tmp_path / "outside.txt")


def open_wide(log: AuditLog) -> sqlite3.Connection:
    "The database as somebody with the file sees it: without triggers."
    connection = sqlite3.connect(log.path, isolation_level=None)
    for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall():
        connection.execute(f"DROP TRIGGER {name}")
    return connection


def rewrite(log: AuditLog, change: Callable[[list[dict]], list[dict]], key: Key) -> None:
    "Compute the whole chain and its checkpoints again after a change, signed with `key`."
    acts, sizes = change([e.act for e in log.entries()]), [size for (size,) in log.ask("SELECT size FROM checkpoints")]
    db = open_wide(log)
    db.execute("DELETE FROM entries")
    db.execute("DELETE FROM checkpoints")
    prev, peaks = "", []
    for seq, act in enumerate(acts, 1):
        act |= {"seq": seq, "prev": prev}
        act["key_id"] = key.key_id if act["key_id"] == log.key.key_id else act["key_id"]
        body = canonical_json(act)
        prev = leaf_hash(body)
        peaks = add_leaf(peaks, prev)
        db.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (seq, body.decode(), prev, base64.b64encode(key.sign(body)).decode()))
        if seq in sizes:
            db.execute("INSERT INTO checkpoints VALUES (?, ?, '[]', 0)", (seq, write_checkpoint(log.origin, seq, tree_root(peaks), key)))
    db.close()


def edit(field: str, value: object) -> Callable[[AuditLog, random.Random], None]:
    def tamper(log: AuditLog, chance: random.Random) -> None:
        db, seq = open_wide(log), chance.randrange(2, 70)
        act = json.loads(db.execute("SELECT body FROM entries WHERE seq = ?", (seq,)).fetchone()[0]) | {field: value}
        body = canonical_json(act)
        db.execute("UPDATE entries SET body = ?, hash = ? WHERE seq = ?", (body.decode(), leaf_hash(body), seq))
        db.close()
    return tamper


def delete(log: AuditLog, chance: random.Random) -> None:
    db, seq = open_wide(log), chance.randrange(2, 70)
    db.execute("DELETE FROM entries WHERE seq = ?", (seq,))
    db.execute("UPDATE entries SET seq = seq - 1 WHERE seq > ?", (seq,))
    db.close()


def swap(log: AuditLog, chance: random.Random) -> None:
    db, seq = open_wide(log), chance.randrange(2, 69)
    for old, new in ((seq, -1), (seq + 1, seq), (-1, seq + 1)):
        db.execute("UPDATE entries SET seq = ? WHERE seq = ?", (new, old))
    db.close()


def cut(checkpoints: bool) -> Callable[[AuditLog, random.Random], None]:
    def tamper(log: AuditLog, chance: random.Random) -> None:
        db, seq = open_wide(log), chance.randrange(5, 71)
        db.execute("DELETE FROM entries WHERE seq > ?", (seq,))
        if checkpoints:
            db.execute("DELETE FROM checkpoints WHERE size > ?", (seq,))
        db.close()
    return tamper


def rewritten(with_key: bool) -> Callable[[AuditLog, random.Random], None]:
    def tamper(log: AuditLog, chance: random.Random) -> None:
        place = chance.randrange(1, 70)
        key = log.key if with_key else create_key(f"thief{chance.random()}", None, log.path.parent / "keys")
        rewrite(log, lambda acts: acts[:place] + acts[place + 1:], key)
    return tamper


def older_copy(log: AuditLog, chance: random.Random) -> None:
    db, seq = open_wide(log), chance.randrange(1, 71)
    db.execute("DELETE FROM entries WHERE seq > ?", (seq,))
    db.execute("DELETE FROM checkpoints WHERE size > ?", (seq,))
    db.close()
    log.append("stage.done", "engine")  # and life goes on


def forged_append(log: AuditLog, chance: random.Random) -> None:
    log.append("signoff.approve", "alice", {"release": "r", "envelope": f"{chance.random()}"})  # by whoever holds database and service key


TAMPER = {"body": edit("objects", {"evaluation": "f" * 64}), "time": edit("time", "2026-01-01T00:00:00.000+00:00"), "actor": edit("actor", "mallory"), "delete": delete, "swap": swap, "cut the tail": cut(False),
          "cut the tail and its checkpoints": cut(True), "rewrite without the key": rewritten(False), "rewrite with the key": rewritten(True), "roll back to an older copy": older_copy, "forged append": forged_append}


@pytest.mark.parametrize("kind", TAMPER)
@pytest.mark.parametrize("place", range(3))
def test_tampering_with_the_log_is_found(log: AuditLog, kind: str, place: int, tmp_path: Path) -> None:
    TAMPER[kind](log, random.Random(SEED + place))
    assert not log.verify().ok
    assert not verify_export(export_log(log, tmp_path / "export"), log.witness, log.key.public_hex).ok


def test_an_append_in_the_name_of_others_is_refused(log: AuditLog) -> None:
    alice, other = log.enrolled().keys, create_key("other", None, log.path.parent / "keys")
    assert alice
    for key in (log.key, other):
        last = log.entries()[-1]
        entry: Entry = write_entry(last.seq + 1, last.hash, "", "alice", "signoff.approve", {"release": "r", "envelope": "x"}, "done", {}, key)
        db = open_wide(log)
        db.execute("INSERT INTO entries VALUES (?, ?, ?, ?)", (entry.seq, entry.body, entry.hash, entry.signature))
        db.close()
        assert any("alice" in problem or "nobody here has enrolled" in problem for problem in log.verify().problems)


def test_two_views_of_one_log_are_told_apart(log: AuditLog, tmp_path: Path) -> None:
    "A shows one history to some and another to others: each is sound by itself, but not beside the other's witness."
    shutil.copy(log.path, tmp_path / "second.sqlite")
    second = AuditLog(tmp_path / "second.sqlite", log.key, log.origin, tmp_path / "second.txt")
    shutil.copy(log.witness, second.witness)
    log.append("release.promote", "x", {"release": "a" * 64})
    second.append("release.promote", "x", {"release": "b" * 64})
    assert log.verify().ok and second.verify().ok
    assert not log.verify(second.witness).ok and not second.verify(log.witness).ok


def test_a_restore_counts_only_when_declared_and_by_an_administrator_where_there_is_one(log: AuditLog) -> None:
    root = create_key("root", None, log.path.parent / "keys")
    log.append("person.enrol", "workspace", details={"person": "root", "roles": ["admin"], "key_id": root.key_id, "public_hex": root.public_hex})
    shutil.copy(log.path, log.path.with_name("snapshot.sqlite"))
    log.append("release.promote", "workspace")
    shutil.copy(log.path.with_name("snapshot.sqlite"), log.path)
    assert not log.verify().ok
    declare_restore(log, "root", "disk died", root)
    assert log.verify().ok and log.verify().restored == 1
    shutil.copy(log.path.with_name("snapshot.sqlite"), log.path)
    declare_restore(log, "workspace", "nothing to see here")
    assert any("only administrators" in problem for problem in log.verify().problems)


def test_a_lost_or_damaged_witness_is_said(log: AuditLog) -> None:
    text = log.witness.read_text()
    log.witness.write_text(text.replace("llmops-nb/test\n72", "llmops-nb/test\n71"))
    assert not log.verify().ok
    log.witness.write_text("")
    assert not log.verify().ok
    log.witness.write_text(text)
    assert log.verify().ok


def test_eight_processes_write_and_nothing_is_lost(tmp_path: Path) -> None:
    code = f"from pathlib import Path\nfrom llmops_nb.ground.audit import AuditLog\nfrom llmops_nb.ground.signing import service_key\np = Path({str(tmp_path)!r})\n" \
           "log = AuditLog(p / 'a.sqlite', service_key('log', p / 'keys'), 'llmops-nb/busy', p / 'w.txt')\nfor i in range(50): log.append('stage.done', 'engine', details={'i': i})"
    writers = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(8)]
    assert [writer.wait() for writer in writers] == [0] * 8
    log = AuditLog(tmp_path / "a.sqlite", service_key("log", tmp_path / "keys"), "llmops-nb/busy", tmp_path / "w.txt")
    verdict = log.verify()
    assert verdict.ok and verdict.entries == 400 and verdict.witnessed >= 350


def test_a_killed_writer_leaves_a_sound_log(tmp_path: Path) -> None:
    code = f"from pathlib import Path\nfrom llmops_nb.ground.audit import AuditLog\nfrom llmops_nb.ground.signing import service_key\np = Path({str(tmp_path)!r})\n" \
           "log = AuditLog(p / 'a.sqlite', service_key('log', p / 'keys'), 'llmops-nb/busy', p / 'w.txt')\nwhile True: print(log.append('key.add', 'x', details={'person': 'p', 'key_id': 'k', 'public_hex': ''}, outcome='refused').seq, flush=True)"
    acknowledged, chance = 0, random.Random(SEED)
    for _ in range(5):
        writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        for _ in range(chance.randrange(3, 20)):
            acknowledged = int(writer.stdout.readline())
        writer.kill()
        acknowledged = max([acknowledged, *(int(line) for line in writer.stdout.read().splitlines() if line.isdigit())])
        writer.wait()
    verdict = AuditLog(tmp_path / "a.sqlite", service_key("log", tmp_path / "keys"), "llmops-nb/busy", tmp_path / "w.txt").verify()
    assert verdict.ok and verdict.entries >= acknowledged > 0


def test_tools_that_are_not_ours_agree(house: House) -> None:
    "Our verifier, the one of docs/, and securesystemslib: the same verdict on 100 good and 100 bad envelopes."
    securesystemslib = pytest.importorskip("securesystemslib.dsse", reason="install with: pip install 'llmops_nb[dev]'")
    from securesystemslib.signer import SSlibKey

    sys.path.insert(0, str(Path(llmops_nb.__file__).parents[1] / "docs"))
    import verify_receipt

    key, chance = house.keys["alice"], random.Random(SEED)
    theirs = SSlibKey(key.key_id, "ed25519", "ed25519", {"public": key.public_hex})
    def verdicts(envelope: dict) -> list[bool]:
        found = []
        for act in (lambda: verify_envelope(envelope, [key.public_hex]), lambda: verify_receipt.verify(envelope, {key.key_id: {"person": "alice", "public_hex": key.public_hex}}),
                    lambda: securesystemslib.Envelope.from_dict(json.loads(json.dumps(envelope))).verify([theirs], 1)):
            try:
                act()
                found.append(True)
            except Exception:  # noqa: BLE001 - three libraries, each with its own errors; only the verdict counts
                found.append(False)
        return found
    for number in range(100):
        good = sign_statement(prepare_signoff(house.office, house.release, house.office.policy("production"), Intent("alice", "evaluator", "approve", f"{number}")), key)
        part = chance.choice(["payload", "sig"])
        data = bytearray(base64.b64decode(good["payload"] if part == "payload" else good["signatures"][0]["sig"]))
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        text = base64.b64encode(bytes(data)).decode()
        bad = {**good, "payload": text} if part == "payload" else {**good, "signatures": [{**good["signatures"][0], "sig": text}]}
        assert verdicts(good) == [True] * 3 and verdicts(bad) == [False] * 3


def test_refused_attempts_are_on_record(house: House) -> None:
    acts: list[Callable[[], object]] = [lambda: promote(house.office, house.release), lambda: require_approved(house.office, "support-bot"), lambda: house.sign("dora"),
                                        lambda: enrol_person(house.office, "alice", ["evaluator"], house.keys["alice"].public_hex)]
    for act in acts:
        before = len(house.office.audit.entries())
        with pytest.raises(LlmopsError):
            act()
        assert len(house.office.audit.entries()) == before + 1 and house.office.audit.entries()[-1].act["outcome"] == "refused"
    assert house.office.audit.verify().ok


def test_a_damaged_log_file_is_said_not_swallowed(log: AuditLog) -> None:
    log.path.write_bytes(b"not a database" * 100)
    with pytest.raises(IntegrityError):
        log.verify()
