"The audit log: tampering, forged acts, split views, witnesses. Figures are printed as n found of n tried."
import base64
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import ROOT, llmops
from faults.harness import times, told

from llmops_nb.govern.release import open_office
from llmops_nb.ground.audit import AuditLog, declare_restore, export_log, open_audit, verify_export
from llmops_nb.ground.checkpoint import add_leaf, leaf_hash, read_witness, split_notes, tree_root, write_checkpoint
from llmops_nb.ground.core import NotAllowed, canonical_json, digest_bytes
from llmops_nb.ground.settings import find_workspace
from llmops_nb.ground.signing import Key, create_key, service_key

sys.path.insert(0, str(ROOT / "docs"))
import verify_audit  # noqa: E402 - the verifier that shares no code with the library

SEED = 11


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


def copy_log(log: AuditLog, folder: Path) -> AuditLog:
    "The same log with its witness in another folder."
    shutil.copytree(log.path.parent, folder, dirs_exist_ok=True)
    return AuditLog(folder / "audit.sqlite", log.key, log.origin, folder / "outside.txt")


@pytest.fixture
def log(long_log: AuditLog, tmp_path: Path) -> AuditLog:
    return copy_log(long_log, tmp_path)


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
def test_a1_tampering_with_the_log_is_found(long_log: AuditLog, kind: str, tmp_path: Path, record_property: Callable) -> None:
    "In the database, in what is exported from it, and by the verifier of docs/ that shares no code with ours."
    tried, found = times(3, 50), 0
    for place in range(tried):
        log = copy_log(long_log, tmp_path / str(place))
        TAMPER[kind](log, random.Random(f"{SEED} {place}"))
        exported = export_log(log, log.path.parent / "export")
        found += not log.verify().ok and not verify_export(exported, log.witness, log.key.public_hex).ok and bool(verify_audit.verify(exported, log.witness, log.key.public_hex))
    told(record_property, "A1", found, tried, f"{kind}: found in the database, in its export, and by the independent verifier")
    assert found == tried


def test_a1_what_is_within_the_stated_window(long_log: AuditLog, tmp_path: Path) -> None:
    "The last entries that no checkpoint covers can be cut without trace: at most 50, and none after an act of governance or the end of a run."
    log = copy_log(long_log, tmp_path / "a")
    for _ in range(20):
        log.append("stage.done", "engine")
    db = open_wide(log)
    db.execute("DELETE FROM entries WHERE seq > 80")
    db.close()
    assert log.verify().ok, "not found: this is the window that the docs state"
    for name, close in (("b", lambda log: log.append("release.promote", "workspace", outcome="refused")), ("c", AuditLog.settle)):
        log = copy_log(long_log, tmp_path / name)
        for _ in range(20):
            log.append("stage.done", "engine")
        close(log)
        db = open_wide(log)
        db.execute("DELETE FROM entries WHERE seq > 80")
        db.execute("DELETE FROM checkpoints WHERE size > 80")
        db.close()
        assert not log.verify().ok


def damage_files(folder: Path, chance: random.Random) -> str:
    "Tamper with an export as somebody with an editor would; returns what was done."
    kind, path = chance.choice(["flip a character", "drop a line", "swap two lines", "repeat a line", "cut the tail"]), folder / chance.choice(["entries.jsonl", "entries.jsonl", "checkpoints.jsonl"])
    lines = path.read_text().splitlines(keepends=True)
    place = chance.randrange(len(lines) - 1)
    if kind == "flip a character":
        spot = chance.randrange(1, len(lines[place]) - 2)
        lines[place] = lines[place][:spot] + chr(ord(lines[place][spot]) ^ 1) + lines[place][spot + 1:]
    changed = {"flip a character": lines, "drop a line": lines[:place] + lines[place + 1:], "swap two lines": [*lines[:place], lines[place + 1], lines[place], *lines[place + 2:]],
               "repeat a line": [*lines[:place], lines[place], *lines[place:]], "cut the tail": lines[:place + 1]}[kind]
    path.write_text("".join(changed))
    return f"{kind} of {path.name}"


def test_a9_the_independent_verifier_agrees_with_ours(tmp_path: Path, record_property: Callable) -> None:
    "50 sound exports of growing logs, and 50 in which somebody edited a file: two programs, one verdict."
    alice, chance, agreed, told_bad = create_key("alice", None, tmp_path / "keys"), random.Random(SEED), 0, 0
    log = AuditLog(tmp_path / "audit.sqlite", service_key("log", tmp_path / "keys"), "llmops-nb/test", tmp_path / "outside.txt")
    log.append("person.enrol", "workspace", details={"person": "alice", "roles": ["evaluator"], "key_id": alice.key_id, "public_hex": alice.public_hex})
    for number in range(50):
        log.append(*(("signoff.approve", "alice", {"release": digest_bytes(b"%d" % number)}, "done", {"words": "\u2028 é"}, alice) if number % 7 == 0 else ("stage.done", "engine")))
        log.settle()
        good = export_log(log, tmp_path / f"{number}")
        verdicts = verify_export(good, log.witness, log.key.public_hex).ok, not verify_audit.verify(good, log.witness, log.key.public_hex)
        what = damage_files(good, chance)
        verdicts += verify_export(good, log.witness, log.key.public_hex).ok, not verify_audit.verify(good, log.witness, log.key.public_hex)
        agreed += verdicts[:2] == (True, True)
        told_bad += verdicts[2] == verdicts[3]
        assert verdicts[:2] == (True, True) and verdicts[2] == verdicts[3], (number, what, verdicts)
        assert not verdicts[2] or "checkpoints" in what, f"{what} was not found; only a checkpoint that others repeat may go missing"
    told(record_property, "A9", agreed + told_bad, 100, "exports of the log, half of them edited: our verifier and the one of docs/ agree")


def test_a2_an_append_in_the_name_of_others_is_refused(long_log: AuditLog, tmp_path: Path, record_property: Callable) -> None:
    "Whoever holds database, witness file and service key writes a decision of alice's, with proper chain, checkpoint and note."
    tried, found, chance = times(6, 50), 0, random.Random(SEED)
    for number in range(tried):
        log = copy_log(long_log, tmp_path / str(number))
        key = chance.choice([log.key, create_key(f"other{number}", None, tmp_path / "keys")])
        action = chance.choice(["signoff.approve", "signoff.revoke", "signoff.exception", "person.agree", "release.break_glass"])
        log.append(action, "alice", {"release": "r", "act": "x"}, key=key)
        found += any("alice" in problem or "nobody here has enrolled" in problem for problem in log.verify().problems)
    told(record_property, "A2", found, tried, "acts in somebody's name by the holder of database and service key: refused by verification")
    assert found == tried


def test_a3_two_views_of_one_log_are_told_apart(long_log: AuditLog, tmp_path: Path, record_property: Callable) -> None:
    "A shows one history to some and another to others: each is sound by itself, but not beside the other's witness."
    tried, found, chance = times(4, 20), 0, random.Random(SEED)
    for number in range(tried):
        first, second = (copy_log(long_log, tmp_path / f"{number}{name}") for name in "ab")
        for view, value in ((first, "a"), (second, "b")):
            for _ in range(chance.randrange(3)):
                view.append("stage.done", "engine")
            view.append("release.promote", "x", {"release": value * 64})
        assert first.verify().ok and second.verify().ok
        found += not first.verify(second.witness).ok and not second.verify(first.witness).ok
    told(record_property, "A3", found, tried, "split views: found by either reader with the other's witness")
    assert found == tried


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
    with pytest.raises(NotAllowed):
        declare_restore(log, "workspace", "nothing to see here")
    log.append("restore.declare", "workspace", details={"reason": "nothing to see here", "instead_of": []})
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




PLANTED = ["Ada Lovelace", "ada.lovelace@example.org", "+44 20 7946 0958", "GB33BUKB20201555555555", "My card was swallowed by the machine"]


def test_no_personal_data_in_entries(workspace: Path, home: Path) -> None:
    "Names, addresses and messages of customers go through a run of the first stages; no entry, checkpoint or witness holds any of them."
    rows = "".join(f'{{"text": "{PLANTED[4]} {i}, says {PLANTED[0]}, {PLANTED[1]}, {PLANTED[2]}, {PLANTED[3]}", "label": "{("cards", "loans")[i % 2]}"}}\n' for i in range(60))
    (workspace / "planted.jsonl").write_text(rows)
    llmops(workspace, "run", "explore", "prepare", "-p", "data=planted.jsonl", home=home)
    shown = llmops(workspace, "audit", "show", "--json", home=home).stdout
    assert '"stage.' in shown
    held = [shown, *(path.read_bytes().decode("utf-8", "replace") for path in [*workspace.glob(".llmops/audit.sqlite*"), *home.glob("witness/*")])]
    assert not [(planted, text[:80]) for planted in PLANTED for text in held if planted.lower() in text.lower()]


def test_questions_to_the_log(workspace: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "Filters of `audit show`, an export that the independent verifier accepts, a witness through standard input, and exit codes."
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    office = open_office(find_workspace(workspace))
    for number in range(3):
        office.audit.append("stage.done", "engine", {"dataset": digest_bytes(b"%d" % number)})
    office.audit.append("release.promote", "workspace", {"release": "r" * 8}, outcome="refused", details={"reason": "one approval is missing"})
    say = lambda *words, **more: llmops(workspace, "audit", *words, home=home, **more)
    assert "one approval is missing" in say("show").stdout and len(say("show", "--act", "stage").stdout.splitlines()) == 3
    assert len(say("show", "--object", digest_bytes(b"1")[:8], "--json").stdout.splitlines()) == 1 and "No entry" in say("show", "--since", "2999-01-01").stdout
    assert say("show", "--since", "soon").returncode == 1 and say("burn").returncode == 1
    assert say("export", "--to", str(workspace / "out")).returncode == 0
    own = home / "witness" / f"{(workspace / '.llmops/id').read_text()}.txt"
    assert not verify_audit.verify(workspace / "out", own, office.audit.key.public_hex)
    good = say("verify", "--witness", str(own.parent))
    assert good.returncode == 0 and "last outside witness" in good.stdout, good.stdout + good.stderr
    own.write_text(own.read_text().replace("5\n", "9\n"))
    assert say("verify").returncode == 1


def test_a_farther_witness_is_told_at_once_and_remembers(workspace: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    "A git repository gets each checkpoint of governance as a commit; when the whole account is rolled back, it knows."
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    away = workspace.parent / "away"
    git = lambda *words: subprocess.run(["git", "-C", str(away), "-c", "user.name=w", "-c", "user.email=w@example.org", *words], check=True, capture_output=True, text=True).stdout
    away.mkdir()
    git("init", "-q")
    (away / "witness.txt").touch()
    git("add", "witness.txt")
    (workspace / "settings.ini").write_text(f"[audit]\ncommand = cd {away} && cat >> witness.txt && git -c user.name=w -c user.email=w@example.org commit -qam checkpoint\n")
    log = open_audit(find_workspace(workspace))
    for _ in range(3):
        log.append("release.promote", "workspace", outcome="refused")
    until = time.monotonic() + 30
    while log.latest() not in read_witness(away / "witness.txt") and time.monotonic() < until:
        time.sleep(0.1)
    assert log.latest() in split_notes(git("show", "HEAD:witness.txt"))
    db = open_wide(log)
    db.execute("DELETE FROM entries WHERE seq > 1")
    db.execute("DELETE FROM checkpoints WHERE size > 1")
    db.close()
    log.witness.write_text(read_witness(log.witness)[0])
    assert llmops(workspace, "audit", "verify", home=home).returncode == 0, "within reach everything agrees"
    found = llmops(workspace, "audit", "verify", "--witness", str(away / "witness.txt"), home=home)
    assert found.returncode == 1 and "cut or rolled back" in found.stdout
