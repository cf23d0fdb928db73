"""Wire format: the messages of the protocol, their encoding as Flower records, and weights as short deltas."""
