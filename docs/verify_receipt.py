"""Check receipts and sign-offs of llmops_nb without llmops_nb: needs Python and `pip install cryptography`, nothing else.

python verify_receipt.py keys.json FILE...

keys.json: {"<key id>": {"person": "alice", "public_hex": "<64 hexadecimal digits>"}}, best got from the people themselves; `llmops audit export` writes one.
Each FILE is a DSSE envelope (https://github.com/secure-systems-lab/dsse) around an in-toto statement. Exit code 0 if all hold, 1 otherwise.
"""
import base64
import hashlib
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def decode(text: str) -> bytes:
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data).decode() != text:
        raise ValueError("base64 in a second spelling")
    return data


def verify(envelope: dict, keys: dict) -> tuple[dict, list[str]]:
    if set(envelope) != {"payloadType", "payload", "signatures"} or envelope["payloadType"] != "application/vnd.in-toto+json":
        raise ValueError("not a DSSE envelope around an in-toto statement")
    payload, kind, people = decode(envelope["payload"]), envelope["payloadType"].encode(), []
    signed = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    for signature in envelope["signatures"]:
        if set(signature) != {"keyid", "sig"} or signature["keyid"] not in keys:
            raise ValueError(f"signed by an unknown key {signature.get('keyid', '')[:12]}")
        public = bytes.fromhex(keys[signature["keyid"]]["public_hex"])
        if hashlib.sha256(public).hexdigest() != signature["keyid"]:
            raise ValueError("a key id is not the SHA-256 of its key")
        Ed25519PublicKey.from_public_bytes(public).verify(decode(signature["sig"]), signed)
        people.append(keys[signature["keyid"]]["person"])
    statement = json.loads(payload)
    if not people or len(set(people)) < len(people) or statement["_type"] != "https://in-toto.io/Statement/v1":
        raise ValueError("no signature, one person twice, or not an in-toto statement")
    return statement, people


def main(keys_file: str, *files: str) -> int:
    with open(keys_file, encoding="utf-8") as file:
        keys, failed = json.load(file), 0
    for name in files:
        try:
            with open(name, encoding="utf-8") as file:
                statement, people = verify(json.load(file), keys)
            print(f"GOOD {name}: {statement['predicateType']} signed by {', '.join(people)}")
            for subject in statement["subject"]:
                print(f"     {subject['digest']['sha256']}  {subject['name']}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, InvalidSignature) as error:
            failed += 1
            print(f"BAD  {name}: {type(error).__name__} {error}")
    return 1 if failed or not files else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]) if len(sys.argv) > 2 else __doc__)
