"""Cap on the privacy loss of a cohort, kept over runs that are planned one after the other.

A cap is one of two, and the first charge of a ledger decides which, from public numbers alone:

* **Renyi filter**, the usual one. Steps of any kind are charged, and their divergences at one fixed order never exceed
  the divergence that implies the cap (`renyi`; Feldman & Zrnic 2021). The coordinator may choose the next run after
  seeing all results of the earlier ones.
* **One kind of steps.** The filter admits about an eighth less than PRV finds in a single plan. If the first run alone
  costs more than the filter admits, and PRV finds that the whole plan costs at most the cap, the ledger is for steps of
  this noise and sampling rate only, as many as that run planned. Their number and kind are fixed beforehand, so PRV is
  proven for them (Zhu, Dong & Wang 2022, theorem 10: the functions may be adaptive). Another run may use what an
  interrupted one left.

The two must not be combined: choosing between them after looking at results would double delta.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Self

from memamba_core.privacy.accounting import epsilon_of
from memamba_core.privacy.noisy_step import NoisyStep
from memamba_core.privacy.renyi import best_order, renyi_budget, renyi_cost

__all__ = ["Cap"]

Spent = Iterable[tuple[NoisyStep, int]]


@dataclass(frozen=True)
class Cap:
    """Cap of one ledger.

    Attributes:
        max_epsilon, delta: the site's cap.
        order: order of the filter, fixed with the first charge.
        only: the one kind of steps that is charged; None: the filter applies.
        most_steps: most steps of that kind; 0 with the filter.
    """

    max_epsilon: float
    delta: float
    order: int
    only: NoisyStep | None = None
    most_steps: int = 0

    @classmethod
    def choose(cls, step: NoisyStep, planned: int, max_epsilon: float, delta: float, order: int | None = None) -> Self:
        """Choose the cap of a ledger by its first charge.

        Args:
            step: kind of the first charged steps.
            planned: steps of the whole first run; 0 if unknown.
            max_epsilon: epsilon of the site's cap.
            delta: delta of the site's cap.
            order: order that the ledger holds; None chooses the one at which most steps of this kind fit.
        """
        order = order or best_order(step, max_epsilon, delta)
        filtered = cls(max_epsilon, delta, order)
        share = filtered.share([(step, planned)])
        fits = share is not None and share <= 1
        if not fits and planned and epsilon_of([(step, planned)], delta) <= max_epsilon:
            return cls(max_epsilon, delta, order, step, planned)
        return filtered

    def share(self, spent: Spent) -> float | None:
        """Return the share of the cap that these steps use; above 1 they exceed it. None: steps of a kind not allowed.

        With one kind of steps the share is that of their number.
        """
        steps = [(step, count) for step, count in spent if count]
        if self.only is None:
            budget = renyi_budget(self.order, self.max_epsilon, self.delta)
            return renyi_cost(steps, self.order) / budget if budget > 0 else (None if steps else 0.0)
        if any(step != self.only for step, _ in steps):
            return None
        return sum(count for _, count in steps) / self.most_steps

    def explain(self, spent: Spent) -> str:
        """Return what the cap allows and what is spent of it, for the site's own log and screen."""
        if self.only is not None:
            done = sum(count for _, count in spent)
            return (
                f"the first run of this cohort took nearly all of the cap, so the ledger is for steps of noise "
                f"{self.only.noise_multiplier:g} and sampling rate {self.only.sampling_rate:g} only: {done} of "
                f"{self.most_steps} are spent"
            )
        share = self.share(spent)
        return f"{share or 0:.1%} of the cap is spent (Renyi filter of order {self.order})"
