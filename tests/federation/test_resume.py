"""Equal numbers from interrupted and undisturbed runs, in any order of sites; and settings that must change numbers."""

import dataclasses
from functools import cache

import numpy as np
import pytest
from fixtures.federation import GENES_ONLY, Federation, tiny

from memamba_core.errors import CheckpointError
from memamba_core.training.seeding import derive_seed
from server.federation.journal import Journal

pytestmark = pytest.mark.durable

BOTH = tiny("federation.num_rounds=3", "federation.curve_holdout=0.25")
FAST = tiny(*GENES_ONLY, "federation.curve_holdout=0.25")


class StopAfter:
    """Observer that raises Ctrl-C after a round."""

    def __init__(self, server_round):
        self.server_round = server_round

    def on_phase(self, phase, num_sites, server_round):
        pass

    def on_round(self, record):
        if record.server_round == self.server_round:
            raise KeyboardInterrupt


@cache
def undisturbed(*settings):
    """The result of a run from its beginning to its end."""
    return Federation(settings).train()


def assert_same(a, b):
    """Compare weights bit by bit, and all that sites disclosed, except times."""
    assert a.weights.keys() == b.weights.keys()
    for name, array in a.weights.items():
        np.testing.assert_array_equal(array, b.weights[name], err_msg=name)
    assert a.agreement.digest() == b.agreement.digest()
    rounds = [[record.model_copy(update={"seconds": 0}) for record in result.rounds] for result in (a, b)]
    assert rounds[0] == rounds[1]
    assert a.evaluation == b.evaluation
    assert a.warnings == b.warnings


def interrupted(settings, folder, *, after):
    """Stop a run after a round, restart coordinator and sites, and resume it."""
    federation = Federation(settings)
    journal = Journal(folder, federation.config.experiment.digest(), 0)
    with pytest.raises(KeyboardInterrupt):
        federation.train(journal=journal, observer=StopAfter(after))
    again = Federation(settings)
    result = again.train(journal=journal)
    rounds_left = federation.config.experiment.federation.num_rounds - after
    assert [kind for _, kind in again.asked].count("train") == rounds_left * len(again.sites)
    assert "query.statistics" not in {kind for _, kind in again.asked}
    return result


@pytest.mark.ci_slow
@pytest.mark.parametrize(
    "strategy",
    ["fedadam", "fedprox", *(pytest.param(s, marks=pytest.mark.ci_slow) for s in ("fedavg", "fedavgm", "fedyogi"))],
)
def test_a_resumed_run_is_the_undisturbed_one(strategy, tmp_path):
    settings = (*(BOTH if strategy == "fedadam" else FAST), f"strategy={strategy}")
    wanted = undisturbed(*settings)
    assert_same(interrupted(settings, tmp_path, after=2 if strategy == "fedadam" else 1), wanted)
    assert wanted.rounds[1].sites["site-01"].incoming.loss_sum > 0  # something is compared


def test_a_run_stopped_after_its_last_round_only_evaluates(tmp_path):
    assert_same(interrupted(FAST, tmp_path, after=2), undisturbed(*FAST))


def test_a_damaged_newest_state_costs_one_round(tmp_path):
    federation = Federation(FAST)
    journal = Journal(tmp_path, federation.config.experiment.digest(), 0)
    with pytest.raises(KeyboardInterrupt):
        federation.train(journal=journal, observer=StopAfter(2))
    newest = max(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:-8])
    again = Federation(FAST)
    assert_same(again.train(journal=journal), undisturbed(*FAST))
    assert [kind for _, kind in again.asked].count("train") == len(again.sites)


def test_what_was_warned_of_is_still_known_after_a_resume(tmp_path):
    """Warnings come from building the agreement, which a resumed run does not repeat."""
    settings = tiny(*GENES_ONLY, "data.synthetic.num_patients=120")

    def mistaken():
        federation = Federation(settings)
        site = federation.cohort.sites["site-03"]
        records = tuple(dataclasses.replace(r, time_months=r.time_months * 60) for r in site.cohort.records)
        changed = dataclasses.replace(site, cohort=dataclasses.replace(site.cohort, records=records))
        federation.cohort.sites["site-03"] = changed
        federation.restart()
        return federation

    federation = mistaken()
    journal = Journal(tmp_path, federation.config.experiment.digest(), 0)
    with pytest.raises(KeyboardInterrupt):
        federation.train(journal=journal, observer=StopAfter(1))
    warnings = mistaken().train(journal=journal).warnings
    assert any(w.startswith("site-03: median follow-up") and "clinical.time_unit" in w for w in warnings)


def test_other_settings_do_not_go_on_with_the_journal(tmp_path):
    federation = Federation(tiny(*GENES_ONLY, "federation.num_rounds=1"))
    federation.train(journal=Journal(tmp_path, federation.config.experiment.digest(), 0))
    other = Federation(tiny(*GENES_ONLY, "federation.num_rounds=4"))
    with pytest.raises(CheckpointError, match="other settings"):
        other.train(journal=Journal(tmp_path, other.config.experiment.digest(), 0))


def test_the_order_of_the_sites_plays_no_part():
    one, other = (Federation(tiny("federation.num_rounds=1")) for _ in range(2))
    assert_same(one.train(), other.train(sites=one.sites[::-1]))


def test_a_sites_result_does_not_depend_on_who_else_is_there():
    """Given the same agreement and weights, that is: randomness is a function of its own name."""
    seeds = {derive_seed(seed, name, r) for seed in (0, 1) for name in ("a", "b") for r in (1, 2, 12)}
    assert len(seeds) == 12
    assert derive_seed(0, "a", 11, "b") != derive_seed(0, "a", 1, "1b")
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(0, "st-elsewhere", 3, "order") == 8499041062883371616


@pytest.mark.ci_slow
@pytest.mark.parametrize(
    "change",
    [
        "seed=1",
        "federation.local_epochs=2",
        "strategy=fedprox",
        "strategy=fedmedian",
        "federation.optimizer.learning_rate=0.01",
    ],
)
def test_a_setting_changes_the_weights(change):
    """An option that changes nothing must be removed."""
    # Several steps, because the proximal term is zero in the first of a round.
    settings = (*GENES_ONLY, "training.batch_size=4", "federation.num_rounds=1")
    base, changed = undisturbed(*tiny(*settings)), undisturbed(*tiny(*settings, change))
    assert any(not np.array_equal(base.weights[name], changed.weights[name]) for name in base.weights)
