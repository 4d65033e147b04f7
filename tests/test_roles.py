"Who may do what: the table of docs/signing.md, asked of every act with every kind of key; and every command that changes something leaves exactly one entry in the audit log."
import json
import os
import shutil
import threading
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from house import House, propose
from test_standing import deploy

import llmops_nb
from llmops_nb.desk.cli import COMMANDS, main
from llmops_nb.desk.review import Review
from llmops_nb.govern.approval import verify_release
from llmops_nb.govern.emergency import emergencies
from llmops_nb.govern.people import add_key, change_roles, enrol_person, revoke_key
from llmops_nb.govern.policy import ACTIONS, DEFAULT_POLICY, permits, read_roles
from llmops_nb.govern.release import Office, open_office
from llmops_nb.govern.roles import require_may
from llmops_nb.ground import audit, entries
from llmops_nb.ground import ledger as tables
from llmops_nb.ground.core import NotAllowed, WaitingForSignoff, digest_value, read_json, read_lines, write_json
from llmops_nb.ground.ledger import now
from llmops_nb.ground.settings import find_workspace
from llmops_nb.ground.signing import Key, create_key

DOCS = Path(llmops_nb.__file__).parents[1] / "docs" / "signing.md"


def written_table() -> dict[str, dict[str, bool]]:
    "The table of docs/signing.md: act -> role -> whether it may."
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in DOCS.read_text(encoding="utf-8").splitlines() if line.startswith("| act ") or line.startswith("| `")]
    return {row[0]: dict(zip(rows[0][1:], [cell == "yes" for cell in row[1:]])) for row in rows[1:]}


def length(office: Office) -> int:
    "The number of entries in the audit log."
    return office.audit.ask("SELECT count(*) FROM entries")[0][0]


def test_the_role_table_is_the_written_one() -> None:
    roles = read_roles({})
    assert written_table() == {action: {role: permits(roles, [role], action) for role in roles} for action in ACTIONS}


def test_acts_are_asked_of_every_kind_of_key(house: House) -> None:
    "9 roles, and in turn one of 6 keys and names that may do nothing, times every third act (all of them in `make soak`): the written table, and one entry for each refusal."
    office, table = house.office, written_table()
    def enrol(name: str, role: str, **more: str) -> Key:
        key = create_key(f"s5-{name}", None, house.root / "keys")
        enrol_person(office, name, [role], key.public_hex, **more)
        return key
    revoked, replaced, gone = enrol("revoked", "privacy"), enrol("replaced", "ops"), enrol("gone", "risk_owner")
    revoke_key(office, revoked.key_id, "stolen")
    add_key(office, "replaced", create_key("s5-next", None, house.root / "keys").public_hex, replaces=replaced.key_id)
    change_roles(office, "gone", [])
    dead: list[Key | str] = ["alice", create_key("s5-stranger", None, house.root / "keys"), enrol("past", "privacy", expires="2026-01-01"), revoked, replaced, gone]
    keys = {role: enrol(role, role) for role in read_roles({}) if role not in ("service", "admin")}
    keys["admin"] = enrol("admin", "admin")
    tried, wrong = 0, []
    asked = ACTIONS if os.environ.get("LLMOPS_FAULTS") == "nightly" else ACTIONS[::3]
    for place, action in enumerate(asked):
        for actor, may in [*((key, table[action][role]) for role, key in keys.items()), ("workspace", table[action]["service"]), (dead[place % len(dead)], False)]:
            before = length(office)
            try:
                require_may(office, actor, action)
                allowed, expected = True, before
            except NotAllowed:
                allowed, expected = False, before + 1
            tried += 1
            wrong += [(action, str(actor)[:40])] if allowed != may or length(office) != expected else []
    assert wrong == [] and tried == len(asked) * 10 and office.audit.verify().ok


def test_two_administrators_must_agree_once_there_are_two(house: House) -> None:
    office, keys = house.office, {name: create_key(f"two-{name}", None, house.root / "keys") for name in ("root", "rita", "eve", "new", "back")}
    enrol_person(office, "root", ["admin"], keys["root"].public_hex)
    enrol_person(office, "rita", ["admin"], keys["rita"].public_hex, keys["root"])
    for act in (lambda key: enrol_person(office, "eve", ["risk_owner"], keys["eve"].public_hex, key), lambda key: change_roles(office, "carl", ["viewer"], key), lambda key: add_key(office, "bob", keys["new"].public_hex, key, house.keys["bob"].key_id)):
        for key, error in ((None, NotAllowed), (house.keys["alice"], NotAllowed), (keys["root"], WaitingForSignoff), (keys["root"], WaitingForSignoff)):
            with pytest.raises(error):
                act(key)
        act(keys["rita"])
    with pytest.raises(NotAllowed):
        revoke_key(office, keys["rita"].key_id, "to be the only one")
    change = {"person": "dora", "roles": ["admin"]}
    for actor, key in (("workspace", None), ("root", keys["root"])):  # written past every function, by whoever has the files
        office.audit.append("person.roles", actor, details=change, key=key)
    assert [problem.partition(": ")[2].partition(",")[0] for problem in office.audit.verify().problems] == ["person.roles by 'workspace'", "person.roles by 'root' alone"]


def test_an_agreement_is_used_up(house: House) -> None:
    office, keys = house.office, {name: create_key(f"up-{name}", None, house.root / "keys") for name in ("root", "rita")}
    enrol_person(office, "root", ["admin"], keys["root"].public_hex)
    enrol_person(office, "rita", ["admin"], keys["rita"].public_hex, keys["root"])
    for roles in (["viewer"], ["auditor"]):
        with pytest.raises(WaitingForSignoff):
            change_roles(office, "carl", roles, keys["root"])
        change_roles(office, "carl", roles, keys["rita"])
    with pytest.raises(WaitingForSignoff):
        change_roles(office, "carl", ["viewer"], keys["rita"])  # what root agreed to once is done; it is asked again
    assert office.audit.verify().ok


def test_an_agreement_is_void_after_a_week(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    office, keys = house.office, {name: create_key(f"week-{name}", None, house.root / "keys") for name in ("root", "rita")}
    enrol_person(office, "root", ["admin"], keys["root"].public_hex)
    enrol_person(office, "rita", ["admin"], keys["rita"].public_hex, keys["root"])

    def after(days: float) -> None:
        moved = type("Later", (datetime,), {"now": classmethod(lambda cls, zone=None: datetime.now(zone) + timedelta(days=days))})
        for module in (audit, entries):
            monkeypatch.setattr(module, "datetime", moved)

    with pytest.raises(WaitingForSignoff):
        change_roles(office, "carl", ["viewer"], keys["root"])
    after(8)
    office.audit.append("person.roles", "rita", details={"person": "carl", "roles": ["viewer"]}, key=keys["rita"])  # past every function, on root's word of last week
    with pytest.raises(WaitingForSignoff):
        change_roles(office, "carl", ["viewer"], keys["rita"])
    after(14.9)
    change_roles(office, "carl", ["viewer"], keys["root"])
    assert [problem.partition(": ")[2].partition(",")[0] for problem in office.audit.verify().problems] == ["person.roles by 'rita' alone"]


# ---- one entry for each act


@pytest.fixture
def desk(house: House, monkeypatch: pytest.MonkeyPatch) -> House:
    "The house as the command line sees it: keys at home, a finding, a deployment, and an author who may not sign."
    for name, value in (("LLMOPS_WORKSPACE", str(house.root / "bank")), ("LLMOPS_PASSPHRASE", "")):
        monkeypatch.setenv(name, value)
    shutil.copytree(house.root / "keys", Path(os.environ["LLMOPS_HOME"]) / "keys", dirs_exist_ok=True)
    finding = {"id": "leak", "title": "the system prompt leaks", "severity": "high", "passed": False, "rate": None, "low": None, "high": None, "n": 3, "owner": "security", "due": "7 days"}
    write_json(house.root / "found" / "security.json", {"findings": [{**finding, "digest": digest_value(finding)}]})
    number = house.office.ledger.add(tables.stages, dict(run="main", stage="secure", key="", status="done", started=now(), ended=now(), parameters={}))
    house.office.ledger.add(tables.lineage, dict(stage_id=number, direction="out", name="security", digest=house.office.store.put(house.root / "found")))
    deploy(house.office, house.root, house.release)
    return house


def enter_admin(house: House, policy: str = "") -> None:
    "From now on roles are in force; `policy` replaces policy.toml."
    key = create_key("root", None, Path(os.environ["LLMOPS_HOME"]) / "keys")
    enrol_person(house.office, "root", ["admin"], key.public_hex)
    (house.root / "bank" / "policy.toml").write_text(policy or DEFAULT_POLICY)


IDLE = DEFAULT_POLICY.replace('may = ["run.*", "release.propose", "release.promote", "release.rollback", "serve.*", "snapshot.*", "gc.*"]', "may = []")  # the workspace itself may do nothing
DAY = datetime.now(UTC).date().replace(year=datetime.now(UTC).year + 1, day=1).isoformat()
HEX = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"  # a public key that nobody here has

READ = {"status", "show", "why", "trace", "receipt", "doctor", "evidence", "lab"}  # they look, or write a copy outside of ledger and store
ELSEWHERE = {"init": "there is no log before it", "sync": "tells W&B; nothing here depends on it", "replay": "tests/test_replay.py: run.replay"}
DONE: list[tuple[str, str]] = [  # before there is an administrator: words, and the entry they leave
    ("sign alice --yes", "signoff.approve"), ("sign bob --decision reject --reason no --yes", "signoff.reject"), ("sign bob --decision exception --reason soon --checks quality --days 3 --yes", "signoff.exception"),
    ("sign carl --decision revoke --reason harm --yes", "signoff.revoke"), ("release promote --to candidate", "release.promote"), ("audit export --to OUT", "audit.export"), ("gc --yes", "gc.begin gc.end"),
    ("finding accept leak --until DAY --reason mended_on_friday", "finding.accept"), ("subject find ana@example.com", "subject.find"), ("subject restrict ana@example.com --why asked", "subject.restrict"),
    ("backup take --to SAFE", "snapshot.write"), ("person add erin --roles viewer", "person.enrol"), (f"person key alice --public {HEX}", "key.add"), ("person rotate bob", "key.add"), ("person roles carl --roles viewer", "person.roles"),
    ("person leave carl", "person.roles"), ("person revoke KEY --reason lost", "key.revoke"),
]
REFUSED: list[tuple[str, str]] = [  # with an administrator, and nobody named, or somebody who may not
    ("person add erin --roles viewer", "person.enrol"), (f"person key alice --public {HEX}", "key.add"), ("person rotate bob", "key.add"), ("person roles carl --roles viewer", "person.roles"), ("person leave carl", "person.roles"),
    ("person revoke ROOT --reason lock", "key.revoke"), ("sign dora --yes", "signoff.approve"), ("sign alice --decision exception --reason soon --checks quality --days 3 --yes", "signoff.exception"),
    ("release promote", "release.promote"), ("release promote --to candidate --by alice", "release.promote"), ("release promote --break-glass --reason night", "release.break_glass"),
    ("release promote --break-glass --reason night --by alice", "release.break_glass"), ("audit export --to OUT", "audit.export"), ("gc --yes", "gc.begin"), ("run", "run.stage"), ("serve", "serve.start"), ("backup take --to SAFE", "snapshot.write"),
    ("finding accept leak --until DAY --reason mended_on_friday", "finding.accept"), ("subject find ana@example.com", "subject.find"), ("subject erase ana@example.com --why asked", "erasure.done"), ("subject retain", "subject.retain"),
]


def type_words(house: House, words: str) -> tuple[int, list[tuple[str, str]]]:
    "The exit code of a command, and what it added to the log."
    before = len(house.office.audit.entries())
    fill = {"OUT": str(house.root / "out"), "SAFE": str(house.root / "safe"), "DAY": DAY, "KEY": house.keys["dora"].key_id, "ROOT": next((key for key, (owner, _) in house.office.audit.enrolled().keys.items() if owner == "root"), "")}
    code = main([fill.get(word, word) for word in words.split()])
    return code, [(act["action"], act["outcome"]) for act in (entry.act for entry in house.office.audit.entries()[before:])]


def test_every_command_has_a_row() -> None:
    rows = {words.split()[0] for words, _ in [*DONE, *REFUSED]}
    assert rows | READ | set(ELSEWHERE) == set(COMMANDS) and not rows & (READ | set(ELSEWHERE)), "a new command that changes something needs a row in DONE and REFUSED; one that does not, a place in READ"


def test_every_act_leaves_one_entry(desk: House) -> None:
    for words, actions in DONE:
        code, entries = type_words(desk, words)
        assert (code, entries) == (0, [(action, "done") for action in actions.split()]), words
    assert desk.office.audit.verify().ok


def test_every_refused_act_leaves_one_entry(desk: House, capsys: pytest.CaptureFixture) -> None:
    enter_admin(desk, IDLE)
    for words, action in REFUSED:
        code, entries = type_words(desk, words)
        assert (code, entries) == (1, [(action, "refused")]), words
        assert "--" in capsys.readouterr().err or "author" in action or words.startswith("sign"), words
    assert desk.office.audit.verify().ok


def test_a_prepared_statement_is_signed_and_an_edited_one_is_not(desk: House, capsys: pytest.CaptureFixture) -> None:
    review = Review(desk.office, desk.release, None, desk.root / "statements")
    review.widget()
    review.person.value, review.reason.value = "bob", "read the worst answers"
    review.button.click()
    path = next((desk.root / "statements").glob("*.json"))
    assert f"llmops sign --statement {path}" in review.said.value and type_words(desk, "sign alice --yes")[0] == 0
    capsys.readouterr()
    said = read_json(path)
    write_json(path, {**said, "predicate": {**said["predicate"], "decision": "reject"}, "subject": said["subject"][1:]})
    assert type_words(desk, f"sign --statement {path} --yes") == (1, []) and "something else than what is here" in capsys.readouterr().err
    write_json(path, said)
    assert type_words(desk, f"sign carl --statement {path} --yes") == (1, []) and type_words(desk, f"sign --statement {path} --yes") == (0, [("signoff.approve", "done")])
    assert desk.ok() and "four-eyes: NOT MET on this machine: the private keys of alice and bob" in capsys.readouterr().out


class Listener(BaseHTTPRequestHandler):
    "A webhook that keeps what it is told."

    heard: list[str] = []

    def do_POST(self) -> None:
        self.heard.append(self.rfile.read(int(self.headers["content-length"])).decode())
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        "Say nothing."


def test_a_broken_glass_is_loud_and_short(desk: House, capsys: pytest.CaptureFixture) -> None:
    enter_admin(desk)
    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with (desk.root / "bank" / "settings.ini").open("a") as settings:
        settings.write(f"\n[pipeline]\nwebhook = http://127.0.0.1:{server.server_port}/\n")
    code, entries = type_words(desk, "release promote --break-glass --reason night --by root")
    assert code == 0 and entries == [("release.break_glass", "done"), ("release.promote", "done")]
    emergency = emergencies(desk.office)[0]
    server.shutdown()
    assert len(Listener.heard) == 1 and str(emergency) in json.loads(Listener.heard[0])["message"]
    capsys.readouterr()
    main(["doctor"])
    assert str(emergency) in capsys.readouterr().out and not desk.office.audit.verify().problems
    from llmops_nb.notebooks.pipeline import notice_of

    assert str(emergency) in notice_of(find_workspace(), [])
    assert emergencies(desk.office, emergency.until) == [] and (emergency.until - datetime.now(UTC)).total_seconds() <= 4 * 3600


def test_a_policy_past_its_review_fails(desk: House, capsys: pytest.CaptureFixture) -> None:
    desk.sign("alice", "bob")
    assert desk.ok()
    (desk.root / "bank" / "policy.toml").write_text(DEFAULT_POLICY.replace("review_by = 2027-11-30 ", "review_by = 2026-11-01 "))
    assert main(["doctor"]) == 1 and "was due for review on 2026-11-01" in capsys.readouterr().out
    assert type_words(desk, "release promote") == (1, [("release.promote", "refused")])
    late = open_office(find_workspace())  # a release that is proposed and signed under the old policy is no better
    again = House(late, desk.keys, propose(late, desk.root, weights="late"), desk.root).sign("alice", "bob")
    assert "the policy is not past its review" in [rule.rule for rule in verify_release(late, again.release).failed]


ROUTES = {("/v1/chat/completions", "POST"), ("/v1/feedback", "POST"), ("/v1/models", "GET"), ("/health", "GET"), ("/metrics", "GET"), ("/openapi.json", "GET"), ("/openapi.json", "HEAD")}


def test_every_route_that_keeps_something_writes_one_row(house: House) -> None:
    "Answers and ratings are the journal's, not the audit log's: one row a request, whatever became of it."
    from starlette.testclient import TestClient

    from llmops_nb.serve.app import make_app
    from llmops_nb.serve.keys import make_key, write_keys
    from llmops_nb.serve.process import build_service

    secret, key = make_key("desk")
    (house.root / "log").mkdir()
    write_keys(house.root / "log" / "keys.json", [key])
    house.sign("alice", "bob")
    digest, folder = deploy(house.office, house.root, house.release)
    app = make_app(build_service(folder, house.root / "log", str(house.root / "bank"), digest))
    assert {(route.path, method) for route in app.routes for method in route.methods} == ROUTES, "a new route that keeps something needs a row here, and an entry of its own"
    known, said = {"authorization": f"Bearer {secret}"}, {"messages": [{"role": "user", "content": "I lost my card"}]}
    before = len(house.office.audit.entries())
    with TestClient(app, base_url="http://127.0.0.1") as client:
        answers = [client.post("/v1/chat/completions", headers=headers, json={**said, "model": model}) for headers, model in ((known, f"support-bot@{house.release.manifest['version']}"), (known, "another"), ({}, "x"))]
        rated = client.post("/v1/feedback", headers=known, json={"id": answers[0].json()["id"], "rating": 1})
    rows = read_lines(house.root / "log" / "requests.jsonl")
    assert [answer.status_code for answer in answers] == [200, 404, 401] == [row["status"] for row in rows] and rated.status_code == 201
    assert len(read_lines(house.root / "log" / "feedback.jsonl")) == 1
    assert len(house.office.audit.entries()) == before
