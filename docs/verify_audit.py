"""Check an exported audit log of llmops_nb without llmops_nb: needs Python and `pip install cryptography`, nothing else.

python verify_audit.py FOLDER [WITNESS] [PUBLIC_HEX]

FOLDER is what `llmops audit export --to FOLDER` wrote. WITNESS is a file of checkpoints kept elsewhere (C2SP signed notes, one after another); without one, a log that was cut or rolled back as a whole looks sound.
PUBLIC_HEX is the log's public key, where you know it from elsewhere. Exit code 0 if everything holds, 1 otherwise.
Not checked here, but by `llmops audit verify`: whether two administrators agreed where two must, and restores that were declared (a witness from before one reports them).
"""
import base64
import hashlib
import json
import re
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

PERSONAL = ("signoff.", "person.agree", "release.break_glass")  # acts that count only with the person's own signature


def sha(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def root_of(leaves: list[bytes]) -> bytes:
    "The Merkle tree hash of RFC 6962, section 2.1."
    level = leaves
    while len(level) > 1:  # pairing neighbours and carrying an odd one up gives the same tree as the recursive definition
        level = [sha(b"\x01" + level[i] + level[i + 1]) if i + 1 < len(level) else level[i] for i in range(0, len(level), 2)]
    return level[0] if level else sha(b"")


def decode(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 in a second spelling")
    return data


def check(public_hex: str, signature: str, data: bytes) -> None:
    Ed25519PublicKey.from_public_bytes(bytes.fromhex(public_hex)).verify(decode(signature), data)


def unique(pairs: list[tuple]) -> dict:
    if len({name for name, _ in pairs}) < len(pairs):
        raise ValueError("a name twice in one JSON object")
    return dict(pairs)


def check_entries(entries: list[dict], service: str) -> tuple[list[str], list[bytes]]:
    "The problems of the entries themselves, and their leaf hashes."
    keys, people, ended, problems, leaves = {sha(bytes.fromhex(service)).hex(): service}, {}, set(), [], []
    for place, entry in enumerate(entries, 1):
        leaf = sha(b"\x00" + entry["body"].encode())
        try:
            act = json.loads(entry["body"], object_pairs_hook=unique)
            before, key = leaves[-1].hex() if leaves else "", act["key_id"]
            if (entry["seq"], act["seq"], act["prev"], entry["hash"]) != (place, place, before, leaf.hex()):
                raise ValueError("number, hash or link to the entry before is wrong")
            check(keys[key], entry["signature"], entry["body"].encode())
            if key in people and (people[key] != act["actor"] or key in ended):
                raise ValueError("signed with a key that is revoked, replaced or not the actor's")
            if act["outcome"] == "done" and act["action"].startswith(PERSONAL) and key not in people:
                raise ValueError("lacks the person's own signature")
            details = act["details"]
            if act["outcome"] == "done" and act["action"] in ("person.enrol", "key.add"):
                keys[details["key_id"]], people[details["key_id"]] = details["public_hex"], details["person"]
                ended |= {details["replaces"]} if details.get("replaces") else set()
            if act["outcome"] == "done" and act["action"] == "key.revoke":
                ended.add(details["key_id"])
        except (ValueError, KeyError, TypeError, AttributeError, InvalidSignature) as error:
            problems.append(f"entry {place}: {type(error).__name__} {error}")
        leaves.append(leaf)
    return problems, leaves


def check_note(note: str, leaves: list[bytes], origin: str, public_hex: str) -> str:
    "What is wrong with a checkpoint, '' if the entries begin as it says."
    parts = re.fullmatch(r"((?P<origin>[^\n]+)\n(?P<size>\d+)\n(?P<root>[^\n]+)\n)\n— (?P<name>\S+) (?P<sig>\S+)\n", note)
    try:
        signature, size = decode(parts["sig"]), int(parts["size"])
        check(public_hex, base64.b64encode(signature[4:]).decode(), parts[1].encode())
        if parts["origin"] != origin or parts["name"] != origin or signature[:4] != sha(origin.encode() + b"\n\x01" + bytes.fromhex(public_hex))[:4]:
            return "is of another log"
        return f"{size} entries were seen, {len(leaves)} are left" if size > len(leaves) else "" if root_of(leaves[:size]) == decode(parts["root"]) else f"the first {size} entries are not those that were seen"
    except (ValueError, TypeError, InvalidSignature) as error:
        return f"{type(error).__name__} {error}"


def verify(folder: str, witness: str = "", public_hex: str = "") -> list[str]:
    "Everything that is wrong with an exported log."
    try:
        about = json.loads((Path(folder) / "log.json").read_text("utf-8"))
        rows = [[json.loads(line) for line in (Path(folder) / name).read_text("utf-8").split("\n") if line] for name in ("entries.jsonl", "checkpoints.jsonl")]
        origin, public_hex = about["origin"], public_hex or about["public_hex"]
        problems, leaves = check_entries(rows[0], public_hex)
        problems += [f"checkpoint: {found}" for note in rows[1] if (found := check_note(note, leaves, origin, public_hex))]
        seen = [f"{note}\n" for note in re.split(r"\n\n(?!— )", Path(witness).read_text("utf-8").strip("\n")) if note] if witness else None
        return problems + [f"witness: {found}" for note in seen or [] if (found := check_note(note, leaves, origin, public_hex))] + (["the witness is empty"] if seen == [] else [])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return [f"the export cannot be read: {type(error).__name__} {error}"]


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    found = verify(*sys.argv[1:4])
    print("\n".join(f"BAD  {problem}" for problem in found) or "GOOD " + sys.argv[1])
    sys.exit(1 if found else 0)
