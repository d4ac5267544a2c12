"""Files of rows as people have them: what is read, and what is refused with its place."""

import functools
import gzip
import io
import json
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from pipeline.core.errors import UserError
from pipeline.data import content_hash, json_rows, row_files
from pipeline.tasks import problem_files, prompts

zipped = functools.partial(gzip.compress, mtime=0)  # tests are named by their content
ROWS = [{"prompt": f"{i}+1?", "answer": i} for i in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS)
HALF = r'"a \ud83d b"'


def read(path):
    return [row.values for row in problem_files.file(path)]


def put(path, content):
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def refused(path, *said):
    with pytest.raises(UserError) as caught:
        read(path)
    for x in (path.name, *said):
        assert x in str(caught.value)


def zstd(text):
    return bytes(pa.Codec("zstd").compress(text.encode()))


def stream(path, found):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, found.schema) as writer:
        writer.write_table(found)
    return path


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (f'{{"prompt": {HALF}}}', "prompt: "),
        (f'{{"messages": [{{"role": "user", "content": {HALF}}}]}}', "messages[0].content: "),
        (f'{{"extra": {{"deep": [[1, {HALF}]]}}, "prompt": "x"}}', "extra.deep[0][1]: "),
        (f'{{{HALF}: 1, "prompt": "x"}}', "a key: "),
        (f'{{"x": {{{HALF}: 1}}, "prompt": "x"}}', "a key of x: "),
        (r'{"prompt": "\ude00\ud83d"}', "prompt: "),
    ],
)
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "y.json"])
def test_half_a_surrogate_pair_is_refused_by_line_and_field(tmp_path, row, field, name):
    text = f'[{{"prompt": "1?"}}, {row}]' if name == "y.json" else f'{{"prompt": "1?"}}\n{row}\n'
    where = "entry 2" if name == "y.json" else "line 2"
    refused(put(tmp_path / name, text), f"{where}: {field}found '\\ud", "half of a surrogate pair")


def test_whole_pairs_and_backslashes_that_only_look_like_half_are_text(tmp_path):
    text = '{"prompt": "\\ud83d\\ude00", "a": "\\\\ud83d", "b": "😀"}\n'
    assert read(put(tmp_path / "x.jsonl", text)) == [{"prompt": "😀", "a": "\\ud83d", "b": "😀"}]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.ndjson"])
@pytest.mark.parametrize("text", [LINES, LINES.replace("\n", "\r\n"), "\n" + LINES.rstrip()])
def test_a_mark_of_byte_order_and_windows_line_ends_are_no_matter(tmp_path, name, text):
    assert read(put(tmp_path / name, b"\xef\xbb\xbf" + text.encode())) == ROWS


def test_an_array_may_have_a_mark_of_byte_order(tmp_path):
    assert read(put(tmp_path / "x.json", b"\xef\xbb\xbf \n" + json.dumps(ROWS).encode())) == ROWS


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "y.json"])
@pytest.mark.parametrize(
    ("encoding", "said"),
    [
        ("latin-1", "line 3: not UTF-8 (found the bytes b'\\xe9"),
        ("cp1252", "iconv -f LATIN1 -t UTF-8"),
        ("utf-16", "UTF-16, not UTF-8. Save it as UTF-8"),
        ("utf-16-le", "not UTF-8. Save it as UTF-8"),
        ("utf-16-be", "not UTF-8. Save it as UTF-8"),
        ("utf-32", "not UTF-8"),
    ],
)
def test_other_encodings_are_refused_with_what_to_do(tmp_path, name, encoding, said):
    text = '[{"prompt": "a"},\n{"prompt": "b"},\n{"prompt": "é?"}]'
    text = text if name == "y.json" else text[1:-1].replace(",\n", "\n")
    refused(put(tmp_path / name, text.encode(encoding)), said)


def test_characters_that_a_read_cuts_are_put_together(tmp_path):
    found = [{"prompt": f"{i}" + "é😀語" * 40_000} for i in range(5)]
    text = json.dumps(found, ensure_ascii=False)
    assert read(put(tmp_path / "x.json", text)) == found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.jsonl.gz", zipped(LINES.encode())),
        ("x.json.gz", zipped(json.dumps(ROWS).encode())),
        ("x.jsonl.zst", zstd(LINES)),
        ("x.json.zst", zstd(json.dumps(ROWS))),
        ("X.JSONL.GZ", zipped(b"\xef\xbb\xbf" + LINES.encode())),
        ("two.jsonl.gz", zipped(LINES[:24].encode()) + zipped(LINES[24:].encode())),
        ("two.jsonl.zst", zstd(LINES[:24]) + zstd(LINES[24:])),
    ],
)
def test_compressed_json_holds_the_same_rows(tmp_path, name, content):
    assert read(put(tmp_path / name, content)) == ROWS


LONG = "".join(json.dumps({"prompt": str(i**7)}) + "\n" for i in range(30_000))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("x.jsonl.gz", zipped(LONG.encode())[:-9000], "not readable to its end (Trunc"),
        ("x.jsonl.zst", zstd(LONG)[:-9000], "not readable to its end (Trunc"),
        ("x.jsonl.gz", LINES, "not readable to its end (zlib"),
        ("x.jsonl.zst", zipped(LINES.encode()), "found gzip. End its name in .gz"),
        ("x.jsonl", zipped(LINES.encode()), "found gzip. End its name in .gz"),
        ("x.json", zstd(LINES), "found zstd. End its name in .zst"),
        ("x.jsonl", "version https://git-lfs.github.com/spec/v1\noid ", "git lfs pull"),
        ("x.parquet.gz", b"PAR1", "found .parquet compressed as .gz, wanted .parquet as it is"),
        ("x.arrow.zst", b"", "found .arrow compressed as .zst"),
        ("x.csv.gz", b"", "found '.csv', wanted .jsonl"),
    ],
)
def test_what_is_not_as_its_name_says_is_refused(tmp_path, name, content, said):
    path = put(tmp_path / name, content)
    refused(path, said if name != "x.jsonl.zst" or "gzip" not in said else "")


@pytest.mark.parametrize("name", ["x.csv", "x.tsv", "x.txt", "x.xlsx", "x", "x.jsonl.xz"])
def test_other_suffixes_are_refused_with_those_that_are_read(tmp_path, name):
    refused(put(tmp_path / name, "a,b\n"), ", wanted .jsonl, .ndjson, .json, .parquet, .arrow")


def test_a_table_of_text_is_refused_with_how_to_convert_it(tmp_path):
    refused(put(tmp_path / "x.tsv", "a\tb"), "read_csv(PATH, sep='\\t')", "lines=True")


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.jsonl.gz", "y.json", "z.jsonl"])
def test_a_file_without_rows_is_refused(tmp_path, name):
    content = {"y.json": b" [ ]\n", "z.jsonl": b"\n \n"}.get(name, b"")
    if name.endswith("gz"):
        content = zipped(b"")
    refused(put(tmp_path / name, content), "found no row, wanted")


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "1e999", "-1e400"])
@pytest.mark.parametrize("row", ['{"logprobs": [0.5, %s]}', '{"reward": %s}', '{"a": {"b": %s}}'])
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "y.json"])
def test_numbers_that_json_or_floats_do_not_have_are_refused(tmp_path, value, row, name):
    text = '[{"a": 1},\n%s]' if name == "y.json" else '{"a": 1}\n%s\n'
    where = "entry 2" if name == "y.json" else "line 2"
    refused(put(tmp_path / name, text % (row % value)), f"{where}: ", "a finite number or null")


def test_words_like_nan_and_long_numbers_are_no_matter(tmp_path):
    found = [{"prompt": "NaN 1e999", "answer": 10**400, "x": 1e300, "y": None}]
    assert read(put(tmp_path / "x.jsonl", json.dumps(found[0]))) == found


@pytest.mark.parametrize(
    "row",
    ['{"prompt": "a", "prompt": "b"}', '{"x": {"prompt": 1, "prompt": 1}}', '{"x": [{"prompt": 1, '
     '"y": 2, "prompt": 3}]}'],
)  # fmt: skip
@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "y.json"])
def test_a_key_that_stands_twice_is_refused_by_name(tmp_path, row, name):
    where = "entry 1" if name == "y.json" else "line 1"
    text = f"[{row}]" if name == "y.json" else row
    refused(put(tmp_path / name, text), f"{where}: found the key 'prompt' twice")


def twins(*names):
    return pa.Table.from_arrays([pa.array(["1?"])] * len(names), names=names)


def inner_twins(listed):
    found = pa.StructArray.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["x", "x"])
    if listed:
        found = pa.ListArray.from_arrays(pa.array([0, 1]), found)
    return pa.table({"prompt": ["1?"], "extra": found})


@pytest.mark.parametrize("suffix", ["parquet", "arrow", "feather"])
@pytest.mark.parametrize(
    ("table", "said"),
    [
        (twins("prompt", "prompt"), "found 2 columns named 'prompt', wanted"),
        (twins("a", "prompt", "a", "a"), "found 3 columns named 'a', wanted"),
        (inner_twins(False), "found 2 columns named 'x' in 'extra'"),
        (inner_twins(True), "found 2 columns named 'x' in 'extra'"),
    ],
)
def test_columns_of_one_name_are_refused(tmp_path, suffix, table, said):
    path = tmp_path / f"x.{suffix}"
    if suffix == "parquet":
        pq.write_table(table, path)
    elif suffix == "arrow":
        stream(path, table)
    else:
        with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    refused(path, said)


def test_arrow_files_of_either_format_hold_the_same_rows(tmp_path):
    table = pa.Table.from_pylist(ROWS)
    stream(tmp_path / "a.arrow", table)
    pyarrow.feather.write_feather(table, tmp_path / "b.arrow")
    pyarrow.feather.write_feather(table, tmp_path / "c.feather", compression="zstd")
    for name in ("a.arrow", "b.arrow", "c.feather"):
        assert read(tmp_path / name) == ROWS


def test_arrow_files_that_are_cut_old_or_something_else_are_refused(tmp_path):
    whole = stream(tmp_path / "a.arrow", pa.Table.from_pylist(ROWS * 1000)).read_bytes()
    refused(put(tmp_path / "b.arrow", whole[:-8]), "without its end: it was cut off")
    refused(put(tmp_path / "c.arrow", whole[:-5000]), "without its end: it was cut off")
    refused(put(tmp_path / "d.feather", b"FEA1" + bytes(40)), "found Feather version 1")
    refused(put(tmp_path / "e.arrow", b"PAR1" + bytes(40)), "not a Arrow file, or not a whole one")
    refused(put(tmp_path / "f.arrow", b""), "not a Arrow file, or not a whole one")
    pyarrow.feather.write_feather(pa.Table.from_pylist(ROWS), tmp_path / "g.feather")
    cut = (tmp_path / "g.feather").read_bytes()[:-20]
    refused(put(tmp_path / "g.feather", cut), "not a Arrow file, or not a whole one")


def test_bytes_that_are_no_text_in_a_column_of_text_are_refused(tmp_path):
    ends = pa.py_buffer(b"\0\0\0\0\2\0\0\0\5\0\0\0")
    for i, bad in enumerate((b"\xed\xa0\x80", b"\xe9\xe9\xe9", b"a\xffb")):
        column = pa.Array.from_buffers(pa.string(), 2, [None, ends, pa.py_buffer(b"1?" + bad)])
        pq.write_table(pa.table({"prompt": column}), tmp_path / f"{i}.parquet")
        refused(tmp_path / f"{i}.parquet", "in a column of text, wanted UTF-8")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('["a", "b"]', "entry 1: found str, wanted an object"),
        ('[{"prompt": "1?"}, 7]', "entry 2: found int, wanted an object"),
        ("[[1, 2]]", "entry 1: found list, wanted an object"),
        ('[{"prompt": "1?"}, null]', "entry 2: found NoneType, wanted an object"),
        ("7", "line 1: found int, wanted an object"),
        ('"text"', "line 1: found str, wanted an object"),
        ('[{"prompt": "1?"} {"prompt": "2?"}]', "wanted a comma"),
        ('[{"prompt": "1?"},\n{"prompt": "2?"}', "line 2: not JSON (its array has no end"),
        ('[{"prompt": "1?"}, ]', "entry 2: not JSON"),
        ('[{"prompt": "1?"}] x', "found text behind the array's end"),
        ('[{"prompt": "1?"', "entry 1: not JSON"),
        ("[" * 100_000, "too deeply nested"),
    ],
)
def test_json_that_is_no_list_of_objects_is_refused(tmp_path, text, said):
    refused(put(tmp_path / "x.json", text), said)


@pytest.mark.parametrize(
    ("found", "key"),
    [
        ({"data": ROWS}, "data"),
        ({"version": "1.1", "rows": ROWS}, "rows"),
        ({"prompts": ["a", "b"]}, "prompts"),
        ({"n": 2, "columns": ["prompt"], "data": [["1?"]]}, "columns"),
        ({"train": ROWS, "test": ROWS}, "train"),
    ],
)
@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_inside_one_object_is_refused_by_its_key(tmp_path, found, key, indent):
    said = f"line 1: found one object whose '{key}' holds a list"
    refused(put(tmp_path / "x.json", json.dumps(found, indent=indent)), said)


def test_one_row_is_a_file_of_rows_whatever_lists_it_holds(tmp_path):
    talk = {"messages": [{"role": "user", "content": "Why?"}], "ids": [1, 2]}
    for found in (talk, {"prompt": "1?", "token_ids": [3, 4], "tests": [[1], [2]]}):
        for indent in (None, 2):
            path = put(tmp_path / f"{indent}.json", json.dumps(found, indent=indent))
            assert read(path) == [found]
            content_hash.sha256.cache_clear()


def test_an_array_in_json_lines_is_refused_with_the_right_suffix(tmp_path):
    for indent in (None, 1):
        path = put(tmp_path / "x.jsonl", json.dumps(ROWS, indent=indent))
        refused(path, "line 1: ", "Rename it to 'x.json'")


def test_what_datasets_saved_is_read_without_what_its_map_left(tmp_path):
    found = datasets.Dataset.from_list(ROWS)
    found.save_to_disk(tmp_path / "one")
    found.save_to_disk(tmp_path / "two", num_shards=2)
    found.select([3, 0]).save_to_disk(tmp_path / "chosen")
    before = row_files.sha256(tmp_path / "one")
    datasets.load_from_disk(tmp_path / "one").map(lambda row: {"prompt": "other"})
    assert len(list((tmp_path / "one").glob("*.arrow"))) == 2
    assert read(tmp_path / "one") == read(tmp_path / "two") == ROWS
    assert read(tmp_path / "chosen") == [ROWS[3], ROWS[0]]
    assert row_files.sha256(tmp_path / "one") == before


def test_several_saved_datasets_or_a_broken_one_are_refused(tmp_path):
    found = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": found, "test": found}).save_to_disk(tmp_path / "both")
    refused(tmp_path / "both", "Name one of its folders: ['test', 'train']")
    found.save_to_disk(tmp_path / "gone")
    (tmp_path / "gone/data-00000-of-00001.arrow").unlink()
    refused(tmp_path / "gone", "found no ['data-00000-of-00001.arrow'], which state.json names")
    put(tmp_path / "other/state.json", "{}")
    refused(tmp_path / "other", "not what datasets.save_to_disk writes")


def test_a_folder_of_shards_is_read_by_name(tmp_path):
    for i in (1, 0):
        table = pa.Table.from_pylist(ROWS[3 * i : 3 * i + 3])
        (tmp_path / "p").mkdir(exist_ok=True)
        pq.write_table(table, tmp_path / f"p/train-0000{i}-of-00002.parquet")
        put(tmp_path / f"j/{i}.jsonl", "".join(LINES.splitlines(True)[3 * i : 3 * i + 3]))
    put(tmp_path / "p/README.md", "about")
    put(tmp_path / "p/dataset_infos.json", "{}")
    put(tmp_path / "p/.cache.parquet", "no")
    assert read(tmp_path / "p") == read(tmp_path / "j") == ROWS
    assert [row.where for row in problem_files.file(tmp_path / "j")][
        3
    ] == f"{tmp_path}/j/1.jsonl, line 1"


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ((), "found a folder without a file of"),
        (("x.csv",), "found a folder without a file of"),
        (("x.json",), "found a folder without a file of"),
        (("x.jsonl", "x.parquet"), "found files of 2 kinds, ['.jsonl', '.parquet']"),
        (("train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl"), "sets, ['test', 'train']"),
        (("train.jsonl", "test.jsonl"), "found files of several sets, ['test', 'train']"),
    ],
)
def test_a_folder_that_is_no_set_is_refused(tmp_path, names, said):
    (tmp_path / "rows").mkdir()
    for name in names:
        put(tmp_path / "rows" / name, LINES)
    refused(tmp_path / "rows", said)


def test_the_hash_of_a_folder_is_of_its_names_and_contents(tmp_path):
    put(tmp_path / "a/1.jsonl", LINES), put(tmp_path / "a/2.jsonl", LINES)
    put(tmp_path / "b/2.jsonl", LINES), put(tmp_path / "b/1.jsonl", LINES)
    put(tmp_path / "c/1.jsonl", LINES), put(tmp_path / "c/3.jsonl", LINES)
    put(tmp_path / "d/1.jsonl", LINES), put(tmp_path / "d/2.jsonl", LINES + "\n")
    a, b, c, d = (content_hash.sha256(str(tmp_path / x)) for x in "abcd")
    assert a == b
    assert len({a, c, d}) == 3
    assert content_hash.sha256(str(tmp_path / "a"), a) == a
    with pytest.raises(UserError, match="its content has the hash"):
        problem_files.file(tmp_path / "d", a)


def test_a_cell_of_a_folder_holds_its_hash_and_reads_it(tmp_path):
    put(tmp_path / "rows/1.jsonl", LINES)
    p = prompts.Prepare(task="prompts", file=str(tmp_path / "rows"), seed=0, train=5)
    p = prompts.Prepare.model_validate_json(json.dumps(p.resolved()))
    assert p.sha256 == content_hash.sha256(str(tmp_path / "rows"))
    assert len(list(prompts.load(p).problems(0))) == 5


MEASURE = """
import resource, sys
from pathlib import Path
from pipeline.tasks import problem_files as rows
path, base = Path(sys.argv[1]), None
for i, row in enumerate(rows.file(path)):
    if i == 100:
        base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(i + 1, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - base) // 1024)
"""


@pytest.mark.parametrize(
    "name", ["x.jsonl", "x.json", "x.jsonl.gz", "x.json.zst", "x.parquet", "x.feather"]
)
def test_memory_does_not_grow_with_the_file(tmp_path, name):
    path, count = tmp_path / name, 60_000
    found = [{"prompt": str(i), "text": str(i % 977) * 300} for i in range(count)]  # 50 MB
    if name == "x.parquet":
        pq.write_table(pa.Table.from_pylist(found), path, use_dictionary=False, compression="none")
    elif name == "x.feather":
        with pa.OSFile(str(path), "wb") as sink:
            table = pa.Table.from_pylist(found)
            with pa.ipc.new_file(sink, table.schema) as writer:
                writer.write_table(table, max_chunksize=1000)
    else:
        array = ".jsonl" not in name
        text = json.dumps(found) if array else "".join(json.dumps(x) + "\n" for x in found)
        codec = {"gz": "gzip", "zst": "zstd"}.get(name.rpartition(".")[2])
        with pa.output_stream(path, compression=codec) as out:
            out.write(text.encode())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True
    )
    read_rows, grown = map(int, done.stdout.split())
    assert read_rows == count
    assert grown < (80 if name == "x.feather" else 20)  # MiB; a mapped file's pages count, too


def test_a_row_without_an_end_is_refused_before_memory_is_full(tmp_path, monkeypatch):
    monkeypatch.setattr(json_rows, "LONGEST", 1 << 20)
    text = io.StringIO()
    text.write('{"data": [')
    for i in range(200_000):
        text.write(f'{{"prompt": "{i}"}},')
    for name in ("x.json", "x.jsonl"):
        refused(put(tmp_path / name, text.getvalue()), "line 1: found over 1 MiB in one row")
