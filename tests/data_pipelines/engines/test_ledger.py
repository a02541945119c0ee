"""Ledgers that are cut off anywhere, or damaged."""

import pytest

from data_pipelines.engines import ledger
from data_pipelines.engines.ledger import Ledger
from kairos_jax.errors import KairosError

ENTRIES = [{"clip": "ä.mp4#0-7", "score": 0.1 * i, "text": "line\nbreak" * i} for i in range(5)]


def write(path, entries=ENTRIES):
  with Ledger(path) as book:
    for entry in entries:
      book.append(entry)


def test_what_is_written_is_read(tmp_path):
  write(tmp_path / "new/a.jsonl")
  assert list(ledger.read(tmp_path / "new/a.jsonl")) == ENTRIES
  assert list(ledger.read(tmp_path / "missing.jsonl")) == []


def test_cut_off_after_every_byte_it_keeps_the_whole_lines_and_goes_on(tmp_path):
  path = tmp_path / "a.jsonl"
  write(path)
  whole = path.read_bytes()
  for size in range(len(whole)):
    path.write_bytes(whole[:size])
    kept = whole[:size].count(b"\n")
    assert list(ledger.read(path)) == ENTRIES[:kept]
    write(path, ENTRIES[kept:])
    assert path.read_bytes() == whole


def test_a_torn_line_longer_than_a_block_is_removed(tmp_path):
  path = tmp_path / "a.jsonl"
  write(path)
  whole = path.read_bytes()
  path.write_bytes(whole + b"{" + b"x" * 200_000)
  write(path, [])
  assert path.read_bytes() == whole


def test_a_damaged_line_is_passed_over(tmp_path):
  path = tmp_path / "a.jsonl"
  write(path)
  lines = path.read_bytes().splitlines(keepends=True)
  path.write_bytes(b"".join([lines[0], b"\0\0\0\n", b"[1]\n", b"[" * 100_000 + b"\n", *lines[1:]]))
  assert list(ledger.read(path)) == ENTRIES


def test_nan_is_refused_and_leaves_nothing(tmp_path):
  path = tmp_path / "a.jsonl"
  with Ledger(path) as book:
    with pytest.raises(KairosError, match="not JSON"):
      book.append({"score": float("nan")})
    book.append({"score": 1})
  assert list(ledger.read(path)) == [{"score": 1}]
