"""What the Fisher of some samples looks like: how few directions carry it, and whether the mean gradient is one.

Everything follows from the Gram matrix K = G G' of the n per-sample gradients G (n, P), with 1 a vector of n ones:

    trace                      E|g|^2 = tr K / n
    eigenvalues                those of K / n
    effective rank             (sum values)^2 / sum values^2
    mean's share               |mu|^2 / E|g|^2, where |mu|^2 = 1'K1 / n^2
    the same without bias      (|mu|^2 - E|g|^2 / n) / (1 - 1/n) / E|g|^2: 0 in expectation for pure noise
    rank-1 share along mu      E[(u'g)^2] / E|g|^2, where u'g_i = (K1)_i / sqrt(1'K1)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from trcl_policy.continual import gradients
from trcl_policy.continual.gradients import Sampled

RANKS = (1, 2, 4, 8, 16)
LEVELS = 4
"""Times that samples are halved to see how a diagonal converges."""


@dataclass(frozen=True)
class Spectrum:
    """Shares are of the trace.

    Attributes:
        num_samples: samples measured.
        trace: E|g|^2.
        top_shares: share of the k largest eigenvalues, by k of RANKS; 1 where k >= n.
        effective_rank: (sum values)^2 / sum values^2; at most n.
        mean_rank1_share: share of the rank-1 Fisher along the mean gradient.
        mean_share: |mean gradient|^2 without bias; may be negative.
        diagonal_cosine: cosine between the diagonals from the two halves of the samples.
        convergence: the same by size of the two disjoint sets, from a sixteenth of the samples up to halves, averaged
            over all such pairs.
    """

    num_samples: int
    trace: float
    top_shares: dict[int, float]
    effective_rank: float
    mean_rank1_share: float
    mean_share: float
    diagonal_cosine: float
    convergence: dict[int, float]


def spectra(sampled: Sampled, selections: Mapping[str, Tensor]) -> dict[str, Spectrum | None]:
    """The spectrum of every selection of samples, masks (n,); None where fewer than two are selected or all are zero.

    Holds the Gram matrix (n, n) and ``gradients.MOST_NUMBERS`` numbers of gradients.
    """
    whole = gram(sampled)
    found: dict[str, Spectrum | None] = {}
    for name, mask in selections.items():
        index = mask.nonzero().squeeze(1)
        part = whole[index][:, index]
        usable = len(index) > 1 and float(part.trace()) > 0
        found[name] = _spectrum(part, convergence(sampled.part(index))) if usable else None
    return found


def gram(sampled: Sampled) -> Tensor:
    """G G', float64 (n, n): panels of rows that fit are held while all gradients stream by."""
    count = sampled.num_samples
    height = max(1, gradients.MOST_NUMBERS // sampled.layout.size)
    found = torch.zeros(count, count, dtype=torch.float64, device=sampled.theta.device)
    for top in range(0, count, height):
        panel = sampled.part(slice(top, top + height)).all_gradients()
        bottom = left = top + len(panel)
        found[top:bottom, top:bottom] = panel @ panel.T
        if bottom < count:
            for block in sampled.part(slice(bottom, None)).gradients():
                found[top:bottom, left : left + len(block)] = panel @ block.T
                left += len(block)
        found[bottom:, top:bottom] = found[top:bottom, bottom:].T
    return found


def convergence(sampled: Sampled) -> dict[int, float]:
    """Cosine between the diagonals from two disjoint sets of samples, by the size of the sets, smallest first.

    Sets are halves of halves, even against odd places, down to sixteenths; sizes are those of the smaller sets. The
    gradients pass by once, and as many diagonals as there are levels are held. Both sets err, so the diagonal of ONE
    set has about the square root of this cosine with the exact one.
    """
    levels = min(LEVELS, sampled.num_samples.bit_length() - 1)
    found: dict[int, list[float]] = {level: [] for level in reversed(range(levels))}
    _diagonal(sampled, 0, levels, found)
    return {sampled.num_samples >> (level + 1): sum(pairs) / len(pairs) for level, pairs in found.items()}


def _diagonal(sampled: Sampled, level: int, levels: int, found: dict[int, list[float]]) -> Tensor:
    """Sum of squares over all samples, float64 (P,), joined from its halves, whose cosine goes to ``found[level]``."""
    if level == levels:
        return sampled.mean_squares().double() * sampled.num_samples
    halves = (sampled.part(slice(start, None, 2)) for start in (0, 1))
    even, odd = (_diagonal(half, level + 1, levels, found) for half in halves)
    found[level].append(float(functional.cosine_similarity(even, odd, dim=0, eps=0.0)))
    return even + odd


def _spectrum(part: Tensor, cosines: dict[int, float]) -> Spectrum:
    count = len(part)
    values = (torch.linalg.eigvalsh(part) / count).clamp_min(0).flip(0)
    trace, along = float(part.trace()) / count, part.sum(1)
    square_of_mean = float(along.sum()) / count**2
    return Spectrum(
        num_samples=count,
        trace=trace,
        top_shares={rank: float(values[:rank].sum()) / trace for rank in RANKS},
        effective_rank=float(values.sum().square() / values.square().sum()),
        mean_rank1_share=float(along.square().sum()) / (count**3 * square_of_mean) / trace if square_of_mean else 0.0,
        mean_share=(square_of_mean - trace / count) / (1 - 1 / count) / trace,
        diagonal_cosine=cosines[count // 2],
        convergence=cosines,
    )
