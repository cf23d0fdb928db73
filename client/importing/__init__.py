"""Import what hospitals and archives send: write a site folder, or a draft of site.yaml that names the files.

Modules from the bottom up: `outcome` (what every format returns), `options`, `barcodes` (samples and patients), `scale`
(counts, TPM, logarithms), `matrix` (genes in rows), `mutations` (MAF); the formats, one file each; `formats` (their
list); `draft` (site.yaml with the evidence as comments), `writing` (the folder), `command` (the command line).
"""
