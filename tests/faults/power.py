"""A power cut, from what a process told the operating system: every write, fsync, rename and unlink is recorded (with strace), and any moment of it can be built again as a disk might show it afterwards.

Three disks, from the friendliest to the harshest:
- `ordered`: names survive in their order, of a file's bytes only those that were forced (what LazyFS simulates, and ext4 does);
- `random`: of everything that was not forced, a random first part survives, bytes and names each on their own;
- `strict`: only what was forced survives; a name only if its folder was forced, too (what POSIX promises).
"""
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

CALLS = "openat,open,creat,close,dup,dup2,dup3,fcntl,write,pwrite64,lseek,ftruncate,rename,renameat,renameat2,link,linkat,unlink,unlinkat,mkdir,mkdirat,rmdir,fsync,fdatasync"
MODELS = ("ordered", "random", "strict")


def can_record() -> bool:
    "Whether strace is here and may trace."
    return bool(shutil.which("strace")) and subprocess.run(["strace", "-qq", "-o", os.devnull, "true"], capture_output=True).returncode == 0


def record(program: Path, log: Path, folder: Path, environment: dict[str, str]) -> None:
    "Run a Python program on a folder and record its calls."
    command = ["strace", "-f", "-qq", "-xx", "-s", "100000000", "-e", f"trace={CALLS}", "-e", "signal=none", "-o", str(log), sys.executable, str(program), str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]


@dataclass
class Node:
    "A file: its bytes now, its bytes when they were last forced, and what was done in between."

    data: bytearray = field(default_factory=bytearray)
    forced: bytes = b""
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)  # (place, bytes) or (length, None) for a file cut to it

    def change(self, place: int, data: bytes | None) -> None:
        "Write bytes at a place, or cut the file there."
        apply(self.data, place, data)
        self.pending.append((place, data))


def apply(bytes_: bytearray, place: int, data: bytes | None) -> None:
    "One write, or one cut."
    bytes_.extend(b"\0" * max(0, place - len(bytes_)))
    bytes_[place : place + len(data) if data is not None else len(bytes_)] = data or b""


@dataclass
class Disk:
    "What the folder looks like to the process, and what of it was forced."

    root: str
    now: dict[str, Node | None] = field(default_factory=dict)  # relative path → file, None for a folder
    forced: dict[str, dict[str, Node | None]] = field(default_factory=dict)  # folder → names in it, as last forced
    pending: dict[str, list[tuple[str, Node | None, bool]]] = field(default_factory=dict)  # folder → (path, file, whether it is there) since then
    opened: dict[int, tuple[str, Node | None, list[int], bool]] = field(default_factory=dict)  # descriptor → path, file, [offset], append

    def inside(self, path: str) -> str:
        "The path below the folder, '' for one elsewhere."
        path = os.path.normpath(path)
        return path[len(self.root) + 1 :] if path.startswith(self.root + "/") else "." if path == self.root else ""

    def name(self, path: str, node: Node | None, there: bool) -> None:
        "A name appears or goes."
        if there:
            self.now[path] = node
        else:
            self.now.pop(path, None)
        self.pending.setdefault(os.path.dirname(path) or ".", []).append((path, node, there))

    def force(self, path: str, node: Node | None) -> None:
        "fsync of a file or of a folder."
        if node is not None:
            node.forced, node.pending = bytes(node.data), []
        else:
            self.forced[path] = {name: found for name, found in self.now.items() if (os.path.dirname(name) or ".") == path}
            self.pending[path] = []

    def after(self, model: str, random: Random) -> dict[str, bytes | None]:
        "Path → bytes (None: a folder) as they may be after a power cut now."
        names = dict(self.now) if model == "ordered" else {}
        for folder in ({*self.forced, *self.pending} if model != "ordered" else ()):
            names |= self.forced.get(folder, {})
            waiting = self.pending.get(folder, [])
            for path, node, there in waiting[: random.randint(0, len(waiting)) if model == "random" else 0]:
                names.pop(path, None)
                names |= {path: node} if there else {}
        reached = {path: node for path, node in names.items() if all(parent in (".", "") or names.get(parent, 0) is None for parent in map(str, Path(path).parents))}
        return {path: None if node is None else self.bytes_after(node, model, random) for path, node in reached.items()}

    def bytes_after(self, node: Node, model: str, random: Random) -> bytes:
        "A file's bytes after a power cut now."
        found = bytearray(node.forced)
        for place, data in node.pending[: random.randint(0, len(node.pending)) if model == "random" else 0]:
            apply(found, place, data)
        return bytes(found)


CALL = re.compile(r"^\d+ +(\w+)\((.*)\) += (-?\d+)", re.S)
RESUMED = re.compile(r"^(\d+) +<\.\.\. (\w+) resumed>(.*)$", re.S)
TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


def calls(log: Path) -> Iterator[tuple[str, str, int]]:
    "Name, arguments and result of every call in a record that did not fail."
    waiting: dict[str, str] = {}
    for line in log.read_text().splitlines():
        if line.endswith("<unfinished ...>"):
            waiting[line.split()[0]] = line.removesuffix("<unfinished ...>").rstrip()
            continue
        if again := RESUMED.match(line):
            line = waiting.pop(again[1]) + again[3]
        if (found := CALL.match(line)) and int(found[3]) >= 0:
            yield found[1], found[2], int(found[3])


def texts(arguments: str) -> list[bytes]:
    "The texts among a call's arguments."
    return [bytes.fromhex(found.replace("\\x", "")) for found in TEXT.findall(arguments)]


def play(disk: Disk, log: Path) -> Iterator[str]:
    "Do again what was recorded, call by call; yields what the process acknowledged on its standard output, '' after every other call that touched the folder."
    for name, arguments, result in calls(log):
        paths, first = [text.decode(errors="replace") for text in texts(arguments)], re.match(r"(\d+)", arguments)
        number = int(first[1]) if first else -1
        if name == "write" and number == 1:
            yield paths[0].strip()
        elif touch(disk, name, arguments, result, paths, number):
            yield ""


def touch(disk: Disk, name: str, arguments: str, result: int, paths: list[str], number: int) -> bool:
    "Do one call again; whether it touched the folder."
    if name in ("openat", "open", "creat"):
        return open_again(disk, disk.inside(paths[0]), arguments, result)
    if name in ("rename", "renameat", "renameat2", "link", "linkat"):
        old, new = map(disk.inside, paths[:2])
        node = disk.now.get(old)
        if not new or node is None:
            return False
        disk.name(new, node, True)
        if name.startswith("rename"):
            disk.name(old, node, False)
        return True
    if name in ("unlink", "unlinkat", "rmdir", "mkdir", "mkdirat"):
        path = disk.inside(paths[0])
        if path:
            disk.name(path, None, name.startswith("mkdir"))
        return bool(path)
    return number in disk.opened and use_again(disk, name, arguments, result, number)


def open_again(disk: Disk, path: str, arguments: str, result: int) -> bool:
    "open(2): a new name where there was none."
    disk.opened.pop(result, None)
    if not path:
        return False
    folder = "O_DIRECTORY" in arguments or path == "." or disk.now.get(path, 0) is None
    made = not folder and path not in disk.now
    if made:
        disk.name(path, Node(), True)
    node = None if folder else disk.now[path]
    if node is not None and "O_TRUNC" in arguments and node.data:
        node.change(0, None)
    disk.opened[result] = (path, node, [0], "O_APPEND" in arguments)
    return made


def use_again(disk: Disk, name: str, arguments: str, result: int, number: int) -> bool:
    "A call on an open file."
    path, node, offset, append = disk.opened[number]
    if name == "close":
        del disk.opened[number]
    elif name in ("dup", "dup2", "dup3") or "F_DUPFD" in arguments:
        disk.opened[result] = disk.opened[number]
    elif name == "lseek":
        offset[0] = result
    elif name in ("fsync", "fdatasync"):
        disk.force(path, node)
        return True
    elif name == "ftruncate":
        node.change(int(arguments.rpartition(", ")[2]), None)
        return True
    elif name in ("write", "pwrite64"):
        place = int(arguments.rpartition(", ")[2]) if name == "pwrite64" else len(node.data) if append else offset[0]
        node.change(place, texts(arguments)[0][:result])
        offset[0] = place + result if name == "write" else offset[0]
        return True
    return False


def build(folder: Path, state: dict[str, bytes | None]) -> Path:
    "A folder as it is after the power cut."
    folder.mkdir()
    for path, data in sorted(state.items()):
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        if data is None:
            target.mkdir(exist_ok=True)
        elif not path.endswith("-shm"):  # shared memory, never read after a restart
            target.write_bytes(data)
            target.chmod(0o600)
    return folder
