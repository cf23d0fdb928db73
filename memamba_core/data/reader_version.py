"""Number of the way in which this release reads the files of a site."""

from typing import Final

__all__ = ["READER_VERSION", "READER_VERSION_UNWRITTEN"]

# Raise this number by one in each release in which a reader of this folder can give a patient of an accepted file other
# values, other molecular columns, another identifier or other feature files than the release before: a cell, an
# identifier or a file name that is now read in another way. A file that was an error before, a new doubt and a faster
# reader do not count. The blocks of a site hold fingerprints of what was read; with another number in its registry, the
# site's operator is shown that a changed patient may be the work of the reader.
READER_VERSION: Final = 2
"""Version of the readers of this release: 1 up to release 0.3.0."""

READER_VERSION_UNWRITTEN: Final = 1
"""Version of a registry without the number: up to release 0.3.0 none was written."""
