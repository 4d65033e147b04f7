"Forgery, tampering and races: what nobody may get past. Figures are printed as n tried / n found."
import base64
import json
import os
import random
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from house import House, propose
from test_standing import deploy

import llmops_nb
from llmops_nb.govern.approval import examine, logged_signoffs, require_approved, verify_release
from llmops_nb.govern.people import add_key, change_roles, enrol_person, make_demo_identities, revoke_key
from llmops_nb.govern.policy import DEFAULT_POLICY
from llmops_nb.govern.registry import promote, release_at
from llmops_nb.govern.release import Release, find_release
from llmops_nb.govern.signoff import Intent, prepare_signoff, sign_release
from llmops_nb.ground import ledger as tables
from llmops_nb.ground.core import IntegrityError, LlmopsError, NotAllowed, canonical_json, digest_value
from llmops_nb.ground.ledger import sql
from llmops_nb.serve.process import build_service
from llmops_nb.serve.standby import Standing
from llmops_nb.ground.signing import Key, create_key, sign_statement, verify_envelope

SEED, NIGHTLY = 11, os.environ.get("LLMOPS_FAULTS") == "nightly"


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


def forge(house: House, key: Key, person: str, role: str, policy: str = "production", release: Release | None = None, at: datetime | None = None, change: dict | None = None, subject: list | None = None, log: bool = True) -> None:
    "Enter an approval made without asking sign_release, with other predicates or subjects, and log it as the person would."
    said = prepare_signoff(house.office, release or house.release, house.office.policy(policy), Intent(person, role, "approve"), at)
    said = {**said, "predicate": {**said["predicate"], **(change or {})}, "subject": said["subject"] if subject is None else subject}
    envelope = sign_statement(said, key)
    house.add_row(envelope, person=person, role=role, key_id=key.key_id, created=said["predicate"]["issuedAt"], expires=said["predicate"]["expiresAt"])
    if log:
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
    def in_good_order_replaced() -> None:
        add_key(house.office, "bob", spare.public_hex, replaces=keys["bob"].key_id)
        forge(house, keys["bob"], "bob", "risk_owner")
    def with_roles(name: str, *roles: str) -> None:
        change_roles(house.office, name, roles)
        forge(house, keys[name], name, "risk_owner")
    def ended() -> None:
        enrol_person(house.office, "eve", ["risk_owner"], spare.public_hex, expires="2026-01-01")
        forge(house, spare, "eve", "risk_owner")
    def excuses_and_approves() -> None:
        sign_release(house.office, house.release, keys["bob"], Intent("bob", "", "exception", "soon", ("quality",), 3))
        forge(house, keys["bob"], "bob", "risk_owner")
    def edit_policy(**change: object) -> None:
        house.office = replace(house.office, policies={**tomllib.loads(DEFAULT_POLICY), **change})
    subjects = prepare_signoff(house.office, house.release, house.office.policy("production"), Intent("bob", "risk_owner", "approve"))["subject"]
    weaker, wider = tomllib.loads(DEFAULT_POLICY)["production"] | {"persons": 1, "roles": ["evaluator"]}, tomllib.loads(DEFAULT_POLICY)["roles"] | {"risk_owner": {"may": []}}
    bob = lambda **more: forge(house, keys["bob"], "bob", "risk_owner", **more)
    return {
        "missing": lambda: None,
        "replaced key": in_good_order_replaced,
        "key past its last day": ended,
        "somebody who left": lambda: with_roles("carl"),
        "an administrator as well": lambda: with_roles("carl", "risk_owner", "admin"),
        "whoever grants the exception": excuses_and_approves,
        "not in the log": lambda: bob(log=False),
        "not independent": lambda: bob(change={"independent": False}),
        "valid too long": lambda: bob(change={"expiresAt": (datetime.now(UTC) + timedelta(days=365)).isoformat()}),
        "a rejection as approval": lambda: bob(change={"decision": "reject"}),
        "a subject changed": lambda: bob(subject=[{**subjects[0], "digest": {"sha256": "0" * 64}}, *subjects[1:]]),
        "a subject left out": lambda: bob(subject=subjects[1:]),
        "a subject twice": lambda: bob(subject=[*subjects, subjects[0]]),
        "the policy weakened": lambda: edit_policy(production=weaker),
        "the role table changed": lambda: (bob(), edit_policy(roles=wider)),
        "a glass broken by the workspace": lambda: house.office.audit.append("release.break_glass", "bob", {"release": house.release.digest}, details={"release": "x", "reason": "x", "until": (datetime.now(UTC) + timedelta(hours=1)).isoformat()}),
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
         "another policy", "replay from another release", "a made-up person", "empty envelope", "no signature", "replaced key", "key past its last day", "somebody who left", "an administrator as well", "whoever grants the exception",
         "not in the log", "not independent", "valid too long", "a rejection as approval", "a subject changed", "a subject left out", "a subject twice", "the policy weakened", "the role table changed", "a glass broken by the workspace"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("number", range(20 if NIGHTLY else 1))
def test_a_forged_second_approval_is_refused(house: House, kind: str, number: int) -> None:
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


@pytest.mark.parametrize("subject", ["adapter", "dataset", "evaluation", "prompt", "security", "release", "package"])
def test_any_changed_byte_is_refused_before_the_first_answer(house: House, subject: str, record_property: Callable) -> None:
    "What a server does before it answers: hash its package, then ask for the standing of its release."
    digest, folder = deploy(house.office, house.root, house.sign("alice", "bob").release)
    def start() -> str:
        if subject == "package":
            return build_service(folder, house.root, str(house.root / "bank"), digest).watch.check()
        return Standing(house.office, house.release.digest).check()
    assert start() == ""
    store, chance, tries = house.office.store, random.Random(f"{SEED} {subject}"), 50 if NIGHTLY else 10
    target = chance.choice(sorted(folder.glob("*.json"))) if subject == "package" else store.shelf.root / store.blob(store.entries(house.release.subjects[subject])[0].sha256)
    target.chmod(0o644)
    kept, refused = target.read_bytes(), 0
    for _ in range(tries):
        changed = bytearray(kept)
        changed[chance.randrange(len(kept))] ^= 1 << chance.randrange(8)
        target.write_bytes(changed)
        with pytest.raises((NotAllowed, IntegrityError)):
            start()
        refused += 1
    target.write_bytes(kept)
    assert start() == "" and refused == tries
    record_property("survived", f"A5   {refused} of {tries} changed bytes of the {subject} refused before the first answer (seed {SEED})")


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
