"""Read a site's files into patients: each file once, with all checks on reading, values unscaled.

Modules from the bottom up:

* `identifiers` (their one form) and `slide_names`, `tables` (named columns of a table file), `key_columns` (a
  column of identifiers), `row_choice` (which rows of a large bag to keep);
* `clinical` (patients, times, events: the one place where a censoring column becomes `event`), `genomics` (molecular
  columns and their groups), `patch_files`, `feature_folders` and `feature_layouts` (the files of an encoder and their
  folders);
* `features` and `slide_tables`, the two kinds of `FeatureStore`;
* `feature_doubts` and `feature_survey`, which compare the feature files with each other;
* `doubt`, a suspicion about the files with its evidence, which readers collect for the people of the site;
* `records`, the classes of patients and cohorts; `joins`, which counts the identifiers of two files that differ
  (`near_misses`, by `spelling_rules`); and `manifest`, which joins all tables into a `Cohort`;
* `splits`, which reads published splits into the test fold of each patient of a cohort;
* `synthetic`, which generates a cohort whose risk is known.

None of these modules estimates anything from data. `agreement` holds what the sites agree on (time bins, gene columns,
scaling), and `dataset` applies it.

Every error about a file is a `DataError` that names the file, the column and the rows (row 1 is the first below the
header) and says what to do. Log lines hold only counts. No error text holds a value or a case id, but the name of a
slide file often begins with a case id: error texts therefore stay at the site, and a fixed text leaves it.
"""
