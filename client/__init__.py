"""One hospital: its data (`site`), what it does with a message (`local`), and Flower's ClientApp around it (`app`)."""

import memamba_core  # noqa: F401  before torch: it sets what torch reads once
