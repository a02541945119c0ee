"""Captions without a model: a template over what the data says of itself, the most agreeing caption, and a rubric."""

import re
from collections.abc import Sequence

import numpy as np

from data_pipelines.curation.captions.base import Caption, Verdict
from data_pipelines.curation.operators import light
from data_pipelines.curation.operators.view import View

_WORD = re.compile(r"\w+")
_REFUSALS = ("as an ai", "i cannot", "i can't", "i'm sorry", "i am sorry", "unable to view", "no video")


class TemplateCaptioner:
  """Deterministic: the clip's own texts, and what can be measured of its light and motion."""

  name, version = "template", 1

  def caption(self, view: View) -> Caption:
    """Describes one clip."""
    clip = view.clip
    said = clip.caption.strip() or (f"The task is: {clip.instruction.strip()}." if clip.instruction.strip() else "")
    body = "" if clip.embodiment in ("none", "hand") else f"A robot of kind {clip.embodiment.replace('_', ' ')} acts. "
    light_word = _step(float(view.gray.mean()), ((70, "dark"), (180, "evenly lit"), (256, "bright")))
    motion = _step(light.motion(view), ((2, "hardly moves"), (20, "moves slowly"), (1e9, "moves fast")))
    views = f" from {len(clip.cameras)} cameras" if len(clip.cameras) > 1 else ""
    measured = f"The picture{views} is {light_word} and {motion} for {light.seconds(view):.1f} seconds."
    return Caption(f"{body}{said} {measured}".strip(), clip.instruction.strip())


def agreeing(view: View, captions: Sequence[Caption]) -> Caption:
  """The caption whose words most of the others share; of equals the first."""
  del view
  words = [set(_WORD.findall(caption.detailed.lower())) for caption in captions]
  agreement = [np.mean([len(own & other) / max(len(own | other), 1) for other in words]) for own in words]
  return captions[int(np.argmax(agreement))]


class Rubric:
  """A judge of the text alone: long enough, no refusal, not one sentence over and over, no markup."""

  name, version = "rubric", 1

  def judge(self, view: View, caption: Caption) -> Verdict:
    """Of one caption; each fault costs a part."""
    text = caption.detailed.strip()
    words = [word.lower() for word in _WORD.findall(text)]
    faults = []
    if len(words) < 5:
      faults.append((1.0 if not words else 0.5, f"only {len(words)} words"))
    if any(refusal in text.lower() for refusal in _REFUSALS):
      faults.append((1.0, "a refusal"))
    if len(words) >= 20 and len(set(words)) < 0.3 * len(words):
      faults.append((0.7, "repeats itself"))
    if re.search(r"<[a-z/][^>]*>|```|\{\s*\"", text):
      faults.append((0.5, "holds markup"))
    if view.clip.instruction and not caption.instruction:
      faults.append((0.3, "lost the instruction"))
    score = max(0.0, 1.0 - sum(cost for cost, _ in faults))
    return Verdict(round(score, 3), ", ".join(reason for _, reason in faults) or "no fault found")


def _step(value: float, steps: tuple[tuple[float, str], ...]) -> str:
  return next(word for limit, word in steps if value < limit)
