"""How good a model is: closed loop, foresight, rollouts and latency, each with an interval. Only `plots` draws."""
