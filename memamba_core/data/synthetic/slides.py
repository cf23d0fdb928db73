"""Draw the slides of a generated cohort: kinds of patches, their places, and the scores that may carry risk."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from memamba_core.config.simulation import SyntheticConfig
from memamba_core.data.features.row_choice import choose_rows
from memamba_core.data.records import PatientRecord
from memamba_core.data.synthetic.genes import NUM_GROUPS, without_direction
from memamba_core.patient import Bag

__all__ = ["GeneratedSlides", "MemoryFeatures", "SlideFeatures", "draw_slides", "patches_of_kind"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_NUM_TISSUES = 3  # ordinary kinds of patches
_NUM_BAG_SIZES = 4
_TISSUE_SPREAD = 0.5  # standard deviation of their centres, in every feature
_PLANTED_SHIFT = 6.0  # distance of a planted kind, in standard deviations of a patch
_LOOK_SHIFT = 3.0  # distance of an active kind from its middle; a kind at rest is as far on the other side
_PATCH_SIZE = 512  # level-0 pixels between neighbouring patches


@dataclass(frozen=True)
class SlideFeatures:
    """One generated slide.

    Attributes:
        patches_PF: float32 features.
        coords_P2: int64 level-0 pixels on a grid, row by row.
        kind_P: 0 for ordinary tissue, k for the k-th planted kind.
    """

    patches_PF: npt.NDArray[np.float32]
    coords_P2: IntArray
    kind_P: IntArray


@dataclass
class MemoryFeatures:
    """`FeatureStore` in memory; the attributes are those of the protocol, and the slides by name."""

    width: int
    slides: Mapping[str, SlideFeatures]
    encoder: str = "synthetic"
    columns: tuple[str, ...] = ()
    families: tuple[str, ...] = ()

    def has(self, record: PatientRecord) -> bool:
        """Return True if any slide of the patient has features."""
        return any(slide in self.slides for slide in record.slides)

    def fingerprint(self, record: PatientRecord) -> bytes:
        """Return name and size of the patient's slides, as `FeatureStore.fingerprint` describes."""
        return repr(
            [(slide, self.slides[slide].patches_PF.shape) for slide in record.slides if slide in self.slides]
        ).encode()

    def load(
        self, record: PatientRecord, max_patches: int | None = None, rng: np.random.Generator | None = None
    ) -> Bag | None:
        """Return the bag of the patient, as `FeatureStore.load` describes."""
        found = [self.slides[slide] for slide in record.slides if slide in self.slides]
        if not found:
            return None
        rows = choose_rows(sum(len(s.patches_PF) for s in found), max_patches, rng)
        patches_PF = np.concatenate([s.patches_PF for s in found])[rows]
        coords_P2 = np.concatenate([s.coords_P2 for s in found])[rows]
        return Bag(torch.from_numpy(patches_PF), torch.from_numpy(coords_P2))


@dataclass(frozen=True)
class GeneratedSlides:
    """Slides of all patients, also of those whose slides count as missing.

    Attributes:
        slides_of: case id -> name -> slide.
        scores_NK: score of each planted kind. Mean 0 and variance 1 over the cohort, or, for
            `risk=correspondence`, 1 where the kind looks active and -1 where it looks at rest.
        high_NK: True if the planted kind is above its typical share, or looks active.
    """

    slides_of: dict[str, dict[str, SlideFeatures]]
    scores_NK: FloatArray
    high_NK: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class _Planted:
    """Planted patches of one patient: number of each kind, and how many of the first kind are isolated."""

    counts: tuple[int, ...]
    num_isolated: int = 0


def draw_slides(
    config: SyntheticConfig, case_ids: Sequence[str], site_N: IntArray, rng: np.random.Generator
) -> GeneratedSlides:
    """Draw the slides of all patients.

    The planted kinds depend on `config.risk`. `correspondence`: six kinds with the same share in all patients; each
    looks active or at rest, by an independent fair coin, along one direction common to all kinds. `order`: one kind
    with the same share in all patients, clustered or scattered. Otherwise: one kind whose share differs; half of
    the patients are above `rare_fraction`, half below, and rounding to whole patches moves no patient to the other
    side: the sign of the score, which the XOR needs, is fair and can be read from the bag.
    """
    width, num = config.feature_width, len(case_ids)
    num_kinds = NUM_GROUPS if config.risk == "correspondence" else 1
    has_looks = config.risk == "correspondence"
    axes_AF = _orthonormal(rng.standard_normal((num_kinds + has_looks, width)))
    tissue_TF = _TISSUE_SPREAD * rng.standard_normal((_NUM_TISSUES, width))
    shift_SF = config.batch_effect * rng.standard_normal((config.num_sites, width))
    for axis_F in axes_AF:
        tissue_TF, shift_SF = without_direction(tissue_TF, axis_F), without_direction(shift_SF, axis_F)

    # Few sizes only, because bags of one size are computed together: an example must not take an hour on a laptop.
    sizes_of_bags = np.unique(np.linspace(*config.patches, _NUM_BAG_SIZES).astype(np.int64))
    high_NK = rng.random((num, num_kinds)) < 0.5
    slides_of: dict[str, dict[str, SlideFeatures]] = {}
    score_N = np.zeros(num)
    for i, case_id in enumerate(case_ids):
        size = int(rng.choice(sizes_of_bags))
        planted = _plant(config, size, high_NK[i], rng)
        left = list(planted.counts)
        slides_of[case_id] = {}
        for index, size_here in enumerate(_sizes_of_slides(size, rng)):
            coords_P2, kind_P = _place(size_here, left, planted.num_isolated, rng)
            tissue_P = rng.choice(_NUM_TISSUES, p=rng.dirichlet(np.ones(_NUM_TISSUES)), size=size_here)
            patches_PF = rng.standard_normal((size_here, width)) + tissue_TF[tissue_P] + shift_SF[site_N[i]]
            for kind in range(1, num_kinds + 1):
                patches_PF += _PLANTED_SHIFT * (kind_P == kind)[:, None] * axes_AF[kind - 1]
            if has_looks:
                look_P = np.array([0.0, *np.where(high_NK[i], 1.0, -1.0)])[kind_P]
                patches_PF += _LOOK_SHIFT * look_P[:, None] * axes_AF[-1]
            slide = SlideFeatures(patches_PF.astype(np.float32), coords_P2, kind_P)
            slides_of[case_id][f"{case_id}-DX{index + 1}"] = slide
        together = config.risk == "order"
        score_N[i] = _share_together(slides_of[case_id].values()) if together else planted.counts[0] / size
    if has_looks:
        return GeneratedSlides(slides_of, np.where(high_NK, 1.0, -1.0), high_NK)
    return GeneratedSlides(slides_of, ((score_N - score_N.mean()) / score_N.std())[:, None], high_NK)


def patches_of_kind(share: float, num: int) -> int:
    """Return the number of patches of each of the six kinds of `correspondence` in a patient with `num` patches."""
    return max(1, round(share * num))


def _orthonormal(rows_KF: FloatArray) -> FloatArray:
    """Make the rows orthogonal and of length 1, in place (Gram and Schmidt)."""
    for k in range(len(rows_KF)):
        for before_F in rows_KF[:k]:
            rows_KF[k] -= (rows_KF[k] @ before_F) * before_F
        rows_KF[k] /= np.linalg.norm(rows_KF[k])
    return rows_KF


def _plant(config: SyntheticConfig, num: int, high_K: npt.NDArray[np.bool_], rng: np.random.Generator) -> _Planted:
    """Draw the number of patches of each kind in a patient with `num` patches."""
    typical = config.rare_fraction * num
    if config.risk == "correspondence":
        return _Planted((patches_of_kind(config.rare_fraction, num),) * len(high_K))
    if config.risk == "order":
        count = round(typical)
        # Symmetric around one half for every count, so that the size of a bag carries no information: a single patch
        # cannot be clustered, hence not count - 1, and for symmetry not 1.
        return _Planted((count,), int(rng.choice([0, *range(2, count - 1), count])))
    distance = rng.random()  # of the share from `rare_fraction`; uniform, so that the share is uniform
    if high_K[0]:
        return _Planted((min(num, int(np.ceil(typical * (1 + distance)))),))
    return _Planted((int(np.floor(typical * (1 - distance))),))


def _sizes_of_slides(num: int, rng: np.random.Generator) -> list[int]:
    """Draw the sizes of the slides: every fifth patient has a second slide, with a third of the patches."""
    if num > 1 and rng.random() < 0.2:
        return [num - num // 3, num // 3] if num >= 3 else [1, 1]
    return [num]


def _place(num: int, left: list[int], num_isolated: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Place patches on a square grid: return coordinates, row by row, and the kind of each patch.

    Patches of a kind are the nearest ones to a random patch, except `num_isolated` of the first kind, which touch no
    patch of their kind as long as there is room.

    Args:
        num: patches of the slide.
        left: patches of each kind still to be placed; reduced in place by those placed here.
        num_isolated: number of isolated patches of the first kind.
        rng: source of the places.
    """
    side = int(np.ceil(np.sqrt(num)))
    cells_P2 = np.stack([np.arange(num) % side, np.arange(num) // side], axis=1)
    kind_P = np.zeros(num, dtype=np.int64)
    for kind, count in enumerate(left, start=1):
        isolated = min(num_isolated, count) if kind == 1 else 0
        distance_P = ((cells_P2 - cells_P2[rng.integers(num)]) ** 2).sum(axis=1)
        nearest = np.argsort(distance_P, kind="stable")
        free = nearest[kind_P[nearest] == 0]
        kind_P[free[: count - isolated]] = kind
        for cell in rng.permutation(num) if isolated else ():
            if isolated and kind_P[cell] == 0 and not (_touching(cells_P2, cells_P2[cell]) & (kind_P == kind)).any():
                kind_P[cell] = kind
                isolated -= 1
        kind_P[free[kind_P[free] == 0][:isolated]] = kind  # isolated patches without room
        left[kind - 1] -= int((kind_P == kind).sum())
    return (cells_P2 * _PATCH_SIZE).astype(np.int64), kind_P


def _touching(cells_P2: IntArray, cell_2: IntArray) -> npt.NDArray[np.bool_]:
    """Return True for the cells that share an edge with this one."""
    return np.asarray(np.abs(cells_P2 - cell_2).sum(axis=1) == 1)


def _share_together(slides: Iterable[SlideFeatures]) -> float:
    """Return the share of the planted patches that have an edge in common with another planted patch."""
    together = planted = 0
    for slide in slides:
        cells_K2 = slide.coords_P2[slide.kind_P > 0] // _PATCH_SIZE
        planted += len(cells_K2)
        together += sum(bool(_touching(cells_K2, cell_2).any()) for cell_2 in cells_K2)
    return together / planted
