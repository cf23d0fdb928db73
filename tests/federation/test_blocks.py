"""Differencing: a coordinator that moves fold, seed, columns or run, while the hospital's tables change.

Each set of patients behind an answer is a union of blocks. The invariant is tested on the *atoms*: the smallest sets
that all answers of a generation together can tell apart. None may be below the thresholds.
"""

import dataclasses
import itertools

import numpy as np
import pytest
from fixtures.strict_site import (
    COLUMNS,
    MOST_PATIENTS,
    THRESHOLDS,
    build_site,
    cohort_of,
    groups_of,
    opening_request,
    patients_in,
    refused,
    restarted,
    statistics_request,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.session import RefusedError
from client.worker import SiteWorker
from memamba_core.data.agreement import Agreement
from memamba_core.data.records import GeneTable
from memamba_core.errors import TamperedLogError
from memamba_core.wire.protocol import AgreementRequest, Refusal, check_leaves

EVERYBODY = tuple(range(24))


def sums(worker, run="run", fold=-1, *settings, columns=COLUMNS):
    """Open a run and ask for sums, as a coordinator does; None where the site refuses."""
    facts = opening_request(run, fold, *settings)
    try:
        worker.facts(facts)
        return worker.statistics(statistics_request(facts, columns)).genes
    except RefusedError:
        return None


@pytest.fixture
def site(tmp_path):
    return build_site(tmp_path / "state", cohort_of(EVERYBODY))


def test_blocks_are_disjoint_even_and_over_the_thresholds(site):
    SiteWorker(site).facts(opening_request())
    blocks = [block.case_ids for block in site.registry.status(site.cohort).usable]
    assert len(blocks) == 4, "8 events of 24, two for each block"
    assert sum(map(len, blocks)) == len(frozenset().union(*blocks)) == len(EVERYBODY)
    events = {r.case_id for r in site.cohort.records if r.event}
    for block in blocks:
        assert len(block) == 6
        assert len(block & events) == 2


def test_the_doctor_and_a_refused_run_draw_nothing(site):
    site.registry.plan(site.cohort)
    request = opening_request().model_copy(update={"config_digest": "another"})
    assert refused(SiteWorker(site).facts, request) is Refusal.CONFIG
    assert not site.config.state.exists() or not list(site.config.state.glob("cohort*"))


def test_folds_and_seeds_cannot_cut_a_block(site):
    """The attack: folds and seeds in a row, and the difference of any two sums."""
    worker, seen = SiteWorker(site), set()
    for number, (fold, seed) in enumerate(itertools.product(range(-1, 7), range(3))):
        seen.add(patients_in(sums(worker, f"run-{number}", fold, f"seed={seed}")))
    assert len(seen) == 5, "all blocks, and all but one of four"
    assert min(map(len, atoms_of(seen))) == 6


def test_fewer_columns_give_the_same_sums(site):
    worker = SiteWorker(site)
    whole = sums(worker, "a")
    part = sums(worker, "b", columns=COLUMNS[5:9])
    for name in ("count", "mean", "m2"):
        np.testing.assert_array_equal(whole[name][5:9], part[name], strict=True)


@pytest.mark.parametrize("patient", [0, 1])
@pytest.mark.parametrize("change", ["removed", "changed"])
def test_a_patient_who_is_gone_or_corrected_takes_the_block_along(site, change, patient):
    before = patients_in(sums(SiteWorker(site), "before"))
    others = [number for number in EVERYBODY if number != patient]
    tables = cohort_of(others) if change == "removed" else cohort_of(EVERYBODY, changed=[patient])
    after = patients_in(sums(restarted(site, tables), "after"))
    assert len(before - after) == 6
    assert patient in before - after
    again = patients_in(sums(restarted(site), "again"))
    assert again == before, "a table that was damaged and is mended"


def test_a_withdrawal_retires_the_block_at_once_and_for_good(site):
    worker = SiteWorker(site)
    before = patients_in(sums(worker, "before"))
    assert site.registry.withdraw(["P07"]) == 1
    after = patients_in(sums(worker, "after"))
    assert len(before - after) == 6
    assert 7 in before - after
    assert patients_in(sums(restarted(site), "again")) == after
    assert site.registry.withdraw(["P07"]) == 0


def test_newcomers_wait_until_they_fill_a_block(site):
    before = patients_in(sums(SiteWorker(site), "before"))
    few = restarted(site, cohort_of((*EVERYBODY, 24, 25, 26, 28, 29)))  # one event among five
    assert patients_in(sums(few, "few")) == before
    enough = restarted(site, cohort_of((*EVERYBODY, 24, 25, 26, 28, 29, 30)))
    assert patients_in(sums(enough, "enough")) == before | {24, 25, 26, 28, 29, 30}


def test_newcomers_wait_while_patients_are_missing(site):
    """A table in which everybody has a new name would otherwise be a second cohort of the same patients."""
    sums(SiteWorker(site), "before")
    renamed = cohort_of(tuple(n + 24 for n in EVERYBODY))
    assert sums(restarted(site, renamed), "after") is None


def test_a_retired_block_without_the_withdrawn_does_not_come_back_under_new_names(tmp_path):
    """One block; a patient withdraws, and the others are exported under new names: they would be the block less one."""
    one = build_site(tmp_path / "state", cohort_of(range(7)))
    before = patients_in(sums(SiteWorker(one), "before"))
    assert before == frozenset(range(7))
    one.registry.withdraw(["P03"])
    others = cohort_of([n for n in range(7) if n != 3])
    renamed = tuple(dataclasses.replace(record, case_id=f"N{record.case_id}") for record in others.records)
    assert sums(restarted(one, dataclasses.replace(others, records=renamed)), "renamed") is None
    rows = cohort_of([*(n for n in range(7) if n != 3), 20, 21, 22, 24, 25, 26, 27])
    assert patients_in(sums(restarted(one, rows), "newcomers")) == {20, 21, 22, 24, 25, 26, 27}


def test_a_column_that_the_table_got_after_the_draw_is_refused(site):
    """It is in no fingerprint: a block would stay in use while one patient's value changes."""
    whole = site.cohort
    first = dataclasses.replace(whole, genes=GeneTable(COLUMNS[:-1], whole.genes.values_NC[:, :-1]))
    sums(restarted(site, first), "before", columns=COLUMNS[:-1])
    later = restarted(site, whole)
    facts = opening_request("later")
    assert later.facts(facts).gene_columns == COLUMNS[:-1]
    assert refused(later.statistics, statistics_request(facts)) is Refusal.AGREEMENT_FIELD
    agreement = Agreement(
        (12.0, 24.0, 48.0),
        COLUMNS,
        groups_of(),
        gene_center=np.zeros(len(COLUMNS)),
        gene_scale=np.ones(len(COLUMNS)),
    )
    request = AgreementRequest(
        run_id="later",
        config_digest=facts.config_digest,
        fold=facts.fold,
        agreement=agreement.to_json(),
        scaling=dict(agreement.scaling()),
        agreement_digest=agreement.digest(),
    )
    assert refused(later.agreement, request) is Refusal.AGREEMENT_FIELD


def test_the_sites_own_fold_table_defines_the_blocks_where_it_is_over_the_thresholds(tmp_path):
    even = {number: number // 12 for number in EVERYBODY}
    own = build_site(tmp_path / "own", cohort_of(EVERYBODY, folds=even))
    assert patients_in(sums(SiteWorker(own), "a", 0)) == frozenset(range(12, 24))
    uneven = {number: int(number == 0) for number in EVERYBODY}
    drawn = build_site(tmp_path / "drawn", cohort_of(EVERYBODY, folds=uneven))
    assert len(patients_in(sums(SiteWorker(drawn), "a", 1))) == 18


def test_a_site_below_the_thresholds_refuses_before_it_declares_anything(tmp_path):
    small = build_site(tmp_path / "state", cohort_of(EVERYBODY[:3]))
    assert refused(SiteWorker(small).facts, opening_request()) is Refusal.POLICY


def test_a_new_draw_is_the_operators_and_drops_the_withdrawn(site):
    worker = SiteWorker(site)
    sums(worker, "before")
    first = {block.case_ids for block in site.registry.status(site.cohort).usable}
    site.registry.withdraw(["P07"])
    frozen = site.registry.refreeze(site.cohort, "the unit of time was wrong")
    second = {block.case_ids for block in site.registry.status(site.cohort).usable}
    assert frozen.generation == 2
    assert not first & second
    assert "P07" not in frozenset().union(*second)
    assert [entry["action"] for entry in frozen.history] == ["draw", "withdrawal", "refreeze"]


@pytest.mark.parametrize("damage", ["edited", "removed", "without key"])
def test_a_registry_that_was_edited_or_removed_stops_the_site(site, damage):
    sums(SiteWorker(site), "before")
    path = site.config.state / "cohort.json"
    if damage == "edited":
        path.write_text(path.read_text().replace('"fold": 0', '"fold": 1', 1))
    elif damage == "removed":
        path.unlink()
    else:
        (site.config.state / "cohort.key").unlink()
    with pytest.raises(TamperedLogError):
        sums(restarted(site), "after")


def test_the_registry_names_no_patient(site):
    sums(SiteWorker(site), "before")
    text = (site.config.state / "cohort.json").read_text()
    assert not any(record.case_id in text for record in site.cohort.records)
    assert (site.config.state / "cohort.json").stat().st_mode & 0o077 == 0


def test_a_run_name_is_used_once(site):
    worker = SiteWorker(site)
    assert refused(worker.facts, opening_request("run")) is None
    assert refused(worker.facts, opening_request("run")) is None, "a resumed run opens again with the same request"
    assert refused(worker.facts, opening_request("run", 0)) is Refusal.CONFIG
    assert refused(restarted(site).facts, opening_request("run", -1, "seed=1")) is Refusal.CONFIG


def atoms_of(sets):
    """Return the smallest sets that some of these sets, added and subtracted, can tell apart."""
    sets, atoms = list(sets), {}
    for number in frozenset().union(*sets):
        atoms.setdefault(tuple(number in one for one in sets), set()).add(number)
    return [frozenset(atom) for atom in atoms.values()]


OPERATIONS = st.one_of(
    st.tuples(st.just("ask"), st.integers(-1, 6), st.integers(0, 2)),
    st.tuples(st.just("add"), st.integers(1, 8)),
    st.tuples(st.just("remove"), st.integers(0, MOST_PATIENTS - 1)),
    st.tuples(st.just("bring back"), st.integers(0, MOST_PATIENTS - 1)),
    st.tuples(st.just("correct"), st.integers(0, MOST_PATIENTS - 1)),
    st.tuples(st.just("undo"), st.integers(0, MOST_PATIENTS - 1)),
    st.tuples(st.just("withdraw"), st.integers(0, MOST_PATIENTS - 1)),
    st.tuples(
        st.just("restart"),
    ),
    st.tuples(
        st.just("refreeze"),
    ),
)


class Hospital:
    """A site whose tables change, and the coordinator's notes of what its answers cover."""

    def __init__(self, state, start):
        self.there, self.changed, self.next = set(range(start)), set(), start
        self.site = build_site(state, cohort_of(sorted(self.there)))
        self.worker = SiteWorker(self.site)
        self.asked, self.seen, self.replies = 0, set(), {}

    def do(self, operation, *details):
        getattr(self, operation.replace(" ", "_"))(*details)

    def load(self):
        self.worker = restarted(self.site, cohort_of(sorted(self.there), changed=self.changed))

    restart = load

    def ask(self, fold, seed):
        """Ask for every phase but the agreement; what training and evaluation would cover is looked up."""
        self.asked += 1
        facts = opening_request(f"run-{self.asked}", fold, f"seed={seed}")
        try:
            declared = self.worker.facts(facts)
            reply = self.worker.statistics(statistics_request(facts))
        except RefusedError:
            return
        for message in (declared, reply):
            check_leaves(message)
        site = self.worker.site
        trained = numbers(site.training_cohort(fold, seed))
        assert patients_in(reply.genes) == trained
        self.seen |= {trained, numbers(site.test_cohort(fold, seed)), numbers(site.holdout_cohort(fold, seed, 0.3))}
        text = declared.model_copy(update={"site": ""}).model_dump_json()
        bytes_of_sums = b"".join(array.tobytes() for array in reply.genes.values())
        assert self.replies.setdefault(trained, (text, bytes_of_sums)) == (text, bytes_of_sums)

    def add(self, number):
        self.there |= set(range(self.next, min(self.next + number, MOST_PATIENTS)))
        self.next = min(self.next + number, MOST_PATIENTS)
        self.load()

    def remove(self, patient):
        if len(self.there) > 1:
            self.there -= {patient}
        self.load()

    def bring_back(self, patient):
        self.there |= {patient} if patient < self.next else set()
        self.load()

    def correct(self, patient):
        self.changed |= {patient}
        self.load()

    def undo(self, patient):
        self.changed -= {patient}
        self.load()

    def withdraw(self, patient):
        self.worker.site.registry.withdraw([f"P{patient:02d}"])

    def refreeze(self):
        """Draw all blocks again: sums from before and after may be subtracted, at the operator's stated cost."""
        self.worker.site.registry.refreeze(self.worker.site.cohort, "a test")
        self.check()
        self.seen, self.replies = set(), {}

    def check(self):
        for atom in atoms_of(self.seen - {frozenset()}):
            events = sum(number % 3 == 0 for number in atom)
            assert len(atom) >= THRESHOLDS.min_round_patients, f"answers tell {sorted(atom)} apart"
            assert min(events, len(atom) - events) >= THRESHOLDS.min_events


def numbers(cohort):
    return frozenset(int(record.case_id[1:]) for record in cohort.records)


def every_answer_is_constant_on_blocks(tmp_path_factory, start, operations):
    hospital = Hospital(tmp_path_factory.mktemp("site") / "state", start)
    for operation in operations:
        hospital.do(*operation)
    hospital.check()


SEQUENCES = {"start": st.integers(3, 40), "operations": st.lists(OPERATIONS, min_size=2, max_size=12)}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(**SEQUENCES)
def test_every_answer_is_constant_on_blocks(tmp_path_factory, start, operations):
    every_answer_is_constant_on_blocks(tmp_path_factory, start, operations)


@pytest.mark.slow
@settings(max_examples=2_000, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(**SEQUENCES)
def test_every_answer_is_constant_on_blocks_in_two_thousand_sequences(tmp_path_factory, start, operations):
    every_answer_is_constant_on_blocks(tmp_path_factory, start, operations)
