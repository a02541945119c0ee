"""Lines that are printed as they are, and progress that is a bar in a terminal and now and then a line elsewhere."""

import io

import pytest
from rich.console import Console

from kairos_jax import console


def test_lines_are_not_touched(capsys):
  console.show("[red]x[/red] 12 " + "long " * 60)
  console.show("aside", stderr=True)
  out, err = capsys.readouterr()
  assert out == "[red]x[/red] 12 " + "long " * 60 + "\n" and err == "aside\n"


def test_a_table_is_as_wide_as_it_needs(capsys):
  console.show_table(("clip", "caption"), [("7", "[a] " + "long " * 25)])
  console.show_table(("nothing",), [])
  lines = capsys.readouterr().out.splitlines()
  assert [line.split() for line in lines] == [["clip", "caption"], ["7", "[a]", *["long"] * 25]]
  assert lines[0].index("caption") == lines[1].index("[a]")


def test_plain_lines_come_every_ten_seconds(monkeypatch, capsys):
  now = iter(range(0, 1000, 4))  # seconds
  monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
  with console.progress("robot", 20, done=10) as bar:
    for step in range(11, 18):
      bar.update(step, "loss 0.5")
    bar.advance()
    bar.advance()
  assert capsys.readouterr().out.splitlines() == [f"robot: {n}/20  loss 0.5" for n in (13, 16)] + ["robot: 19/20"]


def test_no_plain_lines_where_the_block_has_its_own(monkeypatch, capsys):
  now = iter(range(0, 1000, 40))
  monkeypatch.setattr(console.time, "monotonic", lambda: next(now))
  with console.progress("passes", 3, lines=False) as bar:
    bar.advance()
    bar.advance()
  assert capsys.readouterr().out == ""


@pytest.mark.filterwarnings("ignore")
def test_a_bar_in_a_terminal(monkeypatch):
  terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
  monkeypatch.setattr(console, "_ERR", terminal)
  with console.progress("closed loop", 1.0, stderr=True) as bar:
    bar.update(0.25, "3 successes")
    console.show("a line above", stderr=True)
  text = terminal.file.getvalue()
  assert "25%" in text and "3 successes" in text and "a line above" in text
