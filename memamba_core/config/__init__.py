"""Settings: frozen, closed, checked models, and their composition (`compose`).

`experiment` holds `agreement`, `model`, `training`, `federation`, `strategy` and `privacy`; each has a folder of that
name in `configs/`. `site` describes a site, `coordinator` the coordinator, `simulation` one machine that plays both,
and `setting_rules` what a run may change at a site.

Hydra reads the YAML under `configs/` and the command line. `compose` returns one of the frozen models of this package,
and no Hydra type leaves it.
"""
