"""An explanation in plain sentences, what matters most first, and the warnings without which it would mislead."""

from collections.abc import Iterator

from amalgam.pipeline.reports.explanation.tables import DISCOVERY_RATE, Told, num_changed
from amalgam.pipeline.reports.files import MINUS, points
from amalgam.tasks.explain.flips import KINDS

ENOUGH = 0.6  # share of flips that latents must explain for the story to be theirs; set before any was told
LOSSY = 0.5  # FVU from which on codes say too little of a domain's images


def headline(told: Told) -> list[str]:
    """What changed, and how much of it the latents explain."""
    return [*_accuracy(told), *_latents(told), *_decomposition(told), *_flips(told), *_causes(told), *_names(told)]


def warnings(told: Told) -> list[str]:
    """Reasons not to believe the rest, if there are any."""
    return [*_error_dominates(told), *_lossy_domains(told), *_few_flips_explained(told)]


def percent(share: float) -> str:
    """A share for people."""
    return f"{100 * share:.1f} %"


def signed(value: float, digits: int) -> str:
    """A change of anything for people."""
    return f"{value:+.{digits}f}".replace("-", MINUS)


def _accuracy(told: Told) -> Iterator[str]:
    before, after = (told.found.accuracies[piece] for piece in ("before", "after"))
    images = int(told.found.num_images.sum())
    yield (
        f"Accuracy went from {percent(before[-1].item())} to {percent(after[-1].item())} "
        f"({points((after - before)[-1].item())} points) on {images:,} images."
    )
    if len(told.domains) > 1:
        change = (after - before)[:-1]
        best, worst = int(change.argmax()), int(change.argmin())
        yield (
            f"It changed most for the better on {told.domains[best]!r} ({points(change[best].item())} points) "
            f"and for the worse on {told.domains[worst]!r} ({points(change[worst].item())} points)."
            if change[worst] < 0 < change[best]
            else f"By domain the change is between {points(change[worst].item())} points on {told.domains[worst]!r} "
            f"and {points(change[best].item())} points on {told.domains[best]!r}."
        )


def _latents(told: Told) -> Iterator[str]:
    overall = told.found.changes.overall
    swapped = (overall.removed.sum() / told.found.num_images.sum()).item()
    active = (told.found.before.counts.sum() / told.found.num_images.sum()).item()
    alive = int((told.found.before.counts + told.found.after.counts > 0).sum())
    yield (
        f"An image lost {swapped:.2f} of the {active:.2f} latents that were active in it, on average; "
        f"{num_changed(told)} of {alive} living latents are now active in more or in fewer images than chance allows "
        f"(false-discovery rate {DISCOVERY_RATE:.0%})."
    )


def _decomposition(told: Told) -> Iterator[str]:
    shares, change = told.found.shares, told.found.shares.change[-1].item()
    parts = {part: percent(shares.share(part)[-1].item()) for part in shares.size}
    yield (
        f"The logit of the true class changed by {signed(change, 2)} on average. Of all that moved it up or down, "
        f"latents carry {parts['latents']}, what the autoencoder does not see {parts['error']}, "
        f"and the head {parts['head']}."
    )


def _flips(told: Told) -> Iterator[str]:
    flips = told.found.flips
    if flips.explained_share is None or flips.alone_share is None:
        yield "No prediction changed."
        return
    counts = ", ".join(f"{number:,.0f} {kind}" for kind, number in zip(KINDS, flips.numbers.tolist(), strict=True))
    yield (
        f"{int(flips.numbers.sum()):,} predictions changed ({counts}). Latents explain "
        f"{percent(flips.explained_share)} of these (more than half of what carried the new class past the old one), "
        f"and would have changed {percent(flips.alone_share)} alone."
    )


def _causes(told: Told) -> Iterator[str]:
    accuracies, clamps = told.found.accuracies, told.found.clamps["before"]
    pieces = {piece: (accuracies[piece] - accuracies["after"])[-1].item() for piece in accuracies}
    latents, error, head = (points(pieces[f"{piece} back"]) for piece in ("latents", "error", "head"))
    yield (
        f"Checked by intervention: with all latents set back to what they were, accuracy changes by {latents} points; "
        f"with the unexplained rest set back, by {error} points; with the head set back, by {head} points."
    )
    latent = int(clamps.restored.argmax())
    if clamps.restored[latent]:
        change, p = clamps.accuracy_change[latent].item(), number_text(clamps.p[latent].item())
        rates = [percent(table.firing_rates[latent].item()) for table in (told.found.before, told.found.after)]
        yield (
            f"The single latent that matters most is {latent_text(told, latent)}, active in {rates[0]} of the images "
            f"before and {rates[1]} after: set back alone, it gives {int(clamps.restored[latent]):,} predictions back "
            f"and changes accuracy by {points(change)} points (p value {p})."
        )


def _names(told: Told) -> Iterator[str]:
    judged = told.judged
    if judged is None:
        return
    start = (
        f"Of {judged.alive} living latents, {judged.clear} fire mostly for a known factor and {judged.named} got a "
        f"name; {judged.judged} are both"
    )
    if judged.accuracy is None:
        yield f"{start}, so names cannot be judged."
        return
    yield (
        f"{start}. Of those, {judged.right} names are right ({percent(judged.accuracy)}; "
        f"{percent(judged.chance)} by chance), {judged.right_in_three} counting the three nearest words."
    )


def _error_dominates(told: Told) -> Iterator[str]:
    shares = told.found.shares
    latents, error = (shares.share(part)[-1].item() for part in ("latents", "error"))
    if error >= latents and error > 0:
        yield (
            f"The autoencoder does not see most of what changed ({percent(error)} against {percent(latents)} that "
            "latents carry): the tables below are anecdotes, not the explanation."
        )


def _lossy_domains(told: Told) -> Iterator[str]:
    worst = [max(old.fvu, new.fvu) for old, new in told.found.quality]
    bad = [f"{domain!r} ({fvu:.2f})" for domain, fvu in zip(told.domains, worst, strict=True) if fvu > LOSSY]
    if bad:
        yield (
            f"Codes leave more than half of the variance unexplained on {', '.join(bad)}: the autoencoder "
            "describes such images badly, and what latents say of them is not to be trusted."
        )


def _few_flips_explained(told: Told) -> Iterator[str]:
    share = told.found.flips.explained_share
    if share is not None and share < ENOUGH:
        yield (
            f"Latents explain {percent(share)} of the changed predictions, less than the {ENOUGH:.0%} that were asked "
            "of them beforehand."
        )


def latent_text(told: Told, latent: int) -> str:
    """A latent by number and, where there is a vocabulary, word."""
    word = told.word(latent)
    return f"latent {latent}" if word is None else f"latent {latent} ({word})"


def number_text(p: float) -> str:
    """A p or q value."""
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
