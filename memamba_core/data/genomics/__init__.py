"""The molecular table: expression, copy number and mutations, their names, values and scales; groups of genes."""
