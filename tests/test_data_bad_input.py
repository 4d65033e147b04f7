"Bad, broken and hostile data: each is refused with one clear message, or read with every row accounted for."
import gzip
import json
import random
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from llmops_nb.data.files import read_rows
from llmops_nb.data.records import load_source
from llmops_nb.data.sources import check_source
from llmops_nb.ground.core import BadInput, canonical_json

GOOD_CSV = "text,label\n" + "".join(f"Where is card number {i}?,card_{i % 4}\n" for i in range(60))
GOOD_LINES = "".join(json.dumps({"text": f"Where is card number {i}?", "label": f"card_{i % 4}"}) + "\n" for i in range(60))

# name, content, a part of the message
REFUSED = [
    ("empty.csv", b"", "is empty"),
    ("blank.csv", b"\n\n  \n", "is empty"),
    ("zeros.csv", b"\x00" * 500, "is empty"),
    ("mark_only.csv", b"\xef\xbb\xbf", "is empty"),
    ("header_only.csv", b"text,label\n", "no rows"),
    ("no_text_column.csv", b"question,label\nhi,a\n", "Its columns are: question, label"),
    ("near_column.csv", b"texts,label\nhi,a\n", "Did you mean 'texts'?"),
    ("case_of_column.csv", b"Text,label\nhi,a\n", "no column 'text'"),
    ("column_twice.csv", b"text,text,label\nhi,ho,a\n", "two columns named 'text'"),
    ("no_label_column.csv", b"text,category\nhi,a\n", "label_column"),
    ("all_empty.csv", b"text,label\n" + b" ,a\n" * 30, "rows are empty"),
    ("mostly_broken.csv", b"text,label\n" + b"one\n" * 20 + b"fine,a\n" * 20, "20 of 40 rows cannot be used (line 2: 1 values"),
    ("mostly_latin.csv", "text,label\nfür,a\n".encode("latin-1") * 20, "not valid UTF-8"),
    ("wide.csv", b",".join(b"c%d" % i for i in range(100_000)) + b"\n" + b"1\n", "columns"),
    ("huge_header.csv", b'"' + b"x" * 300_000, "header"),
    ("mostly_broken.jsonl", b'{"text": "a"}\n{"text": \n' * 10, "line 2: broken JSON"),
    ("numbers.jsonl", b"1\n2\n3\n", "cannot be used|no column|value"),
    ("strings.jsonl", b'"a"\n"b"\n', "cannot be used|no column|values"),
    ("list_cut.json", b'[{"text": "a"}, {"text": ', "not valid JSON"),
    ("deep_list.json", b"[" * 200_000, "not valid JSON"),
    ("deep.jsonl", (b"[" * 100_000 + b"\n") * 3, "not valid JSON|cannot be used"),
    ("deep_object.jsonl", (b'{"a":' * 50_000 + b"\n") * 3, "nested too deeply|broken JSON"),
    ("keys_twice.jsonl", b'{"text": "a", "text": "b"}\n' * 5, "appears twice"),
    ("many_keys.jsonl", (json.dumps({f"k{i}": i for i in range(3000)}) + "\n").encode() * 3, "keys"),
    ("huge_value.jsonl", (json.dumps({"text": "x" * 200_000}) + "\n").encode() * 3, "characters"),
    ("huge_number.jsonl", b'{"text": ' + b"9" * 10_000 + b"}\n", "broken JSON"),
    ("cut.csv.gz", gzip.compress(GOOD_CSV.encode() * 50)[:-30], "not a whole gzip|cannot be read"),
    ("not.csv.gz", b"\x1f\x8b" + b"garbage" * 20, "not a whole gzip|cannot be read"),
    ("flipped.csv.gz", gzip.compress(GOOD_CSV.encode())[:-8] + b"\0" * 8, "not a whole gzip|cannot be read"),
    ("bomb.csv.gz", gzip.compress(b"text,label\n" + b"a,b\n" * 5_000_000), "bomb"),
    ("bomb_zeros.jsonl.gz", gzip.compress(b"0" * 50_000_000), "bomb|cannot be used|no column|keys"),
    ("magic_only.parquet", b"PAR1", "Parquet"),
    ("fake.parquet", b"PAR1" + b"\0" * 300 + b"PAR1", "Parquet"),
    ("huge_footer.parquet", b"PAR1" + b"\0" * 50 + struct.pack("<I", 0x7FFFFFFF) + b"PAR1", "Parquet"),
    ("picture.csv", b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 40, "column|header|rows|broken"),
    ("sheet.xlsx", b"PK\x03\x04" + bytes(range(256)) * 40, "column|header|rows|broken"),
    ("page.csv", b"<!DOCTYPE html><html><body>Not found</body></html>\n<p>x</p>\n", "column"),
    ("error.jsonl", b'{"error": "rate limited"}\n', "column 'text'"),
]


@pytest.mark.parametrize("name, content, message", REFUSED, ids=[name for name, *_ in REFUSED])
def test_is_refused_with_one_message(tmp_path: Path, name: str, content: bytes, message: str):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(BadInput, match=message.replace("(", r"\(").replace("?", r"\?")) as caught:
        load_source(str(path), "text", "label" if b"label" in content or "label" in name else "")
    text = str(caught.value)
    assert "\n" not in text and len(text) < 900 and "Traceback" not in text


# name, content, rows kept, rows rejected, part of the first rejection
KEPT = [
    ("mark.csv", b"\xef\xbb\xbf" + GOOD_CSV.encode(), 60, 0, ""),
    ("utf16.csv", GOOD_CSV.encode("utf-16"), 60, 0, ""),
    ("utf16_big.csv", b"\xfe\xff" + GOOD_CSV.encode("utf-16-be"), 60, 0, ""),
    ("windows_lines.csv", GOOD_CSV.replace("\n", "\r\n").encode(), 60, 0, ""),
    ("semicolons.csv", GOOD_CSV.replace(",", ";").encode(), 60, 0, ""),
    ("tabs.tsv", GOOD_CSV.replace(",", "\t").encode(), 60, 0, ""),
    ("blank_lines.csv", GOOD_CSV.replace("\n", "\n\n").encode(), 60, 0, ""),
    ("no_last_newline.csv", GOOD_CSV.rstrip().encode(), 60, 0, ""),
    ("packed.csv.gz", gzip.compress(GOOD_CSV.encode()), 60, 0, ""),
    ("lines.jsonl", GOOD_LINES.encode(), 60, 0, ""),
    ("list.json", ("[" + ",".join(GOOD_LINES.strip().split("\n")) + "]").encode(), 60, 0, ""),
    ("windows_lines.jsonl", GOOD_LINES.replace("\n", "\r\n").encode(), 60, 0, ""),
    ("nul.csv", GOOD_CSV.encode() + b"a\x00b,card_1\n", 61, 0, ""),
    ("controls.csv", GOOD_CSV.encode() + b"\x1b[31mred\x07,card_1\n", 61, 0, ""),
    ("right_to_left.csv", GOOD_CSV.encode() + "\u202egnp.exe\u202c,card_1\n".encode(), 61, 0, ""),
    ("surrogate.jsonl", GOOD_LINES.encode() + b'{"text": "lone \\ud800 half", "label": "a"}\n', 61, 0, ""),
    ("nan.jsonl", GOOD_LINES.encode() + b'{"text": "x", "label": "a", "score": NaN, "far": -Infinity}\n', 61, 0, ""),
    ("quoted_newline.csv", GOOD_CSV.encode() + b'"first line\nsecond line",card_1\n', 61, 0, ""),
    ("emoji.csv", GOOD_CSV.encode() + "\U0001f614 where is my card,card_1\n".encode(), 61, 0, ""),
    ("empty_text.csv", GOOD_CSV.encode() + b",card_1\n", 60, 1, "no text"),
    ("too_few.csv", GOOD_CSV.encode() + b"only one\n", 60, 1, "1 values, the header has 2"),
    ("too_many.csv", GOOD_CSV.encode() + b"a,b,c\n", 60, 1, "3 values"),
    ("stray_quote.csv", GOOD_CSV.encode() + b'"he said "hi" to me",card_1\nlast,card_2\n', 61, 1, "broken CSV"),
    ("open_quote.csv", GOOD_CSV.encode() + b'"never closed,card_1\n', 60, 1, "broken CSV"),
    ("one_latin.csv", GOOD_CSV.encode() + "für,card_1\n".encode("latin-1"), 60, 1, "not valid UTF-8"),
    ("huge_value.csv", GOOD_CSV.encode() + b"x" * 150_000 + b",card_1\n", 60, 1, "field larger"),
    ("broken_line.jsonl", GOOD_LINES.encode() + b'{"text": "a", \n', 60, 1, "broken JSON"),
    ("list_line.jsonl", GOOD_LINES.encode() + b"[1, 2]\n", 60, 1, "not an object"),
    ("key_twice.jsonl", GOOD_LINES.encode() + b'{"text": "a", "text": "b"}\n', 60, 1, "appears twice"),
    ("deep_line.jsonl", GOOD_LINES.encode() + b'{"text": ' + b"[" * 60_000 + b"\n", 60, 1, "nested too deeply"),
    ("missing_text.jsonl", GOOD_LINES.encode() + b'{"label": "a"}\n', 60, 1, "no text"),
    ("null_text.jsonl", GOOD_LINES.encode() + b'{"text": null, "label": "a"}\n', 60, 1, "no text"),
]


@pytest.mark.parametrize("name, content, kept, rejected, error", KEPT, ids=[name for name, *_ in KEPT])
def test_every_row_is_accounted_for(tmp_path: Path, name: str, content: bytes, kept: int, rejected: int, error: str):
    path = tmp_path / name
    path.write_bytes(content)
    loaded = load_source(str(path), "text", "label")
    assert (len(loaded.records), len(loaded.rejected)) == (kept, rejected)
    assert loaded.source["read"] == kept + rejected
    assert all(bad["line"] >= 1 and error in bad["error"] for bad in loaded.rejected)
    canonical_json([loaded.records, loaded.rejected])  # nothing that cannot be written again
    assert not any(sign in record["text"] for record in loaded.records for sign in "\x00\x1b\u202e")


def test_line_numbers_are_those_of_the_file(tmp_path: Path):
    path = tmp_path / "lines.csv"
    path.write_text(GOOD_CSV + '"two\nlines",card_1\nonly one\n')
    lines = path.read_text().split("\n")
    bad = load_source(str(path), "text", "label").rejected[0]
    assert lines[bad["line"] - 1] == "only one"


@pytest.mark.parametrize("good, suffix", [(GOOD_CSV, "csv"), (GOOD_LINES, "jsonl")])
def test_damaged_files_are_refused_or_balance(tmp_path: Path, good: str, suffix: str):
    "A hundred random damages each: bytes flipped, cut out, doubled, or garbage put in."
    rng = random.Random(3)
    for number in range(100):
        content = bytearray(good.encode())
        for _ in range(rng.randint(1, 12)):
            at = rng.randrange(len(content))
            kind = rng.randrange(4)
            if kind == 0:
                content[at] = rng.randrange(256)
            elif kind == 1:
                del content[at:at + rng.randint(1, 40)]
            elif kind == 2:
                content[at:at] = content[at:at + rng.randint(1, 80)]
            else:
                content[at:at] = rng.choice([b'"', b"\x00", b"\xff\xfe", b"\\u", b"{", b"\r", b"\xed\xa0\x80", b","])
        path = tmp_path / f"{number}.{suffix}"
        path.write_bytes(bytes(content))
        try:
            found = read_rows(path)
        except BadInput as error:
            assert "\n" not in str(error)
            continue
        assert found.read == len(found.rows) + len(found.rejected)
        canonical_json([found.rows, found.rejected])


@pytest.mark.parametrize("data, message", [
    ("nowhere.csv", "no file"), ("", "empty"), ("builtin:other", "builtin:support"), (".", "folder"), ("../../../etc/shadow_missing", "no file"), ("a\x00b.csv", "no file|null"),
], ids=["missing", "not set", "unknown builtin", "folder", "outside", "nul in name"])
def test_names_that_are_no_source(data: str, message: str):
    with pytest.raises(BadInput, match=message):
        check_source(data)


def test_a_missing_file_suggests_its_neighbour(tmp_path: Path):
    (tmp_path / "train.csv").write_text(GOOD_CSV)
    with pytest.raises(BadInput, match="Did you mean 'train.csv'"):
        check_source(str(tmp_path / "trian.csv"))


@pytest.mark.parametrize("rows, message", [("1\ntwo\n", "line 2"), ("1\n-3\n", "line 2"), ("1\n500\n", "row 500"), ("", "is empty")])
def test_bad_test_rows(tmp_path: Path, rows: str, message: str):
    (tmp_path / "train.csv").write_text(GOOD_CSV)
    (tmp_path / "rows.txt").write_text(rows)
    with pytest.raises(BadInput, match=message):
        load_source(str(tmp_path / "train.csv"), "text", "label", test_rows=str(tmp_path / "rows.txt"))


def test_bombs_stay_within_memory(tmp_path: Path):
    "All bombs in one process: at most 256 MB more than the imports need."
    (tmp_path / "bomb.csv.gz").write_bytes(gzip.compress(b"text,label\n" + b"a,b\n" * 20_000_000))
    (tmp_path / "deep.json").write_bytes(b"[" * 2_000_000)
    (tmp_path / "wide.csv").write_bytes(b",".join(b"c%d" % i for i in range(100_000)) + b"\n")
    (tmp_path / "long.csv").write_bytes(b"text,label\n" + b'"' + b"x" * 20_000_000)
    program = """
import resource, sys, pathlib
from llmops_nb.data.records import load_source
from llmops_nb.ground.core import BadInput
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try: load_source(str(path), "text", "label")
    except BadInput: continue
    sys.exit(f"{path.name} was accepted")
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-500:]
    assert int(done.stdout) <= 256, f"{done.stdout.strip()} MB"


def test_a_first_look_is_cheap(data_folder: Path):
    "Looking at the real file loads no pandas and takes well under a tenth of a second of processor time."
    program = """
import sys, time
from llmops_nb.data.sources import check_source
start = time.process_time()
check_source(sys.argv[1], "text", "category", test_rows=sys.argv[2])
assert "pandas" not in sys.modules and "torch" not in sys.modules
print(time.process_time() - start)
"""
    done = subprocess.run([sys.executable, "-c", program, str(data_folder / "banking77" / "train.csv"), str(data_folder / "banking77" / "dev_rows.txt")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 0.1
