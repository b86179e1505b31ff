"""Task-incremental image generation."""
