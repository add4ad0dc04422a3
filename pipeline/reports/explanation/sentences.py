"""An explanation in plain sentences, what matters most first, and the warnings without which it would mislead."""

from collections.abc import Iterator

from amalgam.pipeline.reports.explanation.tables import DISCOVERY_RATE, NamedExplanation, num_changed
from amalgam.pipeline.reports.tables import MINUS, points
from amalgam.tasks.explain.flips import KINDS

ENOUGH = 0.6  # share of flips that latents must explain for the story to be theirs; set before any was explanation
LOSSY = 0.5  # FVU from which on codes say too little of a domain's images


def headline(explanation: NamedExplanation) -> list[str]:
    """What changed, and how much of it the latents explain."""
    return [
        *_accuracy(explanation),
        *_latents(explanation),
        *_decomposition(explanation),
        *_flips(explanation),
        *_causes(explanation),
        *_names(explanation),
    ]


def warnings(explanation: NamedExplanation) -> list[str]:
    """Reasons not to believe the rest, if there are any."""
    return [*_error_dominates(explanation), *_lossy_domains(explanation), *_few_flips_explained(explanation)]


def percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.1f} %"


def signed(value: float, digits: int) -> str:
    """A change of anything for people."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def _accuracy(explanation: NamedExplanation) -> Iterator[str]:
    before, after = (explanation.found.accuracies[piece] for piece in ("before", "after"))
    images = int(explanation.found.num_images.sum())
    yield (
        f"Accuracy went from {percent(before[-1].item())} to {percent(after[-1].item())} "
        f"({points((after - before)[-1].item())} points) on {images:,} images."
    )
    if len(explanation.domains) > 1:
        change = (after - before)[:-1]
        best, worst = int(change.argmax()), int(change.argmin())
        yield (
            f"It changed most for the better on {explanation.domains[best]!r} ({points(change[best].item())} points) "
            f"and for the worse on {explanation.domains[worst]!r} ({points(change[worst].item())} points)."
            if change[worst] < 0 < change[best]
            else f"By domain the change is between {points(change[worst].item())} points on "
            f"{explanation.domains[worst]!r} and {points(change[best].item())} points on {explanation.domains[best]!r}."
        )


def _latents(explanation: NamedExplanation) -> Iterator[str]:
    overall = explanation.found.changes.overall
    swapped = (overall.removed.sum() / explanation.found.num_images.sum()).item()
    active = (explanation.found.before.counts.sum() / explanation.found.num_images.sum()).item()
    alive = int((explanation.found.before.counts + explanation.found.after.counts > 0).sum())
    yield (
        f"An image lost {swapped:.2f} of the {active:.2f} latents that were active in it, on average; "
        f"{num_changed(explanation)} of {alive} alive latents are now active in more or in fewer images than chance "
        f"allows (false-discovery rate {DISCOVERY_RATE:.0%})."
    )


def _decomposition(explanation: NamedExplanation) -> Iterator[str]:
    shares, change = explanation.found.shares, explanation.found.shares.change[-1].item()
    parts = {part: percent(shares.share(part)[-1].item()) for part in shares.size}
    yield (
        f"The logit of the true class changed by {signed(change, 2)} on average. Of its absolute change, "
        f"latents account for {parts['latents']}, the error of the autoencoder for {parts['error']}, "
        f"and the head for {parts['head']}."
    )


def _flips(explanation: NamedExplanation) -> Iterator[str]:
    flips = explanation.found.flips
    if flips.explained_share is None or flips.alone_share is None:
        yield "No prediction changed."
        return
    counts = ", ".join(f"{number:,.0f} {kind}" for kind, number in zip(KINDS, flips.numbers.tolist(), strict=True))
    yield (
        f"{int(flips.numbers.sum()):,} predictions changed ({counts}). Latents explain "
        f"{percent(flips.explained_share)} of these (they caused more than half of the new class's gain on the "
        f"old one), and alone would have changed {percent(flips.alone_share)}."
    )


def _causes(explanation: NamedExplanation) -> Iterator[str]:
    accuracies, clamps = explanation.found.accuracies, explanation.found.clamps["before"]
    pieces = {piece: (accuracies[piece] - accuracies["after"])[-1].item() for piece in accuracies}
    latents, error, head = (points(pieces[f"{piece} back"]) for piece in ("latents", "error", "head"))
    yield (
        f"Measured by intervention: resetting all latents to their values before changes accuracy by {latents} points, "
        f"resetting the error of the autoencoder by {error} points, resetting the head by {head} points."
    )
    latent = int(clamps.restored.argmax())
    if clamps.restored[latent]:
        change, p = clamps.accuracy_change[latent].item(), number_text(clamps.p[latent].item())
        rates = [
            percent(table.firing_rates[latent].item()) for table in (explanation.found.before, explanation.found.after)
        ]
        yield (
            f"The most influential latent is latent {explanation.label(latent)}, active in {rates[0]} of the "
            f"images before and {rates[1]} after: resetting it alone restores {int(clamps.restored[latent]):,} "
            f"predictions and changes accuracy by {points(change)} points (p value {p})."
        )


def _names(explanation: NamedExplanation) -> Iterator[str]:
    judged = explanation.judged
    if judged is None or explanation.names is None:
        return
    evidence = explanation.names.evidence
    yield (
        f"Names are given so that at most {evidence.rate:.0%} are wrong (95 % confidence): "
        f"{evidence.wrong} of the {evidence.judged} that can be judged are."
        if evidence
        else "Too few names can be judged to state how many are wrong."
    )
    start = (
        f"Of {judged.alive} alive latents, {judged.clear} respond mostly to a known factor and {judged.named} are "
        f"named; {judged.judged} are both"
    )
    if judged.accuracy is None:
        yield f"{start}, so the accuracy of names is unknown."
        return
    yield (
        f"{start}. Of those, {judged.right} names are correct ({percent(judged.accuracy)}; "
        f"{percent(judged.chance)} by chance), {judged.right_in_three} counting the three nearest words."
    )


def _error_dominates(explanation: NamedExplanation) -> Iterator[str]:
    shares = explanation.found.shares
    latents, error = (shares.share(part)[-1].item() for part in ("latents", "error"))
    if error >= latents and error > 0:
        yield (
            f"The error of the autoencoder accounts for most of the change ({percent(error)} against "
            f"{percent(latents)} for latents): the tables below are anecdotes, not the explanation."
        )


def _lossy_domains(explanation: NamedExplanation) -> Iterator[str]:
    worst = explanation.found.fvu.amax(1).tolist()
    bad = [f"{domain!r} ({fvu:.2f})" for domain, fvu in zip(explanation.domains, worst, strict=True) if fvu > LOSSY]
    if bad:
        yield (
            f"Codes leave more than half of the variance unexplained on {', '.join(bad)}: the autoencoder "
            "reconstructs such images badly, so latents do not describe them reliably."
        )


def _few_flips_explained(explanation: NamedExplanation) -> Iterator[str]:
    share = explanation.found.flips.explained_share
    if share is not None and share < ENOUGH:
        yield (
            f"Latents explain {percent(share)} of the changed predictions, less than the {ENOUGH:.0%} required "
            "beforehand."
        )


def number_text(p: float) -> str:
    """A p or q value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
