"""Where work on many items runs: in processes of this machine (`pool`), or on a Ray cluster (`cluster`).

The work does not know where it runs, see `base.Work`; what it has noted does not depend on it.
"""
