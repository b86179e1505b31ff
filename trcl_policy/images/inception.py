"""Inception features for FID and KID, from weights that the user has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

REMEDY = "leave images.scores.inception empty to use the feature distance"
NUM_FEATURES = "2048"


def load_inception(path: Path | str) -> nn.Module:
    """torch-fidelity's Inception network (bytes (B, 3, H, W) -> a tuple with features (B, 2048)).

    Raises:
        ValueError: no such file, or torch-fidelity is not installed.
    """
    if not Path(path).is_file():
        raise ValueError(f"inception must be a file with torch-fidelity's Inception weights, got {path}; {REMEDY}")
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ValueError(
            f"inception needs torch-fidelity, which is not installed: pip install torch-fidelity, or {REMEDY}"
        ) from None
    extractor: nn.Module = FeatureExtractorInceptionV3(
        "inception-v3-compat", [NUM_FEATURES], feature_extractor_weights_path=str(path)
    )
    return extractor.eval()


def inception_features(extractor: Callable[[Tensor], Tensor | tuple[Tensor, ...]], images: Tensor) -> Tensor:
    """Features (N, D), float64, of images (N, C, H, W) in [-1, 1]; grey ones are given three equal channels."""
    found = []
    with torch.no_grad():
        for piece in images.split(64):
            bytes_ = ((piece.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
            made = extractor(bytes_.expand(-1, 3, -1, -1))
            found.append((made if isinstance(made, Tensor) else made[0]).double())
    return torch.cat(found)
