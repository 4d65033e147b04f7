"A release that loses its approval while the real server answers: 503 with the reason, or the release before, without a restart."
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from house import House, build_house, propose

from llmops_nb.govern.people import revoke_key
from llmops_nb.govern.policy import DEFAULT_POLICY
from llmops_nb.govern.registry import history, promote, release_at
from llmops_nb.govern.release import Office, Release
from llmops_nb.ground import ledger as tables
from llmops_nb.ground.ledger import now
from llmops_nb.prompts.variants import Material
from llmops_nb.serve.package import package_neighbours
from llmops_nb.serve.process import start_server, wait_ready
from llmops_nb.serve.server import RunningServer

TEXTS, LABELS = ["my card is lost", "where is my card", "I lost my card", "has my card arrived"], ["lost_card", "card_arrival"] * 2


def deploy(office: Office, root: Path, release: Release) -> tuple[str, Path]:
    "What stage 10 does, without a model: package the release, store the package, and note what it was made of."
    folder = root / f"package-{release.digest[:8]}"
    package_neighbours(folder, release.manifest, release.digest, Material(sorted(set(LABELS)), TEXTS, LABELS), TEXTS, LABELS)
    digest = office.store.put(folder)
    number = office.ledger.add(tables.stages, dict(run="main", stage="deploy", key="", status="done", started=now(), ended=now(), parameters={}))
    for direction, name, what in (("in", "release", release.digest), ("out", "deployment", digest)):
        office.ledger.add(tables.lineage, dict(stage_id=number, direction=direction, name=name, digest=what))
    return digest, folder


@pytest.fixture
def two(tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, on_revoke: str) -> Iterator[tuple[House, House, RunningServer]]:
    "Two releases that were live one after the other, and a server of the second that looks at its approval five times a second."
    monkeypatch.setenv("LLMOPS_HOME", str(home))
    house = build_house(tmp_path, DEFAULT_POLICY.replace('on_revoke = "stop"', f'on_revoke = "{on_revoke}"'))
    first, second = house, House(house.office, house.keys, propose(house.office, house.root, weights="second"), house.root)
    packages = {}
    for one in (first, second):
        packages[one.release.digest] = deploy(house.office, house.root, one.sign("alice", "bob").release)
        promote(house.office, one.release)
    digest, folder = packages[second.release.digest]
    with wait_ready(start_server(folder, house.root / "log", house.root / "bank", digest, check_every=0.2)) as server:
        yield first, second, server


def ask(server: RunningServer, model: str) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "I lost my card"}]}
    return httpx.post(f"{server.url}/v1/chat/completions", headers={"authorization": f"Bearer {server.key}"}, json=body, timeout=20)


def until(server: RunningServer, status: int) -> httpx.Response:
    "The first /health with this status; a minute is what the design promises."
    deadline = time.monotonic() + 60
    while (answer := httpx.get(f"{server.url}/health", timeout=20)).status_code != status:
        assert time.monotonic() < deadline, answer.text
        time.sleep(0.05)
    return answer


def title(release: Release) -> str:
    return f"{release.manifest['name']}@{release.manifest['version']}"


@pytest.mark.parametrize("on_revoke", ["stop"])
def test_a_withdrawn_release_stops_answering(two: tuple[House, House, RunningServer]) -> None:
    first, second, server = two
    assert ask(server, title(second.release)).status_code == 200
    second.sign("carl", decision="revoke")
    assert "revoke by carl" in until(server, 503).json()["reason"]
    answer = ask(server, title(second.release))
    assert answer.status_code == 503 and answer.json()["error"]["code"] == "release_not_approved" and server.process.poll() is None
    entries = [e.act for e in second.office.audit.entries("release.use")]
    assert [act["outcome"] for act in entries] == ["refused"] and entries[0]["objects"]["release"] == second.release.digest
    assert release_at(second.office, "support-bot") == second.release  # stopping moves no alias


@pytest.mark.parametrize("on_revoke", ["previous"])
def test_the_release_before_answers_instead_as_long_as_it_may(two: tuple[House, House, RunningServer]) -> None:
    first, second, server = two
    assert ask(server, title(second.release)).json()["model"] == title(second.release)
    second.sign("carl", decision="revoke")
    deadline = time.monotonic() + 60
    while (answer := ask(server, title(second.release))).json().get("model") != title(first.release):
        assert answer.status_code in (200, 503) and time.monotonic() < deadline, answer.text
    assert answer.status_code == 200 and httpx.get(f"{server.url}/health").json()["release"] == first.release.digest
    assert ask(server, title(first.release)).status_code == 200 and ask(server, "another").status_code == 404
    assert release_at(second.office, "support-bot") == first.release and history(second.office, "support-bot")[-1]["action"] == "rollback"
    revoke_key(first.office, first.keys["bob"].key_id, "stolen")
    assert "no earlier release may be served" in until(server, 503).json()["reason"]
    assert server.process.poll() is None and first.office.audit.verify().ok
