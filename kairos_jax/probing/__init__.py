"""Probes of a model's memory: what it holds, for how long, where, and what the actions make of it.

Each function takes any `WorldModel` and its streams, and returns arrays that draw themselves (`.plot()`). None changes
a model or a stream: those that intervene return another one.
"""

from kairos_jax.probing.blank import Need as Need
from kairos_jax.probing.blank import blank as blank
from kairos_jax.probing.blank import need as need
from kairos_jax.probing.choices import Choices as Choices
from kairos_jax.probing.choices import choices as choices
from kairos_jax.probing.compare import Similarity as Similarity
from kairos_jax.probing.compare import compare as compare
from kairos_jax.probing.decode import Decoding as Decoding
from kairos_jax.probing.decode import decode as decode
from kairos_jax.probing.drift import Drift as Drift
from kairos_jax.probing.drift import drift as drift
from kairos_jax.probing.envelope import Envelope as Envelope
from kairos_jax.probing.envelope import envelope as envelope
from kairos_jax.probing.forgetting import Gap as Gap
from kairos_jax.probing.forgetting import film as film
from kairos_jax.probing.forgetting import tower_gap as tower_gap
from kairos_jax.probing.forgetting import window_gap as window_gap
from kairos_jax.probing.intervene import PARTS as PARTS
from kairos_jax.probing.intervene import silence as silence
from kairos_jax.probing.intervene import transplant as transplant
from kairos_jax.probing.perturb import Followed as Followed
from kairos_jax.probing.perturb import perturb as perturb
from kairos_jax.probing.reach import Reach as Reach
from kairos_jax.probing.reach import action_reach as action_reach
from kairos_jax.probing.reach import reach as reach
from kairos_jax.probing.reach import video_reach as video_reach
from kairos_jax.probing.record import HalfLives as HalfLives
from kairos_jax.probing.record import Recording as Recording
from kairos_jax.probing.record import half_life as half_life
from kairos_jax.probing.record import record as record
from kairos_jax.probing.value import Value as Value
from kairos_jax.probing.value import value as value
