"""Attacks on the product's own answers: membership inference, privacy canaries, gradient inversion."""
