"A workspace with a proposed release and people who may decide on it, for the tests of governance."
from dataclasses import dataclass
from pathlib import Path

from llmops_nb.govern.approval import verify_release
from llmops_nb.govern.people import enrol_person
from llmops_nb.govern.policy import DEFAULT_POLICY
from llmops_nb.govern.release import Office, Release, open_office, propose_release, release_manifest, release_subjects
from llmops_nb.govern.signoff import Intent, sign_release
from llmops_nb.ground import ledger as tables
from llmops_nb.ground.core import write_json
from llmops_nb.ground.ledger import now, sql
from llmops_nb.ground.settings import create_workspace
from llmops_nb.ground.signing import Key, create_key


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


def build_house(folder: Path, policy: str = DEFAULT_POLICY) -> House:
    "A workspace in which alice and dora are evaluators, bob and carl risk owners, nobody is administrator, and one release by dora is proposed."
    office, keys = open_office(create_workspace(folder / "bank", {"policy.toml": policy})), {}
    for name, role in (("alice", "evaluator"), ("bob", "risk_owner"), ("carl", "risk_owner"), ("dora", "evaluator")):
        keys[name] = create_key(name, None, folder / "keys")
        enrol_person(office, name, [role], keys[name].public_hex)
    return House(office, keys, propose(office, folder), folder)
