"Warm kernels behave as ordinary ones, whatever is done to them, to their parent or to the program that wanted them."
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from subprocess import PIPE

import nbformat
import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager, KernelManager
from nbformat.v4 import new_code_cell, new_notebook

from llmops_nb.notebooks import fork, provisioner, warm
from llmops_nb.notebooks.provisioner import ForkedProcess, WarmProvisioner, stop_parents

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module", autouse=True)
def folder() -> Iterator[Path]:
    "A folder for the parents of this file alone, with a short list of imports so that they start quickly."
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir="/tmp", prefix="w") as place:
        patch.setenv("LLMOPS_WARM_FOLDER", place)
        patch.setenv("LLMOPS_WARM_MODULES", "pandas")
        patch.setenv("LLMOPS_WARM_IDLE_MINUTES", "5")
        yield Path(place)
        stop_parents()


@pytest.fixture
def start() -> Iterator[Callable]:
    "Start kernels that are shut down at the end."
    kernels = []

    def begin(name: str = "llmops", **launch):
        manager = KernelManager(kernel_name=name)
        manager.start_kernel(**launch)
        client = manager.client()
        client.start_channels()
        kernels.append((manager, client))
        client.wait_for_ready(timeout=60)
        return manager, client

    yield begin
    for manager, client in kernels:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


def told(client, code: str, timeout: float = 30) -> str:
    "What a cell prints, or the name and text of its error."
    heard = []
    client.execute_interactive(code, timeout=timeout, output_hook=lambda m: heard.append(m["content"]) if m["msg_type"] in ("stream", "error") else None)
    return "".join(content.get("text") or f"{content['ename']}: {content['evalue']}" for content in heard).strip()


def until(condition: Callable, seconds: float = 10) -> bool:
    "Whether something becomes true in time."
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.05)
    return False


def is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def parent_of(manager: KernelManager) -> psutil.Process:
    return psutil.Process(manager.provisioner.pid).parent()


def test_jupyter_knows_the_kernel():
    spec = KernelSpecManager().get_all_specs()["llmops"]["spec"]
    assert spec["metadata"]["kernel_provisioner"]["provisioner_name"] == "llmops-warm" and spec["metadata"]["supported_encryption"] == ["curve"]
    shipped = json.loads((ROOT / "llmops_nb/notebooks/kernels/llmops/kernel.json").read_text())
    assert {**spec, "metadata": shipped["metadata"]} == {**spec, **shipped}, "the installed kernel is not the one of this checkout; run: pip install -e ."


def test_lifecycle_as_jupyter_client_tests_its_own(start):
    manager, client = start(stdout=PIPE, stderr=PIPE)
    assert isinstance(manager.provisioner, WarmProvisioner) and isinstance(manager.provisioner.process, ForkedProcess)
    assert manager.provisioner.has_process and manager.is_alive() and manager.ready.done() and client.is_alive()
    first = manager.provisioner.pid
    manager.restart_kernel(now=True)
    assert manager.is_alive() and manager.provisioner.pid != first and is_gone(first)
    client.wait_for_ready(timeout=30)
    assert told(client, "x = 1; print(x)") == "1"
    manager.restart_kernel()
    client.wait_for_ready(timeout=30)
    assert told(client, "x").startswith("NameError")
    manager.interrupt_kernel()
    manager.shutdown_kernel(now=False)
    assert not manager.is_alive() and not manager.provisioner.has_process and manager.context.closed
    assert not manager.provisioner.folder.exists()


async def check_asynchronous(name: str) -> None:
    manager = AsyncKernelManager(kernel_name=name)
    await manager.start_kernel(stdout=PIPE, stderr=PIPE)
    assert await manager.is_alive() and manager.ready.done()
    await manager.restart_kernel(now=True)
    assert await manager.is_alive()
    await manager.interrupt_kernel()
    await manager.shutdown_kernel(now=True)
    assert await manager.is_alive() is False and manager.context.closed and manager.provisioner.has_process is False


@pytest.mark.parametrize("name", ["llmops", "python3"])
def test_asynchronous_lifecycle(name: str):
    import asyncio

    asyncio.run(check_asynchronous(name))


def test_information_about_a_kernel_can_be_handed_over(start):
    import asyncio

    manager, _ = start()
    facts = asyncio.run(manager.provisioner.get_provisioner_info())
    assert facts["pid"] == manager.provisioner.pid and facts["connection_info"]["transport"] == "ipc"
    other = WarmProvisioner(kernel_id="x", kernel_spec=manager.kernel_spec)
    asyncio.run(other.load_provisioner_info(json.loads(json.dumps(facts, default=lambda value: value.decode()))))
    assert other.has_process and asyncio.run(other.poll()) is None
    asyncio.run(other.kill())
    assert until(lambda: other.process.poll() == provisioner.UNKNOWN)
    assert manager.provisioner.process.wait(10) == -signal.SIGKILL


def test_interrupt_reaches_the_kernel_and_what_it_started(start):
    manager, client = start()
    told(client, "import subprocess; child = subprocess.Popen(['sleep', '60'])")
    client.execute("import time\ntry:\n    print('asleep', flush=True); time.sleep(60)\nexcept KeyboardInterrupt:\n    caught = True")
    assert until(lambda: client.get_iopub_msg(timeout=10)["content"].get("text", "").strip() == "asleep")
    manager.interrupt_kernel()
    assert told(client, "print(caught, child.wait(10))") == f"True {-signal.SIGINT}"
    assert manager.is_alive()


def test_exit_codes(start):
    for code, expected in (("import os; os.kill(os.getpid(), 9)", -9), ("import os; os._exit(7)", 7), ("import os; os.abort()", -6), ("exit()", 0)):
        manager, client = start(stderr=subprocess.DEVNULL)
        client.execute(code)
        assert manager.provisioner.process.wait(20) == expected
        assert not manager.is_alive()


def test_shutdown_flushes_files_and_calls_exit_handlers(start, tmp_path: Path):
    manager, client = start(cwd=str(tmp_path))
    told(client, "import atexit; file = open('kept', 'w'); file.write('all of it'); atexit.register(lambda: open('called', 'w').close())")
    manager.shutdown_kernel()
    assert (tmp_path / "kept").read_text() == "all of it" and (tmp_path / "called").exists()


def test_environment_and_folder_are_the_kernels_own(start, tmp_path: Path):
    here = {name: value for name, value in os.environ.items() if name != "LLMOPS_HOME"}
    first, one = start(cwd=str(tmp_path), env={**here, "GREETING": "hello", "TZ": "Asia/Tokyo"})
    second, two = start(cwd="/", env={**here, "GREETING": "bye"})
    code = "import os, time, sys; print(os.getcwd(), os.environ.get('GREETING'), time.tzname[0], os.environ.get('LLMOPS_HOME'), sys.stdin.isatty() if sys.stdin else None)"
    assert told(one, code).split()[:3] == [str(tmp_path), "hello", "JST"] and told(two, code).split()[:2] == ["/", "bye"]
    assert psutil.Process(first.provisioner.pid).name() == "llmops-kernel" and parent_of(first).name() == "llmops-warm"
    assert parent_of(first) == parent_of(second), "variables that nothing reads while it is imported share a parent"
    assert told(one, "import subprocess; print(subprocess.run(['sh', '-c', 'echo $GREETING'], capture_output=True, text=True).stdout)") == "hello"


def test_another_hash_seed_is_another_parent(start):
    kernels = [start(env={**os.environ, "PYTHONHASHSEED": seed}) for seed in ("1", "2", "1")]
    hashes = [told(client, "print(hash('a'))") for _, client in kernels]
    assert hashes[0] == hashes[2] != hashes[1]
    assert parent_of(kernels[0][0]) == parent_of(kernels[2][0]) != parent_of(kernels[1][0])


def test_forks_share_no_state(start):
    (_, one), (_, two) = start(), start()
    told(one, "import pandas; pandas.mine = 1; import sys; sys.path.append('/mine'); x = 1")
    assert told(two, "import pandas, sys; print(hasattr(pandas, 'mine'), '/mine' in sys.path, 'x' in globals(), 'llmops_nb' in sys.modules)") == "False False False False"
    code = "import random, uuid, numpy, multiprocessing; print(random.random(), uuid.uuid4(), numpy.random.rand(), multiprocessing.current_process().authkey)"
    assert not set(told(one, code).split()) & set(told(two, code).split())


def test_memory_and_processor_time_are_limited(start):
    manager, client = start(env={**os.environ, "LLMOPS_LIMIT_MEMORY_MB": "300", "LLMOPS_LIMIT_SECONDS": "3"})
    assert told(client, "x = bytes(100 << 20); print('fits')") == "fits"
    assert told(client, "y = bytes(400 << 20)").startswith("MemoryError")
    assert told(client, "print(len(x))") == str(100 << 20)
    client.execute("while True: pass")
    assert manager.provisioner.process.wait(30) == -signal.SIGXCPU


def test_no_port_is_open_and_the_folder_is_private(start):
    manager, client = start()
    assert told(client, "import os\nif os.fork():\n    os.wait()\nelse:\n    print('child', flush=True); os._exit(0)") == "child", "a notebook's own forks can still print"
    assert manager.transport == "ipc" and manager.provisioner.folder.is_absolute() and manager.provisioner.folder.stat().st_mode & 0o077 == 0
    assert not psutil.Process(manager.provisioner.pid).net_connections(kind="inet")
    assert not parent_of(manager).net_connections(kind="inet")


def test_nothing_of_the_parent_stays_open_in_a_kernel(start):
    start()
    manager, _ = start()
    names = {os.readlink(f"/proc/{manager.provisioner.pid}/fd/{number}") for number in os.listdir(f"/proc/{manager.provisioner.pid}/fd")}
    assert not [name for name in names if name.endswith((".lock", ".log"))]
    sockets = {connection.laddr for connection in psutil.Process(manager.provisioner.pid).net_connections(kind="unix")}
    assert not [name for name in sockets if str(name).endswith(".sock")]


def test_death_of_the_parent_costs_only_time(start):
    manager, client = start()
    parent = parent_of(manager)
    parent.kill()
    assert until(lambda: is_gone(parent.pid))
    assert told(client, "print('still here')") == "still here" and manager.is_alive()
    other, another = start()
    assert told(another, "print('here too')") == "here too" and parent_of(other).pid != parent.pid
    os.kill(manager.provisioner.pid, signal.SIGKILL)
    assert until(lambda: manager.provisioner.process.poll() == provisioner.UNKNOWN)


def test_changed_packages_get_a_new_parent(start, tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "LLMOPS_WARM_IDLE_MINUTES": "0.02"}
    first, _ = start(env=environment)
    old = parent_of(first)
    (tmp_path / "thing-2.0.dist-info").mkdir()
    second, _ = start(env=environment)
    assert parent_of(second) != old and old.is_running(), "it stays while it has a kernel"
    first.shutdown_kernel(now=True)
    assert until(lambda: is_gone(old.pid), 15)


def test_an_idle_parent_ends(start, folder: Path):
    manager, _ = start(env={**os.environ, "LLMOPS_WARM_IDLE_MINUTES": "0.01"})
    parent = parent_of(manager)
    time.sleep(1)
    assert parent.is_running()
    manager.shutdown_kernel(now=True)
    assert until(lambda: is_gone(parent.pid), 10)


def test_only_the_parents_used_last_are_kept(start, monkeypatch):
    monkeypatch.setenv("LLMOPS_WARM_MODULES", "json")
    parents = []
    for number in range(provisioner.KEEP + 3):  # the last may not count itself yet
        manager, _ = start(env={**os.environ, "PYTHONHASHSEED": str(100 + number)})
        parents.append(parent_of(manager))
        if number:
            manager.shutdown_kernel(now=True)
    assert until(lambda: is_gone(parents[1].pid)) and parents[-1].is_running() and parents[0].is_running(), "the first one still has a kernel"


LAUNCHER = "from jupyter_client.manager import start_new_kernel\nimport time\nmanager, client = start_new_kernel(kernel_name='llmops')\n" \
           "client.execute('import subprocess; subprocess.Popen([\"sleep\", \"99\"]); import time; time.sleep(99)')\ntime.sleep(0.5)\nprint(manager.provisioner.pid, manager.provisioner.folder, flush=True)\ntime.sleep(99)"


def test_a_kernel_ends_with_the_program_that_launched_it():
    launcher = subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=PIPE, text=True)
    pid, place = launcher.stdout.readline().split()
    children = psutil.Process(int(pid)).children()
    assert children
    launcher.kill()
    launcher.wait()
    assert until(lambda: is_gone(int(pid)) and all(is_gone(child.pid) for child in children) and not Path(place).exists(), 10)


@pytest.mark.parametrize("broken", ["folder", "refusal", "crash"])
def test_where_it_cannot_be_warm_it_is_ordinary_and_says_so_once(start, monkeypatch, capfd, tmp_path: Path, broken: str):
    monkeypatch.setattr(WarmProvisioner, "said", False)
    if broken == "folder":
        monkeypatch.setenv("LLMOPS_WARM_FOLDER", str(tmp_path / ("long" * 30)))
    else:
        (tmp_path / "bad.py").write_text("import threading, time, os\n" + ("threading.Thread(target=time.sleep, args=(99,), daemon=True).start()" if broken == "refusal" else "os._exit(3)"))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("LLMOPS_WARM_MODULES", "bad")
    for _ in range(2):
        manager, client = start()
        assert told(client, "print(1)") == "1" and isinstance(manager.provisioner.process, subprocess.Popen)
    assert capfd.readouterr().err.count("An ordinary kernel starts instead of a warm one") == 1


def test_a_missing_folder_is_the_same_error_as_ever():
    with pytest.raises(FileNotFoundError):
        KernelManager(kernel_name="llmops").start_kernel(cwd="/no/such/folder")


def test_many_at_once_share_one_parent(start):
    environment = {**os.environ, "PYTHONHASHSEED": "77"}

    def one(number: int) -> tuple[str, int]:
        manager = KernelManager(kernel_name="llmops")
        manager.start_kernel(env={**environment, "NUMBER": str(number)})
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=60)
        answer, parent = told(client, "import os; print(os.environ['NUMBER'])"), parent_of(manager).pid
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        return answer, parent

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(one, range(6)))
    assert [answer for answer, _ in results] == [str(number) for number in range(6)] and len({parent for _, parent in results}) == 1


def test_papermill_uses_it(tmp_path: Path):
    import papermill

    cells = [new_code_cell("n = 1", metadata={"tags": ["parameters"]}), new_code_cell("import os; print(n, os.getcwd())")]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": {"name": "llmops", "language": "python", "display_name": "x"}}), tmp_path / "a.ipynb")
    done = papermill.execute_notebook(tmp_path / "a.ipynb", None, {"n": 5}, cwd=str(tmp_path), progress_bar=False)
    assert done.cells[-1].outputs[0].text == f"5 {tmp_path}\n"


def test_our_engine_reports_scrubs_and_saves_while_a_cell_runs(tmp_path: Path):
    from llmops_nb.notebooks.kernel import execute_notebook

    secret = secrets.token_hex(8)
    cells = [new_code_cell("n: int = 1", metadata={"tags": ["parameters"]}),
             new_code_cell(f"import time; print('{secret[:4]}', end='', flush=True); print('{secret[4:]}', flush=True); time.sleep(4); print('end')"), new_code_cell(f"raise ValueError('{secret}')")]
    nbformat.write(new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "language": "python", "display_name": "x"}}), tmp_path / "a.ipynb")
    events, target = [], tmp_path / "out.ipynb"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(execute_notebook, tmp_path / "a.ipynb", target, {}, dict(os.environ), tmp_path, "llmops", events.append, None, lambda text: text.replace(secret, "***"))
        assert until(lambda: any(event["event"] == "output" for event in events), 30)
        assert until(lambda: '"***\\n"' in target.read_text(), 3.5) and not waiting.done(), "what a cell has put out is in the notebook before it is done"
        assert waiting.result() == ("failed", "ValueError: ***")
    outputs = [cell["outputs"] for cell in json.loads(target.read_text())["cells"] if cell["cell_type"] == "code"]
    assert secret not in json.dumps(outputs) and outputs[-2][0]["text"] == "***\nend\n"
    assert "".join(event["text"] for event in events if event["event"] == "output").endswith("end\n")


def test_kernels_of_this_process_can_be_stopped(tmp_path: Path):
    from llmops_nb.notebooks.kernel import LIVE, execute_notebook, stop_kernels

    nbformat.write(new_notebook(cells=[new_code_cell("n: int = 1", metadata={"tags": ["parameters"]}), new_code_cell("import time; print(1, flush=True); time.sleep(60)")],
                                metadata={"kernelspec": {"name": "x", "language": "python", "display_name": "x"}}), tmp_path / "a.ipynb")
    events = []
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(execute_notebook, tmp_path / "a.ipynb", tmp_path / f"{n}.ipynb", {}, dict(os.environ), tmp_path, "llmops", events.append) for n in range(2)]
        assert until(lambda: sum(event["event"] == "output" for event in events) == 2, 30)
        stop_kernels()
        assert [each.result(20)[0] for each in waiting] == ["died", "died"]
    assert not LIVE


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, dict]]:
    "A real Jupyter server on this machine: its address and the headers that let one in."
    token = secrets.token_hex(16)
    log = open(tmp_path / "log", "w")
    command = [sys.executable, "-m", "jupyter", "server", "--ServerApp.ip=127.0.0.1", "--ServerApp.port=0", "--ServerApp.open_browser=False", f"--IdentityProvider.token={token}", "--allow-root"]
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, "JUPYTER_RUNTIME_DIR": str(tmp_path / "r")}, stdout=log, stderr=log)
    assert until(lambda: list((tmp_path / "r").glob("jpserver-*.json")), 30), (tmp_path / "log").read_text()
    yield json.loads(next((tmp_path / "r").glob("jpserver-*.json")).read_text())["url"], {"Authorization": f"token {token}"}
    process.kill()
    process.wait()
    log.close()


def test_a_jupyter_server_uses_it(server):
    import httpx

    address, headers = server
    with httpx.Client(base_url=address, headers=headers, timeout=60) as http:
        assert "llmops" in http.get("api/kernelspecs").json()["kernelspecs"]
        kernel = http.post("api/kernels", json={"name": "llmops"}).json()["id"]
        assert talk(address, headers, kernel, "import os; x = 1; print(os.getpid())").isdigit()
        assert http.post(f"api/kernels/{kernel}/interrupt").status_code == 204
        assert http.post(f"api/kernels/{kernel}/restart").status_code == 200
        pid = int(talk(address, headers, kernel, "import os; print(os.getpid() if 'x' not in globals() else 'old')"))
        assert psutil.Process(pid).parent().cmdline()[-3] == "llmops_nb.notebooks.warm"
        assert http.delete(f"api/kernels/{kernel}").status_code == 204
        assert until(lambda: is_gone(pid))


def talk(address: str, headers: dict, kernel: str, code: str) -> str:
    "Execute code over the server's websocket, as a browser does; returns what it prints."
    import asyncio

    from jupyter_client.session import Session
    from tornado.httpclient import HTTPRequest
    from tornado.websocket import websocket_connect

    async def execute() -> str:
        socket = await websocket_connect(HTTPRequest(f"{address.replace('http', 'ws', 1)}api/kernels/{kernel}/channels", headers=headers))
        request = Session().msg("execute_request", {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": False})
        await socket.write_message(json.dumps({**request, "channel": "shell"}, default=str))
        text = ""
        while True:
            message = json.loads(await asyncio.wait_for(socket.read_message(), 30))
            if message["parent_header"].get("msg_id") == request["header"]["msg_id"]:
                text += message["content"].get("text", "") if message["msg_type"] == "stream" else ""
                if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                    socket.close()
                    return text.strip()

    return asyncio.run(execute())


WORK = """
import hashlib, logging, random, sys, matplotlib, numpy, torch, tqdm.auto
from llmops_nb.ground.core import seed_everything
seed_everything(7, 2)
from transformers import LlamaConfig, LlamaForCausalLM
model = LlamaForCausalLM(LlamaConfig(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2))
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
for step in range(3):
    tokens = torch.randint(0, 100, (4, 32))
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
weights = b"".join(value.detach().numpy().tobytes() for value in model.parameters())
square = numpy.random.default_rng(1).normal(size=(400, 400))
print(hashlib.sha256(weights).hexdigest(), hashlib.sha256((square @ square).tobytes()).hexdigest(), torch.get_num_threads(), hash("a"), random.random(), numpy.random.rand(),
      matplotlib.get_backend(), tqdm.auto.tqdm.__mro__, sys.flags.hash_randomization, logging.getLogger("transformers").handlers[0].stream is sys.stderr)
"""

SECRETS_OF_A_PARENT = """
import random, sys, threading, torch, numpy, warnings
warnings.simplefilter("ignore")
from llmops_nb.notebooks.fork import GENERATORS
known = {getattr(sys.modules.get(module), name, None) for module, name in GENERATORS} | {random._inst, numpy.random.mtrand._rand}
kinds = (random.Random, numpy.random.RandomState, numpy.random.Generator)
others = [(name, key) for name, module in list(sys.modules.items()) for key, value in list(getattr(module, "__dict__", {}).items())
          if isinstance(value, kinds) and not isinstance(value, random.SystemRandom) and value not in known]
print(torch.cuda.is_initialized(), others, [thread for thread in threading.enumerate() if thread.name == "wandb"])
"""


def test_results_equal_those_of_an_ordinary_kernel_bit_for_bit(start, monkeypatch):
    monkeypatch.delenv("LLMOPS_WARM_MODULES")
    environment = {**{name: value for name, value in os.environ.items() if name != "LLMOPS_WARM_MODULES"}, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"}
    manager, client = start(env=environment)
    _, ordinary = start("python3", env=environment)
    assert told(client, SECRETS_OF_A_PARENT) == "False [] []", "an import has left random state, a thread or CUDA behind that forks would share"
    result = lambda kernel: told(kernel, WORK, 60).splitlines()[-1]  # what libraries log while they load comes before it, and only where they are loaded
    assert result(client) == result(ordinary)
    parent = parent_of(manager)
    assert {Path(f"/proc/{parent.pid}/task/{task.id}/comm").read_text().strip() for task in parent.threads()} <= {"llmops-warm", "jemalloc_bg_thd"}
    assert len(parent.threads()) <= 2, "what is not the parent's own thread can look after itself in a fork"


def test_a_parent_knows_only_what_counts_for_imports():
    given = {"OMP_NUM_THREADS": "2", "WANDB_API_KEY": "x", "OPENAI_API_KEY": "x", "HF_TOKEN": "x", "HUGGINGFACE_HUB_TOKEN": "x", "AWS_SECRET_ACCESS_KEY": "x", "HOME": "/h", "PYTHONPATH": ""}
    assert warm.load_time(given) == {"HOME": "/h", "OMP_NUM_THREADS": "2"}


def test_bad_limits_are_refused():
    with pytest.raises(ValueError):
        fork.apply_limits({"LLMOPS_LIMIT_MEMORY_MB": "much"})
