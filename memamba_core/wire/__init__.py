"""What crosses the network: messages of the protocol, their encoding, and weights as short deltas."""
