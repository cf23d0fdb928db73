"""The science and the wire contract: data, model, survival, training and privacy.

The package knows nothing of Ray, servers or clients, and of Flower only its public messages. From the bottom up it
holds `errors`; `io`; `figures`; `patient`, `wire` and `config`; `survival`; `model`, `data` and `privacy`; `training`.
Imports go down only. Importing the package changes nothing of the process: `io.process_setup` is for entry points.
"""
