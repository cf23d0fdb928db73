"""One machine, many hospitals: cut a cohort into sites and run the same server and client code over them."""

import memamba_core  # noqa: F401  before torch: it sets what torch reads once
