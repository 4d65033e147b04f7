"A process that writes receipts, sign-offs and audit entries into a workspace, and acknowledges each on its standard output as soon as the function that writes it has returned."
import os
import sys
from pathlib import Path

from llmops_nb.ground.audit import open_audit
from llmops_nb.ground.ledger import Ledger, now, signoffs, sql
from llmops_nb.ground.settings import create_workspace
from llmops_nb.notebooks.receipt import engine_key, write_receipt


def acknowledge(kind: str, number: int) -> None:
    "Say that it is done."
    os.write(1, f"{kind} {number}\n".encode())


def work(root: Path, count: int) -> None:
    "Everything that must survive, in turn."
    os.environ["LLMOPS_HOME"] = str(root / "home")
    workspace = create_workspace(root / "w")
    log, ledger, key = open_audit(workspace), Ledger(workspace.address("ledger")), engine_key(workspace)
    for number in range(count):
        log.append("test.act", "tester", details={"number": number})
        acknowledge("entry", number)
        write_receipt(workspace.runs / "main" / f"{number:02d}_stage" / "receipt.json", {"outputs": {}, "observed": {}}, {"number": number, "outputs": {}, "observed": {}}, key)
        acknowledge("receipt", number)
        with ledger.write() as connection:  # as a sign-off is written: both books, the ledger's transaction around the log's
            connection.execute(sql.insert(signoffs).values(digest="0" * 64, person="ada", key_id="k", role="evaluator", decision="approve", envelope={"number": number}, created=now(), expires=""))
            log.append("person.test", "ada", details={"signoff": number})
        acknowledge("signoff", number)


if __name__ == "__main__":
    work(Path(sys.argv[1]), 8)
