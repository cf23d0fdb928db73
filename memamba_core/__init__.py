"""The science and the wire contract: data, model, survival, training and privacy.

Knows nothing of Flower, Ray, servers or clients. Rooms, from the bottom up: `errors`; `message`; `config`, `protocol`
and `records`; `survival`; `model`, `data` and `privacy`; `training`. Imports go down only.
"""
