"""Section `privacy` of a `site.yaml`: the site's budget of differential privacy, and the sizes that it makes public."""

from typing import Final, Literal, Self, get_args

from pydantic import Field, model_validator

from memamba_core.config.base import Settings

__all__ = ["DeclaredBands", "SitePrivacy", "SizeBand", "largest_delta", "top_of_band"]

SizeBand = Literal[0, 1, 10, 25, 50, 100, 250, 500, 1000, 10_000]
"""Lower end of a public size band, as in `memamba_core.wire.protocol.SIZE_BANDS`."""
_LARGEST_COUNT: Final = 99_999
"""End of the highest band: `federation.max_patients_per_site` allows no count above 100,000."""
_LARGEST_DELTA: Final = 1e-5


def top_of_band(lower: int) -> int:
    """Return the largest count in the band that begins with `lower`: 100 -> 249; the highest band ends at 99,999."""
    return min([other - 1 for other in get_args(SizeBand) if other > lower], default=_LARGEST_COUNT)


def largest_delta(patients: int) -> float:
    """Return the largest delta of a site whose band of patients begins with `patients`.

    A mechanism that publishes one patient chosen at random has a delta of one over the patients. Delta is therefore at
    most a tenth of one over the largest number in the band, and never above 1e-5.
    """
    return min(_LARGEST_DELTA, 1 / (10 * top_of_band(patients)))


class DeclaredBands(Settings):
    """Public sizes of a site, each the lower end of its band: 0, 1, 10, 25, 50, 100, 250, 500, 1000, 10000.

    The operator states them once, as public. No answer is computed from the number of patients: a band computed from a
    count at its border would reveal one patient. `flower-client doctor` compares the bands with the data, on the site's
    own screen only.
    """

    patients: SizeBand = Field(ge=1)
    """Band of all patients of the site; 100 means 100 to 249."""
    pathology: SizeBand
    """Band of the patients with slide features; 0 without a section `data.features`."""
    genomics: SizeBand
    """Band of the patients with molecular data; 0 without a section `data.genomics`."""

    @model_validator(mode="after")
    def _parts_of_the_whole(self) -> Self:
        for name in ("pathology", "genomics"):
            if getattr(self, name) > self.patients:
                raise ValueError(f"{name} is {getattr(self, name)}; expected at most patients={self.patients}")
        return self


class SitePrivacy(Settings):
    """Differential privacy, required by the site: without it no weights leave (docs/explanation/privacy.md)."""

    max_epsilon: float = Field(8.0, gt=0, le=1000)
    """Cap on the privacy loss of this cohort over all runs, however they are chosen. A run whose own epsilon equals the
    cap can run to its end. Runs that are chosen one after the other are held under the cap by a Renyi filter, which
    admits about an eighth less (docs/explanation/privacy.md)."""
    delta: float = Field(1e-5, ge=1e-9, le=_LARGEST_DELTA)
    """Delta at which the ledger computes epsilon; fixed with the first charge. At most one over ten times the largest
    number in the declared band of patients. A run with a larger delta is refused."""
    bands: DeclaredBands | None = None
    """Public size bands; required in a `site.yaml`. A simulation computes them from the patients that it holds."""

    @model_validator(mode="after")
    def _delta_fits_the_band(self) -> Self:
        if self.bands is not None and self.delta > (limit := largest_delta(self.bands.patients)):
            raise ValueError(
                f"delta is {self.delta:g}; expected at most {limit:.2g}, one over ten times the largest number of "
                f"patients in the band that begins with {self.bands.patients}. Lower delta"
            )
        return self
