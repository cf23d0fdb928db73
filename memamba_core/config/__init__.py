"""Settings: frozen, closed, checked models, and how they are composed (`compose`).

`experiment` is made of `agreement`, `model`, `training`, `federation`, `strategy` and `privacy`, one for each folder of
`configs/` by that name; `site` is a hospital, `coordinator` the coordinating site, `simulation` a machine that plays
all of them.

Hydra reads the YAML under `configs/` and the command line; what comes out of `compose` is one of the frozen models
here, and no Hydra type goes further.
"""
