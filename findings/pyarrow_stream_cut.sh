#!/usr/bin/env bash
# Half of an Arrow stream reads as a whole one.
# Guess: a stream ends with a mark, so a reader notices that the end is missing.
# What happens: the writer does write an end mark (eight bytes), yet a reader of a stream that is cut
# where a record batch ends returns the batches before the cut, without an error. A cut one byte
# further, or anywhere inside a batch, raises. The file format (with a footer) raises for any cut.
# Version: pyarrow 26.0.1.
# Why it matters: `datasets` saves its tables as streams. A writer flushes batch by batch, so what a
# killed job leaves is most likely cut at just such a place and passes for a smaller dataset.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q pyarrow==26.0.1
cd "$work"
venv/bin/python - <<'PY'
import pyarrow as pa
from pyarrow import ipc

batches = [pa.record_batch({"id": list(range(at, at + 5))}) for at in (0, 5)]


def written(new):
    """The bytes of both batches, and where the first one ended."""
    sink = pa.BufferOutputStream()
    with new(sink, batches[0].schema) as writer:
        writer.write_batch(batches[0])
        end = sink.tell()
        writer.write_batch(batches[1])
    return sink.getvalue().to_pybytes(), end


def outcome(data, opened):
    try:
        return opened(data).read_all().num_rows
    except (pa.ArrowInvalid, OSError) as error:
        return type(error).__name__


stream, end = written(ipc.new_stream)
file, file_end = written(ipc.new_file)
print("pyarrow", pa.__version__)
found = {cut: outcome(stream[:cut], ipc.open_stream) for cut in (len(stream), end - 1, end, end + 1)}
for cut, rows in found.items():
    print(f"stream, {cut} of {len(stream)} bytes: {rows}")
print(f"file, {file_end} of {len(file)} bytes: {outcome(file[:file_end], ipc.open_file)}")
assert found[len(stream)] == 10
assert found[end] == 5
assert isinstance(found[end - 1], str) and isinstance(found[end + 1], str)
assert outcome(file[:file_end], ipc.open_file) == "ArrowInvalid"
PY
