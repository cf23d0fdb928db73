"""Settings: frozen, closed, checked models (`experiment`, `site`, `simulation`) and how they are composed (`compose`).

Hydra reads the YAML under `configs/` and the command line; what comes out of `compose` is one of the frozen models
here, and no Hydra type goes further.
"""
