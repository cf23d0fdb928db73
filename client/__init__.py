"""One site: its patients (`site`), its answer to each request (`worker`), and Flower's ClientApp (`app`)."""

import memamba_core  # noqa: F401  before torch: it sets what torch reads once

__all__: list[str] = []
