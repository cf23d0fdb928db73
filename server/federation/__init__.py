"""One federated run over Flower's public Grid: handshake, rounds, validation, aggregation, journal."""
