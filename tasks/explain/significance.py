"""Whether a latent came to be active more or less often than chance would have it."""

import numpy as np
import torch
from scipy.stats import binom, false_discovery_control
from torch import Tensor


def mcnemar(added: Tensor, removed: Tensor) -> Tensor:
    """Two-sided mid-p values of McNemar's test on counts of images that gained and that lost something, float64.

    Under the null hypothesis an image that changed was as likely to gain as to lose: `added` is Binomial(n, 1/2), and
    p = 2 P(X < least) + P(X = least) (Fagerland et al. 2013, doi:10.1186/1471-2288-13-91); 1 where nothing changed.
    """
    gained, lost = (counts.cpu().numpy().astype(np.int64) for counts in (added, removed))
    least, number = np.minimum(gained, lost), gained + lost
    p = 2 * binom.cdf(least, number, 0.5) - binom.pmf(least, number, 0.5)
    return torch.as_tensor(np.clip(p, 0.0, 1.0))  # far out in the tails both terms are rounding noise


def discovery_rates(p: Tensor) -> Tensor:
    """Benjamini and Hochberg's adjusted p values (q), of the same shape, over all values as one family."""
    flat = p.flatten().numpy()
    return torch.from_numpy(false_discovery_control(flat) if flat.size else flat).reshape(p.shape)


def paired_interval(gained: Tensor, lost: Tensor, num_images: Tensor | int) -> tuple[Tensor, Tensor]:
    """Ends of the 95 % interval of (gained - lost) / num_images, a difference of paired shares.

    Wald's after one more image has been added to each of the four cells (Bonett and Price 2012,
    doi:10.3102/1076998611411915): it is not empty where nothing changed.
    """
    number = num_images + 2
    more, less = (gained + 1) / number, (lost + 1) / number
    half = 1.959964 * ((more + less - (more - less).square()) / number).sqrt()
    return (more - less - half).clamp(min=-1), (more - less + half).clamp(max=1)
