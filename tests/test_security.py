"Attacks on the product itself: names that climb, archives that burst, models that carry code, templates, addresses, markup and parameters. Each test prints n tried / n that got through."
import base64
import functools
import gzip
import http.server
import io
import json
import os
import pickle
import re
import resource
import shutil
import struct
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from faults.harness import times, told
from house import House

import llmops_nb
from llmops_nb.ground.core import BadInput, LlmopsError

ROOT = Path(llmops_nb.__file__).parent


class Watch:
    "What this process opened for writing, removed, started or connected to while `on`; an audit hook cannot be taken away, so there is one."

    def __init__(self) -> None:
        self.on, self.events, self.known = False, [], False

    def hook(self, event: str, given: tuple) -> None:
        if not self.on:
            return
        if event == "open" and isinstance(given[0], str | bytes | os.PathLike):
            self.events.append(("write" if any(letter in str(given[1] or "r") for letter in "wax+") or isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR) else "read", os.path.realpath(os.fsdecode(given[0]))))
        elif event in ("os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.symlink", "os.link"):
            self.events += [("write", os.path.realpath(os.fsdecode(path))) for path in given[:2] if isinstance(path, str | bytes | os.PathLike)]
        elif event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket.connect"):
            self.events.append((event, str(given)[:200]))

    @contextmanager
    def ing(self) -> Iterator[list[tuple[str, str]]]:
        if not self.known:
            sys.addaudithook(self.hook)
            self.known = True
        self.events, self.on = [], True
        try:
            yield self.events
        finally:
            self.on = False


watch = Watch()


def quietly(*words: str) -> int:
    "The exit code of a command, in this process."
    from llmops_nb.desk.cli import main

    with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
        try:
            return main(list(words))
        except SystemExit as end:
            return int(end.code or 0)


@pytest.fixture
def bank(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    "A workspace in which this process stands, beside a folder that nobody may touch."
    from llmops_nb.ground.settings import create_workspace

    monkeypatch.setenv("LLMOPS_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LLMOPS_PASSPHRASE", "correct horse battery")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.json").write_text('{"secret": 1}')
    root = create_workspace(tmp_path / "bank").root
    monkeypatch.chdir(root)
    return root


CHAT = "/v1/chat/completions"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Any]:
    "The served application with a model that repeats what it is told, and a valid key."
    from fastapi.testclient import TestClient

    from llmops_nb.prompts.clients import FunctionClient
    from llmops_nb.serve.app import Service, make_app
    from llmops_nb.serve.journal import Journal
    from llmops_nb.serve.keys import Door, KeyRing, make_key, write_keys

    secret, key = make_key("tests", per_minute=100_000)
    service = Service("echo", FunctionClient("echo", lambda one: one[-1]["content"]), Door(KeyRing(write_keys(tmp_path / "keys.json", [key]), every=0)), Journal(tmp_path / "requests.jsonl"), Journal(tmp_path / "feedback.jsonl"), lambda: "", hosts=("testserver",))
    with TestClient(make_app(service), headers={"authorization": f"Bearer {secret}"}, follow_redirects=False) as client:
        yield client


# S1 --------------------------------------------------------------------------------------------------------------------------------------------

def climbing(outside: Path) -> list[str]:
    "Sixty spellings of a place that is not the workspace."
    plain = ["../outside/secret.json", "../../outside/secret.json", "../outside", "../../../../../../../../etc/passwd", "/etc/passwd", str(outside / "secret.json"), str(outside), "..", ".", "~", "~root/.ssh/id_rsa", "/", "//etc/passwd", "./../outside",
             "a/../../outside/secret.json", "runs/../../outside", "main/../../../outside/secret.json", "/proc/self/environ", "/dev/stdin", "$HOME/.ssh", "`id`", "$(id)", "a;id", "a|id", "-rf", "--help", ".git/config", ".llmops/keys", "con", "nul"]
    spelt = [how(text) for text in plain[:6] for how in (lambda t: t.replace("/", "\\"), lambda t: quote(t, safe=""), lambda t: t.replace(".", "%2e"), lambda t: t + "\0.json", lambda t: t.replace("..", "....//").replace("//", "/"))]
    return plain + spelt


def test_s1_no_name_leaves_its_folder(bank: Path, server: Any, record_property: Callable) -> None:
    from llmops_nb.ground.core import check_name
    from llmops_nb.ground.store import Store
    from llmops_nb.notebooks.bundle import write_folder

    outside, store = bank.parent / "outside", Store(str(bank / "store"))
    names = climbing(outside)
    assert len(names) == 60
    typed = {"run": ("run", "--dry-run", "--run"), "status": ("status", "--run"), "stage": ("run", "--dry-run"), "show": ("show",), "why": ("why",), "trace": ("trace",), "replay": ("replay",), "release": ("release", "show"), "person": ("person", "add"),
             "finding": ("finding", "accept")}
    called: dict[str, Callable[[str], Any]] = {"artifact": store.entries, "artifact copy": lambda name: store.get(name, bank / "here"), "bundle": lambda name: write_folder(bank / "node", {name: b"x"}), "name": check_name,
                                               "address": lambda name: server.get("/v1/" + name.replace("\0", "%00")), "model": lambda name: server.post(CHAT, json={"model": name, "messages": [{"role": "user", "content": name}]})}
    tried, through = 0, []
    before = sorted(outside.rglob("*"))
    for name in names:
        for kind, words in typed.items():
            if kind in ("run", "stage", "show", "why") and names.index(name) % times(4, 1):
                continue  # these words plan the whole run first
            with watch.ing() as events:
                quietly(*words, name, *(("--until", "2026-12-01", "--reason", "long enough a reason") if kind == "finding" else ()))
            tried += 1
            through += [f"{kind} {name!r}: {event}" for event in events if escapes(event, bank, outside)]
        for kind, function in called.items():
            with watch.ing() as events, suppress(LlmopsError, ValueError, OSError):
                function(name)
            tried += 1
            through += [f"{kind} {name!r}: {event}" for event in events if escapes(event, bank, outside)]
    assert sorted(outside.rglob("*")) == before
    told(record_property, "S1", tried - len(through), tried, f"{len(through)} names led out of the workspace")
    assert not through, through[:10]


def escapes(event: tuple[str, str], bank: Path, outside: Path) -> bool:
    "Whether an event touched what it must not: anything read outside on purpose, anything written elsewhere than workspace and home."
    what, path = event
    if what == "read":
        return path.startswith(str(outside)) or path in ("/etc/passwd", "/proc/self/environ", "/root/.ssh/id_rsa")
    kept = (str(bank), str(bank.parent / "home"), str(Path.home() / ".cache" / "llmops"), "/dev/null", "/dev/urandom")
    return what == "write" and not path.startswith(kept) and "__pycache__" not in path and not path.startswith(os.path.realpath(os.environ.get("TMPDIR", "/tmp")) + "/tmp")


# S2 --------------------------------------------------------------------------------------------------------------------------------------------

def tar_of(*members: tarfile.TarInfo) -> bytes:
    "A tar archive with these members, each with a few bytes."
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for member in members:
            member.size = 3 if member.isreg() else 0
            archive.addfile(member, io.BytesIO(b"abc") if member.isreg() else None)
    return made.getvalue()


def zip_of(files: dict[str, bytes]) -> bytes:
    "A zip archive with these files."
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return made.getvalue()


def archives() -> dict[str, bytes]:
    "Thirty files that are given as data and are something else."
    zeros, row = gzip.compress(b"0" * 30_000_000, 1), b"text,label\na,b\n"
    special = lambda kind, name, link="": (lambda member: (setattr(member, "type", kind), setattr(member, "linkname", link), member)[-1])(tarfile.TarInfo(name))
    made = {"slip.zip": zip_of({"../outside/x": b"x"}), "absolute.zip": zip_of({"/tmp/x": b"x"}), "many.zip": zip_of({f"{i}": b"" for i in range(20_000)}), "ratio.zip": zip_of({"0": b"0" * 20_000_000}), "nested.zip": zip_of({"a.zip": zip_of({"b.zip": zip_of({"c": b"0" * 10**6})})}),
            "data.csv": zip_of({"data.csv": row}), "slip.tar": tar_of(tarfile.TarInfo("../outside/x")), "link.tar": tar_of(special(tarfile.SYMTYPE, "a", "/etc"), tarfile.TarInfo("a/x")), "hard.tar": tar_of(special(tarfile.LNKTYPE, "a", "/etc/passwd")),
            "device.tar": tar_of(special(tarfile.CHRTYPE, "null")), "pipe.tar": tar_of(special(tarfile.FIFOTYPE, "pipe")), "many.tar": tar_of(*(tarfile.TarInfo(str(i)) for i in range(5_000)))}
    made |= {f"{name}.gz": gzip.compress(data) for name, data in list(made.items())[:10]}
    made |= {"bomb.csv.gz": zeros, "bomb.jsonl.gz": zeros, "twice.csv.gz": gzip.compress(zeros), "cut.csv.gz": gzip.compress(row * 5000)[:-30], "rubbish.csv.gz": b"\x1f\x8b" + os.urandom(400), "empty.csv.gz": gzip.compress(b""), "tail.csv.gz": gzip.compress(row * 50) + b"trailing", "size.csv.gz": gzip.compress(row)[:-4] + b"\xff" * 4}
    return made


def test_s2_archives_are_refused_and_nothing_unpacks_them(bank: Path, record_property: Callable) -> None:
    from llmops_nb.data.files import find_file, read_bytes, read_rows

    unpackers = [path.name for path in ROOT.rglob("*.py") if re.search(r"^\s*(import|from) (tarfile|zipfile)|unpack_archive", path.read_text(encoding="utf-8"), re.MULTILINE)]
    made, through, most = archives(), [], 0
    assert len(made) == 30
    for name, data in made.items():
        (bank / name).write_bytes(data)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with watch.ing() as events:
            try:
                content = read_bytes(find_file(name, bank))[0]
                through += [f"{name}: {len(content):,} bytes"] if len(content) > 100 * max(len(data), 10_000) else []
                read_rows(bank / name)
            except BadInput:
                pass
        most = max(most, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        through += [f"{name}: {event}" for event in events if escapes(event, bank, bank.parent / "outside")]
    told(record_property, "S2", len(made) - len(through), len(made), f"no archive is ever unpacked but gzip ({len(unpackers)} modules with tar or zip); most memory for one {most / 1024:.0f} MB")
    assert not through and not unpackers and most < 200 * 1024, (through, unpackers, most)


# S3 --------------------------------------------------------------------------------------------------------------------------------------------

class Trap:
    "Unpickled, it touches a file."

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return os.system, (f"touch {self.path}",)


def model_traps(folder: Path, mark: Path) -> dict[str, Path]:
    "Model folders each of which would run code in a careless loader: the built-in model with one thing changed."
    tiny, evil = ROOT / "models" / "tiny", f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
    found = {}

    def trap(name: str, files: dict[str, bytes | str], change: dict[str, dict] | None = None, without: str = "") -> None:
        shutil.copytree(tiny, made := folder / name)
        for file, fields in (change or {}).items():
            (made / file).write_text(json.dumps({**json.loads((made / file).read_text()), **fields}))
        for file, data in files.items():
            (made / file).parent.mkdir(parents=True, exist_ok=True)
            (made / file).write_bytes(data.encode() if isinstance(data, str) else data)
        if without:
            (made / without).unlink()
        found[name] = made

    bomb, mapped = pickle.dumps(Trap(mark)), {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": ["evil.Tokenizer", None]}
    code = {"evil.py": evil, "modeling_evil.py": evil, "custom_generate/generate.py": evil, "tokenization_evil.py": evil}
    trap("pickle weights", {"pytorch_model.bin": bomb}, without="model.safetensors")
    trap("pickle beside", {"pytorch_model.bin": bomb, "model.pt": bomb, "training_args.bin": bomb, "optimizer.pt": bomb})
    trap("pickle named safetensors", {"model.safetensors": bomb})
    trap("index to pickle", {"weights.bin": bomb, "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": {"model.embed_tokens.weight": "weights.bin"}})}, without="model.safetensors")
    trap("index climbs", {"a.safetensors": b"", "model.safetensors.index.json": json.dumps({"metadata": {}, "weight_map": {"model.embed_tokens.weight": "../../evil.bin"}})}, without="model.safetensors")
    trap("long header", {"model.safetensors": struct.pack("<Q", 2**60) + b"{}"})
    trap("auto_map", code, {"config.json": {"auto_map": mapped}})
    trap("auto_map elsewhere", code, {"config.json": {"auto_map": {"AutoModelForCausalLM": "evil/repo--evil.Model"}}})
    trap("own model type", code, {"config.json": {"model_type": "evil", "auto_map": mapped}})
    trap("tokenizer auto_map", code, {"tokenizer_config.json": {"auto_map": mapped, "tokenizer_class": "EvilTokenizer"}})
    trap("tokenizer class path", code, {"tokenizer_config.json": {"tokenizer_class": "evil.Tokenizer"}})
    trap("trust inside", code, {"config.json": {"trust_remote_code": True}, "tokenizer_config.json": {"trust_remote_code": True, "auto_map": mapped}})
    trap("attention kernel", code, {"config.json": {"_attn_implementation": "evil/kernels", "attn_implementation": "evil/kernels"}})
    trap("quantised by code", code, {"config.json": {"quantization_config": {"quant_method": "evil", "modules_to_not_convert": ["__import__('os')"]}}})
    trap("custom generate", code, {"generation_config.json": {"custom_generate": "evil", "trust_remote_code": True}} if (tiny / "generation_config.json").exists() else {})
    trap("rope by eval", code, {"config.json": {"rope_parameters": {"rope_type": "__import__('os').system('touch x')"}}})
    trap("activation", code, {"config.json": {"hidden_act": "__import__('os').system"}})
    for number, source in enumerate(["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ cycler.__init__.__globals__.os.system('touch x') }}", "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}"]):
        trap(f"chat template {number}", {"chat_template.jinja": source})
    return found


def data_traps(folder: Path, mark: Path) -> dict[str, Path]:
    "Data files that run code when a careless reader opens them."
    import numpy as np

    bomb = pickle.dumps(Trap(mark))
    objects = io.BytesIO()
    np.save(objects, np.array([Trap(mark)], dtype=object), allow_pickle=True)
    files = {"data.pkl": bomb, "data.csv": bomb, "data.jsonl": bomb, "data.npy": objects.getvalue(), "data.parquet": b"PAR1" + bomb + struct.pack("<I", len(bomb)) + b"PAR1", "data.joblib": bomb}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return {name: folder / name for name in files}


def test_s3_no_model_and_no_data_file_runs_code(bank: Path, record_property: Callable) -> None:
    from llmops_nb.data.files import read_rows
    from llmops_nb.models.base import load_candidate, load_model
    from llmops_nb.models.chat import encode_conversations

    mark, adapter = bank / "executed", bank / "adapter"
    adapter.mkdir()
    traps = model_traps(bank / "models", mark)
    for name, value in {"training.json": {"base_model": "builtin:tiny", "base_digest": load_model().digest, "method": "lora"}, "adapter_config.json": {"peft_type": "LORA", "r": 1, "target_modules": ["q_proj"], "auto_mapping": {"parent_library": "evil"}}}.items():
        (adapter / name).write_text(json.dumps(value))
    (adapter / "adapter_model.bin").write_bytes(pickle.dumps(Trap(mark)))

    def use(path: Path) -> None:
        loaded = load_model(str(path))
        encode_conversations(loaded.tokenizer, [[{"role": "user", "content": "hello"}]])

    attempts: dict[str, Callable[[], object]] = {name: functools.partial(use, path) for name, path in traps.items()}
    attempts |= {name: functools.partial(read_rows, path) for name, path in data_traps(bank, mark).items()} | {"adapter in pickle": lambda: load_candidate(adapter)}
    refused, through = 0, []
    for name, attempt in attempts.items():
        with watch.ing() as events:
            try:
                attempt()
            except LlmopsError:
                refused += 1
        through += [f"{name}: {event}" for event in events if event[0] not in ("read", "write") and "resource.setrlimit" not in event[1]]  # Parquet is read by a child with limits
        through += [f"{name}: executed"] if mark.exists() else []
    pickle.loads(pickle.dumps(Trap(bank / "control")))
    assert (bank / "control").exists(), "the trap itself works"
    told(record_property, "S3", len(attempts) - len(through), len(attempts), f"{refused} refused with a sentence, the others loaded without the code in them")
    assert not through and len(attempts) >= 25, through


# S4, S6 ----------------------------------------------------------------------------------------------------------------------------------------

def test_s4_no_route_answers_without_a_key(server: Any, record_property: Callable) -> None:
    paths = sorted({getattr(route, "path", "/") for route in server.app.routes} | {"/", "/docs", "/openapi.json", "/v1", "/admin", "/v1/keys", "/health/..", "//health", "/metrics/x"})
    methods, allowed = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE"), {(method, path) for method in ("GET", "HEAD") for path in ("/health", "/metrics")}
    tried, through = 0, []
    for path in paths:
        for method in methods:
            for key in ({"authorization": ""}, {"authorization": "Bearer wrong"}, {"authorization": "Basic YTpi"}):
                status = server.request(method, path, headers=key).status_code
                tried += 1
                through += [f"{method} {path}: {status}"] if status not in (401, 403, 429) and (method, path) not in allowed else []
    told(record_property, "S4", tried - len(through), tried, f"{len(paths)} paths, {len(methods)} methods, three ways to have no key")
    assert not through and len(paths) >= 12, through


def injections() -> list[str]:
    "Two hundred texts that end a statement, a string or a comparison in careless SQL."
    ends = ["'", '"', "')", '")', "`", "\\'", "%27", "';", "'/*", "1"]
    tails = [" OR 1=1 --", " OR 'a'='a", "; DROP TABLE runs; --", " UNION SELECT * FROM people --", " UNION SELECT name, sql FROM sqlite_master --", "; UPDATE people SET roles='[\"admin\"]'; --", " AND randomblob(1000000000) --", " OR name LIKE '%", "; ATTACH DATABASE '/tmp/x.db' AS x; --", " ORDER BY 99 --",
             "||(SELECT public_hex FROM keys)||'", "; PRAGMA writable_schema=1; --", " GLOB '*' --", "; SELECT load_extension('x'); --", " HAVING 1=1 --", "; DELETE FROM signoffs; --", " LIMIT 1 OFFSET 1 --", "; VACUUM INTO '/tmp/y'; --", " COLLATE NOCASE --", "\x00 OR 1=1"]
    return [end + tail for end in ends for tail in tails]


def test_s6_no_text_becomes_sql(house: House, server: Any, record_property: Callable) -> None:
    from llmops_nb.govern.people import find_person
    from llmops_nb.govern.release import find_release
    from llmops_nb.govern.waiver import newest_report
    from llmops_nb.ground import ledger as tables
    from llmops_nb.ground.ledger import latest_stage, sql

    office, texts = house.office, injections()
    count = lambda: {table.name: len(office.ledger.rows(sql.select(table))) for table in (tables.people, tables.keys, tables.releases, tables.signoffs, tables.runs)}
    before, tried, through = count(), 0, []
    asked: dict[str, Callable[[str], Any]] = {"person": lambda text: find_person(office, text), "release": lambda text: find_release(office, text), "report": lambda text: newest_report(office, text), "stage": lambda text: latest_stage(office.ledger, text, "x"),
                                              "model": lambda text: server.post(CHAT, json={"model": text, "user": text, "messages": [{"role": "user", "content": text}]}), "key": lambda text: server.get("/v1/models", headers={"authorization": ("Bearer " + text).encode("latin-1", "replace")}),
                                              "feedback": lambda text: server.post("/v1/feedback", json={"id": text, "rating": 1, "comment": text})}
    assert len(texts) == 200
    for text in texts:
        for place, ask in asked.items():
            tried += 1
            with suppress(LlmopsError):
                found = ask(text)
                through += [f"{place} {text!r}: {found}"] if (found.status_code >= 500 or place == "key" and found.status_code == 200 if hasattr(found, "status_code") else found) else []
    told(record_property, "S6", tried - len(through), tried, f"{len(through)} rows or errors; the tables are as before")
    assert not through and count() == before, through[:10]


# S7 --------------------------------------------------------------------------------------------------------------------------------------------

REACH = ["''.__class__", "''.__class__.__mro__[1].__subclasses__()", "().__class__.__base__", "[].__class__.__mro__", "{}.__init__.__globals__", "text.__class__", "text|attr('__class__')", "text['__class__']", "text[('_'*2)~'class'~('_'*2)]", "text|attr(['_','_','class','_','_']|join)",
         "cycler.__init__.__globals__.os", "lipsum.__globals__['os'].popen('id').read()", "joiner.__init__.__globals__", "namespace.__init__.__globals__", "self.__init__.__globals__", "self._TemplateReference__context", "request.application.__globals__", "config.items()", "get_flashed_messages.__globals__",
         "url_for.__globals__", "dict.__mro__", "range.__class__", "loop.__init__", "messages.__class__", "labels.append(1)", "labels.pop()", "text.format(1)", "'{0.__class__}'.format(text)", "'%s'|format(text.__class__)", "(text|string).__len__", "open('/etc/passwd').read()", "__import__('os').system('id')",
         "import os", "eval('1')", "exec('1')", "text.encode().__class__", "text.join.__self__", "caller()", "varargs", "kwargs", "undefined_thing.x", "text|map('attr','__class__')|list", "labels|selectattr('__class__')|list", "labels|groupby('__class__')", "text|pprint", "text|xmlattr", "debug()", "_context", "environment.loader", "gettext('x')"]
GROW = ["{{ 'A' * 1000000000 }}", "{{ 9 ** 9 ** 9 }}", "{{ 'x'|center(1000000000) }}", "{{ '%999999999d' % 1 }}", "{{ '%999999999d'|format(1) }}", "{{ 'x'.ljust(1000000000) }}", "{{ 'x'.zfill(1000000000) }}", "{{ '{:>999999999}'.format(1) }}", "{{ [0] * 1000000000 }}", "{{ range(1000000000)|list }}",
        "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}", "{% for a in range(10) recursive %}{{ loop(range(10)) }}{% endfor %}", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "{% set x = 'ab' %}" + "{% set x = x ~ x %}" * 40, "{% set n = namespace(x='ab') %}" + "{% set n.x = n.x + n.x %}" * 40,
        "{{ 'a'" + "|replace('a', 'aaaaaaaa')" * 12 + " }}", "{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "{% if 1 %}" * 800 + "{% endif %}" * 800, "{{ 'x'|indent(1000000000) }}", "{{ 'x'.expandtabs(1000000000) }}", "{{ (1).__pow__(2) }}", "{% include '/etc/passwd' %}", "{% import 'os' as os %}", "{% extends 'x' %}", "{% call f() %}{% endcall %}"]
RENDER = """
import json, resource, signal, sys
payload, mode = json.loads(sys.stdin.readline()), sys.argv[1]
from llmops_nb.ground.core import BadInput
from llmops_nb.prompts.foreign import check_chat_template
from llmops_nb.prompts.templates import render_template
from transformers.utils.chat_template_utils import _compile_jinja_template
render_template("{{ text }}", {"text": "hello"}); _compile_jinja_template("{{ messages }}").render(messages=[])
def late(*_): raise TimeoutError("two seconds of processor time")
signal.signal(signal.SIGVTALRM, late)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
resource.setrlimit(resource.RLIMIT_AS, (before * 1024 + 8 * 2**30, resource.RLIM_INFINITY))
for source in payload:
    signal.setitimer(signal.ITIMER_VIRTUAL, 2.0)
    try:
        if mode == "prompt":
            said = render_template(source, {"text": "hello", "labels": ["a"]})
        else:
            check_chat_template(source)
            said = _compile_jinja_template(source).render(messages=[{"role": "user", "content": "hello"}], text="hello", labels=["a"])
        verdict = "leak: " + said[:80] if any(word in said for word in ("class ", "<module", "root:", "uid=", "built-in", "<function", "Undefined object", "jinja2")) else "harmless"
    except BadInput as error:
        verdict = "refused"
    except (TimeoutError, MemoryError, RecursionError) as error:
        verdict = f"got through: {type(error).__name__}"
    except Exception as error:
        verdict = "refused" if mode == "chat" and type(error).__module__.startswith("jinja2") else f"got through: {type(error).__name__} {error}"
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    print(json.dumps([source[:80], verdict, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before]), flush=True)
"""


def test_s7_templates_reach_nothing_and_end(record_property: Callable) -> None:
    payloads = ["{{ " + one + " }}" for one in REACH] + ["{% set x = " + one + " %}{{ x }}" for one in REACH[:25]] + GROW
    assert len(payloads) == 100
    found, most = [], 0
    for mode in ("prompt", "chat"):
        done = subprocess.run([sys.executable, "-c", RENDER, mode], input=json.dumps(payloads) + "\n", capture_output=True, text=True, timeout=300)
        rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("[")]
        assert len(rows) == 100, f"{mode}: ended after {len(rows)}; {done.stderr[-400:]}"
        found += [(mode, *row) for row in rows]
        most = max([most, *(row[2] for row in rows)])
    through = [row for row in found if row[2] not in ("refused", "harmless")]
    told(record_property, "S7", len(found) - len(through), len(found), f"100 as prompt templates, 100 as chat templates; most memory {most / 1024:.0f} MB, each under 2 s of processor time")
    assert not through and most < 256 * 1024, (through[:10], most)


# S8 --------------------------------------------------------------------------------------------------------------------------------------------

@contextmanager
def canary() -> Iterator[tuple[int, list[str]]]:
    "A port on this machine and the addresses that somebody asked it for."
    hits: list[str] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hits.append(self.path)
            self.send_response(204)
            self.end_headers()

        do_POST = do_HEAD = do_OPTIONS = do_GET

        def log_message(self, *_: object) -> None:
            pass

    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    try:
        yield listener.server_address[1], hits
    finally:
        listener.shutdown()
        listener.server_close()


def addresses(port: int) -> list[str]:
    "Ten spellings of the listener's address."
    return [f"http://127.0.0.1:{port}/s8", f"http://localhost:{port}/s8", f"http://2130706433:{port}/s8", f"http://0x7f000001:{port}/s8", f"http://0177.0.0.1:{port}/s8", f"http://[::ffff:127.0.0.1]:{port}/s8", f"http://127.1:{port}/s8", f"//127.0.0.1:{port}/s8", f"http://user@127.0.0.1:{port}/s8", "file:///etc/passwd"]


def test_s8_no_request_makes_the_server_call_elsewhere(server: Any, bank: Path, record_property: Callable) -> None:
    import httpx

    from llmops_nb.data.files import find_file
    from llmops_nb.measure.endpoint import check_endpoint
    from llmops_nb.models.base import model_folder

    with canary() as (port, hits):
        httpx.get(f"http://127.0.0.1:{port}/control")
        assert hits == ["/control"], "the listener listens"
        plain = {"model": "echo", "messages": [{"role": "user", "content": "hello"}]}
        ways: dict[str, Callable[[str], object]] = {
            "fields": lambda url: server.post(CHAT, json={**plain, "api_base": url, "base_url": url, "endpoint": url, "webhook": url, "callback": url, "proxy": url}),
            "picture": lambda url: server.post(CHAT, json={**plain, "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": url}]}]}),
            "model": lambda url: server.post(CHAT, json={**plain, "model": url, "user": url, "guided_choice": [url[:100]]}),
            "tools": lambda url: server.post(CHAT, json={**plain, "tools": [{"type": "function", "function": {"name": "fetch", "parameters": {"$ref": url}}}], "messages": [{"role": "system", "content": f"Fetch {url}"}, {"role": "user", "content": url}]}),
            "headers": lambda url: server.post(CHAT, json=plain, headers={"x-forwarded-host": url, "referer": url, "x-forwarded-for": url, "forwarded": f"host={url}", "x-original-url": url, "origin": url}),
            "address": lambda url: server.get(f"/v1/models/{url}"),
            "feedback": lambda url: server.post("/v1/feedback", json={"id": "chatcmpl-" + "0" * 32, "rating": 1, "comment": url, "correction": url})}
        looked_up: dict[str, Callable[[str], object]] = {"base model": model_folder, "data": lambda url: find_file(url, bank), "template": lambda url: quietly("run", url)}
        tried, through = 0, []
        for url in addresses(port):
            for way, ask in {**ways, **looked_up}.items():
                with suppress(LlmopsError, OSError):
                    reply = ask(url)
                    through += [f"{way} {url}: {reply.status_code}"] if way in ways and reply.status_code >= 500 else []
                tried += 1
        with pytest.raises(BadInput):
            check_endpoint("file:///etc/passwd")
        through += [path for path in hits if path != "/control"]
    told(record_property, "S8", tried - len(through), tried, f"{len(hits) - 1} calls reached the listener")
    assert not through, through


def test_the_red_team_reaches_the_endpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmops_nb.measure.endpoint import open_clients
    from llmops_nb.measure.findings import probe_findings
    from llmops_nb.measure.probes import load_probes, run_probes
    from llmops_nb.prompts.clients import FunctionClient
    from llmops_nb.serve.app import Service
    from llmops_nb.serve.journal import Journal
    from llmops_nb.serve.keys import Door, KeyRing, make_key, write_keys
    from llmops_nb.serve.server import start_thread

    steady, careless = FunctionClient("steady", lambda one: "card_arrival\nIt is on its way."), FunctionClient("careless", lambda one: one[0]["content"])
    secret, key = make_key("red-team", per_minute=100_000)
    service = Service("bot", careless, Door(KeyRing(write_keys(tmp_path / "keys.json", [key]), every=0)), Journal(tmp_path / "requests.jsonl"), Journal(tmp_path / "feedback.jsonl"), lambda: "")
    monkeypatch.setenv("LLMOPS_API_KEY", secret)
    with start_thread(service, secret) as running:
        outcomes = {name: run_probes(client, load_probes(), ["card_arrival"]) for name, client in open_clients(steady, f"{running.url}/v1").items()}
    rows = {row["id"]: row["passed"] for name, tried in outcomes.items() for row in probe_findings(tried, where=name)}
    assert rows["prompt-leak"] is True and rows["endpoint-prompt-leak"] is False and not any(one.answer.error for one in outcomes["endpoint"])


# S12 -------------------------------------------------------------------------------------------------------------------------------------------

SHOT = "document.documentElement.setAttribute('data-hit-NUMBER','1')"
MARKUPS = ["<script>RUN</script>", "<img src=x onerror=\"RUN\">", "<svg onload=\"RUN\"></svg>", "<svg><script>RUN</script></svg>", "<body onload=\"RUN\">", "<iframe srcdoc=\"<script>parent.RUN</script>\"></iframe>", "<iframe src=\"javascript:parent.RUN\"></iframe>", "<details open ontoggle=\"RUN\"><summary>x</summary></details>",
           "<input autofocus onfocus=\"RUN\">", "<video><source onerror=\"RUN\"></video>", "<audio src=x onerror=\"RUN\"></audio>", "<object data=\"javascript:RUN\"></object>", "<embed src=\"javascript:RUN\">", "<math><mi xlink:href=\"javascript:RUN\">x</mi></math>", "<style>@keyframes x{}</style><p style=\"animation-name:x\" onanimationstart=\"RUN\">x</p>",
           "</title><script>RUN</script>", "</textarea><script>RUN</script>", "</style><script>RUN</script>", "</script><script>RUN</script>", "--><script>RUN</script>", "\"><script>RUN</script>", "'><img src=x onerror=RUN>", "<ScRiPt>RUN</sCrIpT>", "<script/x>RUN</script>", "<<script>RUN//<</script>", "<img src=x:x onerror=\"RUN\"//>",
           "<a href=\"javascript:RUN\" id=x>x</a>", "[x](javascript:RUN)", "![x](x\"onerror=\"RUN)", "<meta http-equiv=\"refresh\" content=\"0;url=PLACE\">", "<base href=\"PLACE\">", "<link rel=stylesheet href=\"PLACE\">", "<form action=\"PLACE\"><input type=submit autofocus></form>", "<marquee onstart=\"RUN\">x</marquee>", "<template><script>RUN</script></template>",
           "<noscript><p title=\"</noscript><img src=x onerror=RUN>\"></noscript>", "<select onfocus=\"RUN\" autofocus></select>", "<script type=module>RUN</script>", "<script src=\"data:text/javascript,RUN\"></script>", "<object type=\"text/html\" data=\"data:text/html,<script>parent.RUN</script>\"></object>"]


def hostile_texts(port: int) -> list[str]:
    "120 texts each of which tries to run a line of script: three spellings of forty."
    found = []
    for change in (lambda text: text, lambda text: f"x {text} y", lambda text: text.replace("RUN", "eval(atob('BASE'))")):
        for markup in MARKUPS:
            run = SHOT.replace("NUMBER", str(len(found)))
            found.append(change(markup).replace("RUN", run).replace("BASE", base64.b64encode(run.encode()).decode()).replace("PLACE", f"http://127.0.0.1:{port}/s12-{len(found)}"))
    return found


def hostile_notebook(texts: list[str]) -> dict[str, Any]:
    "An executed notebook that has every text as its heading, in its code and as each kind of output."
    cells: list[dict] = [{"cell_type": "markdown", "id": "a", "metadata": {}, "source": "# Title\n> Question?"}]
    for number, text in enumerate(texts):
        data = {"text/html": text, "text/plain": text} if number % 4 == 0 else {"text/markdown": text} if number % 4 == 1 else {"image/svg+xml": f"<svg xmlns='http://www.w3.org/2000/svg'>{text}</svg>"} if number % 4 == 2 else {"text/plain": text, "application/javascript": text, "text/latex": text}
        outputs = [{"output_type": "display_data", "metadata": {}, "data": data}, {"output_type": "stream", "name": "stdout", "text": text}, {"output_type": "error", "ename": text, "evalue": text, "traceback": [text]}]
        cells += [{"cell_type": "markdown", "id": f"m{number}", "metadata": {}, "source": text}, {"cell_type": "code", "id": f"c{number}", "metadata": {}, "source": f"# {text}", "execution_count": 1, "outputs": outputs}]
    return {"cells": cells, "metadata": {"kernelspec": {"name": "python3", "display_name": texts[0]}, "title": texts[1]}, "nbformat": 4, "nbformat_minor": 5}


def hits_in(page: Path, folder: Path) -> set[str]:
    "The texts whose script ran when the page was opened in Chromium."
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium is installed; the pages' policy is still checked in the report's own notebook")
    done = subprocess.run([browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=3000", "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    assert "<html" in done.stdout, done.stderr[-400:]
    return set(re.findall(r"data-hit-(\d+)=", done.stdout[: done.stdout.index(">", done.stdout.index("<html"))]))


def test_s12_no_script_runs_in_a_page(tmp_path: Path, record_property: Callable) -> None:
    from llmops_nb.notebooks.report import page, write_index, write_report

    with canary() as (port, hits):
        texts, folder = hostile_texts(port), tmp_path / "runs" / "main" / "01_x"
        assert len(texts) == 120
        folder.mkdir(parents=True)
        (folder / "notebook.ipynb").write_text(json.dumps(hostile_notebook(texts)))
        gates = [{"name": text, "passed": number % 2 == 0, "blocking": True, "detail": {"detail": text}} for number, text in enumerate(texts)]
        metrics = [{"name": text, "value": 1.0, "low": None, "high": None, "n": 1, "unit": text, "measured": False} for text in texts]
        (folder / "result.json").write_text(json.dumps({"run": texts[0], "stage": texts[1], "gates": gates, "metrics": metrics}))
        report = write_report(folder, "done", notice=texts[2])
        entries = [{"folder": text, "question": text, "status": "failed", "seconds": 1.0, "metrics": metrics[:2], "gates": gates[:2], "error": text, "report": True, "kept": text, "title": text} for text in texts]
        pages = {"report": report, "index": write_index(folder.parent, texts[3], entries, texts[4], texts[5])}
        for number, text in enumerate(texts[:3]):
            (tmp_path / f"page{number}.html").write_text(page(text, "head", "body"))
        control = tmp_path / "control.html"
        control.write_text("<html><body>" + "".join(texts) + "</body></html>")
        armed = hits_in(control, tmp_path)
        hits.clear()
        ran = {name: hits_in(path, tmp_path) for name, path in pages.items()}
    through = sum(map(len, ran.values())) + len(hits)
    told(record_property, "S12", 2 * len(texts) - through, 2 * len(texts), f"{through} ran or called home in a report and an index; {len(armed)} of them run in a page without our policy")
    assert len(armed) >= 20 and not through, (ran, hits)


# S15 -------------------------------------------------------------------------------------------------------------------------------------------

def code_values(mark: Path) -> list[str]:
    "Forty values and twenty names that are code in a careless place."
    run = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    values = [run, f"'; {run}; '", f'"; {run}; "', f"\\'; {run} #", f"\n{run}\n", f'"""\n{run}\n"""', f"{{{run}}}", f"{{{{ {run} }}}}", f"${{{run}}}", f"%load {mark}", f"%run {mark}", f"!touch {mark}", f"\n!touch {mark}", f"%%bash\ntouch {mark}", f"%system touch {mark}", f"`touch {mark}`", f"$(touch {mark})", f"; touch {mark}", f"| touch {mark}",
              f"lambda: {run}", f"[{run}]", f"f'{{{run}}}'", "\\", "\\\"", "'", '"', "\u2028" + run, "\r" + run, "#\n" + run, "\x0c" + run, "exec(input())", f"yaml: !!python/object/apply:os.system ['touch {mark}']", f"<%= {run} %>", "None", "True", "1e999", "{'a': 1}", "..", f"file://{mark}", f"s3://evil/{mark}.ipynb"]
    names = ["__builtins__", "__import__", "exec", "print", "a=1", "a;b", "a\nb", "a b", "1a", "", "a.b", "a[0]", "class", "lambda", "import os", "os.system", f"x={run}", "${x}", "a" * 200, "ünïcode\u202e"]
    return values + names


def test_s15_parameters_are_never_code(tmp_path: Path, record_property: Callable) -> None:
    from papermill.translators import PythonTranslator

    from llmops_nb.notebooks.parameters import Parameter, assign

    mark = tmp_path / "executed"
    every, declared = code_values(mark), {"01_x": [Parameter("data", "str", "", "a file"), Parameter("count", "int", 1, "a number"), Parameter("share", "float", 0.5, "a share"), Parameter("quick", "bool", False, "whether")]}
    assert len(every) == 60
    through, tried = [], 0
    for text in every:
        values = assign({"data": text}, declared)["01_x"] if "\x00" not in text else {}
        space: dict[str, Any] = {}
        exec(PythonTranslator.codify(values), space)  # what papermill puts into the notebook
        through += [f"value {text!r}"] if mark.exists() or space.get("data") != text else []
        for name in ("count", "share", "quick", text):
            tried += 1
            with suppress(LlmopsError):
                taken = assign({name: text}, declared)["01_x"]
                through += [f"{name!r}={text!r}"] if name == text or not isinstance(taken[name], int | float | bool) else []
    told(record_property, "S15", tried + len(every) - len(through), tried + len(every), "as values of four types and as names")
    assert not through and not mark.exists(), through
