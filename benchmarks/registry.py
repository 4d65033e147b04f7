"""How fast a registry stays with thousands of releases: ours beside MLflow's, both on SQLite in a file.

    python benchmarks/registry.py [--releases 5000] [--repeats 15] [--peer FOLDER]

Proposes so many releases of one product here, and registers as many versions of one model in MLflow's registry, each with the digest of ours as a tag. Checked for equality first: both
name the same newest twenty, and production is the same. Then every act is timed on both in turn. MLflow is taken from the virtual environment FOLDER (python -m venv FOLDER;
FOLDER/bin/pip install mlflow) and runs in a process of its own, timed inside of it; without FOLDER only ours is timed. Moving production here hashes every byte of the release, checks the
signatures and the audit log, and writes a witnessed entry; MLflow's moves the alias. Ours is therefore timed with and without that.
"""
import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

PEER = """
import json, sys, time
from mlflow import MlflowClient, __version__
client = MlflowClient(sys.argv[1], registry_uri=sys.argv[1])
client.create_registered_model("support-bot")
def register(words):
    for digest in words:
        client.create_model_version("support-bot", "file:///tmp/model", tags={"digest": digest})
digest = lambda version: version.tags["digest"]
newest = lambda: [digest(v) for v in client.search_model_versions("name='support-bot'", max_results=20, order_by=["version_number DESC"])]
acts = {"newest twenty": lambda n: newest(), "one by version": lambda n: digest(client.get_model_version("support-bot", n)),
        "what is live": lambda n: digest(client.get_model_version_by_alias("support-bot", "production")), "move production": lambda n: client.set_registered_model_alias("support-bot", "production", n)}
print(json.dumps({"version": __version__}), flush=True)
for line in sys.stdin:
    act, words = json.loads(line)
    start = time.perf_counter()
    found = register(words) if act == "register" else acts[act](words)
    print(json.dumps({"seconds": time.perf_counter() - start, "found": found}), flush=True)
"""


class Peer:
    "MLflow's registry in a process of its own."

    def __init__(self, python: Path, folder: Path):
        words = [str(python), "-c", PEER, f"sqlite:///{folder / 'mlflow.db'}"]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.version = json.loads(self.process.stdout.readline())["version"]

    def ask(self, act: str, words: object = None) -> tuple[float, object]:
        "Seconds and result of one act."
        print(json.dumps([act, words]), file=self.process.stdin, flush=True)
        answer = json.loads(self.process.stdout.readline())
        return answer["seconds"], answer["found"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(20)


def build(folder: Path, count: int) -> tuple[object, list[object], list[float]]:
    "An office with so many releases of one product, the last two of them approved, and the seconds that each proposal took."
    from llmops_nb.govern.people import make_demo_identities
    from llmops_nb.govern.release import find_release, open_office, propose_release, release_manifest, release_subjects
    from llmops_nb.govern.signoff import Intent, sign_release
    from llmops_nb.ground import ledger as tables
    from llmops_nb.ground.core import write_json
    from llmops_nb.ground.ledger import now
    from llmops_nb.ground.settings import create_workspace, home

    office, seconds, releases = open_office(create_workspace(folder / "bank")), [], []
    write_json(folder / "security" / "security.json", {"findings": []})
    security = office.store.put(folder / "security")
    number = office.ledger.add(tables.stages, dict(run="main", stage="secure", key="", status="done", started=now(), ended=now(), parameters={}))
    office.ledger.add(tables.lineage, dict(stage_id=number, direction="out", name="security", digest=security))
    check = {"id": "quality", "title": "", "kind": "metric", "blocking": True, "passed": True, "detail": "0.83", "evidence": security, "metric": "accuracy", "value": 0.83, "low": 0.8, "high": 0.86, "n": 760, "at_least": 0.8, "at_most": None}
    subjects = release_subjects({"security": security})
    for place in range(count):
        write_json(folder / "adapter" / "training.json", {"seed": place})
        named = sorted([*subjects, {"name": "adapter", "digest": office.store.put(folder / "adapter")}], key=lambda subject: subject["name"])
        write_json(folder / "release" / "release.json", release_manifest("support-bot", named, [check] * 15, office.policy("demo"), ["ann"], {"finetune": {"seed": place}}))
        start = time.perf_counter()
        releases.append(propose_release(office, folder / "release", "main"))
        seconds.append(time.perf_counter() - start)
    for release in releases[-2:]:
        for key, name in zip(make_demo_identities(office, home() / "keys"), ("demo-evaluator", "demo-risk-owner")):
            sign_release(office, find_release(office, release.digest), key, Intent(name, "", "approve"))
    return office, releases, seconds


def own_acts(office: object, releases: list) -> dict[str, Callable[[int], object]]:
    "The acts to time, by name; each takes the number of a version, from 1."
    from llmops_nb.govern.approval import verify_release
    from llmops_nb.govern.contrast import contrast_releases
    from llmops_nb.govern.mirror import pending_news
    from llmops_nb.govern.registry import count_releases, history, list_releases, promote, release_at
    from llmops_nb.govern.release import code_digest, find_release, templates_digest
    from llmops_nb.ground.core import digest_file

    root = office.store.shelf.root
    def hash_bytes(release: object) -> None:
        code_digest(), templates_digest()
        for digest in (*[s["digest"] for s in release.manifest["subjects"] if s["name"] in ("adapter", "security")], release.digest):
            for entry in office.store.entries(digest):
                digest_file(root / office.store.blob(entry.sha256))
    live = lambda number: releases[-1 - number % 2]
    return {"newest twenty": lambda n: [row["digest"] for row in list_releases(office, "support-bot")], "one by version": lambda n: find_release(office, f"support-bot@{releases[n - 1].manifest['version']}").digest,
            "what is live": lambda n: release_at(office, "support-bot").digest, "move production": lambda n: promote(office, live(n)),
            "page 200": lambda n: list_releases(office, page=200), "how many": lambda n: count_releases(office), "history of production": lambda n: history(office, "support-bot"),
            "difference of two": lambda n: contrast_releases(office, releases[n - 1], releases[n - 2]), "what W&B lacks": lambda n: pending_news(office),
            "verify, hashing all": lambda n: verify_release(office, live(n)), "hashing its bytes alone": lambda n: hash_bytes(live(n)), "verify, nothing hashed": lambda n: verify_release(office, live(n), hash_again=False)}


def clock(act: Callable[[int], object], number: int) -> float:
    "Seconds that a call takes."
    start = time.perf_counter()
    act(number)
    return time.perf_counter() - start


def shown(seconds: list[float]) -> str:
    "Median and range in milliseconds."
    return f"{statistics.median(seconds) * 1e3:8.1f} [{min(seconds) * 1e3:.1f}–{max(seconds) * 1e3:.1f}]" if seconds else f"{'—':>8}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--peer", default="", help="virtual environment with mlflow")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="registry-"))
    os.environ["LLMOPS_HOME"] = str(folder / "home")
    office, releases, proposing = build(folder, options.releases)
    acts = own_acts(office, releases)
    acts["move production"](1)
    peer = Peer(Path(options.peer) / "bin" / "python", folder) if options.peer else None
    if peer:
        registering = peer.ask("register", [release.digest for release in releases])[0] / len(releases)
        peer.ask("move production", str(len(releases) - 1))
        assert peer.ask("newest twenty")[1] == acts["newest twenty"](0) and peer.ask("what is live")[1] == acts["what is live"](0) == releases[-2].digest
    own, theirs = {name: [] for name in acts}, {name: [] for name in acts}
    for turn in range(options.repeats):
        for name, act in acts.items():
            number = 2 + turn * 37 % (len(releases) - 2) if name in ("one by version", "difference of two") else turn
            own[name].append(clock(act, number))
            if peer and name in ("newest twenty", "one by version", "what is live", "move production"):
                theirs[name].append(peer.ask(name, str(number if name == "one by version" else len(releases) - turn % 2))[0])
    first = subprocess.run([sys.executable, "-c", f"import time\nfrom pathlib import Path\nfrom llmops_nb.govern.approval import verify_release\nfrom llmops_nb.govern.release import find_release, open_office\nfrom llmops_nb.ground.settings import Workspace\n"
                            f"office = open_office(Workspace(Path({str(folder / 'bank')!r})))\nstart = time.perf_counter()\nassert verify_release(office, find_release(office, {releases[-1].digest!r})).ok\nprint(time.perf_counter() - start)"], capture_output=True, text=True, check=True)
    print(f"{len(releases):,} releases, {len(office.audit.entries()):,} entries in the audit log; {platform.processor() or platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}, "
          f"SQLAlchemy {metadata.version('sqlalchemy')}, MLflow {peer.version if peer else 'not asked'}; milliseconds, median [least–most] of {options.repeats}")
    print(f"{'act':<26}{'ours':>24}{'MLflow':>24}")
    print(f"{'propose or register one':<26}{shown(proposing[-100:]):>24}{f'{registering * 1e3:.1f} (mean)' if peer else '—':>24}")
    for name in acts:
        print(f"{name:<26}{shown(own[name]):>24}{shown(theirs[name]):>24}")
    print(f"first verification in a new process, the whole audit log included: {float(first.stdout) * 1e3:.0f} ms")
    if peer:
        peer.close()
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
