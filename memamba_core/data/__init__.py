"""A site's files become patients: read once, checked at the door, unscaled.

From the bottom up: `tables` (named columns of a CSV or parquet file), `slide_names`, `row_choice` (which rows
of a large bag are kept); `clinical` (patients, times, events: the one place where a censoring column becomes
`event`), `genomics` (molecular columns and their groups), `patch_files` and `feature_layouts` (the files of
an encoder and the folders they lie in); `features` and `slide_tables` (the two kinds of `FeatureStore`);
`records` (what comes out); and `manifest`, which joins all of it into a `Cohort`. `synthetic` makes a cohort
of which the truth is known.

Nothing of this is estimated from data. What the sites agree on (time bins, gene columns, scaling) is
`agreement`, and `dataset` applies it.

Every complaint about a file is a `DataError` that names the file, the column and the rows (the first below
the header is row 1) and says what to do. Log lines hold only counts, and no complaint a value or a case id; but the
name of a slide's file often begins with one. So complaints stay at the site, and a fixed text leaves it.
"""
