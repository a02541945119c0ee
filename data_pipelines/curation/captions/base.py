"""What captioners, fusers and judges are."""

import dataclasses
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from data_pipelines.curation.operators.view import View


@dataclasses.dataclass(frozen=True)
class Caption:
  """What is said of a clip.

  Attributes:
    detailed: what is seen and what happens.
    instruction: a short imperative; empty where nothing was to be done.
    phenomenon, explanation: the first form of physics reasoning: what physical thing happens, and why.
    process: the second form: `detailed`, and the steps by which it comes about.
  """

  detailed: str
  instruction: str = ""
  phenomenon: str = ""
  explanation: str = ""
  process: str = ""

  @property
  def text(self) -> str:
    """As training reads it: the physics reasoning in the paper's brackets, if there is any."""
    if self.phenomenon and self.explanation:
      return f"{self.detailed} [PHENOMENON] {self.phenomenon} [EXPLANATION] {self.explanation}"
    if self.process:
      return f"[CAPTION] {self.detailed} [PROCESS] {self.process}"
    return self.detailed


@dataclasses.dataclass(frozen=True)
class Verdict:
  """What a judge says: 0 (wrong or useless) to 1, and why."""

  score: float
  reason: str


@runtime_checkable
class Captioner(Protocol):
  """Describes clips. `name` and `version` are noted with every caption."""

  name: str
  version: int

  def caption(self, view: View) -> Caption:
    """Describes one clip; KairosError if it cannot."""


@runtime_checkable
class Fuser(Protocol):
  """Makes one caption of several, which is one of them or a new one."""

  def __call__(self, view: View, captions: Sequence[Caption]) -> Caption:
    """At least one caption is given."""


@runtime_checkable
class Judge(Protocol):
  """Says how good a caption is, without knowing who wrote it."""

  name: str
  version: int

  def judge(self, view: View, caption: Caption) -> Verdict:
    """Of one clip and its caption; KairosError if it cannot."""
