"""What may leave a site: floors under counts. Differential privacy will live here too."""
