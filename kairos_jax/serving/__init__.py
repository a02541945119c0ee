"""Robots ask, a trained model answers: the policy server behind `kairos serve`, and the client for a robot.

`client.py` works alone, copied to a robot's machine. The rest is the server: `observation` reads what a robot sent,
`engine` keeps a memory for each session, `dispatcher` batches requests for the one thread that owns the device, and
`server` speaks websocket. `worlds` and `playground` are the page behind `kairos play`. It needs the extra `serve`.
"""
