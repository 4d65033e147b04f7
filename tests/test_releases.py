"Releases by the hundred and at once: promoted by eight, rolled back under traffic, mirrored, moved by strangers, and checked by tools that are not ours."
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import llmops
from house import House, build_house, propose
from standin import Service
from test_standing import ask, deploy, title
from test_tracking import KEY

from llmops_nb.govern.mirror import find_drift, pending_news
from llmops_nb.govern.policy import DEFAULT_POLICY
from llmops_nb.govern.registry import history, promote, release_at, roll_back
from llmops_nb.govern.release import changed_subjects, find_release
from llmops_nb.ground.ledger import sql
from llmops_nb.ground import ledger as tables
from llmops_nb.ground.settings import Workspace
from llmops_nb.serve.process import start_server, wait_ready
from llmops_nb.serve.server import RunningServer

ROUNDS = 100


@pytest.fixture
def pair(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[House, House]:
    "Two approved releases of one product, none of them live."
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    first = build_house(tmp_path, DEFAULT_POLICY)
    second = House(first.office, first.keys, propose(first.office, first.root, weights="second"), first.root)
    return first.sign("alice", "bob"), second.sign("alice", "bob")


def test_eight_promote_a_hundred_times_and_production_is_always_one(pair: tuple[House, House]) -> None:
    office, releases, wrong, done = pair[0].office, [one.release for one in pair], [], threading.Event()
    promote(office, releases[0])
    def read() -> None:
        while not done.is_set():
            rows = office.ledger.rows(sql.select(tables.aliases.c.digest).where(tables.aliases.c.alias == "production"))
            wrong.extend([rows] if len(rows) != 1 or rows[0]["digest"] not in {r.digest for r in releases} else [])
            time.sleep(0.002)
    reader = threading.Thread(target=read)
    reader.start()
    with ThreadPoolExecutor(8) as crowd:
        list(crowd.map(lambda number: promote(office, releases[number % 2]), range(ROUNDS)))
    done.set()
    reader.join()
    moves = history(office, "support-bot")
    assert not wrong and release_at(office, "support-bot").digest == moves[-1]["digest"]
    assert all(a["digest"] != b["digest"] for a, b in zip(moves, moves[1:])) and office.audit.verify().ok  # every entry is a move that happened


@pytest.fixture
def server(pair: tuple[House, House]) -> Iterator[RunningServer]:
    "A server of the second release, both of which are deployed and were live, that looks five times a second."
    packages = {}
    for one in pair:
        packages[one.release.digest] = deploy(one.office, one.root, one.release)
        promote(one.office, one.release)
    digest, folder = packages[pair[1].release.digest]
    with wait_ready(start_server(folder, pair[0].root / "log", pair[0].root / "bank", digest, check_every=0.2)) as running:
        yield running


def test_rolling_back_under_traffic_drops_nothing(pair: tuple[House, House], server: RunningServer) -> None:
    first, second = (one.release for one in pair)
    answers, done, deadline = [], threading.Event(), time.monotonic() + 90
    def call() -> None:
        while not done.is_set():
            answer = ask(server, title(second))
            answers.append((time.monotonic(), answer.status_code, answer.json().get("model")))
    def until(enough: Callable[[], bool]) -> None:
        while not enough() and time.monotonic() < deadline:
            time.sleep(0.01)
    with ThreadPoolExecutor(4) as callers:
        calling = [callers.submit(call) for _ in range(4)]
        try:
            until(lambda: len(answers) >= 40 or any(one.done() for one in calling))
            start = time.monotonic()
            assert roll_back(pair[0].office, "support-bot").digest == first.digest
            until(lambda: all(model == title(first) for _, _, model in answers[-8:]) or any(one.done() for one in calling))
        finally:
            done.set()
    assert not [one.exception() for one in calling if one.exception()]
    assert {status for _, status, _ in answers} == {200}, f"{sum(status != 200 for _, status, _ in answers)} of {len(answers)} were dropped"
    switched = min((at for at, _, model in answers if model == title(first)), default=None)
    assert switched, "the server went on answering with the release that was rolled back"
    print(f"{len(answers)} requests, 0 dropped; answered by the former release {switched - start:.2f} s after the command")
    assert answers[0][2] == title(second)


def test_going_back_passes_over_what_may_not_be_live(pair: tuple[House, House]) -> None:
    third = House(pair[0].office, pair[0].keys, propose(pair[0].office, pair[0].root, weights="third"), pair[0].root).sign("alice", "bob")
    for one in (*pair, third):
        promote(one.office, one.release)
    pair[1].sign("carl", decision="revoke")
    assert roll_back(third.office, "support-bot").digest == pair[0].release.digest


def test_told_to_the_service_once_and_a_moved_alias_is_said(pair: tuple[House, House], home: Path) -> None:
    first, second = pair
    office, root, service = first.office, first.root / "bank", Service()
    try:
        promote(office, first.release)
        (root / "settings.ini").write_text("[tracking]\naddress = http://127.0.0.1:9\nentity = me\n")
        unsent = llmops(root, "sync", home=home, WANDB_API_KEY=KEY)
        assert unsent.returncode == 1 and len(pending_news(office)) == 2 and "2 with news" in llmops(root, "release", "list", home=home).stdout
        (root / "settings.ini").write_text(f"[tracking]\naddress = {service.address}\nentity = me\n")
        for stage in office.ledger.rows(sql.select(tables.stages.c.id)):  # only the releases are of interest here
            office.ledger.add(tables.mirrors, dict(stage_id=stage["id"], run_id="", mode="offline", state="sent", rows=0, folder="", error=""))
        sent = llmops(root, "sync", home=home, WANDB_API_KEY=KEY)
        assert sent.returncode == 0 and sent.stdout.count("sent     release") == 2 and "DRIFT" not in sent.stdout, sent.stdout + sent.stderr
        assert json.loads(service.aliases["support-bot:production"])["digest"] == first.release.digest and not pending_news(office)
        made = sum(item.get("operation") == "CreateArtifact" for item in service.received)
        again = llmops(root, "sync", home=home, WANDB_API_KEY=KEY)
        assert again.returncode == 0 and sum(item.get("operation") == "CreateArtifact" for item in service.received) == made == 2
        service.aliases["support-bot:production"] = service.aliases[f"support-bot:{second.release.manifest['version']}"]  # somebody, in the pages of the service
        assert [drift.there for drift in find_drift(Workspace(root), office)] == [second.release.digest]
        assert release_at(office, "support-bot").digest == first.release.digest  # never read back
        assert llmops(root, "sync", home=home, WANDB_API_KEY=KEY).returncode == 0
        assert json.loads(service.aliases["support-bot:production"])["digest"] == first.release.digest
    finally:
        service.close()


def test_a_release_from_before_receipts_were_kept_stays_readable(pair: tuple[House, House]) -> None:
    release = find_release(pair[0].office, pair[0].release.digest)
    assert release.papers == "" and changed_subjects(pair[0].office, release) == []
    named = replace(release, manifest={**release.manifest, "subjects": [*release.manifest["subjects"], {"name": "receipts", "digest": "0" * 64}]})
    assert any(line.startswith("receipts: ") for line in changed_subjects(pair[0].office, named))  # named, but nothing was kept


def test_the_stock_tool_verifies_a_signed_package(pair: tuple[House, House], tmp_path: Path) -> None:
    pytest.importorskip("model_signing", reason="install with: pip install 'llmops_nb[sign]'")
    from llmops_nb.ground.core import IntegrityError
    from llmops_nb.ground.signing import verify_model
    from llmops_nb.serve.signature import SIGNATURE, SIGNER, sign_package

    _, package = deploy(pair[0].office, tmp_path, pair[0].release)
    beside = tmp_path / "beside"
    beside.mkdir()
    assert "model_signing verify key" in sign_package(package, beside, Workspace(pair[0].root / "bank"))
    files = sorted(path for path in package.rglob("*") if path.is_file())
    found = 0
    for number in range(60):  # one bit, anywhere in any file
        path = files[number % len(files)]
        good = path.read_bytes()
        place = number * 7919 % len(good)
        path.write_bytes(good[:place] + bytes([good[place] ^ 1 << number % 8]) + good[place + 1 :])
        try:
            verify_model(package, beside / SIGNATURE, beside / SIGNER)
        except IntegrityError:
            found += 1
        path.write_bytes(good)
    assert found == 60
    command = [sys.executable, "-m", "model_signing", "verify", "key", str(package), "--signature", str(beside / SIGNATURE), "--public_key", str(beside / SIGNER)]
    assert subprocess.run(command, capture_output=True).returncode == 0
    files[0].write_bytes(files[0].read_bytes() + b" ")
    assert subprocess.run(command, capture_output=True).returncode != 0
