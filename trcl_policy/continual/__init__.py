"""The shared core: a continual-learning loop over models that draw, score and generate samples. torch only."""
