"""The science and the wire contract: data, model, survival, training and privacy.

Knows nothing of Flower, Ray, servers or clients. Rooms, from the bottom up: `errors`; `message`; `config`, `protocol`
and `records`; `survival`; `model`, `data` and `privacy`; `training`. Imports go down only.
"""

import os

# The threads of libgomp, which computes torch's products, keep their processors busy for milliseconds after their work
# is done. Next to threads of our own, or another process, they are in the way. Read when torch is imported.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
