"""One site: its patients (`site`), its answer to each request (`worker`), and Flower's ClientApp (`app`)."""

__all__: list[str] = []
