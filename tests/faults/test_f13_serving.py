"F13: a server process is killed with SIGKILL while callers wait for answers. The other replica goes on, the dead one is started again, and whoever was cut off is answered when they ask once more, as every OpenAI client does."
import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
from harness import draw, environment, is_running, times, told

from llmops_nb.prompts.variants import Material
from llmops_nb.serve.keys import make_key, write_keys
from llmops_nb.serve.package import package_neighbours

pytestmark = pytest.mark.slow

KILLS = times(2, 200)
CALLERS = 6
FRONT = "import signal, sys; from llmops_nb.serve.replicas import serve_replicas\ndef stop(*_): raise KeyboardInterrupt\nsignal.signal(signal.SIGTERM, stop)\nsys.exit(serve_replicas(sys.argv[1:], 2, port=0))"


@dataclass
class Traffic:
    "Callers who ask one thing after another, and what became of it."

    url: str
    key: str
    stop: threading.Event = field(default_factory=threading.Event)
    answered: list[float] = field(default_factory=list)  # seconds, a second try included
    retried: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def ask(self, text: str) -> str:
        "One request."
        body = json.dumps({"model": "bot@1", "messages": [{"role": "user", "content": text}]}).encode()
        request = urllib.request.Request(f"{self.url}/v1/chat/completions", body, {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as reply:
            return json.loads(reply.read())["choices"][0]["message"]["content"]

    def call(self, number: int) -> None:
        "One caller: a broken connection is tried once more, an error that the server answers is not."
        while not self.stop.is_set():
            begun, text = time.perf_counter(), f"my card {number} is lost"
            try:
                self.ask(text)
            except urllib.error.HTTPError as error:
                self.lost.append(str(error))
            except (OSError, http.client.HTTPException) as error:
                self.retried.append(str(error))
                try:
                    self.ask(text)
                except (OSError, http.client.HTTPException) as again:
                    self.lost.append(str(again))
                    continue
            self.answered.append(time.perf_counter() - begun)


def listening(front: psutil.Process) -> list[psutil.Process]:
    "The replicas that live."
    return [child for child in front.children() if is_running(child)]


def test_f13_a_replica_is_killed(tmp_path: Path, home: Path, record_property):
    texts, labels = [f"my card {n} is lost" for n in range(20)] + [f"refund number {n} please" for n in range(20)], ["lost"] * 20 + ["refund"] * 20
    package_neighbours(tmp_path / "package", {"name": "bot", "version": "1"}, "", Material(["lost", "refund"], texts, labels), texts[::5], labels[::5])
    secret, key = make_key("test", 1_000_000)
    write_keys(tmp_path / "keys.json", [key])
    front = subprocess.Popen([sys.executable, "-c", FRONT, str(tmp_path / "package"), "--folder", str(tmp_path), "--try-out", "--threads", "1"], env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    traffic, random = Traffic("http://" + front.stdout.readline().split()[-1], secret), draw("F13")
    traffic.ask("my card is lost")
    callers = [threading.Thread(target=traffic.call, args=(number,)) for number in range(CALLERS)]
    for caller in callers:
        caller.start()
    parent = psutil.Process(front.pid)
    for number in range(KILLS):
        time.sleep(random.uniform(6.0, 8.0))  # both are up again
        while len(before := listening(parent)) < 2:
            assert front.poll() is None, f"kill {number}: {front.stderr.read()}"
            time.sleep(0.2)
        min(before, key=psutil.Process.create_time).send_signal(signal.SIGKILL)  # the one that has served longest
    time.sleep(2.0)
    traffic.stop.set()
    for caller in callers:
        caller.join()
    front.send_signal(signal.SIGTERM)
    said = front.communicate(timeout=60)[1]
    rows = [json.loads(line) for line in (tmp_path / "requests.jsonl").read_text().splitlines()]
    assert said.count("started again") == KILLS and front.returncode == 0, said
    assert len(traffic.lost) <= len(traffic.answered) / 1000, traffic.lost[:5]
    assert len(traffic.retried) <= KILLS * CALLERS, "only what was inside a dead process is asked twice"
    assert len({row["id"] for row in rows}) == len(rows) <= len(traffic.answered) + len(traffic.retried) + 1, "an answer is on record once"
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", int(traffic.url.rpartition(":")[2])), timeout=2).close()
    told(record_property, "F13", KILLS, KILLS, f"replica killed under {CALLERS} callers: {len(traffic.answered)} answered, {len(traffic.retried)} of them at the second try, {len(traffic.lost)} lost; longest wait {max(traffic.answered):.2f} s; 0 answers on record twice")
