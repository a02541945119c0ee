"""Captions: an ensemble of captioners, a fuser that makes one of theirs, and a judge that did not write it.

template   deterministic, from what the data says of itself; needs nothing
openai     any server of the OpenAI-compatible chat interface (vLLM, llama.cpp, a hosted model), shown five frames
  qwen       Qwen3.5 or Qwen2.5-VL from its folder, in this process; kairos_jax.understanding.captioning
"""

from data_pipelines.curation.captions.base import Caption, Captioner, Judge, Verdict
from data_pipelines.curation.captions.chat import ChatCaptioner, ChatFuser, ChatJudge, Model, Server
from data_pipelines.curation.captions.template import Rubric, TemplateCaptioner, agreeing

__all__ = [
  "Caption",
  "Captioner",
  "ChatCaptioner",
  "ChatFuser",
  "ChatJudge",
  "Judge",
  "Model",
  "Rubric",
  "Server",
  "TemplateCaptioner",
  "Verdict",
  "agreeing",
]
