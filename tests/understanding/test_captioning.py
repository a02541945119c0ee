"""A model of this package as a captioner."""

import numpy as np
import pytest

from data_pipelines.curation.captions import ChatCaptioner, Model
from data_pipelines.curation.operators.view import View
from kairos_jax.errors import KairosError
from kairos_jax.understanding import captioning
from kairos_jax.understanding.captioning import LocalModel
from tests.data_pipelines.conftest import make_clip

PICTURES = [np.full((24, 40, 3), level, np.uint8) for level in (10, 200)]


def test_the_model_itself_answers_the_same_again(home):
  model = LocalModel(str(home), max_tokens=3)
  assert isinstance(model, Model) and model.name.startswith("qwen:")
  said = model.complete("What is seen?", PICTURES)
  assert said and said == model.complete("What is seen?", PICTURES)


def test_it_captions_and_what_it_says_without_json_is_one_line(home, monkeypatch):
  asked, answers = [], ['Well: {"detailed": "It glows."}', "It glows."]

  def generate(reader, prompts, sampling, seeds):
    asked.append(reader.chat.tokenizer.decode(prompts.ids[0][: prompts.length[0]]))
    return [answers.pop(0)]

  monkeypatch.setattr(captioning, "generate", generate)
  captioner = ChatCaptioner(LocalModel(str(home)))
  view = View(make_clip(3, frames=12, size=24))
  assert captioner.caption(view).detailed == "It glows."
  assert "frames of one video" in asked[0]
  with pytest.raises(KairosError, match="gave no answer in JSON but 'It glows.'"):
    captioner.caption(view)
