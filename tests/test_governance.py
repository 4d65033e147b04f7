"Forgery, tampering and races: what nobody may get past. Figures are printed as n tried / n found."
import base64
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from house import House, propose

import llmops_nb
from llmops_nb.govern.approval import examine, logged_signoffs, require_approved, verify_release
from llmops_nb.govern.people import add_key, enrol_person, make_demo_identities, revoke_key
from llmops_nb.govern.registry import promote, release_at
from llmops_nb.govern.release import Release, find_release
from llmops_nb.govern.signoff import Intent, prepare_signoff, sign_release
from llmops_nb.ground import ledger as tables
from llmops_nb.ground.audit import AuditLog
from llmops_nb.ground.core import IntegrityError, LlmopsError, NotAllowed, canonical_json, digest_value
from llmops_nb.ground.ledger import sql
from llmops_nb.ground.signing import Key, create_key, sign_statement, verify_envelope

SEED = 11


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
