"What `llmops doctor` finds, and what a server refuses."
import json
import os
import sqlite3
from pathlib import Path

from conftest import llmops

from llmops_nb.ground.settings import find_workspace


def seen(workspace: Path, home: Path) -> tuple[int, dict[str, list[str]]]:
    "Exit code of doctor, and its findings by level."
    done = llmops(workspace, "doctor", "--json", home=home)
    findings = json.loads(done.stdout)
    return done.returncode, {level: [one["what"] for one in findings if one["level"] == level] for level in ("ok", "note", "broken")}


def test_doctor_finds_what_was_planted_and_says_what_to_do(workspace: Path, home: Path) -> None:
    "A sound workspace ends with 0; then keys and workspace open to others, a policy past its review, a changed audit log, an unapproved release in production, one after the other."
    llmops(workspace, "person", "add", "alice", "--roles", "evaluator", home=home, LLMOPS_PASSPHRASE="only for this test")
    code, before = seen(workspace, home)
    assert code == 0 and not before["broken"], before["broken"]
    (home / "keys" / "alice.pem").chmod(0o644)
    (workspace / ".llmops").chmod(0o777)
    policy = workspace / "policy.toml"
    policy.write_text(policy.read_text().replace("2027-", "2020-"))
    with sqlite3.connect(workspace / ".llmops" / "audit.sqlite") as log:
        log.execute("DROP TRIGGER entries_no_UPDATE")
        log.execute("UPDATE entries SET body = replace(body, 'alice', 'mallory')")
    with sqlite3.connect(find_workspace(workspace).address("ledger").removeprefix("sqlite:///")) as ledger:
        ledger.execute("INSERT INTO aliases (release, alias, version, digest, moved_at, moved_by) VALUES ('bot', 'production', '1', ?, '', 'mallory')", ("f" * 64,))
    code, after = seen(workspace, home)
    text = " | ".join(after["broken"])
    assert code == 1
    for what in ("private keys that others can read: alice.pem", "others can write to", "policy production", "audit log", "bot in production cannot be checked"):
        assert what in text, (what, after["broken"])


def test_a_server_that_others_can_reach_wants_tls(workspace: Path, home: Path, tmp_path: Path) -> None:
    "Refused before anything is loaded, in one sentence; so is half of a pair and a key that others can read."
    (tmp_path / "key.pem").write_text("no key")
    os.chmod(tmp_path / "key.pem", 0o644)
    for words, said in ((("--host", "0.0.0.0"), "without TLS"), (("--tls-key", str(tmp_path / "key.pem")), "both halves"), (("--tls-certificate", "x.pem", "--tls-key", str(tmp_path / "key.pem")), "read by others")):
        done = llmops(workspace, "serve", *words, home=home)
        assert done.returncode == 1 and said in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr
