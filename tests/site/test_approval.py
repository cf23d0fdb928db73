"""The operator sees a run on one screen, safely, and decides while the client runs."""

import os
import re
from functools import cache

import pytest
import yaml
from fixtures.coordinator_double import authority

from client import cli
from client.approval.describe import describe_run, list_runs, printable
from client.approval.store import ApprovalStore, Decided
from client.approval.terms import Proposal, Terms
from client.exit_codes import ExitCode
from client.private_round import ledger_folder
from memamba_core.config.compose import compose_experiment
from memamba_core.config.site import load_site_config
from memamba_core.errors import ConfigError
from memamba_core.privacy.ledger import Ledger
from memamba_core.privacy.plan import plan_of

BANDS = {"patients": 100, "pathology": 0, "genomics": 100}
MANY = tuple(f"hospital-of-the-holy-heart-{i:037d}" for i in range(1000))
BANDS = {"patients": 25, "pathology": 0, "genomics": 25}
COLUMNS = {"rnaseq": 2812, "cnv": 284, "mut": 12_000, "features": 1024}
CHANGED = (
    "seed=7",
    "agreement.gene_groups=kind",
    "agreement.gene_scaling=statistics",
    "federation.num_rounds=10000",
    "federation.local_epochs=5",
    "federation.min_results=2",
    "federation.round_timeout_s=100.5",
    "model.d_model=16",
    "model.d_state=4",
    "model.experts=[genomics,pathology]",
    "training.batch_size=128",
)


@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    folder = tmp_path_factory.mktemp("authority") / "pki"
    authority(folder)
    return folder / "ca.crt"


@pytest.fixture
def site(tmp_path, ca):
    """Write a site.yaml with a state folder."""

    def write(**changes):
        values = {
            "name": "tss-55",
            "data": {"root": ".", "clinical": {"file": "c.csv"}, "genomics": {"file": "g.csv"}},
            "state": "state",
            "coordinator": {"address": "coordinator.example.org:8443", "ca": str(ca)},
            "approve": "ask",
            **changes,
        }
        (tmp_path / "state").mkdir(exist_ok=True)
        path = tmp_path / "site.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in values.items() if value is not None}))
        return path

    return write


@pytest.fixture
def run(capsys, monkeypatch):
    """Call a command on a terminal where `answer` is typed, or without one; return exit code, output and errors."""

    def call(*arguments, answer=None):
        def typed(question):
            print(question)
            return answer() if callable(answer) else answer

        monkeypatch.setattr("builtins.input", typed)
        monkeypatch.setattr("sys.stdin.isatty", lambda: answer is not None, raising=False)
        with pytest.raises(SystemExit) as end:
            cli.main(list(map(str, arguments)))
        out, err = capsys.readouterr()
        return end.value.code, out, err

    return call


composed = cache(compose_experiment)  # Hydra takes a tenth of a second


def proposal(*overrides, run_id="luad", roster=("st-elsewhere", "tss-44", "tss-55"), config=None, **terms):
    experiment = composed(overrides)
    caps = {
        "limits": {"minutes_per_round": 60.0, "max_parameters": 50_000_000, "settings": None},
        "disclosure": {"min_patients": 10, "min_events": 5, "min_pairs": 50, "min_round_patients": 32},
        "privacy": None,
    }
    values = {
        "run_id": run_id,
        "coordinator": ":".join(["AB"] * 32),
        "package": "1",
        "settings": experiment.digest(),
        "fold": -1,
        "roster": roster,
        "columns": "c",
        "data": "d",
        "cohort": "",
        "caps": "e",
        **terms,
    }
    return Proposal.of(Terms(**values), experiment.to_json(), COLUMNS, caps)


def waits(path, *overrides, **terms):
    store = ApprovalStore(path.parent / "state")
    assert store.propose(proposal(*overrides, **terms))
    return store


# What is shown
# --------------------------------------------------------------------------------------------------------------


def test_a_run_is_shown_with_everything_that_the_operator_answers_for(site):
    lines = describe_run(proposal(*CHANGED), None, load_site_config(site()))
    text = "\n".join(lines)
    assert not [line for line in lines if line.endswith(" ...")]  # nothing of an ordinary run is cut
    for shown in (
        ": luad",
        "coordinator.example.org:8443",
        ":AB:AB",
        "3, as the coordinator says: st-elsewhere, tss-44, tss-55",
        "10000 rounds of 5 epochs",
        "all patients train",
        "2,812 rnaseq",
        "means and squares of up to 3,836 columns",
        "WITHOUT noise",
        "not drawn yet",
        "10 patients and 5 events in a sum",
        "10 differ from the defaults",
        "agreement.gene_groups=kind",
        "training.batch_size=128",
    ):
        assert re.search(re.escape(shown).replace(r"\ ", r"\s+"), text), f"{shown!r} is not in\n{text}"


@pytest.mark.parametrize("privacy", [(), ("privacy=dp_sgd",)], ids=["without noise", "with noise"])
def test_the_largest_run_fits_on_a_screen(site, privacy):
    config = load_site_config(
        site(name="t" * 64, privacy={"max_epsilon": 8.0, "delta": 1e-5, "bands": BANDS} if privacy else None)
    )
    settings = tuple(
        s for s in CHANGED if not privacy or not re.match(r"agreement.gene_scaling|.*local_epochs|.*10000", s)
    )
    largest = proposal(*settings, *privacy, run_id="r" * 100, roster=MANY, cohort="f" * 64)
    last = proposal(run_id="q" * 100, columns="x", data="y", caps="z", cohort="0" * 64, fold=3)
    lines = describe_run(largest, None, config, last)
    assert len(lines) <= 22  # one for the command, one for the question
    assert max(map(len, lines)) <= 80
    whole = describe_run(largest, None, config, last, whole=True)
    assert all(name in "".join(whole) for name in MANY)
    assert max(map(len, whole)) <= 80


def test_the_cost_under_differential_privacy(site):
    config = load_site_config(site(privacy={"max_epsilon": 8.0, "delta": 1e-5, "bands": BANDS}))
    text = " ".join(" ".join(describe_run(proposal("privacy=dp_sgd"), None, config)).split())
    assert re.search(r"this run 7\.9\d, spent 0\.00, after it 7\.9\d of 8 \(delta 1e-05\)", text)
    assert "weights with noise" in text
    assert "WITHOUT" not in text
    config = load_site_config(site(privacy={"max_epsilon": 2.0, "delta": 1e-5, "bands": BANDS}))
    assert "ABOVE the cap" in " ".join(" ".join(describe_run(proposal("privacy=dp_sgd"), None, config)).split())


@pytest.mark.parametrize(
    ("first", "rounds", "words"),
    [
        (8, 1, "after it 5.35 of 8 (delta 1e-05); NO round fits: the ledger is for other noise"),
        (6, 5, "after it 7.56 of 8 (delta 1e-05); ABOVE the cap: last rounds refused"),
        (3, 5, " of 8 (delta 1e-05) "),
    ],
)
def test_a_second_run_is_described_as_the_ledger_will_treat_it(site, first, rounds, words):
    """By PRV each of these runs fits under the cap; the ledger counts in another way."""
    config = load_site_config(site(privacy={"max_epsilon": 8.0, "delta": 1e-5, "bands": BANDS}))
    plan = plan_of(compose_experiment(("privacy=dp_sgd", f"privacy.epsilon={first}")))
    ledger = Ledger(ledger_folder(config.state), config.name, 1e-5)
    for number in range(1, rounds + 1):
        ledger.charge("first", number, plan.step, plan.steps_per_round, 8.0, plan.num_steps)
    second = proposal("privacy=dp_sgd", "privacy.epsilon=4", run_id="second")
    text = " ".join(" ".join(describe_run(second, None, config)).split())
    assert words in text


@pytest.mark.parametrize(
    ("charged", "words"),
    [
        (0, r"this run 7\.9\d, spent 0\.00, after it 7\.9\d"),
        (3, r"this run 7\.9\d \(3 of 4 rounds charged\), spent [3-7]\.\d\d, after it 7\.9\d"),
        (4, r"this run 7\.9\d \(4 of 4 rounds charged\), spent 7\.9\d, after it 7\.9\d"),
    ],
)
def test_a_run_that_asks_again_in_its_middle_is_not_counted_twice(site, charged, words):
    config = load_site_config(site(privacy={"max_epsilon": 8.0, "delta": 1e-5, "bands": BANDS}))
    overrides = ("privacy=dp_sgd", "federation.num_rounds=4")
    plan = plan_of(compose_experiment(overrides))
    ledger = Ledger(ledger_folder(config.state), config.name, 1e-5)
    for number in range(1, charged + 1):
        ledger.charge("luad", number, plan.step, plan.steps_per_round, 8.0, plan.num_steps)
    text = " ".join(" ".join(describe_run(proposal(*overrides), None, config)).split())
    assert re.search(words + r" of 8 \(delta 1e-05\) at the end", text), text


def test_the_longest_line_of_the_budget_is_not_cut(site):
    config = load_site_config(site(privacy={"max_epsilon": 7.5, "delta": 1e-5, "bands": BANDS}))
    plan = plan_of(compose_experiment(("privacy=dp_sgd", "privacy.epsilon=4")))
    ledger = Ledger(ledger_folder(config.state), config.name, 1e-5)
    ledger.charge("first", 1, plan.step, plan.num_steps, 7.5, plan.num_steps)
    overrides = ("privacy=dp_sgd", "federation.num_rounds=1000")
    plan = plan_of(compose_experiment(overrides))
    for number in range(1, 101):
        ledger.charge("luad", number, plan.step, plan.steps_per_round, 7.5, plan.num_steps)
    text = " ".join(" ".join(describe_run(proposal(*overrides), None, config)).split())
    assert re.search(
        r"\(100 of 1000 rounds charged\).* of 7\.5 \(delta 1e-05\); ABOVE the cap: last rounds refused at the", text
    )


def test_what_changed_since_the_last_approval_is_named(site):
    last = proposal(roster=("tss-55",), cohort="1" * 64)
    text = " ".join(" ".join(describe_run(proposal(cohort="2" * 64), None, load_site_config(site()), last)).split())
    assert "changed since luad: sites, blocks" in text
    assert "CHANGED since the last approved run" in text


@pytest.mark.parametrize(
    "bad", ["\x1b[2J", "\r", "\n", "\u202e", "\u2066", "\u200f", "\u05d0", "\x00", "\x9b", "\ud800"]
)
def test_nothing_of_a_coordinator_moves_the_cursor_or_turns_the_line(site, bad):
    hostile = proposal(run_id=f"a{bad}b", roster=(f"x{bad}y", "tss-55"))
    lines = describe_run(hostile, None, load_site_config(site()), whole=True)
    lines += list_runs(hostile, [Decided(verdict="refused", proposal=hostile, time=0.0)])
    assert all(re.fullmatch(r"[ -~]*", line) for line in lines)
    assert printable(f"a{bad}b").startswith("a?")


def test_a_site_outside_the_roster_is_shown(site):
    assert "tss-55 is NOT among them" in " ".join(
        " ".join(describe_run(proposal(roster=("a",)), None, load_site_config(site()))).split()
    )


# Commands
# --------------------------------------------------------------------------------------------------------------


def test_approve_shows_asks_and_writes(site, run):
    path = site()
    store = waits(path)
    terms = store.waiting().terms
    code, out, _ = run("approve", path, "luad", answer="y")
    assert code == ExitCode.DONE
    assert out.index("WAITS, asked") < out.index("approve this run? [y/N]") < out.index("luad is approved")
    assert (store.standing(terms), store.waiting()) == ("approved", None)
    assert "luad is approved already" in run("approve", path, "luad")[1]
    code, out, _ = run("refuse", path, "luad", "--yes")
    assert store.standing(terms) == "refused"
    assert "gets refusal 116" in out
    code, out, _ = run("approve", path, "luad", answer="y")
    assert "REFUSED" in out
    assert store.standing(terms) == "approved"


def control_d():
    raise EOFError


@pytest.mark.parametrize("answer", ["", "n", "no", "yess", "Y E S", control_d])
def test_anything_but_yes_decides_nothing(site, run, answer):
    path = site()
    store = waits(path)
    code, out, _ = run("approve", path, "luad", answer=answer)
    assert (code, store.decisions(), "nothing was decided" in out) == (ExitCode.DONE, (), True)


@pytest.mark.parametrize("verdict", ["approve", "refuse"])
def test_without_a_terminal_nothing_is_decided(site, run, verdict):
    path = site()
    store = waits(path)
    code, _, err = run(verdict, path, "luad")
    option = f"--digest {store.waiting().terms.short_digest()}" if verdict == "approve" else "--yes"
    command = f"flower-client {verdict} {path} luad {option}"
    assert (code, store.decisions(), command in err) == (ExitCode.MISTAKE, (), True)


def test_the_digest_of_the_screen_approves_these_terms(site, run):
    path = site()
    store = waits(path)
    terms = store.waiting().terms
    shown = terms.short_digest()
    assert (len(shown), terms.digest().startswith(shown)) == (16, True)
    for screen in (run("runs", path)[1], run("runs", path, "luad")[1], run("approve", path, "luad", answer="n")[1]):
        assert shown in screen
    code, out, _ = run("approve", path, "luad", "--digest", shown.upper())
    assert (code, "luad is approved" in out, store.standing(terms)) == (ExitCode.DONE, True, "approved")


def test_other_terms_than_the_digest_names_are_not_approved(site, run, monkeypatch):
    """A coordinator replaces the run by another one of its name between the reading and the approval."""
    path = site()
    store = waits(path)
    read = store.waiting().terms.short_digest()
    monkeypatch.setattr("client.approval.store.REPLACE_AFTER_S", 0.0)
    waits(path, "seed=7")
    now = store.waiting().terms.short_digest()
    code, out, err = run("approve", path, "luad", "--digest", read)
    assert (code, out, store.decisions()) == (ExitCode.MISTAKE, "", ())
    assert all(text in err for text in (read, now, f"flower-client runs {path} luad"))


def test_terms_that_were_approved_are_not_other_terms(site, run):
    path = site()
    store = waits(path)
    run("approve", path, "luad", "--digest", store.waiting().terms.short_digest())
    assert run("approve", path, "luad", "--digest", "0123456789abcdef")[0] == ExitCode.MISTAKE


@pytest.mark.parametrize("digest", ["", "0123456789abcde", "no digest", "0" * 65])
def test_a_digest_has_sixteen_hexadecimal_digits_or_more(site, run, digest):
    path = site()
    store = waits(path)
    code, _, err = run("approve", path, "luad", "--digest", digest)
    assert (code, store.decisions(), "16 to 64 hexadecimal digits" in err) == (ExitCode.MISTAKE, (), True)


def test_an_answer_approves_what_was_shown_although_other_terms_arrived_meanwhile(site, run, monkeypatch):
    path = site()
    store = waits(path)
    shown = store.waiting().terms
    monkeypatch.setattr("client.approval.store.REPLACE_AFTER_S", 0.0)

    def answer():
        waits(path, "seed=7")
        return "y"

    code, out, _ = run("approve", path, "luad", answer=answer)
    other = store.waiting().terms
    assert (code, store.standing(shown), store.standing(other)) == (ExitCode.DONE, "approved", None)
    assert f"luad now waits with other terms, {other.short_digest()}" in " ".join(out.split())


def test_runs_lists_all_and_shows_one_in_full(site, run):
    path = site()
    assert "no run waits for approval" in run("runs", path)[1]
    waits(path, run_id="first")
    run("approve", path, "first", answer="y")
    waits(path, run_id="second")
    run("refuse", path, "second", "--yes")
    waits(path, *CHANGED, run_id="third", roster=MANY)
    listed = run("runs", path)[1].splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [
        ["waits", "third"],
        ["refused", "second"],
        ["approved", "first"],
    ]
    assert max(map(len, listed[1:])) <= 80
    code, out, _ = run("runs", path, "third")
    assert code == ExitCode.DONE
    assert all(name in out for name in MANY)
    assert "training.batch_size=128" in out.replace("\n             ", "")


def test_an_unknown_run(site, run):
    path = site()
    waits(path)
    code, _, err = run("approve", path, "lu\x1bad", answer="y")
    assert (code, "no run 'lu?ad' is known here; luad waits" in err) == (ExitCode.MISTAKE, True)


def test_another_user_does_not_decide(site, run, monkeypatch):
    path = site()
    store = waits(path)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    code, _, err = run("approve", path, "luad", answer="y")
    assert (code, store.decisions(), "sudo -u" in err) == (ExitCode.MISTAKE, (), True)


def test_the_missing_policy_is_named(site):
    from client.approval.policy import describe_policy

    with pytest.raises(ConfigError, match=r"Add `approve: ask`"):
        describe_policy(load_site_config(site(approve=None)))
    assert describe_policy(load_site_config(site())).startswith("approve: ask; each run waits")
