"""Task-incremental image generation on the continual core: data, model, scores and pictures."""
