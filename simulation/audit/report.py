"""Report of an audit: sentences for a reader who does not read ROC curves, and a table."""

from rich.table import Table

from .records import AuditReport, CanaryReport, MembershipReport

__all__ = ["NO_CLAIM", "findings", "table"]

NO_CLAIM = (
    "Canaries: not run. privacy=none claims no epsilon, so there is no claim to audit; set privacy=dp_sgd to audit one."
)

_WHO = {"all": "all patients", "event": "patients with the event", "censored": "censored patients"}
_ATTACKS = {"loss": "loss threshold", "lira": "likelihood ratio, LiRA"}
_SHORT_WHO = {"all": "all", "event": "with event", "censored": "censored"}
_SHORT = {"loss": "loss", "lira": "LiRA"}
_CLEARLY = 3.0
"""Standard errors by which an AUC must exceed a half to be called a leak."""


def findings(report: AuditReport) -> tuple[str, ...]:
    """Describe the results of each attack that was run, in one sentence or more.

    Args:
        report: results of the attacks.
    """
    sentences: list[str] = []
    if report.membership is not None:
        sentences += _describe_membership(report.membership)
    if report.canary is not None:
        sentences += _describe_canaries(report.canary)
    for line in report.inversion or []:
        sentences.append(
            f"Inversion: of a round of {line.num_patients} the coordinator reads the molecular values of "
            f"{line.recovered:.0%} of the patients (of outsiders: {line.recovered_by_chance:.0%}); the best "
            f"guess correlates with a patient by {line.correlation:.2f} on average."
        )
    return tuple(sentences)


def _describe_canaries(canary: CanaryReport) -> list[str]:
    passed = sum(check.passed for check in canary.checks)
    summary = (
        f"Canaries: the attack on {canary.num_canaries} made-up patients over {canary.num_steps} noisy steps shows an "
        f"epsilon of {canary.epsilon:.2f} (95 % confidence: {canary.epsilon_low:.2f} to {canary.epsilon_high:.2f}) "
        f"where {canary.claimed_epsilon:.2f} is claimed; {passed} of {len(canary.checks)} checks of the step passed."
    )
    return [summary] + [
        f"Canaries CONTRADICT the claim: the value of {check.name!r} is {check.measured:.4g}, that of right code "
        f"{check.expected:.4g} (probability {check.p_value:.0e}). The noisy step is not right."
        for check in canary.checks
        if not check.passed
    ]


def _describe_membership(membership: MembershipReport) -> list[str]:
    sentences = []
    for who, label in _WHO.items():
        tried = [
            (leaks[who], name) for attack, name in _ATTACKS.items() if who in (leaks := getattr(membership, attack))
        ]
        if not tried:
            continue
        best, name = max(tried, key=lambda item: item[0].auc)
        error = best.auc_std / membership.num_models**0.5
        clear = best.auc - 0.5 > _CLEARLY * error
        verdict = (
            f"finds {best.found:.0%} of the patients who were trained on while accusing 5 % of the others"
            if clear
            else "does no better than a coin by this measure"
        )
        sentences.append(
            f"Membership, {label} ({best.num_patients}): the better attack ({name}) has an AUC of {best.auc:.3f} "
            f"± {best.auc_std:.3f} and {verdict}."
        )
    return sentences


def table(report: AuditReport) -> Table:
    """Return the numbers of an audit as a table whose rows fit on a terminal of 80 columns."""
    shown = Table()
    for name in ("attack", "on"):
        shown.add_column(name)
    for name in ("result", "guessing"):
        shown.add_column(name, justify="right")
    if report.membership is not None:
        for attack, label in _SHORT.items():
            for who, leak in getattr(report.membership, attack).items():
                result = f"AUC {leak.auc:.3f} ± {leak.auc_std:.3f}, {leak.found:.0%} found"
                shown.add_row(f"membership, {label}", _SHORT_WHO[who], result, "0.5, 5%")
    if canary := report.canary:
        result = f"{canary.epsilon:.2f} ({canary.epsilon_low:.2f} to {canary.epsilon_high:.2f})"
        shown.add_row("canaries, epsilon", f"claim {canary.claimed_epsilon:.2f}", result, "0")
        passed = sum(check.passed for check in canary.checks)
        shown.add_row("canaries, checks", "noisy step", f"{passed} of {len(canary.checks)} passed", "")
    for line in report.inversion or []:
        shown.add_row(
            "inversion",
            f"round of {line.num_patients}",
            f"{line.recovered:.0%} read, correlation {line.correlation:.2f}",
            f"{line.recovered_by_chance:.0%}",
        )
    return shown
