"""The coordinator.

`federation` holds the round loop (`rounds`) over a Flower Grid, the handshake before it (`handshake`), the check of
every reply (`validation`), Flower's strategies (`strategy`) and the journal from which a run can be resumed
(`journal`). A run over the network (`cli`, `deployment`) starts a SuperLink (`flower`) for the sites of a roster
(`admin`).
"""

__all__: list[str] = []
