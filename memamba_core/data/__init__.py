"""Read a site's files into patients: each file once, with all checks on reading, values unscaled.

Rooms and modules from the bottom up. Each room also holds the modules that raise doubts about its files, and change no
value:

* `tables`: named columns of a table file, as text or numbers;
* `identifiers`: the one form of the names of patients and slides, and the rules by which two names nearly match;
* `clinical`: patients, times, and events: the one place where a censoring column becomes `event`;
* `genomics`: molecular columns, their names, values and scales, and groups of genes;
* `features`: the files of an encoder in their folders, and tables of slide vectors: the two kinds of `FeatureStore`;
* the cohort: `records` (its classes), `manifest`, which joins all tables into a `Cohort`, `joins` (names of two files
  that nearly match), `splits` (published test
  folds), `doubt` and `reader_version`;
* what the sites agree on: `statistics` (sums of a site), `agreement` (time bins, gene columns, scaling) with
  `agreement_rules` (its checks), and `dataset`, which applies it;
* `synthetic`, which generates a cohort whose risk is known.

No reader estimates anything from data: time bins and scaling come from the agreement.

Every error about a file is a `DataError` that names the file, the column and the rows (row 1 is the first below the
header) and says what to do. Log lines hold only counts. No error text holds a value or a case id, but the name of a
slide file often begins with a case id: error texts therefore stay at the site, and a fixed text leaves it.
"""
