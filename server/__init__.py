"""The coordinating site.

One round loop (`rounds`) over a Flower Grid, with the agreement before it (`settle`), a check of every answer
(`gate`), Flower's strategies (`strategy`) and a journal that a run can be resumed from (`journal`). Over a network
(`cli`, `deployment`) it runs beside a SuperLink (`superlink`), for the hospitals of a `roster`.
"""

import memamba_core  # noqa: F401  before torch: it sets what torch reads once
