"""A stand-in for the W&B service: enough of its HTTP API for `wandb sync` to finish; counts what it receives.

Each line of the log is one thing received: graphql (operation, variables), stream (history and summary rows by file name), upload, other.
"""
import gzip
import json
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def answers(values: dict, port: int) -> dict:
    "What each GraphQL operation is answered with, by operation name."
    upload = f"http://127.0.0.1:{port}/upload"
    project = {"id": "UHJv", "name": values.get("project") or "p", "entity": {"id": "RW50", "name": values.get("entity") or "me"}}
    bucket = {"id": "UnVu", "name": values.get("name") or "r", "displayName": "d", "description": "", "config": "{}", "sweepName": None, "historyLineCount": 0, "eventsLineCount": 0,
              "logLineCount": 0, "project": project}
    manifest = {"artifactManifest": {"id": "TWFu", "file": {"id": "Rmls", "name": "wandb_manifest.json", "displayName": "wandb_manifest.json", "uploadUrl": f"{upload}/manifest", "uploadHeaders": []}}}
    files = [{"node": {"id": f"Rm{i}", "name": f.get("name"), "displayName": f.get("name"), "uploadUrl": f"{upload}/artifact/{f.get('name')}", "uploadHeaders": [], "storagePath": "x",
                       "uploadMultipartUrls": None, "artifact": {"id": "QXJ0"}}} for i, f in enumerate(values.get("artifactFiles") or [])]
    return {
        "Viewer": {"viewer": {"id": "VXNl", "entity": "me", "username": "me", "flags": "{}", "teams": {"edges": []}}},
        "GetDefaultEntity": {"viewer": {"id": "VXNl", "entity": "me", "defaultEntity": {"name": "me"}}},
        "UpsertBucket": {"upsertBucket": {"inserted": True, "bucket": bucket}},
        "CreateRunFiles": {"createRunFiles": {"runID": "UnVu", "uploadHeaders": [], "files": [{"name": n, "uploadUrl": f"{upload}/{n}"} for n in values.get("files") or []]}},
        "CreateArtifact": {"createArtifact": {"artifact": {"id": "QXJ0", "digest": values.get("digest"), "state": "PENDING", "aliases": [], "artifactSequence": {"id": "U2Vx", "latestArtifact": None}}}},
        "CreateArtifactManifest": {"createArtifactManifest": manifest},
        "UpdateArtifactManifest": {"updateArtifactManifest": manifest},
        "CreateArtifactFiles": {"createArtifactFiles": {"files": {"edges": files}}},
        "CommitArtifact": {"commitArtifact": {"artifact": {"id": "QXJ0", "digest": "x"}}},
        "NotifyScriptableRunAlert": {"notifyScriptableRunAlert": {"success": True}},
    }


class Handler(BaseHTTPRequestHandler):
    "Answers W&B's client and remembers what it said."

    protocol_version = "HTTP/1.1"

    def log_message(self, *_): pass

    def body(self) -> bytes:
        data = self.rfile.read(int(self.headers.get("content-length") or 0))
        return gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data

    def troubled(self) -> bool:
        "Answer badly when the service is told to; the body is read all the same."
        trouble = self.server.trouble
        if trouble == "slow":
            time.sleep(self.server.patience)
        elif trouble in ("500", "429"):
            self.body()
            self.send_response(int(trouble))
            self.send_header("retry-after", "1")
            self.send_header("content-length", "0")
            self.end_headers()
        return trouble in ("500", "429")

    def reply(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def do_POST(self) -> None:
        if self.troubled():
            return
        data = self.body()
        if self.path.startswith("/graphql"):
            request = json.loads(data)
            found = re.search(r"(?:query|mutation)\s+(\w+)", request["query"])
            name = found.group(1) if found else ""
            values = request.get("variables") or {}
            self.server.received.append({"kind": "graphql", "operation": name, "variables": values})
            if name == "CreateArtifact":  # an alias is in one place: with the artifact that was given it last
                given = values["input"]
                self.server.aliases |= {f"{given['artifactCollectionName']}:{alias['alias']}": given["metadata"] for alias in given["aliases"] or []}
            self.server.deleted |= {values["id"]} if name == "DeleteRun" else set()
            run = {"id": values.get("name"), "name": values.get("name"), "projectId": "1", "state": "finished", "tags": [], "displayName": "d", "config": "{}", "summaryMetrics": self.summary_of(str(values.get("name"))), "systemMetrics": "{}"}
            known = {"Run": {"project": {"run": None if values.get("name") in self.server.deleted else run}},
                     "AliasNow": {"project": {"artifact": {"metadata": self.server.aliases.get(values.get("name"), "{}")}}}}
            self.reply({"data": {**answers(values, self.server.server_port), **known}.get(name, {})})
        elif "file_stream" in self.path:
            self.server.received.append({"kind": "stream", "path": self.path, **json.loads(data)})
            self.reply({"exitcode": None, "limits": {}})
        else:
            self.server.received.append({"kind": "other", "path": self.path})
            self.reply({})

    def summary_of(self, run: str) -> str:
        "The newest summary that a run has sent, as JSON."
        sent = [part["content"][-1] for item in self.server.received if item["kind"] == "stream" and f"/{run}/" in item["path"] and (part := (item.get("files") or {}).get("wandb-summary.json"))]
        return sent[-1] if sent else "{}"

    def do_PUT(self) -> None:
        if self.troubled():
            return
        self.server.received.append({"kind": "upload", "path": self.path, "bytes": len(self.body())})
        self.reply({})

    def do_GET(self) -> None:
        if not self.troubled():
            self.reply({})


class Service:
    "The stand-in, listening on a free loopback port until closed."

    def __init__(self, port: int = 0):
        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads = True
        self.server.received, self.server.trouble, self.server.patience, self.server.aliases, self.server.deleted = [], "", 30.0, {}, set()
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def received(self) -> list[dict]: return self.server.received

    @property
    def aliases(self) -> dict[str, str]:
        "Metadata of the artifact that each alias points to, by `collection:alias`."
        return self.server.aliases

    def history(self) -> dict[str, int]:
        "Rows of history received, by W&B run."
        rows: dict[str, set[int]] = {}
        for item in self.received:
            files = (item.get("files") or {}) if item["kind"] == "stream" else {}
            if "wandb-history.jsonl" in files:
                run, part = item["path"].split("/")[-2], files["wandb-history.jsonl"]
                rows.setdefault(run, set()).update(range(part["offset"], part["offset"] + len(part["content"])))
        return {run: len(found) for run, found in rows.items()}

    def trouble(self, kind: str) -> None:
        "From now on answer with 500, with 429, or slowly; '' = well again."
        self.server.trouble = kind

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


if __name__ == "__main__":
    service = Service(int(sys.argv[1]) if len(sys.argv) > 1 else 0)
    print(service.address, flush=True)
    threading.Event().wait()
