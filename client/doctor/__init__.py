"""Checks that a site runs before it takes part: data, a dry run of training, network and keys."""
