"""Read a site's files into patients: each file once, with all checks on reading, values unscaled.

Modules from the bottom up; those in brackets count near misses and raise doubts, and change no value:

* text of cells and file names: `identifiers` (their one form), `key_columns` (a column of identifiers), `slide_names`,
  `slide_lists` (a cell that lists slides), `tables` (named columns of a table file);
* patients: `clinical` and `event_codes`, the one place where a censoring column becomes `event` [`follow_up`,
  `repeated_times`, `outcome_columns`];
* molecular data: `genomics`, `bare_columns` (mutations without a suffix), `gene_names`, `gene_values`,
  `expression_scale` (two groups of patients) [`gene_name_doubts`,
  `mixed_scales`];
* features: `patch_files` (one file), `feature_folders` and `feature_layouts` (the files of an encoder), `row_choice`
  (rows to keep of a large bag), `features` and `slide_tables`, the two kinds of `FeatureStore`; `feature_survey`, a
  look at every file [`feature_doubts`];
* the cohort: `records` (its classes), `manifest`, which joins all tables into a `Cohort`, `splits` (published test
  folds), `doubt` and `reader_version` [`joins`, by `near_misses` and `spelling_rules`];
* what the sites agree on: `signatures` (groups of genes), `statistics` (sums of a site), `agreement` (time bins, gene
  columns, scaling) with `agreement_rules` (its checks), and `dataset`, which applies it;
* `synthetic`, which generates a cohort whose risk is known.

No reader estimates anything from data: time bins and scaling come from the agreement.

Every error about a file is a `DataError` that names the file, the column and the rows (row 1 is the first below the
header) and says what to do. Log lines hold only counts. No error text holds a value or a case id, but the name of a
slide file often begins with a case id: error texts therefore stay at the site, and a fixed text leaves it.
"""
